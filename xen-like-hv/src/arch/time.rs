//! Time: the time stamp counter as a clock in nanoseconds, the APIC timer, the wall clock.
//!
//! The clock has the form guests are given (pvclock): `ns = ((tsc - start) << shift) * mul >> 32`.

pub(crate) mod calibrate;
pub(crate) mod rtc;
pub(crate) mod timer;

pub(crate) use rtc::wall_start_ns as wallclock_base_ns;
pub(crate) use timer::set_deadline_ns;

use crate::arch::cpu::{features, regs};
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use hv_core::port::PvClockScale;

/// Nanoseconds of a second.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

static START: AtomicU64 = AtomicU64::new(0);
static MUL: AtomicU32 = AtomicU32::new(0);
static SHIFT: AtomicI32 = AtomicI32::new(0);
static TSC_HZ: AtomicU64 = AtomicU64::new(0);

/// How time stamps become nanoseconds; what guests find in their `vcpu_time_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Time stamp at nanosecond 0.
    pub(crate) start: u64,
    /// Multiplier, a binary fraction of 32 bits.
    pub(crate) mul: u32,
    /// Shift before multiplication, to the left if positive.
    pub(crate) shift: i32,
}

/// The scale; its multiplier is 0 before calibration.
pub(crate) fn scale() -> Scale {
    Scale {
        start: START.load(Ordering::Relaxed),
        mul: MUL.load(Ordering::Relaxed),
        shift: SHIFT.load(Ordering::Relaxed),
    }
}

/// One reading of the clock with its scale, for guests.
pub(crate) fn pvclock_scale() -> PvClockScale {
    let s = scale();
    let tsc = regs::rdtsc_ordered();
    PvClockScale {
        tsc_timestamp: tsc,
        system_time_ns: ticks_to_ns(tsc.saturating_sub(s.start), s.mul, s.shift),
        mul: s.mul,
        shift: i8::try_from(s.shift).unwrap_or(0),
        tsc_khz: u32::try_from(tsc_hz() / 1000).unwrap_or(u32::MAX),
    }
}

/// Ticks of the time stamp counter in a second.
pub(crate) fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

/// Multiplier and shift for a frequency: the shift that leaves the multiplier its highest bit.
fn scale_of(hz: u64) -> (u32, i32) {
    let mut shift = 0i32;
    let mut ratio = (u128::from(SECOND_NS) << 32) / u128::from(hz.max(1));
    while ratio > u128::from(u32::MAX) {
        ratio >>= 1;
        shift += 1;
    }
    while ratio < 1 << 31 && shift > -31 {
        shift -= 1;
        ratio = (u128::from(SECOND_NS) << (32 + shift.unsigned_abs())) / u128::from(hz.max(1));
    }
    (u32::try_from(ratio).unwrap_or(u32::MAX), shift)
}

/// Scales a number of ticks.
fn ticks_to_ns(ticks: u64, mul: u32, shift: i32) -> u64 {
    let shifted = if shift >= 0 {
        u128::from(ticks) << shift.unsigned_abs()
    } else {
        u128::from(ticks >> shift.unsigned_abs())
    };
    u64::try_from((shifted * u128::from(mul)) >> 32).unwrap_or(u64::MAX)
}

/// Nanoseconds since calibration. Monotonic; the same on all pcpus whose counters run together.
pub(crate) fn now_ns() -> u64 {
    let s = scale();
    // Another pcpu's counter may be a few ticks behind the start.
    ticks_to_ns(regs::rdtsc_ordered().saturating_sub(s.start), s.mul, s.shift)
}

/// The first time stamp at which [`now_ns`] has reached `ns`: the exact inverse of the scale, so that an alarm set with it
/// is not early by the difference of two roundings.
pub(crate) fn tsc_at(ns: u64) -> u64 {
    let s = scale();
    let shifted = (u128::from(ns) << 32).div_ceil(u128::from(s.mul.max(1)));
    let by = s.shift.unsigned_abs();
    let ticks = if s.shift >= 0 { shifted.div_ceil(1 << by) } else { shifted << by };
    s.start.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
}

/// Calibrates and starts the clock.
pub(crate) fn init() {
    let found = calibrate::run();
    let (mul, shift) = scale_of(found.tsc_hz);
    TSC_HZ.store(found.tsc_hz, Ordering::Relaxed);
    SHIFT.store(shift, Ordering::Relaxed);
    MUL.store(mul, Ordering::Relaxed);
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
