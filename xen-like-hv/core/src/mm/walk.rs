//! Finding the L1 entry of a guest's address in the guest's own tables.
//!
//! The tables are read while other CPUs may change them. What is found is therefore a hint: whoever changes the entry
//! takes a reference to the L1 under its owner and locks it, which fails for anything that is no L1 of that domain.

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::ids::{DomId, GuestVa, Mfn};
use pv_abi::pte::{Level, Pte, PteFlags};

use super::pte_rules;
use crate::frame::{FrameTable, PageType};
use crate::hypercall::guest_ptr::is_guests;
use crate::port::Frames;

/// Where the entry of an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The L1.
    pub table: Mfn,
    /// The entry in it.
    pub index: usize,
    /// What the levels above allow: `RW` and `USER` only where all of them do, `NX` where one of them forbids.
    pub path: PteFlags,
}

/// The L1 entry for `va` under `root`, a root of `owner`; `None` where a level is missing, or the address is the
/// hypervisor's or not canonical.
#[must_use]
pub fn find_l1(frames: &FrameTable, m: &impl Frames, owner: DomId, root: Mfn, va: GuestVa) -> Option<Found> {
    if !va.is_canonical() {
        return None;
    }
    // One level after the other, each with its own constants.
    let path = PteFlags::RW | PteFlags::USER;
    let (table, path) = down(frames, m, owner, (root, path), Level::L4, va)?;
    let (table, path) = down(frames, m, owner, (table, path), Level::L3, va)?;
    let (table, path) = down(frames, m, owner, (table, path), Level::L2, va)?;
    Some(Found { table, index: Level::L1.index(va), path })
}

/// As [`find_l1`] for who does not ask what the path allows: the L1 and the index of the entry in it. `root` is a base
/// pointer of the calling vcpu, so that it stays in use.
///
/// The owners of the tables on the way are not asked: it is the result that is checked, and a path that leads astray is
/// one that another CPU changes at this moment.
#[inline(always)]
#[must_use]
pub fn find_l1_entry(frames: &FrameTable, m: &impl Frames, root: Mfn, va: GuestVa) -> Option<(Mfn, usize)> {
    // Canonical, and in none of the hypervisor's slots.
    if !is_guests(va) {
        return None;
    }
    // The root is in use, so what it names is in use as well at this moment, and RAM for good.
    let l3 = below(m, root, Level::L4, va)?;
    let l2 = below(m, l3, Level::L3, va)?;
    let l1 = follow(frames, m, l2, Level::L2, va)?;
    Some((l1, Level::L1.index(va)))
}

/// The frame that the entry of `va` in a table names.
#[inline(always)]
fn below(m: &impl Frames, table: Mfn, level: Level, va: GuestVa) -> Option<Mfn> {
    let pte = Pte::from_raw(m.words(table).get(level.index(va))?.load(Relaxed));
    pte.is_present().then(|| pte.mfn())
}

/// The frame that the entry of `va` in a table names, if the frame is a table of that level in use.
#[inline(always)]
fn follow(frames: &FrameTable, m: &impl Frames, table: Mfn, level: Level, va: GuestVa) -> Option<Mfn> {
    if !frames.info(table)?.type_info().is_in_use_as(PageType::Table(level)) {
        return None;
    }
    below(m, table, level, va)
}

/// The table below the entry of `va` in a table, and what the path allows from there on.
#[inline(always)]
fn down(
    frames: &FrameTable,
    m: &impl Frames,
    owner: DomId,
    (table, path): (Mfn, PteFlags),
    level: Level,
    va: GuestVa,
) -> Option<(Mfn, PteFlags)> {
    let index = level.index(va);
    if !pte_rules::is_guest_slot(level, index) {
        return None;
    }
    let pte = entry(frames, m, owner, table, level, index)?;
    let path = (path & pte.flags()) | ((path | pte.flags()) & PteFlags::NX);
    pte.is_present().then(|| (pte.mfn(), path))
}

/// An entry of a table that is one of `owner`'s, of that level and in use, at this moment.
#[inline(always)]
#[must_use]
pub fn entry(
    frames: &FrameTable,
    m: &impl Frames,
    owner: DomId,
    table: Mfn,
    level: Level,
    index: usize,
) -> Option<Pte> {
    let page = frames.info(table)?;
    let ty = page.type_info();
    if !page.count_info().is_owned_by(owner) || !ty.is_in_use_as(PageType::Table(level)) {
        return None;
    }
    Some(Pte::from_raw(m.words(table).get(index)?.load(Relaxed)))
}

/// The frame that is mapped at `va`, at this moment.
#[must_use]
pub fn mapped_frame(
    frames: &FrameTable,
    m: &impl Frames,
    owner: DomId,
    root: Mfn,
    va: GuestVa,
) -> Option<Mfn> {
    let found = find_l1(frames, m, owner, root, va)?;
    let pte = entry(frames, m, owner, found.table, Level::L1, found.index)?;
    pte.is_present().then(|| pte.mfn())
}
