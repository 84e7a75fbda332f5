//! Mapping and unmapping granted frames.

use pv_abi::grant::{
    GNTMAP_GUEST_AVAIL_SHIFT, GntmapFlags, GnttabMapGrantRef, GnttabUnmapGrantRef, GrantStatus,
};
use pv_abi::ids::{DomId, GrantHandle, GrantRef};
use pv_abi::pte::PteFlags;

use super::active::{self, Access, Purposes};
use super::granter::LastGranter;
use super::maptrack::Mapping;
use crate::cx::Cx;
use crate::hypercall::mmu::cpus_of_domain;
use crate::mm::grant_map::{self, HostKind, L1Hint, MapAccess, MapFor};
use crate::port::{FlushScope, Machine};

/// Bit of the lowest software bit in a page-table entry.
const PTE_AVAIL_SHIFT: u32 = 9;

/// A map's flags, taken apart.
struct Request {
    access: Access,
    host: Option<HostKind>,
    device: bool,
}

fn decode(flags: GntmapFlags) -> Result<Request, GrantStatus> {
    if !flags.intersects(GntmapFlags::HOST_MAP | GntmapFlags::DEVICE_MAP) {
        return Err(GrantStatus::BadGntref);
    }
    let access = if flags.contains(GntmapFlags::READONLY) { Access::Read } else { Access::Write };
    let kind = if flags.contains(GntmapFlags::CONTAINS_PTE) { HostKind::Pte } else { HostKind::Va };
    let host = flags.contains(GntmapFlags::HOST_MAP).then_some(kind);
    Ok(Request { access, host, device: flags.contains(GntmapFlags::DEVICE_MAP) })
}

fn map_access(access: Access) -> MapAccess {
    match access {
        Access::Read => MapAccess::ReadOnly,
        Access::Write => MapAccess::ReadWrite,
    }
}

/// The software bits that the guest wants in its entry.
fn avail_bits(flags: GntmapFlags) -> PteFlags {
    let wanted = u64::from(flags.bits() >> GNTMAP_GUEST_AVAIL_SHIFT);
    PteFlags::from_bits_retain(wanted << PTE_AVAIL_SHIFT) & PteFlags::AVAIL
}

/// One `GNTTABOP_map_grant_ref`; fills in status, handle and bus address.
pub(super) fn map_one<M: Machine>(
    cx: &Cx<'_, M>,
    granters: &mut LastGranter,
    l1: &mut L1Hint,
    op: &mut GnttabMapGrantRef,
) {
    op.status = match try_map(cx, granters, l1, op) {
        Ok(()) => GrantStatus::Okay,
        Err(status) => status,
    }
    .raw();
}

fn try_map<M: Machine>(
    cx: &Cx<'_, M>,
    granters: &mut LastGranter,
    l1: &mut L1Hint,
    op: &mut GnttabMapGrantRef,
) -> Result<(), GrantStatus> {
    let flags = GntmapFlags::from_bits_retain(op.flags);
    let Request { access, host, device } = decode(flags)?;
    let granter = granters.named(cx, DomId::new(op.dom))?.clone();
    let maptrack = &cx.dom.grants.maptrack;
    let handle = maptrack.take_handle(cx.dom.grants.max_handles())?;
    let frame = pv_abi::ids::Mfn::INVALID;
    let mut mapping = Mapping { granter, gref: GrantRef::new(op.gref), frame, access, host, device };
    match establish(cx, l1, &mut mapping, op.host_addr, flags) {
        Ok(()) => {
            op.dev_bus_addr = mapping.frame.to_maddr().raw();
            op.handle = handle.raw();
            maptrack.put(handle, mapping);
            Ok(())
        }
        Err(status) => {
            maptrack.free(handle);
            Err(status)
        }
    }
}

/// Claims the entry and makes the CPU's mapping; on failure nothing is left of either.
fn establish<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut L1Hint,
    mapping: &mut Mapping,
    host_addr: u64,
    flags: GntmapFlags,
) -> Result<(), GrantStatus> {
    let purposes = mapping.purposes();
    let (granter, gref, access) = (&mapping.granter, mapping.gref, mapping.access);
    let held = active::claim(&cx.hv.frames, cx.m, granter, gref, cx.dom.id, purposes, access)?;
    if let Some(kind) = mapping.host {
        let (mfn, at, how) = (held.mfn(), kind.at(host_addr), map_access(access));
        let user =
            if flags.contains(GntmapFlags::APPLICATION_MAP) { MapFor::Application } else { MapFor::Kernel };
        let avail = avail_bits(flags);
        if grant_map::install_host_mapping(cx, l1, at, mfn, granter.id, how, user, avail).is_err() {
            active::release(cx.m, granter, gref, purposes, access, Some(held));
            return Err(GrantStatus::GeneralError);
        }
    }
    mapping.frame = held.into_raw();
    Ok(())
}

/// An unmap whose page-table part is done; the rest waits for the flush.
pub(super) struct Unmapped {
    mapping: Mapping,
    /// What was taken away.
    purposes: Purposes,
    /// The handle, if nothing is left of its mapping: it stays taken until the end.
    handle: Option<GrantHandle>,
}

/// The first half of one `GNTTABOP_unmap_grant_ref`: takes the mapping away and fills in the status. What it returns
/// must go through [`finish`], which flushes.
pub(super) fn unmap_one<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut L1Hint,
    op: &mut GnttabUnmapGrantRef,
) -> Option<Unmapped> {
    let handle = GrantHandle::new(op.handle);
    let maptrack = &cx.dom.grants.maptrack;
    let Some(mut mapping) = maptrack.take(handle) else {
        op.status = GrantStatus::BadHandle.raw();
        return None;
    };
    let (status, purposes) = match take_away(cx, l1, op, &mut mapping) {
        Ok(purposes) => (GrantStatus::Okay, purposes),
        Err(status) => (status, Purposes::default()),
    };
    op.status = status.raw();
    let last = mapping.host.is_none() && !mapping.device;
    if !last {
        maptrack.put(handle, mapping.clone());
    }
    let handle = last.then_some(handle);
    (!purposes.is_empty()).then_some(Unmapped { mapping, purposes, handle })
}

fn take_away<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut L1Hint,
    op: &GnttabUnmapGrantRef,
    mapping: &mut Mapping,
) -> Result<Purposes, GrantStatus> {
    let mut gone = Purposes::default();
    let device = op.dev_bus_addr != 0 && mapping.device;
    if device && op.dev_bus_addr != mapping.frame.to_maddr().raw() {
        return Err(GrantStatus::GeneralError);
    }
    if let Some(kind) = mapping.host.filter(|_| op.host_addr != 0) {
        // The address is the caller's to name anew: it must be of the kind it was mapped with.
        let (at, access) = (kind.at(op.host_addr), map_access(mapping.access));
        grant_map::remove_host_mapping(cx, l1, at, mapping.frame, access)
            .map_err(|_| GrantStatus::GeneralError)?;
        mapping.host = None;
        gone.host = true;
    }
    if device {
        mapping.device = false;
        gone.device = true;
    }
    Ok(gone)
}

/// The second half of unmaps: flushes, then gives up pins and references.
pub(super) fn finish<M: Machine>(cx: &Cx<'_, M>, batch: &mut [Option<Unmapped>]) {
    if batch.iter().flatten().any(|u| u.purposes.host) && !seeded!(UnmapsWithoutFlush) {
        cx.m.flush(cpus_of_domain(cx.dom), FlushScope::All);
    }
    for Unmapped { mapping, purposes, handle } in batch.iter_mut().filter_map(Option::take) {
        let held = handle.and_then(|_| active::adopt(&cx.hv.frames, mapping.frame, mapping.access));
        active::release(cx.m, &mapping.granter, mapping.gref, purposes, mapping.access, held);
        if let Some(handle) = handle {
            cx.dom.grants.maptrack.free(handle);
        }
    }
}
