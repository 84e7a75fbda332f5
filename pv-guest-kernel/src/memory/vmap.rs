//! Mapping frames that are not in the direct map: other domains', granted ones, devices'.

use alloc::vec::Vec;

use pv_abi::ids::{DomId, MachAddr, Mfn};
use pv_abi::mmu::MmuUpdate;
use pv_abi::pte::{Pte, PteFlags};

use super::pages::Area;
use super::{MAPPING_AREA, PAGE, PAGE_SIZE, Prot, index, table};
use crate::hypercall::multicall::Multicall;
use crate::hypercall::{Errno, Result, mmu};
use crate::sync::IrqLock;

/// End of the mapping area: 256 GiB are plenty, and its page tables come on demand.
const AREA_END: u64 = MAPPING_AREA + (1 << 38);

struct FreeList {
    /// Start and length in pages of what was given back, sorted.
    free: Vec<(u64, u64)>,
    /// Everything from here on was never used.
    fresh: u64,
}

static SPACE: IrqLock<FreeList> = IrqLock::new(FreeList { free: Vec::new(), fresh: MAPPING_AREA });

/// A range of addresses in the mapping area, without anything mapped yet. Given back when dropped.
#[derive(Debug)]
pub struct Range {
    start: u64,
    pages: u64,
}

impl Range {
    /// Reserves addresses for `pages` pages; the page tables for them exist afterwards.
    pub fn reserve(pages: usize) -> Result<Self> {
        let range = Self::take(pages as u64)?;
        let mut at = range.start;
        while at < range.start + range.pages * PAGE {
            table::l1_entry(table::root(), at)?;
            // One L1 table maps 2 MiB.
            at = (at + (1 << 21)) & !((1 << 21) - 1);
        }
        Ok(range)
    }

    fn take(pages: u64) -> Result<Self> {
        if pages == 0 {
            return Err(Errno::Inval);
        }
        let mut space = SPACE.lock();
        if let Some(at) = space.free.iter().position(|(_, length)| *length >= pages) {
            let (start, length) = space.free[at];
            if length == pages {
                space.free.remove(at);
            } else {
                space.free[at] = (start + pages * PAGE, length - pages);
            }
            return Ok(Self { start, pages });
        }
        let start = space.fresh;
        // A page between two ranges catches whoever runs over the end.
        let end = start + (pages + 1) * PAGE;
        if end > AREA_END {
            return Err(Errno::NoMem);
        }
        space.fresh = end;
        Ok(Self { start, pages })
    }

    /// The first address.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// How many pages.
    #[must_use]
    pub const fn pages(&self) -> usize {
        index(self.pages)
    }

    /// The address of page `number`.
    #[must_use]
    pub const fn page(&self, number: usize) -> u64 {
        self.start + number as u64 * PAGE
    }

    /// The machine address of the L1 entry of page `number`.
    pub fn entry(&self, number: usize) -> Result<MachAddr> {
        table::l1_entry(table::root(), self.page(number))
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        let mut space = SPACE.lock();
        let at = space.free.partition_point(|(start, _)| *start < self.start);
        space.free.insert(at, (self.start, self.pages));
        // Neighbours are not joined across the guard pages, so ranges keep the sizes in which they are asked for.
    }
}

/// Frames mapped into the kernel. Unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    range: Range,
}

/// Maps one frame of `owner`.
pub fn map_mfn(owner: DomId, mfn: Mfn, prot: Prot) -> Result<Mapping> {
    map_mfns(owner, &[mfn], prot)
}

/// Maps frames of `owner`, another domain, one after another.
pub fn map_mfns(owner: DomId, mfns: &[Mfn], prot: Prot) -> Result<Mapping> {
    if owner == DomId::SELF {
        // A second way to memory that Rust owns would not be sound.
        return Err(Errno::Inval);
    }
    map_with(owner, mfns, prot.flags())
}

/// Maps frames that the hypervisor shares with this domain.
pub(crate) fn map_shared(mfns: &[Mfn]) -> Result<Mapping> {
    map_with(DomId::SELF, mfns, Prot::ReadWrite.flags())
}

/// Maps `pages` pages of device memory at the machine address `start`, uncached.
pub fn map_device(start: MachAddr, pages: usize) -> Result<Mapping> {
    let first = start.mfn().raw();
    let mfns: Vec<Mfn> = (0..pages as u64).map(|number| Mfn::new(first + number)).collect();
    let flags = Prot::ReadWrite.flags() | PteFlags::PCD | PteFlags::PWT;
    map_with(DomId::IO, &mfns, flags)
}

fn map_with(owner: DomId, mfns: &[Mfn], flags: PteFlags) -> Result<Mapping> {
    let range = Range::reserve(mfns.len())?;
    let mapping = Mapping { range };
    let mut updates: Vec<MmuUpdate> = Vec::with_capacity(mfns.len());
    for (number, mfn) in mfns.iter().enumerate() {
        updates.push(mmu::update(mapping.range.entry(number)?, Pte::new(*mfn, flags)));
    }
    // SAFETY: the addresses were just reserved and nothing was mapped there. If this fails half-way, dropping the
    // mapping removes what was done.
    unsafe { table::apply(&updates, owner) }?;
    Ok(mapping)
}

impl Mapping {
    /// The first address.
    #[must_use]
    pub const fn va(&self) -> u64 {
        self.range.start
    }

    /// How many pages.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.range.pages()
    }

    /// The memory, for copying and viewing.
    #[must_use]
    pub const fn area(&self) -> Area<'_> {
        // SAFETY: mapped as long as `self` lives, and never borrowed as plain bytes.
        unsafe { Area::new(self.range.start, index(self.range.pages) * PAGE_SIZE) }
    }

    /// Keeps the mapping for ever.
    #[must_use]
    pub fn leak(self) -> Area<'static> {
        // SAFETY: never unmapped.
        let area = unsafe { Area::new(self.range.start, index(self.range.pages) * PAGE_SIZE) };
        core::mem::forget(self);
        area
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let mut batch = Multicall::with_capacity(self.range.pages());
        for number in 0..self.range.pages() {
            // SAFETY: the owner of the mapping is gone, so nobody uses these addresses.
            unsafe { batch.update_va_mapping(self.range.page(number), Pte::EMPTY) };
        }
        // Nothing can be done about an entry that cannot be cleared, and the hypervisor has no reason to refuse.
        let _ = batch.run_all();
    }
}
