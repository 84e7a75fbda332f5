//! The longest stretches between an entry from a guest and the next point at which others get their turn: the way out, or a
//! preemption check. Only in images built with the feature `stretch`, for one pcpu on a clock that counts instructions.
//!
//! The stubs write `STRETCH_STARTED` and `STRETCH_CAUSE` at an entry and the maximum of that cause on the way out.
#![expect(unsafe_code, reason = "named by the stubs; reads the time-stamp counter")]

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

/// Causes: numbers of hypercalls (SYSCALLs of user mode count as some of them), then all traps and interrupts together.
const CAUSES: usize = TRAPS + 1;
/// The cause that traps and interrupts are.
const TRAPS: usize = hv_core::hypercall::NUMBERS;

/// TSC of the start of the stretch; 0 between stretches.
#[unsafe(no_mangle)]
static STRETCH_STARTED: AtomicU64 = AtomicU64::new(0);
/// What began it.
#[unsafe(no_mangle)]
static STRETCH_CAUSE: AtomicU64 = AtomicU64::new(0);
/// The longest of each cause.
#[unsafe(no_mangle)]
static STRETCH_LONGEST: [AtomicU64; CAUSES] = [const { AtomicU64::new(0) }; CAUSES];

fn now() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A preemption check ends a stretch and begins the next of the same cause.
pub(crate) fn point() {
    let started = STRETCH_STARTED.load(Relaxed);
    if started != 0 {
        note(now().wrapping_sub(started));
        restart();
    }
}

/// Whatever was under way is none: the pcpu has been idle.
pub(crate) fn restart() {
    STRETCH_STARTED.store(now(), Relaxed);
}

fn note(length: u64) {
    let cause = usize::try_from(STRETCH_CAUSE.load(Relaxed)).unwrap_or(0);
    if let Some(longest) = STRETCH_LONGEST.get(cause) {
        longest.fetch_max(length, Relaxed);
    }
}

/// Prints the longest stretch of each cause.
pub(crate) fn report() {
    for (cause, longest) in STRETCH_LONGEST.iter().enumerate() {
        let length = longest.load(Relaxed);
        if length != 0 {
            if cause == TRAPS {
                crate::log::print_line!("hv: stretch: {length} instructions, traps");
            } else {
                crate::log::print_line!("hv: stretch: {length} instructions, hypercall {cause}");
            }
        }
    }
}
