//! Taking a dying domain's memory back, preemptibly.
//!
//! The caller has marked the domain dying and stopped its vcpus for good: no pcpu has one of its roots loaded. Order: unfinished work of its vcpus, their
//! base pointers, then frame by frame the pin and the allocator's reference. Tables fall as the last references to
//! them go. What others hold (grant mappings, mappings of dom0) stays on the account until they let go.

use pv_abi::ids::Mfn;

use super::tables::{Pt, TableError};
use crate::domain::Domain;
use crate::frame::types::{self, Pin};
use crate::hv::Hypervisor;
use crate::port::Machine;

/// How far [`relinquish`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relinquished {
    /// Everything that nobody else holds is given back.
    All,
    /// Others still hold frames; they come back when their holders let go.
    AllButHeld,
}

/// Something else wants this pcpu, or another domain's call is at a table of this one: call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preempted;

impl From<TableError> for Preempted {
    fn from(_: TableError) -> Self {
        Self
    }
}

/// Gives all frames of a dying domain back. To be called again until it succeeds; each call gets further.
///
/// # Errors
/// [`Preempted`].
pub fn relinquish<M: Machine>(hv: &Hypervisor, m: &M, dom: &Domain) -> Result<Relinquished, Preempted> {
    dom.mem.set_dying();
    // A claim of a domain that gets no more frames: giving it up cannot fail.
    let _ = hv.frames.claim(&dom.mem, 0);
    for vcpu in dom.each_vcpu() {
        let pt = Pt { frames: &hv.frames, m, slot: &vcpu.mm.pending };
        pt.abandon();
        pt.settle()?;
        pt.drop_roots(dom, &vcpu.mm)?;
    }
    let pt = Pt { frames: &hv.frames, m, slot: &dom.mm.teardown };
    pt.settle()?;
    while let Some(mfn) = dom.mem.next_for_teardown() {
        relinquish_frame(&pt, dom, mfn)?;
        if m.preempt_pending() {
            return Err(Preempted);
        }
    }
    Ok(if dom.mem.tot_pages() == 0 { Relinquished::All } else { Relinquished::AllButHeld })
}

fn relinquish_frame<M: Machine>(pt: &Pt<'_, M>, dom: &Domain, mfn: Mfn) -> Result<(), Preempted> {
    let Ok(page) = pt.frames.get_page_passing(mfn, dom.id) else { return Ok(()) };
    if types::set_pinned(page.info(), Pin::Unpin) {
        pt.put_table_raw(mfn, dom.id);
    }
    if !pt.frames.release(&page) {
        pt.frames.note_released(&page);
    }
    drop(page);
    pt.settle().map_err(Preempted::from)
}
