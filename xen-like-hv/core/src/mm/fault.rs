//! Page faults of guests: what the hypervisor repairs and what the guest is told of.

use pv_abi::ids::GuestVa;

use crate::cx::Cx;
use crate::port::Machine;

/// What becomes of a guest's page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOutcome {
    /// The access may be tried again, or has been carried out.
    Resume,
    /// The guest's kernel gets the fault.
    Inject,
}

/// Deals with a page fault that the guest's code raised at `va`.
pub fn guest_page_fault<M: Machine>(cx: &mut Cx<'_, M>, va: GuestVa, error_code: u32) -> FaultOutcome {
    let _ = (cx, va, error_code);
    FaultOutcome::Inject
}
