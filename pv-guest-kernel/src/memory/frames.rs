//! The frame allocator.
//!
//! Memory is divided into chunks of 512 frames (2 MiB), each with a bitmap of its free frames. Chunks enter the
//! allocator when they are mapped into the direct map: those of the builder's first region at boot, each later one when
//! frames run short. Mapping a chunk takes a frame for its page table, now and then one more; these come from blocks set
//! aside for tables, so that tables do not lie scattered between free frames, and some frames are always kept back.

use core::sync::atomic::{AtomicU64, Ordering};

use pv_abi::ids::Pfn;
use pv_abi::pte::{ENTRIES_PER_TABLE, Pte};

use super::{DIRECT_MAP, PAGE, Prot, direct, index, p2m, table};
use crate::hypercall::{Errno, Result};
use crate::sync::IrqLock;

/// Frames of a chunk: what one L1 table maps.
pub(super) const CHUNK: u64 = ENTRIES_PER_TABLE as u64;
/// Most frames of a block for tables.
const TABLE_BLOCK: u64 = 64;
/// Frames kept back, so that there is room for the next block.
const RESERVE: u64 = TABLE_BLOCK + 8;

/// The free frames of one chunk, one bit each.
#[derive(Clone, Copy)]
pub(super) struct ChunkMap {
    free: [u64; 8],
    count: u16,
}

impl ChunkMap {
    pub(super) const FULL: Self = Self { free: [0; 8], count: 0 };

    fn set_free(&mut self, at: u64) {
        let bit = 1 << (at % 64);
        let word = &mut self.free[index(at / 64) % 8];
        debug_assert_eq!(*word & bit, 0, "frame freed twice");
        self.count += u16::from(*word & bit == 0);
        *word |= bit;
    }

    fn set_used(&mut self, at: u64) {
        let bit = 1 << (at % 64);
        let word = &mut self.free[index(at / 64) % 8];
        self.count -= u16::from(*word & bit != 0);
        *word &= !bit;
    }

    fn is_free(&self, at: u64) -> bool {
        self.free[index(at / 64) % 8] & (1 << (at % 64)) != 0
    }

    /// First of `wanted` free frames in a row.
    fn find(&self, wanted: u64) -> Option<u64> {
        if u64::from(self.count) < wanted {
            return None;
        }
        if wanted == 1 {
            let (word, bits) = self.free.iter().enumerate().find(|(_, bits)| **bits != 0)?;
            return Some(word as u64 * 64 + u64::from(bits.trailing_zeros()));
        }
        let mut run = 0;
        for at in 0..CHUNK {
            run = if self.is_free(at) { run + 1 } else { 0 };
            if run == wanted {
                return Some(at + 1 - wanted);
            }
        }
        None
    }
}

struct Allocator {
    /// One map per chunk of the domain; those beyond `mapped` are not in use yet.
    chunks: &'static mut [ChunkMap],
    /// Chunks that are in the direct map.
    mapped: usize,
    /// Chunk in which to look first.
    hint: usize,
    free: u64,
    /// What is left of the block for tables: pfns.
    for_tables: core::ops::Range<u64>,
}

static ALLOCATOR: IrqLock<Allocator> =
    IrqLock::new(Allocator { chunks: &mut [], mapped: 0, hint: 0, free: 0, for_tables: 0..0 });
/// Frames in the direct map: pfns below this are mapped there.
static LIMIT: AtomicU64 = AtomicU64::new(0);
/// Serialises [`grow`], which cannot hold the allocator's lock while it takes frames for tables.
static GROWING: IrqLock<()> = IrqLock::new(());

/// Pfns below this number are in the direct map.
#[must_use]
pub fn limit() -> u64 {
    LIMIT.load(Ordering::Acquire)
}

/// Frames that are free and mapped, and frames that are not mapped yet.
#[must_use]
pub fn available() -> (u64, u64) {
    let free = ALLOCATOR.lock().free;
    (free, p2m::count().saturating_sub(limit()))
}

/// Whether one in `part` of the domain's frames would be left if `count` were taken.
pub(crate) fn leave(count: usize, part: u64) -> bool {
    let (free, unmapped) = available();
    free + unmapped >= (count as u64).saturating_add(p2m::count() / part)
}

/// Starts the allocator with `mapped` chunks in the direct map and no free frame.
pub(super) fn init(chunks: &'static mut [ChunkMap], mapped: usize) {
    chunks.fill(ChunkMap::FULL);
    let mut allocator = ALLOCATOR.lock();
    allocator.chunks = chunks;
    allocator.mapped = mapped;
    drop(allocator);
    LIMIT.store((mapped as u64 * CHUNK).min(p2m::count()), Ordering::Release);
}

/// Frames that lie one after another in pfns, or `None`. Their contents are whatever they were.
#[must_use]
pub fn alloc(count: usize) -> Option<Pfn> {
    let count = count as u64;
    loop {
        if let Some(pfn) = take(count) {
            return Some(pfn);
        }
        if grow_for(count).is_err() {
            // Nothing left to map: the reserve has served its purpose.
            return take_any(count);
        }
    }
}

/// As [`alloc()`], filled with zeros.
#[must_use]
pub fn alloc_zeroed(count: usize) -> Option<Pfn> {
    let pfn = alloc(count)?;
    zero(pfn, count);
    Some(pfn)
}

/// A zeroed frame out of the reserve, without extending the direct map.
pub(super) fn alloc_reserved_zeroed() -> Option<Pfn> {
    let pfn = take_for_table()?;
    zero(pfn, 1);
    Some(pfn)
}

fn zero(pfn: Pfn, count: usize) {
    let start = core::ptr::with_exposed_provenance_mut::<u8>(index(direct(pfn)));
    // SAFETY: the frames are ours alone and mapped writable one after another.
    unsafe { start.write_bytes(0, count * super::PAGE_SIZE) };
}

/// Gives frames back. They must be writable in the direct map and mapped nowhere else.
pub(super) fn free(pfn: Pfn, count: usize) {
    let mut allocator = ALLOCATOR.lock();
    for raw in pfn.raw()..pfn.raw() + count as u64 {
        let chunk = index(raw / CHUNK);
        if let Some(map) = allocator.chunks.get_mut(chunk) {
            map.set_free(raw % CHUNK);
            allocator.free += 1;
            allocator.hint = allocator.hint.min(chunk);
        }
    }
}

/// Gives back a frame that was a page table and is one no longer.
pub(super) fn free_table(pfn: Pfn) -> Result {
    table::protect(pfn, Prot::ReadWrite)?;
    free(pfn, 1);
    Ok(())
}

/// Takes frames, but leaves the reserve as long as there is memory that is not mapped yet.
fn take(count: u64) -> Option<Pfn> {
    let all_mapped = limit() >= p2m::count();
    let mut allocator = ALLOCATOR.lock();
    if !all_mapped && allocator.free < count + RESERVE {
        return None;
    }
    allocator.take(count)
}

/// Takes frames, the reserve included.
fn take_any(count: u64) -> Option<Pfn> {
    ALLOCATOR.lock().take(count)
}

/// Takes a frame for a table of the direct map.
fn take_for_table() -> Option<Pfn> {
    let unmapped_chunks = p2m::count().saturating_sub(limit()).div_ceil(CHUNK);
    let mut allocator = ALLOCATOR.lock();
    if allocator.for_tables.is_empty() {
        // Not more than will be needed: one for each chunk, and a few for tables of tables.
        let wanted = TABLE_BLOCK.min(unmapped_chunks + 2);
        let block = allocator.take(wanted).map(|first| first.raw()..first.raw() + wanted);
        allocator.for_tables = block.or_else(|| allocator.take(1).map(|only| only.raw()..only.raw() + 1))?;
    }
    allocator.for_tables.next().map(Pfn::new)
}

impl Allocator {
    fn take(&mut self, count: u64) -> Option<Pfn> {
        if count == 0 || self.free < count {
            return None;
        }
        let first = if count <= CHUNK { self.find_in_chunk(count)? } else { self.find_across(count)? };
        for raw in first..first + count {
            self.chunks[index(raw / CHUNK)].set_used(raw % CHUNK);
        }
        self.free -= count;
        Some(Pfn::new(first))
    }

    fn find_in_chunk(&mut self, count: u64) -> Option<u64> {
        let start = if count == 1 { self.hint } else { 0 };
        for chunk in start..self.mapped {
            if let Some(at) = self.chunks[chunk].find(count) {
                if count == 1 {
                    self.hint = chunk;
                }
                return Some(chunk as u64 * CHUNK + at);
            }
        }
        None
    }

    /// A run of more than a chunk: the free end of one chunk, and whole chunks after it.
    fn find_across(&self, count: u64) -> Option<u64> {
        let mut run = 0;
        for chunk in 0..self.mapped {
            let map = &self.chunks[chunk];
            if run + u64::from(map.count) < count && u64::from(map.count) < CHUNK {
                let tail = (0..CHUNK).rev().take_while(|at| map.is_free(*at)).count() as u64;
                run = tail;
                continue;
            }
            for at in 0..CHUNK {
                run = if map.is_free(at) { run + 1 } else { 0 };
                if run == count {
                    return Some(chunk as u64 * CHUNK + at + 1 - count);
                }
            }
        }
        None
    }
}

/// Maps enough chunks to make room for `count` frames in a row, or reports that nothing is left to map.
fn grow_for(count: u64) -> Result {
    let wanted = count.div_ceil(CHUNK);
    for done in 0..wanted {
        let _growing = GROWING.lock();
        match grow() {
            Ok(()) => {}
            Err(_) if done > 0 => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Maps the next chunk into the direct map and puts its frames into the allocator.
fn grow() -> Result {
    let first = limit();
    let end = (first + CHUNK).min(p2m::count());
    if first >= end {
        return Err(Errno::NoMem);
    }
    let table_pfn = take_for_table().ok_or(Errno::NoMem)?;
    let entries = (first..end).map(|pfn| match p2m::mfn_of(Pfn::new(pfn)) {
        Some(mfn) => Pte::new(mfn, Prot::ReadWrite.flags()),
        None => Pte::EMPTY,
    });
    table::install_filled_l1(DIRECT_MAP + first * PAGE, table_pfn, entries)?;
    LIMIT.store(end, Ordering::Release);
    ALLOCATOR.lock().mapped += 1;
    for pfn in (first..end).map(Pfn::new).filter(|pfn| p2m::mfn_of(*pfn).is_some()) {
        free(pfn, 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
