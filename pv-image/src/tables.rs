//! The page tables of a plan as pure data: which tables there are, and each present entry.
//!
//! A table is named by its level (4 at the top) and the first address it maps.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::iter;

use pv_abi::ids::Pfn;
use pv_abi::pte::PteFlags;

use crate::error::ImageError;
use crate::layout::{Layout, PAGE};
use crate::plan::Role;

/// A table: level and first address.
pub(crate) type TableBase = (u8, u64);

const ENTRIES: u64 = 512;
/// Entries above the last level.
const UPPER_FLAGS: PteFlags = PteFlags::PRESENT
    .union(PteFlags::RW)
    .union(PteFlags::USER)
    .union(PteFlags::ACCESSED)
    .union(PteFlags::DIRTY);

/// One present entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// The table it stands in.
    pub table: Pfn,
    /// Level of that table, 4 to 1.
    pub level: u8,
    /// Which of the 512.
    pub index: u16,
    /// What it points at.
    pub target: Pfn,
    /// The flags of the entry.
    pub flags: PteFlags,
}

/// Bytes one table of a level maps. Level 4 maps everything.
const fn table_shift(level: u8) -> u32 {
    12 + 9 * level as u32
}

const fn base_of(level: u8, va: u64) -> u64 {
    if level >= 4 { 0 } else { va & !((1 << table_shift(level)) - 1) }
}

/// Sign-extends bit 47.
const fn canonical(va: u64) -> u64 {
    if va & (1 << 47) != 0 { va | 0xffff_0000_0000_0000 } else { va & 0x0000_ffff_ffff_ffff }
}

/// The tables needed for `start..end` at one level below 4.
fn bases_at(level: u8, (start, end): (u64, u64)) -> impl Iterator<Item = u64> {
    let first = base_of(level, start);
    let last = base_of(level, end.saturating_sub(1));
    let count = if start < end { ((last - first) >> table_shift(level)) + 1 } else { 0 };
    (0..count).map(move |i| first + (i << table_shift(level)))
}

/// All tables for some ranges, top down, each named once per range.
pub(crate) fn table_bases<'r>(ranges: &'r [(u64, u64)]) -> impl Iterator<Item = TableBase> + 'r {
    let below = (1..=3u8).rev();
    let rest = below.flat_map(move |level| {
        ranges.iter().flat_map(move |&range| bases_at(level, range).map(move |base| (level, base)))
    });
    iter::once((4, 0)).chain(rest)
}

/// Whether a table is one of those a range needs.
pub(crate) fn covers((level, base): TableBase, (start, end): (u64, u64)) -> bool {
    level == 4 || (start < end && base >= base_of(level, start) && base <= base_of(level, end - 1))
}

/// How many tables `start..end` takes, L4 included.
pub(crate) fn tables_for(start: u64, end: u64) -> u64 {
    1 + (1..=3).map(|level| bases_at(level, (start, end)).count() as u64).sum::<u64>()
}

/// The tables of a layout and the pages they lie in.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    by_base: BTreeMap<TableBase, u64>,
    by_pfn: BTreeMap<u64, TableBase>,
    leaf_flags: PteFlags,
}

impl Tables {
    pub(crate) fn new(layout: &Layout, role: &Role) -> Result<Self, ImageError> {
        let own = PteFlags::PRESENT | PteFlags::RW | PteFlags::ACCESSED;
        let leaf_flags = match role {
            Role::Dom0 { .. } => own | PteFlags::USER | PteFlags::GUEST_KERNEL,
            Role::DomU { .. } => own,
        };
        let mut tables = Self { by_base: BTreeMap::new(), by_pfn: BTreeMap::new(), leaf_flags };
        let region = (layout.virt_base, layout.virt_end);
        tables.place(&[region], layout.tables.first..layout.tables.end())?;
        let p2m = layout.p2m;
        if p2m.separate {
            tables.place(&[(p2m.va, p2m.va_end())], p2m.tables.first..p2m.tables.end())?;
        }
        Ok(tables)
    }

    fn place(&mut self, ranges: &[(u64, u64)], pfns: core::ops::Range<u64>) -> Result<(), ImageError> {
        let mut free = pfns;
        for table in table_bases(ranges) {
            if self.by_base.contains_key(&table) {
                continue;
            }
            // The layout counted with the same functions, so there is always one left.
            let pfn = free.next().ok_or(ImageError::OutOfMemory)?;
            self.by_base.insert(table, pfn);
            self.by_pfn.insert(pfn, table);
        }
        Ok(())
    }

    /// The table in a page.
    pub(crate) fn at(&self, pfn: u64) -> Option<TableBase> {
        self.by_pfn.get(&pfn).copied()
    }

    /// Pages of all tables, ascending.
    pub(crate) fn pfns(&self) -> Vec<u64> {
        self.by_pfn.keys().copied().collect()
    }

    /// Target and flags of one entry, if it is present.
    pub(crate) fn entry(
        &self,
        layout: &Layout,
        (level, base): TableBase,
        index: u64,
    ) -> Option<(u64, PteFlags)> {
        if index >= ENTRIES {
            return None;
        }
        let child = index << table_shift(level - 1);
        if level > 1 {
            let va = if level == 4 { canonical(child) } else { base + child };
            let target = self.by_base.get(&(level - 1, va))?;
            return Some((*target, UPPER_FLAGS));
        }
        let va = base.checked_add(child)?;
        let pfn = leaf(layout, va)?;
        let read_only = layout.tables.contains(pfn);
        let flags = if read_only { self.leaf_flags.difference(PteFlags::RW) } else { self.leaf_flags };
        Some((pfn, flags))
    }
}

/// The pfn mapped at `va`.
fn leaf(layout: &Layout, va: u64) -> Option<u64> {
    let inside = |start: u64, end: u64| va >= start && va < end;
    if inside(layout.virt_base, layout.virt_end) {
        return Some((va - layout.virt_base) / PAGE);
    }
    let p2m = &layout.p2m;
    inside(p2m.va, p2m.va_end()).then(|| p2m.list.first + (va - p2m.va) / PAGE)
}
