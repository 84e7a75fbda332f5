//! Faults that tests sow on purpose: each breaks one rule of the real code, to show that a model or an audit would
//! notice. Only test builds have them; elsewhere [`seeded!`](crate::seeded) is `false`.

use core::cell::Cell;
use std::thread_local;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// No flush comes before a frame's new use (I12).
    NoFlushBeforeReuse,
    /// A free frame is zeroed ahead while somebody can still write it (I12).
    ZeroesUnflushed,
    /// The end of a mapping is not stamped (I6, I12).
    NoStamp,
    /// A table that another works on is taken for one that is in order (I4).
    BusyIsHeld,
    /// The last reference to a table goes without devalidation (I6).
    NoDevalidation,
    /// A table is pinned a second time (I6).
    PinsTwice,
    /// A child's general reference stays when its type reference goes (I3).
    ChildKeepsReference,
    /// A table can be mapped writable (I1).
    TableIsWritable,
    /// A frame in use can be stolen (I7).
    StealsUsedFrames,
    /// What a failed validation has taken so far is kept (I5).
    FailureKeepsEntries,
    /// The failure of parked work is not remembered: the call starts over for ever (I9).
    ForgetsFailure,
    /// The references of a call that was given up for another are lost (I5): as it was once.
    ForgetsHeld,
    /// Giving up a claim leaves its pin.
    ReleaseKeepsPin,
    /// A pinned entry follows what the granter writes into it (XSA-500).
    PinnedFollowsEntry,
    /// A writer is let in where the entry says read-only.
    IgnoresReadonly,
    /// Two calls may take one handle (XSA-218).
    HandleTakenTwice,
    /// What a mapper can still reach is given back (I12).
    UnmapsWithoutFlush,
    /// The other end stays connected when a port is closed.
    CloseLeavesPeer,
    /// A port that is masked notifies.
    IgnoresMask,
    /// A pending bit is set without its selector.
    NoSelector,
    /// A closed port keeps its event.
    CloseKeepsPending,
    /// A port that went to another queue stays the end of its old one.
    TailOutlivesQueue,
    /// What waits behind a mask is not looked for.
    UnmaskForgets,
    /// What came in before there was an event word never gets into one.
    WaitingIsLost,
    /// The guest's frames are not given back with the queues.
    QueuesKeepFrames,
}

thread_local! {
    static SOWN: Cell<Option<Fault>> = const { Cell::new(None) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// Whether this thread's code has that fault.
pub(crate) fn is(fault: Fault) -> bool {
    SOWN.get() == Some(fault)
}

/// Whether this thread's code has any fault.
pub(crate) fn any() -> bool {
    SOWN.get().is_some()
}

/// Gives this thread's code a fault, or none.
pub(crate) fn sow(fault: Option<Fault>) {
    SOWN.set(fault);
}

/// Lets `n` allocations of this thread succeed and one fail; `None` lets all succeed.
pub(crate) fn fail_allocation(n: Option<u64>) {
    ALLOCATIONS.set(n.unwrap_or(u64::MAX));
}

/// Whether the one that fails is still to come.
pub(crate) fn allocation_is_due() -> bool {
    ALLOCATIONS.get() != u64::MAX
}

/// Asked before each allocation that may fail.
pub(crate) fn allocation_fails() -> bool {
    match ALLOCATIONS.get() {
        u64::MAX => false,
        0 => {
            ALLOCATIONS.set(u64::MAX);
            true
        }
        n => {
            ALLOCATIONS.set(n - 1);
            false
        }
    }
}
