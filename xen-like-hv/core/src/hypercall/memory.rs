//! `HYPERVISOR_memory_op`: reservations, memory maps, the machine-to-physical table.
//!
//! Restart: calls over extents put the number of those done into the command, above its low six bits; the exchange
//! keeps it in its argument's `nr_exchanged`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;
use pv_abi::memory::{
    E820_MAX, E820Entry, MEMOP_CMD_MASK, MEMOP_EXTENT_SHIFT, MemoryOp, XenForeignMemoryMap,
    XenMachphysMapping, XenMemoryDomain, XenMemoryMap, XenMemoryReservation,
};

use super::{GuestPtr, memory_exchange, memory_reservation, memory_resource};
use crate::access;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Args, Exit, HypercallResult};
use crate::frame::FrameError;
use crate::port::Machine;

/// Where guests read the machine-to-physical table.
const M2P_START: u64 = 0xffff_8000_0000_0000;
/// Bytes of address space kept for it.
const M2P_BYTES: u64 = 256 << 30;
/// Offset of `arch.max_pfn` in the shared information page, in words.
const SHARED_INFO_MAX_PFN: usize = 0xc10 / 8;

/// `HYPERVISOR_memory_op(command, argument)`.
///
/// # Errors
/// `ENOSYS`: an unknown command, or one that is not for these guests. Else as each command's handler says.
#[inline(always)]
pub fn memory_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let command = u32::try_from(args.get(0) & MEMOP_CMD_MASK).map_err(|_| Errno::NoSys)?;
    let start = args.get(0) >> MEMOP_EXTENT_SHIFT;
    let arg = args.get(1);
    let op = MemoryOp::from_raw(command).ok_or(Errno::NoSys)?;
    match op {
        MemoryOp::IncreaseReservation | MemoryOp::DecreaseReservation | MemoryOp::PopulatePhysmap => {
            memory_reservation::reservation(cx, op, start, arg)
        }
        MemoryOp::Exchange => memory_exchange::exchange(cx, args),
        MemoryOp::MaximumRamPage => Ok(cx.hv.frames.end().raw()),
        MemoryOp::CurrentReservation | MemoryOp::MaximumReservation | MemoryOp::MaximumGpfn => {
            domain_figure(cx, op, arg)
        }
        MemoryOp::MachphysMapping => machphys_mapping(cx, arg),
        MemoryOp::MachphysMfnList => memory_resource::machphys_mfn_list(cx, arg),
        MemoryOp::MemoryMap => memory_map(cx, arg),
        MemoryOp::MachineMemoryMap => machine_memory_map(cx, arg),
        MemoryOp::SetMemoryMap => set_memory_map(cx, arg),
        MemoryOp::ClaimPages => claim_pages(cx, arg),
        MemoryOp::AcquireResource => memory_resource::acquire_resource(cx, arg),
        MemoryOp::AddToPhysmap | MemoryOp::AddToPhysmapBatch | MemoryOp::RemoveFromPhysmap => {
            Err(Exit::Err(Errno::Acces))
        }
        MemoryOp::SetPodTarget | MemoryOp::GetPodTarget => Err(Exit::Err(Errno::Inval)),
        MemoryOp::GetVnumainfo => Err(Exit::Err(Errno::OpNotSupp)),
        MemoryOp::GetSharingFreedPages
        | MemoryOp::GetSharingSharedPages
        | MemoryOp::PagingOp
        | MemoryOp::AccessOp
        | MemoryOp::SharingOp
        | MemoryOp::MachphysCompatMfnList
        | MemoryOp::ReservedDeviceMemoryMap => Err(Exit::Err(Errno::NoSys)),
    }
}

/// The domain that an argument names: the caller by its number or as `DOMID_SELF`, or another one.
///
/// # Errors
/// `ESRCH`, `EPERM`.
pub(super) fn target<M: Machine>(cx: &Cx<'_, M>, id: DomId) -> Result<Arc<Domain>, Errno> {
    if id == DomId::SELF || id == cx.dom.id {
        return Ok(cx.dom.clone());
    }
    let dom = cx.hv.domains.get(id).ok_or(Errno::Srch)?;
    access::act_on(cx.dom, id)?;
    Ok(dom)
}

/// Frames that a domain has or may have, or its largest pfn.
fn domain_figure<M: Machine>(cx: &Cx<'_, M>, op: MemoryOp, arg: u64) -> HypercallResult {
    let which = GuestPtr::<XenMemoryDomain>::new(arg)?.read(cx.m)?;
    let dom = target(cx, DomId::new(which.domid))?;
    let value = match op {
        MemoryOp::CurrentReservation => dom.mem.tot_pages(),
        MemoryOp::MaximumReservation => dom.mem.max_pages(),
        _ => largest_pfn(cx, &dom)?,
    };
    Ok(value.min(u64::MAX >> 1))
}

/// What the domain says itself of its largest pfn, as long as its page is there.
fn largest_pfn<M: Machine>(cx: &Cx<'_, M>, dom: &Domain) -> Result<u64, Errno> {
    let _the_page_stays = dom.slow.lock();
    if dom.is_dead() {
        return Err(Errno::Srch);
    }
    let word = cx.m.words(dom.shared_info).get(SHARED_INFO_MAX_PFN);
    let nr_pfns = word.map_or(0, |w| w.load(core::sync::atomic::Ordering::Relaxed));
    Ok(nr_pfns.wrapping_sub(1))
}

fn machphys_mapping<M: Machine>(cx: &Cx<'_, M>, arg: u64) -> HypercallResult {
    let mapping =
        XenMachphysMapping { v_start: M2P_START, v_end: M2P_START + M2P_BYTES, max_mfn: M2P_BYTES / 8 - 1 };
    GuestPtr::new(arg)?.write(cx.m, &mapping)?;
    Ok(0)
}

/// The caller's own map, as the toolstack set it. `ENOSYS` without one: the guest then makes its own.
fn memory_map<M: Machine>(cx: &Cx<'_, M>, arg: u64) -> HypercallResult {
    let ptr = GuestPtr::<XenMemoryMap>::new(arg)?;
    let mut map = ptr.read(cx.m)?;
    let entries: Vec<E820Entry> = cx.dom.mm.memory_map();
    if entries.is_empty() {
        return Err(Exit::Err(Errno::NoSys));
    }
    let room = usize::try_from(map.nr_entries).map_err(|_| Errno::Inval)?;
    let n = entries.len().min(room);
    write_entries(cx, map.buffer, &entries[..n])?;
    map.nr_entries = u32::try_from(n).map_err(|_| Errno::Inval)?;
    ptr.write(cx.m, &map)?;
    Ok(0)
}

fn write_entries<M: Machine>(cx: &Cx<'_, M>, buffer: u64, entries: &[E820Entry]) -> Result<(), Errno> {
    let count = u64::try_from(entries.len()).map_err(|_| Errno::Inval)?;
    GuestPtr::<E820Entry>::array(buffer, count)?.write_slice(cx.m, 0, entries)
}

/// The machine's map, for the privileged domain. Without a buffer it only counts.
fn machine_memory_map<M: Machine>(cx: &Cx<'_, M>, arg: u64) -> HypercallResult {
    access::control(cx.dom)?;
    let ptr = GuestPtr::<XenMemoryMap>::new(arg)?;
    let mut map = ptr.read(cx.m)?;
    let machine = &cx.hv.platform.memory_map;
    let count = u32::try_from(machine.len()).map_err(|_| Errno::Inval)?;
    if map.buffer != 0 {
        if map.nr_entries < count {
            return Err(Exit::Err(Errno::Inval));
        }
        let buffer = GuestPtr::<E820Entry>::array(map.buffer, u64::from(count))?;
        for (i, (start, bytes, kind)) in (0_u64..).zip(machine) {
            buffer.write_at(cx.m, i, &machine_entry(*start, *bytes, *kind))?;
        }
    }
    map.nr_entries = count;
    ptr.write(cx.m, &map)?;
    Ok(0)
}

fn machine_entry(start: u64, bytes: u64, kind: u32) -> E820Entry {
    E820Entry { kind, ..E820Entry::new(start, bytes, pv_abi::memory::E820Type::Reserved) }
}

/// Sets another domain's (or the caller's own) map.
fn set_memory_map<M: Machine>(cx: &Cx<'_, M>, arg: u64) -> HypercallResult {
    let foreign = GuestPtr::<XenForeignMemoryMap>::new(arg)?.read(cx.m)?;
    if foreign.map.nr_entries > E820_MAX {
        return Err(Exit::Err(Errno::Inval));
    }
    let dom = target(cx, DomId::new(foreign.domid))?;
    let count = usize::try_from(foreign.map.nr_entries).map_err(|_| Errno::Inval)?;
    let mut entries = Vec::new();
    if memory_is_short!() {
        return Err(Errno::NoMem.into());
    }
    entries.try_reserve_exact(count).map_err(|_| Errno::NoMem)?;
    entries.resize(count, E820Entry::default());
    GuestPtr::<E820Entry>::array(foreign.map.buffer, u64::from(foreign.map.nr_entries))?.read_slice(
        cx.m,
        0,
        &mut entries,
    )?;
    dom.mm.set_memory_map(entries);
    Ok(0)
}

/// Sets free memory aside for a domain that is about to be built; `nr_extents` 0 gives it up.
fn claim_pages<M: Machine>(cx: &Cx<'_, M>, arg: u64) -> HypercallResult {
    access::control(cx.dom)?;
    let r = GuestPtr::<XenMemoryReservation>::new(arg)?.read(cx.m)?;
    if r.extent_start != 0 || r.extent_order != 0 || r.mem_flags != 0 {
        return Err(Exit::Err(Errno::Inval));
    }
    let dom = target(cx, DomId::new(r.domid))?;
    match cx.hv.frames.claim(&dom.mem, r.nr_extents) {
        Ok(()) => Ok(0),
        Err(FrameError::NoMemory) => Err(Exit::Err(Errno::NoMem)),
        Err(_) => Err(Exit::Err(Errno::Inval)),
    }
}
