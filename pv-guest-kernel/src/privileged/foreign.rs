//! Frames of other domains, beyond what [`super::control`] has for building them.

#![expect(unsafe_code, reason = "memory operations with addresses of buffers")]

use alloc::vec::Vec;

use pv_abi::ids::{DomId, MachAddr, Mfn, Pfn};
use pv_abi::memory::{E820Entry, MemoryOp, XenForeignMemoryMap, XenMemoryMap, XenMemoryReservation};
use pv_abi::mmu::{MmuUpdate, MmuUpdateCmd, MmuextCmd};

use crate::hypercall::{self, Errno, Result, address_of, mmu};
use crate::memory::p2m;

/// Refuses this domain's own name: these functions must not change memory that Rust owns.
pub(super) fn must_be_foreign(domain: DomId) -> Result {
    if domain == DomId::SELF { Err(Errno::Inval) } else { Ok(()) }
}

/// Refuses a frame of this domain. Its own number names a domain as well as [`DomId::SELF`] does, and no hypercall tells it.
pub(super) fn must_be_foreign_frame(frame: Mfn) -> Result {
    if p2m::pfn_of(frame).is_some() { Err(Errno::Inval) } else { Ok(()) }
}

/// Gives `domain` one block of 2^order frames at `first`.
pub fn populate_block(domain: DomId, first: Pfn, order: u32) -> Result<Mfn> {
    let (done, frames) = reserve(MemoryOp::PopulatePhysmap, domain, alloc::vec![first.raw()], order)?;
    if done == 1 { Ok(Mfn::new(frames[0])) } else { Err(Errno::NoMem) }
}

/// Takes single frames away from `domain`; returns how many.
pub fn decrease(domain: DomId, mfns: &[Mfn]) -> Result<usize> {
    mfns.iter().try_for_each(|mfn| must_be_foreign_frame(*mfn))?;
    let raw: Vec<u64> = mfns.iter().map(|mfn| mfn.raw()).collect();
    reserve(MemoryOp::DecreaseReservation, domain, raw, 0).map(|(done, _)| done)
}

fn reserve(op: MemoryOp, domain: DomId, mut list: Vec<u64>, order: u32) -> Result<(usize, Vec<u64>)> {
    must_be_foreign(domain)?;
    let mut argument = XenMemoryReservation {
        extent_start: address_of(list.as_mut_ptr()),
        nr_extents: list.len() as u64,
        extent_order: order,
        domid: domain.raw(),
        ..Default::default()
    };
    // SAFETY: the list has that many entries and is ours; the frames are another domain's.
    let done = unsafe { hypercall::memory_op(op, &mut argument) }?;
    let done = usize::try_from(done).unwrap_or(0).min(list.len());
    Ok((done, list))
}

/// Sets the memory map that `domain` will be told.
pub fn set_memory_map(domain: DomId, map: &[E820Entry]) -> Result {
    must_be_foreign(domain)?;
    let mut argument = XenForeignMemoryMap {
        domid: domain.raw(),
        map: XenMemoryMap {
            nr_entries: u32::try_from(map.len()).map_err(|_| Errno::Inval)?,
            buffer: address_of(map.as_ptr()),
            ..Default::default()
        },
        ..Default::default()
    };
    // SAFETY: the map is only read.
    unsafe { hypercall::memory_op(MemoryOp::SetMemoryMap, &mut argument) }.map(drop)
}

/// Takes the pin off a table of `domain`.
pub fn unpin(domain: DomId, table: Mfn) -> Result {
    frame_operation(domain, MmuextCmd::UnpinTable, table)
}

/// Zeroes a frame of `domain`.
pub fn clear_frame(domain: DomId, frame: Mfn) -> Result {
    frame_operation(domain, MmuextCmd::ClearPage, frame)
}

fn frame_operation(domain: DomId, cmd: MmuextCmd, frame: Mfn) -> Result {
    must_be_foreign(domain)?;
    // SAFETY: the frame is another domain's: the hypervisor refuses one that is ours.
    unsafe { mmu::mmuext_op(&[mmu::on_frame(cmd, frame)], domain) }
}

/// Sets the M2P entry of a frame of `domain`.
pub fn set_m2p(domain: DomId, frame: Mfn, pfn: Pfn) -> Result {
    must_be_foreign(domain)?;
    let address: MachAddr = frame.to_maddr();
    let update =
        MmuUpdate { ptr: address.raw() | u64::from(MmuUpdateCmd::MachphysUpdate.raw()), val: pfn.raw() };
    // SAFETY: no page table changes.
    unsafe { mmu::mmu_update(&[update], domain) }
}
