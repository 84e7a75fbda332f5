//! How fast the time stamp counter and the APIC timer run, measured against a clock of known speed.
//!
//! The reference is the ACPI power-management timer, or channel 2 of the 8254 where there is none. Both ends of the
//! measured stretch are the best of several readings: the one whose two time stamps around the reference's reading are
//! closest. An emulator that is put aside between two instructions then spoils at most a reading, not the result; and
//! with a clock that counts instructions all readings agree anyway.
#![expect(unsafe_code, reason = "I/O ports and device memory")]

use crate::arch::acpi;
use crate::arch::cpu::{port, regs};
use crate::arch::irq::apic;
use crate::arch::mm::{self, layout::PAGE};
use core::ptr::with_exposed_provenance;
use hv_core::acpi::{Register, Space};

/// Ticks of the ACPI timer in a second (ACPI 4.8.2.1).
const PM_TIMER_HZ: u64 = 3_579_545;
/// Ticks of the 8254 in a second.
const PIT_HZ: u64 = 1_193_182;
/// Length of a measurement.
const STRETCH_US: u64 = 20_000;
/// Measurements; the middle one counts.
const ROUNDS: usize = 3;
/// Readings for one end.
const READINGS: usize = 12;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calibration {
    pub(crate) tsc_hz: u64,
    pub(crate) apic_hz: u64,
    pub(crate) reference: &'static str,
}

/// A clock of known speed that counts up and wraps around.
#[derive(Clone, Copy)]
enum Reference {
    PmPort { port: u16, mask: u64 },
    PmMemory { address: u64, mask: u64 },
    Pit,
}

impl Reference {
    /// The best there is.
    fn choose() -> Reference {
        let Some(fadt) = acpi::platform().fadt else { return Reference::Pit };
        let mask = if fadt.pm_timer_is_32_bits { 0xffff_ffff } else { 0xff_ffff };
        let candidate = match fadt.pm_timer {
            Some(Register { space: Space::Io, at }) => {
                u16::try_from(at).ok().map(|port| Reference::PmPort { port, mask })
            }
            Some(Register { space: Space::Memory, at }) => {
                let page = mm::map_device(at & !(PAGE - 1), PAGE);
                Some(Reference::PmMemory { address: page + at % PAGE, mask })
            }
            None => None,
        };
        // Some firmware names a timer that stands still.
        candidate.filter(Reference::runs).unwrap_or(Reference::Pit)
    }

    fn runs(&self) -> bool {
        let first = self.read();
        (0..100_000).any(|_| self.read() != first)
    }

    fn read(&self) -> u64 {
        match *self {
            // SAFETY: reading a timer has no side effects.
            Reference::PmPort { port, mask } => u64::from(unsafe { port::in32(port) }) & mask,
            Reference::PmMemory { address, mask } => {
                let register = with_exposed_provenance::<u32>(usize::try_from(address).unwrap_or(0));
                // SAFETY: mapped as device memory by `choose`.
                u64::from(unsafe { register.read_volatile() }) & mask
            }
            Reference::Pit => pit_read(),
        }
    }

    fn mask(&self) -> u64 {
        match *self {
            Reference::PmPort { mask, .. } | Reference::PmMemory { mask, .. } => mask,
            Reference::Pit => 0xffff,
        }
    }

    fn hz(&self) -> u64 {
        match self {
            Reference::Pit => PIT_HZ,
            _ => PM_TIMER_HZ,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Reference::Pit => "8254",
            _ => "ACPI timer",
        }
    }
}

/// Starts channel 2 as a free-running counter, its speaker silent.
fn pit_start() {
    // SAFETY: the 8254 and its gate are the hypervisor's; neither reaches memory.
    unsafe {
        port::out8(0x61, port::in8(0x61) & !2 | 1);
        port::out8(0x43, 0xb4);
        port::out8(0x42, 0xff);
        port::out8(0x42, 0xff);
    }
}

/// Latches and reads channel 2; it counts down, so the complement counts up.
fn pit_read() -> u64 {
    // SAFETY: as in `pit_start`.
    let (low, high) = unsafe {
        port::out8(0x43, 0x80);
        (port::in8(0x42), port::in8(0x42))
    };
    u64::from(!u16::from_le_bytes([low, high]))
}

/// All counters at one moment.
#[derive(Clone, Copy, Default)]
struct Sample {
    reference: u64,
    tsc: u64,
    apic: u32,
}

/// The reading whose parts are closest together.
fn sample(reference: Reference) -> Sample {
    let mut best = Sample::default();
    let mut best_width = u64::MAX;
    for _ in 0..READINGS {
        let before = regs::rdtsc_ordered();
        let value = reference.read();
        let apic = apic::timer_left();
        let after = regs::rdtsc_ordered();
        let width = after.wrapping_sub(before);
        if width < best_width {
            best_width = width;
            best = Sample { reference: value, tsc: before + width / 2, apic };
        }
    }
    best
}

/// One measurement: ticks per second of the time stamp counter and of the APIC timer.
fn measure(reference: Reference) -> (u64, u64) {
    let wanted = reference.hz() * STRETCH_US / 1_000_000;
    apic::timer_free_run();
    let start = sample(reference);
    let passed = |now: u64| now.wrapping_sub(start.reference) & reference.mask();
    while passed(reference.read()) < wanted {
        core::hint::spin_loop();
    }
    let end = sample(reference);
    apic::timer_count(0);
    let ticks = passed(end.reference).max(1);
    let per_second = |count: u64| {
        u64::try_from(u128::from(count) * u128::from(reference.hz()) / u128::from(ticks)).unwrap_or(0)
    };
    (per_second(end.tsc.wrapping_sub(start.tsc)), per_second(u64::from(start.apic.wrapping_sub(end.apic))))
}

/// Measures; needs the local APIC.
pub(crate) fn run() -> Calibration {
    pit_start();
    let reference = Reference::choose();
    let mut results = [(0, 0); ROUNDS];
    results.iter_mut().for_each(|result| *result = measure(reference));
    let middle = |part: fn(&(u64, u64)) -> u64| {
        let mut values = results.map(|r| part(&r));
        values.sort_unstable();
        values[ROUNDS / 2].max(1)
    };
    Calibration { tsc_hz: middle(|r| r.0), apic_hz: middle(|r| r.1), reference: reference.name() }
}

/// Waits roughly, before anything is calibrated: an access to port 0x80 takes about a microsecond.
pub(crate) fn rough_delay_us(us: u64) {
    for _ in 0..us {
        // SAFETY: the port of power-on codes.
        unsafe { port::out8(0x80, 0) }
    }
}
