//! Reading and changing the kernel's page tables.
//!
//! Tables are read through the direct map and changed by hypercall only.

use core::sync::atomic::{AtomicU64, Ordering};

use pv_abi::ids::{DomId, GuestVa, MachAddr, Mfn, Pfn};
use pv_abi::mmu::MmuUpdate;
use pv_abi::pte::{ENTRIES_PER_TABLE, Level, Pte};

use super::{Prot, TABLE_FLAGS, direct, frames, index, p2m};
use crate::hypercall::{Errno, Result, mmu};
use crate::sync::IrqLock;

/// The kernel's root table.
static ROOT: AtomicU64 = AtomicU64::new(0);
/// Serialises whoever adds tables, so that no two vcpus add the same one.
static GROWING: IrqLock<()> = IrqLock::new(());

pub(super) fn set_root(mfn: Mfn) {
    ROOT.store(mfn.raw(), Ordering::Release);
}

/// The kernel's root table, which all vcpus load.
#[must_use]
pub fn root() -> Mfn {
    Mfn::new(ROOT.load(Ordering::Acquire))
}

/// Reads one entry of a table of this domain.
pub(super) fn read_entry(table: Mfn, slot: usize) -> Option<Pte> {
    let pfn = p2m::pfn_of(table)?;
    if slot >= ENTRIES_PER_TABLE || pfn.raw() >= frames::limit() {
        return None;
    }
    crate::arch::probe::read_u64(direct(pfn) + slot as u64 * 8).map(Pte::from_raw)
}

/// The machine address of an entry.
#[must_use]
pub const fn entry_address(table: Mfn, slot: usize) -> MachAddr {
    MachAddr::new(table.to_maddr().raw() + slot as u64 * 8)
}

/// The L1 entry of `va` in the kernel's tables, if it is present.
#[must_use]
pub fn walk(va: u64) -> Option<Pte> {
    let pte = walk_to(root(), va, Level::L1).and_then(|(table, slot)| read_entry(table, slot))?;
    pte.is_present().then_some(pte)
}

/// The table of `level` on the way to `va` from `root`, and the slot in it. `None` if a table above is missing.
#[must_use]
pub fn walk_to(root: Mfn, va: u64, level: Level) -> Option<(Mfn, usize)> {
    let va = GuestVa::new(va);
    let (mut table, mut at) = (root, Level::L4);
    while at != level {
        let entry = read_entry(table, at.index(va))?;
        if !entry.is_present() {
            return None;
        }
        table = entry.mfn();
        at = at.below()?;
    }
    Some((table, level.index(va)))
}

/// The machine address of the L1 entry of `va` under `root`; tables that are missing are added.
pub fn l1_entry(root: Mfn, va: u64) -> Result<MachAddr> {
    let (table, slot) = table_for(root, va, Level::L1, Supply::Any)?;
    Ok(entry_address(table, slot))
}

/// Where frames for tables come from.
#[derive(Clone, Copy)]
pub(super) enum Supply {
    /// The allocator, which may extend the direct map.
    Any,
    /// The reserve: for whoever is extending the direct map.
    Reserve,
}

/// As [`walk_to`], but adds the tables that are missing.
pub(super) fn table_for(root: Mfn, va: u64, level: Level, supply: Supply) -> Result<(Mfn, usize)> {
    if let Some(found) = walk_to(root, va, level) {
        return Ok(found);
    }
    loop {
        let missing = next_missing(root, va, level);
        let Some((table, slot)) = missing else { break };
        // Taken before the lock: the allocator may have to extend the direct map, which comes here too.
        let fresh = new_table(supply)?;
        let _growing = GROWING.lock();
        if read_entry(table, slot).is_some_and(Pte::is_present) {
            frames::free_table(fresh)?;
            continue;
        }
        link(table, slot, fresh)?;
    }
    walk_to(root, va, level).ok_or(Errno::Fault)
}

/// The first entry on the way from `root` down to `level` that leads nowhere.
fn next_missing(root: Mfn, va: u64, level: Level) -> Option<(Mfn, usize)> {
    let va = GuestVa::new(va);
    let (mut table, mut at) = (root, Level::L4);
    while at != level {
        let slot = at.index(va);
        let entry = read_entry(table, slot)?;
        if !entry.is_present() {
            return Some((table, slot));
        }
        table = entry.mfn();
        at = at.below()?;
    }
    None
}

/// A zeroed frame, read-only, ready to become a table.
pub(super) fn new_table(supply: Supply) -> Result<Pfn> {
    let pfn = match supply {
        Supply::Any => frames::alloc_zeroed(1),
        Supply::Reserve => frames::alloc_reserved_zeroed(),
    };
    let pfn = pfn.ok_or(Errno::NoMem)?;
    protect(pfn, Prot::Read)?;
    Ok(pfn)
}

/// Makes entry `slot` of `table` lead to the table in frame `below`.
fn link(table: Mfn, slot: usize, below: Pfn) -> Result {
    let mfn = p2m::mfn_of(below).ok_or(Errno::Inval)?;
    let update = mmu::update(entry_address(table, slot), Pte::new(mfn, TABLE_FLAGS));
    // SAFETY: the entry was empty, so no address in use changes.
    unsafe { mmu::mmu_update(&[update], DomId::SELF) }
}

/// Changes how a frame is mapped in the direct map.
pub(super) fn protect(pfn: Pfn, prot: Prot) -> Result {
    let mfn = p2m::mfn_of(pfn).ok_or(Errno::Inval)?;
    // SAFETY: the same frame stays mapped; the callers own the frame and know what they may still do with it.
    unsafe { mmu::update_va_mapping(direct(pfn), Pte::new(mfn, prot.flags())) }
}

/// Leaves a page of the direct map unmapped for ever: a guard. Its frame must be lost to the allocator.
pub(crate) fn unmap_for_ever(va: u64) -> Result {
    // SAFETY: the callers own the frame and never use it again.
    unsafe { mmu::update_va_mapping(va, Pte::EMPTY) }
}

/// Fills the L1 table in `table_pfn` (still writable) with `entries`, makes it read-only and links it for the 2 MiB at `va`.
pub(super) fn install_filled_l1(va: u64, table_pfn: Pfn, entries: impl Iterator<Item = Pte>) -> Result {
    fill(direct(table_pfn), entries);
    protect(table_pfn, Prot::Read)?;
    let (l2, slot) = table_for(root(), va, Level::L2, Supply::Reserve)?;
    link(l2, slot, table_pfn)
}

/// Writes entries into a writable page at `va`; slots without one become empty.
pub(super) fn fill(va: u64, entries: impl Iterator<Item = Pte>) {
    let page = core::ptr::with_exposed_provenance_mut::<u64>(index(va));
    let rest = core::iter::repeat(Pte::EMPTY);
    for (slot, entry) in entries.chain(rest).take(ENTRIES_PER_TABLE).enumerate() {
        // SAFETY: the callers pass a mapped, writable page that they own.
        unsafe { page.add(slot).write_volatile(entry.raw()) };
    }
}

/// Applies updates to page tables of this domain that name frames of `owner`.
///
/// # Safety
/// No address that is in use may change its meaning.
pub unsafe fn apply(updates: &[MmuUpdate], owner: DomId) -> Result {
    // SAFETY: as promised by the caller.
    unsafe { mmu::mmu_update(updates, owner) }
}
