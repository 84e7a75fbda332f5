//! Time: the time stamp counter as a clock in nanoseconds, the APIC timer, the wall clock.
//!
//! The clock has the form guests are given (pvclock): `ns = ((tsc - start) << shift) * mul >> 32`.

pub(crate) mod calibrate;
pub(crate) mod rtc;
pub(crate) mod timer;

pub(crate) use rtc::wall_start_ns as wallclock_base_ns;
pub(crate) use timer::set_deadline_ns;

use crate::arch::cpu::{features, regs};
use core::sync::atomic::{AtomicI8, AtomicU8, AtomicU32, AtomicU64, Ordering};
use hv_core::clock::{Shifts, TickScale};
use hv_core::port::PvClockScale;

pub(crate) use hv_core::clock::SECOND_NS;

static START: AtomicU64 = AtomicU64::new(0);
static MUL: AtomicU32 = AtomicU32::new(0);
static SHIFT: AtomicI8 = AtomicI8::new(0);
/// [`SHIFT`] as the shifts before and after the multiplication.
static BEFORE: AtomicU8 = AtomicU8::new(0);
static AFTER: AtomicU8 = AtomicU8::new(0);
static TSC_HZ: AtomicU64 = AtomicU64::new(0);

/// How time stamps become nanoseconds; what guests find in their `vcpu_time_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Time stamp at nanosecond 0.
    pub(crate) start: u64,
    /// Ticks to nanoseconds.
    pub(crate) ticks: TickScale,
}

/// The scale; its multiplier is 0 before calibration.
pub(crate) fn scale() -> Scale {
    Scale {
        start: START.load(Ordering::Relaxed),
        ticks: TickScale { mul: MUL.load(Ordering::Relaxed), shift: SHIFT.load(Ordering::Relaxed) },
    }
}

/// One reading of the clock with its scale, for guests.
pub(crate) fn pvclock_scale() -> PvClockScale {
    let s = scale();
    let tsc = regs::rdtsc_ordered();
    PvClockScale {
        tsc_timestamp: tsc,
        system_time_ns: s.ticks.to_ns(tsc.saturating_sub(s.start)),
        mul: s.ticks.mul,
        shift: s.ticks.shift,
        tsc_khz: u32::try_from(tsc_hz() / 1000).unwrap_or(u32::MAX),
    }
}

/// Ticks of the time stamp counter in a second.
pub(crate) fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

/// Nanoseconds since calibration. Monotonic; the same on all pcpus whose counters run together.
pub(crate) fn now_ns() -> u64 {
    let shifts = Shifts {
        mul: MUL.load(Ordering::Relaxed),
        before: BEFORE.load(Ordering::Relaxed),
        after: AFTER.load(Ordering::Relaxed),
    };
    // Another pcpu's counter may be a few ticks behind the start.
    shifts.to_ns(regs::rdtsc_ordered().saturating_sub(START.load(Ordering::Relaxed)))
}

/// The first time stamp at which [`now_ns`] has reached `ns`: the exact inverse of the scale, so that an alarm set with it
/// is not early by the difference of two roundings.
pub(crate) fn tsc_at(ns: u64) -> u64 {
    let s = scale();
    s.start.saturating_add(s.ticks.to_ticks(ns))
}

/// Calibrates and starts the clock.
pub(crate) fn init() {
    let found = calibrate::run();
    let scale = TickScale::from_hz(found.tsc_hz);
    TSC_HZ.store(found.tsc_hz, Ordering::Relaxed);
    let shifts = scale.shifts();
    SHIFT.store(scale.shift, Ordering::Relaxed);
    BEFORE.store(shifts.before, Ordering::Relaxed);
    AFTER.store(shifts.after, Ordering::Relaxed);
    MUL.store(scale.mul, Ordering::Relaxed);
    START.store(regs::rdtsc_ordered(), Ordering::Relaxed);
    timer::init(found.apic_hz);
    log::info!(
        "time: TSC {}.{:03} MHz, APIC timer {}.{:03} MHz, against the {}",
        found.tsc_hz / 1_000_000,
        found.tsc_hz / 1_000 % 1_000,
        found.apic_hz / 1_000_000,
        found.apic_hz / 1_000 % 1_000,
        found.reference
    );
    if !features::get().invariant_tsc {
        log::debug!("time: the TSC is not said to be invariant");
    }
    rtc::init();
}

/// Waits, serving what other pcpus ask meanwhile. Before calibration it counts I/O cycles instead.
pub(crate) fn delay_us(us: u64) {
    if tsc_hz() == 0 {
        calibrate::rough_delay_us(us);
        return;
    }
    let end = now_ns().saturating_add(us * 1000);
    while now_ns() < end {
        hv_sync::relax();
    }
}
