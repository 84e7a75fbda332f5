//! The words of the two-level ABI, one step after the other: bit, selector, upcall.
//!
//! The guest clears from the top down and scans afterwards, the hypervisor sets from the bottom up; each step that finds
//! its bit set already relies on somebody else to do the rest.

use core::sync::atomic::Ordering::SeqCst;

use crate::atomic::AtomicU64;

/// What setting a port pending found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pended {
    /// It was pending: whoever set it told, or is about to.
    Already,
    /// It is masked: whoever unmasks it tells.
    Masked,
    /// The selector is next.
    Notify,
}

/// Sets a port pending.
#[inline(always)]
pub(crate) fn pend(pending: &AtomicU64, mask: &AtomicU64, bit: u64) -> Pended {
    if pending.fetch_or(bit, SeqCst) & bit != 0 {
        return Pended::Already;
    }
    if mask.load(SeqCst) & bit == 0 || seeded!(IgnoresMask) { Pended::Notify } else { Pended::Masked }
}

/// Clears a port's mask; whether an event waits behind it that nobody has been told of.
#[inline(always)]
pub(crate) fn unmask(pending: &AtomicU64, mask: &AtomicU64, bit: u64) -> bool {
    mask.fetch_and(!bit, SeqCst) & bit != 0 && pending.load(SeqCst) & bit != 0
}

/// Sets a selector bit and, if it was clear, `evtchn_upcall_pending`; whether that was clear too.
#[inline(always)]
pub(crate) fn raise(select: &AtomicU64, upcall: &AtomicU64, selector: u64) -> bool {
    select.fetch_or(selector, SeqCst) & selector == 0 && upcall.fetch_or(1, SeqCst) & 1 == 0
}
