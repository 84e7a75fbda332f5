//! What is delivered just before a guest goes on: virtual NMIs, then events.

use core::sync::atomic::Ordering::Relaxed;

use super::GuestBroken;
use super::bounce::{Extra, bounce, bounce_inline};
use crate::cx::Cx;
use crate::port::Machine;

/// Vector of the virtual NMI's handler in the trap table.
const NMI_VECTOR: u8 = 2;

/// Delivers what waits for the vcpu that is about to run.
///
/// # Errors
/// The guest's stack does not take the frame: the domain is to be crashed.
pub fn deliver_pending<M: Machine>(cx: &mut Cx<'_, M>) -> Result<(), GuestBroken> {
    let entry = &cx.vcpu.entry;
    if entry.nmi_pending.load(Relaxed) && !entry.nmi_masked.load(Relaxed) {
        entry.nmi_pending.store(false, Relaxed);
        if let Some((handler, masking)) = entry.trap(NMI_VECTOR).and_then(super::TrapGate::get) {
            entry.nmi_masked.store(true, Relaxed);
            return bounce(cx, handler, masking, Extra::None);
        }
    }
    if cx.vcpu.events.upcall_wanted(cx.m) {
        // A vcpu with no upcall handler polls for its events.
        if let Some((handler, _)) = entry.event.get() {
            return bounce(cx, handler, super::EventMasking::Mask, Extra::None);
        }
    }
    Ok(())
}

/// The same where the way out has just seen an upcall that is pending and not masked.
///
/// # Errors
/// As [`deliver_pending`].
#[inline(always)]
pub fn deliver_upcall<M: Machine>(cx: &mut Cx<'_, M>) -> Result<(), GuestBroken> {
    if cx.vcpu.entry.nmi_pending.load(Relaxed) {
        return deliver_pending(cx);
    }
    let Some((handler, _)) = cx.vcpu.entry.event.get() else { return Ok(()) };
    bounce_inline(cx, handler, super::EventMasking::Mask, Extra::None)
}
