//! User address spaces.
//!
//! A user space has a root table of its own without any kernel mapping: on a trap the hypervisor switches to the kernel's
//! tables. The kernel reaches user memory through the direct map, page by page ([`UserSpace::read`], [`UserSpace::write`]),
//! so a user address is never dereferenced.

use alloc::vec::Vec;

use pv_abi::ids::{DomId, Mfn, Pfn};
use pv_abi::mmu::MmuextCmd;
use pv_abi::pte::{ENTRIES_PER_TABLE, Level, Pte};

use super::table::{self, Supply};
use super::{PAGE, PAGE_SIZE, Prot, direct, frames, index, p2m};
use crate::hypercall::{Errno, Result, mmu};

/// First address that user memory cannot have.
pub const USER_END: u64 = 0x0000_8000_0000_0000;
/// Slots of a root table below [`USER_END`].
const USER_SLOTS: usize = 256;

/// A user address space. Dropping it frees its pages and tables; it must not be loaded on another vcpu then.
#[derive(Debug)]
pub struct UserSpace {
    root: Pfn,
    root_mfn: Mfn,
    pages: Vec<(u64, Pfn)>,
}

impl UserSpace {
    /// An empty address space.
    pub fn new() -> Result<Self> {
        let root = table::new_table(Supply::Any)?;
        let root_mfn = p2m::mfn_of(root).ok_or(Errno::Inval)?;
        let pin = mmu::on_frame(MmuextCmd::PinL4Table, root_mfn);
        // SAFETY: pins an empty table; no mapping changes.
        unsafe { mmu::mmuext_op(&[pin], DomId::SELF) }?;
        Ok(Self { root, root_mfn, pages: Vec::new() })
    }

    /// Maps `count` fresh zeroed pages at `va`.
    pub fn map(&mut self, va: u64, count: usize, prot: Prot) -> Result {
        let end = (count as u64).checked_mul(PAGE).and_then(|bytes| va.checked_add(bytes));
        if !va.is_multiple_of(PAGE) || end.is_none_or(|end| end > USER_END) {
            return Err(Errno::Inval);
        }
        for number in 0..count as u64 {
            self.map_page(va + number * PAGE, prot)?;
        }
        Ok(())
    }

    fn map_page(&mut self, va: u64, prot: Prot) -> Result {
        let entry = table::l1_entry(self.root_mfn, va)?;
        if self.frame_at(va).is_some() {
            return Err(Errno::Exist);
        }
        let pfn = frames::alloc_zeroed(1).ok_or(Errno::NoMem)?;
        let mfn = p2m::mfn_of(pfn).ok_or(Errno::Inval)?;
        let update = mmu::update(entry, Pte::new(mfn, prot.user_flags()));
        // SAFETY: changes a user address, which no Rust code uses.
        let done = unsafe { mmu::mmu_update(&[update], DomId::SELF) };
        match done {
            Ok(()) => self.pages.push((va, pfn)),
            Err(_) => frames::free(pfn, 1),
        }
        done
    }

    /// The frame that is mapped at the page of `va`.
    fn frame_at(&self, va: u64) -> Option<Pfn> {
        let page = va - va % PAGE;
        self.pages.iter().find(|(at, _)| *at == page).map(|(_, pfn)| *pfn)
    }

    /// Copies bytes into user memory (read-only pages too).
    pub fn write(&mut self, va: u64, bytes: &[u8]) -> Result {
        self.each_piece(va, bytes.len(), |at, range| {
            let to = core::ptr::with_exposed_provenance_mut::<u8>(index(at));
            // SAFETY: within one frame of this space, which no Rust code borrows; user code does not run meanwhile.
            unsafe { to.copy_from_nonoverlapping(bytes[range.clone()].as_ptr(), range.len()) };
        })
    }

    /// Copies bytes out of user memory.
    pub fn read(&self, va: u64, into: &mut [u8]) -> Result {
        let start = into.as_mut_ptr();
        self.each_piece(va, into.len(), |at, range| {
            let from = core::ptr::with_exposed_provenance::<u8>(index(at));
            // SAFETY: within one frame of this space and within `into`.
            unsafe { start.add(range.start).copy_from_nonoverlapping(from, range.len()) };
        })
    }

    /// Calls `f` for the part of `va .. va + length` in each page, with its address in the direct map.
    fn each_piece(&self, va: u64, length: usize, mut f: impl FnMut(u64, core::ops::Range<usize>)) -> Result {
        let mut done = 0;
        while done < length {
            let at = va.checked_add(done as u64).filter(|at| *at < USER_END).ok_or(Errno::Fault)?;
            let offset = at % PAGE;
            let piece = (PAGE_SIZE - index(offset)).min(length - done);
            let pfn = self.frame_at(at).ok_or(Errno::Fault)?;
            f(direct(pfn) + offset, done..done + piece);
            done += piece;
        }
        Ok(())
    }

    /// Loads the space on this vcpu: user mode runs in it from now on.
    pub fn activate(&self) -> Result {
        load_user_root(self.root_mfn)
    }

    /// The root table, for a kernel that loads spaces in batches of its own.
    #[must_use]
    pub const fn root(&self) -> Mfn {
        self.root_mfn
    }

    fn free_tables(&self) -> Result {
        load_user_root(Mfn::new(0))?;
        let unpin = mmu::on_frame(MmuextCmd::UnpinTable, self.root_mfn);
        // The tables below are found before they lose their type, and given back after.
        let mut tables = Vec::new();
        for slot in 0..USER_SLOTS {
            collect_tables(self.root_mfn, slot, Level::L4, &mut tables);
        }
        // SAFETY: this root is not loaded any more.
        unsafe { mmu::mmuext_op(&[unpin], DomId::SELF) }?;
        tables.push(self.root);
        tables.into_iter().try_for_each(frames::free_table)
    }
}

/// Loads a root table for user mode; frame 0 stands for none.
fn load_user_root(root: Mfn) -> Result {
    let operation = mmu::on_frame(MmuextCmd::NewUserBaseptr, root);
    // SAFETY: changes what user mode sees, not what the kernel sees.
    unsafe { mmu::mmuext_op(&[operation], DomId::SELF) }
}

fn collect_tables(table: Mfn, slot: usize, level: Level, found: &mut Vec<Pfn>) {
    let Some(below) = level.below() else { return };
    let Some(entry) = table::read_entry(table, slot).filter(|entry| entry.is_present()) else { return };
    let Some(pfn) = p2m::pfn_of(entry.mfn()) else { return };
    if below != Level::L1 {
        for inner in 0..ENTRIES_PER_TABLE {
            collect_tables(entry.mfn(), inner, below, found);
        }
    }
    found.push(pfn);
}

impl Drop for UserSpace {
    fn drop(&mut self) {
        // If a table cannot be freed it stays with the hypervisor's type on it, and so do the pages: nothing may be
        // reused. That is a leak, not an error that a caller could treat.
        if self.free_tables().is_ok() {
            for (_, pfn) in self.pages.drain(..) {
                frames::free(pfn, 1);
            }
        }
    }
}
