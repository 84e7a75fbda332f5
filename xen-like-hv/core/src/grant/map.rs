//! Mapping and unmapping granted frames.

use alloc::sync::Arc;

use pv_abi::grant::{
    GNTMAP_GUEST_AVAIL_SHIFT, GntmapFlags, GnttabMapGrantRef, GnttabUnmapGrantRef, GrantStatus,
};
use pv_abi::ids::{DomId, GrantHandle, GrantRef, GuestVa, MachAddr, Mfn};
use pv_abi::pte::PteFlags;

use super::active::{self, Uses};
use super::granter::LastGranter;
use super::maptrack::Mapping;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::frame::LeafRef;
use crate::hypercall::mmu::cpus_of_domain;
use crate::mm::grant_map::{self, HostAddress, LockL1, MapFor};
use crate::port::{FlushScope, Machine};

/// Bit of the lowest software bit in a page-table entry.
const PTE_AVAIL_SHIFT: u32 = 9;

/// The place that a guest's number names.
#[inline(always)]
fn host_address(uses: Uses, raw: u64) -> HostAddress {
    if uses.names_pte() { HostAddress::Pte(MachAddr::new(raw)) } else { HostAddress::Va(GuestVa::new(raw)) }
}

/// The software bits that the guest wants in its entry.
#[inline(always)]
pub(super) fn avail_bits(flags: GntmapFlags) -> PteFlags {
    let wanted = u64::from(flags.bits() >> GNTMAP_GUEST_AVAIL_SHIFT);
    PteFlags::from_bits_retain(wanted << PTE_AVAIL_SHIFT) & PteFlags::AVAIL
}

/// Who may use what is mapped so.
#[inline(always)]
pub(super) fn map_for(flags: GntmapFlags) -> MapFor {
    if flags.contains(GntmapFlags::APPLICATION_MAP) { MapFor::Application } else { MapFor::Kernel }
}

/// One `GNTTABOP_map_grant_ref`; fills in status, handle and bus address.
#[inline(always)]
pub(super) fn map_one<M: Machine>(
    cx: &Cx<'_, M>,
    granters: &mut LastGranter,
    l1: &mut impl LockL1,
    op: &mut GnttabMapGrantRef,
) {
    op.status = match try_map(cx, granters, l1, op) {
        Ok(()) => GrantStatus::Okay,
        Err(status) => status,
    }
    .raw();
}

#[inline(always)]
fn try_map<M: Machine>(
    cx: &Cx<'_, M>,
    granters: &mut LastGranter,
    l1: &mut impl LockL1,
    op: &mut GnttabMapGrantRef,
) -> Result<(), GrantStatus> {
    let uses = Uses::of_map(GntmapFlags::from_bits_retain(op.flags)).ok_or(GrantStatus::BadGntref)?;
    let granter = granters.named(cx, DomId::new(op.dom))?;
    let frame = establish(cx, l1, granter, uses, op)?;
    let gref = GrantRef::new(op.gref);
    let mapping = || Mapping { granter: granter.clone(), gref, frame, uses };
    match cx.dom.grants.maptrack.insert(mapping, || cx.dom.grants.max_handles()) {
        Ok(handle) => {
            op.dev_bus_addr = frame.to_maddr().raw();
            op.handle = handle.raw();
            Ok(())
        }
        Err(status) => {
            undo(cx, l1, granter, uses, *op, frame);
            Err(status)
        }
    }
}

/// Takes away what [`establish`] made. Other vcpus may have used it meanwhile.
#[cold]
fn undo<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut impl LockL1,
    granter: &Domain,
    uses: Uses,
    op: GnttabMapGrantRef,
    frame: Mfn,
) {
    if uses.by_host() {
        let at = host_address(uses, op.host_addr);
        // An entry that another vcpu has overwritten is gone as well.
        let _ = grant_map::remove_host_mapping(cx, l1, at, frame, uses.writes());
        l1.let_go();
        flush(cx);
    }
    let held = active::device_ref(&cx.hv.frames, frame, uses);
    active::release(cx.m, granter, GrantRef::new(op.gref), uses, held);
}

/// Makes sure that no vcpu of the caller reaches what was unmapped.
#[inline(always)]
pub(super) fn flush<M: Machine>(cx: &Cx<'_, M>) {
    if seeded!(UnmapsWithoutFlush) {
        return;
    }
    if cx.dom.has_one_vcpu() {
        // That is the caller, which runs here.
        cx.m.flush_local(FlushScope::All);
    } else {
        flush_all_vcpus(cx);
    }
}

/// [`flush`] of a domain whose vcpus may run elsewhere.
#[inline(never)]
fn flush_all_vcpus<M: Machine>(cx: &Cx<'_, M>) {
    cx.m.flush(cpus_of_domain(cx.dom), FlushScope::All);
}

/// Claims the entry and makes the CPU's mapping; on failure nothing is left of either.
#[inline(always)]
fn establish<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut impl LockL1,
    granter: &Domain,
    uses: Uses,
    op: &GnttabMapGrantRef,
) -> Result<Mfn, GrantStatus> {
    let gref = GrantRef::new(op.gref);
    let held = active::claim(&cx.hv.frames, cx.m, granter, gref, cx.dom.id, uses)?;
    if uses.by_device() {
        let frame = held.into_raw();
        return establish_for_device(cx, l1, granter, uses, *op, frame);
    }
    let frame = held.mfn();
    if install(cx, l1, uses, op, held).is_err() {
        active::release(cx.m, granter, gref, uses, None);
        return Err(GrantStatus::GeneralError);
    }
    Ok(frame)
}

/// [`establish`] for a device, which owns the references of the claim, perhaps besides the CPU: each has references of its
/// own (XSA-224).
#[inline(never)]
fn establish_for_device<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut impl LockL1,
    granter: &Domain,
    uses: Uses,
    op: GnttabMapGrantRef,
    frame: Mfn,
) -> Result<Mfn, GrantStatus> {
    if uses.by_host() {
        let second = cx.hv.frames.get_leaf(cx.m, frame, granter.id, uses.writes());
        let installed = match second {
            Ok(second) => install(cx, l1, uses, &op, second),
            Err(_) => Err(GrantStatus::BadPage),
        };
        if let Err(status) = installed {
            let held = active::device_ref(&cx.hv.frames, frame, uses);
            active::release(cx.m, granter, GrantRef::new(op.gref), uses, held);
            return Err(status);
        }
    }
    Ok(frame)
}

/// Makes the CPU's mapping, which owns the frame from then on.
#[inline(always)]
fn install<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut impl LockL1,
    uses: Uses,
    op: &GnttabMapGrantRef,
    frame: LeafRef<'_>,
) -> Result<(), GrantStatus> {
    let flags = GntmapFlags::from_bits_retain(op.flags);
    let at = host_address(uses, op.host_addr);
    grant_map::install_host_mapping(cx, l1, at, frame, map_for(flags), avail_bits(flags))
        .map_err(|_| GrantStatus::GeneralError)
}

/// An unmap whose page-table part is done; the rest waits for the flush.
pub(super) struct Unmapped {
    granter: Arc<Domain>,
    gref: GrantRef,
    /// The mapping's handle.
    handle: GrantHandle,
    frame: Mfn,
    /// What was taken away.
    gone: Uses,
    /// Whether nothing is left: the handle stays taken until the end then.
    last: bool,
}

/// The first half of one `GNTTABOP_unmap_grant_ref`: takes the mapping away and fills in the status. What it returns
/// must go through [`finish`], which flushes.
#[inline(always)]
pub(super) fn unmap_one<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut impl LockL1,
    op: &mut GnttabUnmapGrantRef,
) -> Option<Unmapped> {
    let handle = GrantHandle::new(op.handle);
    let maptrack = &cx.dom.grants.maptrack;
    let Some(mapping) = maptrack.take(handle) else {
        op.status = GrantStatus::BadHandle.raw();
        return None;
    };
    let gone = match take_away(cx, l1, op, &mapping) {
        Ok(gone) => gone,
        Err(status) => {
            op.status = status.raw();
            maptrack.put(handle, mapping);
            return None;
        }
    };
    op.status = GrantStatus::Okay.raw();
    let left = mapping.uses.without(gone);
    let last = left.is_empty();
    if !last {
        maptrack.put(handle, Mapping { uses: left, ..mapping.clone() });
    }
    let Mapping { granter, gref, frame, .. } = mapping;
    if gone.is_empty() { None } else { Some(Unmapped { granter, gref, handle, frame, gone, last }) }
}

/// Takes away what an unmap names of a mapping; tells what that was.
#[inline(always)]
fn take_away<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut impl LockL1,
    op: &GnttabUnmapGrantRef,
    mapping: &Mapping,
) -> Result<Uses, GrantStatus> {
    let gone = mapping.uses.only(op.host_addr != 0, op.dev_bus_addr != 0);
    if gone.by_device() && op.dev_bus_addr != mapping.frame.to_maddr().raw() {
        return Err(GrantStatus::GeneralError);
    }
    if gone.by_host() {
        // The address is the caller's to name anew: it must be of the kind it was mapped with.
        let at = host_address(gone, op.host_addr);
        grant_map::remove_host_mapping(cx, l1, at, mapping.frame, gone.writes())
            .map_err(|_| GrantStatus::GeneralError)?;
    }
    Ok(gone)
}

/// The second half of an unmap: flushes, then gives up pins and the references of a device.
#[inline(always)]
pub(super) fn finish<M: Machine>(cx: &Cx<'_, M>, unmapped: &Unmapped) {
    if unmapped.gone.by_host() {
        flush(cx);
    }
    release(cx, unmapped);
    if unmapped.last {
        cx.dom.grants.maptrack.free(unmapped.handle);
    }
}

/// [`finish`] for many, with one flush.
#[inline(always)]
pub(super) fn finish_all<M: Machine>(cx: &Cx<'_, M>, batch: &[Option<Unmapped>]) {
    if batch.iter().flatten().any(|u| u.gone.by_host()) {
        flush(cx);
    }
    for unmapped in batch.iter().flatten() {
        release(cx, unmapped);
    }
    let free = batch.iter().flatten().filter(|u| u.last).map(|u| u.handle);
    cx.dom.grants.maptrack.free_all(free);
}

#[inline(always)]
fn release<M: Machine>(cx: &Cx<'_, M>, Unmapped { granter, gref, frame, gone, .. }: &Unmapped) {
    let held = active::device_ref(&cx.hv.frames, *frame, *gone);
    active::release(cx.m, granter, *gref, *gone, held);
}
