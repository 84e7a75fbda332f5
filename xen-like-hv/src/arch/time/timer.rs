//! The APIC timer as a one-shot alarm at a time of the clock.
#![expect(unsafe_code, reason = "the deadline MSR")]

use super::{SECOND_NS, now_ns, tsc_at};
use crate::arch::cpu::{features, regs};
use crate::arch::irq::apic;
use crate::percpu;
use core::sync::atomic::{AtomicU64, Ordering};

const MSR_TSC_DEADLINE: u32 = 0x6e0;

static APIC_HZ: AtomicU64 = AtomicU64::new(0);

/// Keeps the timer's speed and readies it on the boot processor.
pub(crate) fn init(apic_hz: u64) {
    APIC_HZ.store(apic_hz, Ordering::Relaxed);
    init_this_cpu();
}

/// Readies this pcpu's timer.
pub(crate) fn init_this_cpu() {
    apic::timer_setup(features::get().tsc_deadline);
}

/// Has [`work::TIMER`](crate::arch::entry::cpu_info::work::TIMER) raised on this pcpu at a time of the clock, at once if
/// that is past, or never. It may come early, never noticeably late: whoever is woken looks at the clock.
pub(crate) fn set_deadline_ns(deadline: Option<u64>) {
    // 0 stands for never.
    let deadline = deadline.map_or(0, |ns| ns.max(1));
    let this = percpu::this();
    this.deadline_ns.store(deadline, Ordering::Relaxed);
    if features::get().tsc_deadline {
        let stamp = if deadline == 0 { 0 } else { tsc_at(deadline).max(1) };
        // SAFETY: the feature check has found the register; the fence orders it behind the APIC's mode.
        unsafe {
            core::arch::x86_64::_mm_mfence();
            regs::wrmsr(MSR_TSC_DEADLINE, stamp);
        }
        return;
    }
    if deadline == 0 {
        apic::timer_count(0);
        return;
    }
    let ns = deadline.saturating_sub(now_ns());
    let ticks =
        (u128::from(ns) * u128::from(APIC_HZ.load(Ordering::Relaxed))).div_ceil(u128::from(SECOND_NS));
    // Beyond the counter's range it fires early and is set again.
    apic::timer_count(u32::try_from(ticks).unwrap_or(u32::MAX).max(1));
}
