//! One map and one unmap of the usual kind: RAM for the CPU, named by its address, where nothing is in the way.
//!
//! What is done here is done at once or not at all. Whatever is out of the ordinary (a table that another pcpu has
//! locked, an entry that is in use already, a frame that must be flushed first, a guest's mistake) ends in `false`:
//! nothing has happened then, and the caller begins anew on the way that `map` knows, which answers for all of them.
//! So what is needed for that is not kept at hand here, and the registers suffice.
//!
//! The page table comes first and stays locked until its entry is as it shall be. The handle of a map exists before
//! the entry does: whoever unmaps it meanwhile waits for the table. The handle of an unmap is free before the entry is
//! gone: whoever maps with it meanwhile has another entry, or waits for the table, and another claim.

use pv_abi::grant::{GntmapFlags, GnttabMapGrantRef, GnttabUnmapGrantRef, GrantStatus};
use pv_abi::ids::{DomId, GrantHandle, GrantRef, GuestVa};

use super::active::{self, Uses};
use super::map::{avail_bits, flush, map_for};
use super::maptrack::Mapping;
use crate::cx::Cx;
use crate::mm::grant_map::LockedEntry;
use crate::port::Machine;

/// Maps and fills in handle, bus address and status; `false`: nothing has been done.
#[inline(always)]
pub(super) fn map<M: Machine>(cx: &Cx<'_, M>, op: &mut GnttabMapGrantRef) -> bool {
    let flags = GntmapFlags::from_bits_retain(op.flags);
    let Some(uses) = Uses::of_map(flags).filter(|uses| uses.are_plain()) else { return false };
    let id = DomId::new(op.dom);
    let granter = if id == cx.dom.id { Some(cx.dom.clone()) } else { cx.hv.domains.get(id) };
    let Some(granter) = granter else { return false };
    let Some(entry) = LockedEntry::at_once(cx, GuestVa::new(op.host_addr)) else { return false };
    let gref = GrantRef::new(op.gref);
    let held = active::claim_at_once(&cx.hv.frames, cx.m, &granter, gref, cx.dom.id, uses);
    let Some(held) = held else { return false };
    let frame = held.mfn();
    let handle = match cx.dom.grants.maptrack.insert_at_once(Mapping { granter, gref, frame, uses }) {
        Ok(handle) => handle,
        Err(mapping) => {
            held.into_raw();
            give_back(cx, &mapping);
            return false;
        }
    };
    entry.fill(cx, held, map_for(flags), avail_bits(flags));
    op.dev_bus_addr = frame.to_maddr().raw();
    op.handle = handle.raw();
    op.status = GrantStatus::Okay.raw();
    true
}

/// Gives up the claim of a mapping that has no handle, and the references that came with it.
#[cold]
#[inline(never)]
fn give_back<M: Machine>(cx: &Cx<'_, M>, mapping: &Mapping) {
    let Mapping { granter, gref, frame, uses } = mapping;
    let held = cx.hv.frames.adopt_leaf(*frame, uses.writes());
    active::release(cx.m, granter, *gref, *uses, held);
}

/// Unmaps and fills in the status; `false`: nothing has been done.
#[inline(always)]
pub(super) fn unmap<M: Machine>(cx: &Cx<'_, M>, op: &mut GnttabUnmapGrantRef) -> bool {
    if op.host_addr == 0 {
        return false;
    }
    let Some(entry) = LockedEntry::at_once(cx, GuestVa::new(op.host_addr)) else { return false };
    let handle = GrantHandle::new(op.handle);
    let taken = cx.dom.grants.maptrack.remove_if(handle, |mapping: &Mapping| {
        if !mapping.uses.are_plain() {
            return None;
        }
        entry.mapped(cx, mapping.frame, mapping.uses.writes())
    });
    let Some((Mapping { granter, gref, uses, .. }, mapped)) = taken else { return false };
    entry.clear(cx, mapped, uses.writes());
    flush(cx);
    active::release(cx.m, &granter, gref, uses, None);
    op.status = GrantStatus::Okay.raw();
    true
}
