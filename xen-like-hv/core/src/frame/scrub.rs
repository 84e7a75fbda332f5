//! Zeroing free frames before anybody asks for them, where a pcpu has nothing else to do.
//!
//! A frame that goes back to the allocator is noted here. An idle pcpu zeroes such frames a few at a time and marks each in
//! its count word; an allocation zeroes what is not marked. So a guest that is made after another has ended does not wait
//! for its memory, and one that is made at once is no worse off. Frames that nobody had since boot are not touched: memory
//! that the machine never uses is never asked for. Nor is a pcpu made to flush for this: a frame that it may still reach
//! waits.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use pv_abi::ids::Mfn;

use super::page_info::CountInfo;
use super::{FrameState, FrameTable, flush, mfn_of};
use crate::atomic::AtomicBool;
use crate::port::{Cpu, Frames, Tlb};

/// Frames that a step looks at. Somebody may be waiting for the allocator, and an interrupt for the pcpu.
const STEP: usize = 4;
/// Frames are noted by blocks of so many: to pass over some that need nothing costs less than to tell them apart.
const BLOCK: u32 = 512;
/// Ranges that are told apart beside the latest.
const OTHERS: usize = 7;

/// Frames `[start, end)`.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: u32,
    end: u32,
}

impl Range {
    const NONE: Self = Self { start: 0, end: 0 };

    const fn block_of(index: u32) -> Self {
        let start = index & !(BLOCK - 1);
        Self { start, end: start.saturating_add(BLOCK) }
    }

    const fn is_empty(self) -> bool {
        self.start == self.end
    }

    #[inline(always)]
    const fn holds(self, index: u32) -> bool {
        index.wrapping_sub(self.start) < self.end - self.start
    }

    /// Frames between the two.
    const fn gap(self, other: Self) -> u32 {
        let (below, above) = (self.start.saturating_sub(other.end), other.start.saturating_sub(self.end));
        if below > above { below } else { above }
    }

    fn include(&mut self, other: Self) {
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
    }
}

/// Where frames lie that are free and not zeroed: in these ranges are all of them, and others.
#[derive(Debug)]
pub(super) struct Dirty {
    latest: Range,
    others: [Range; OTHERS],
    used: usize,
}

impl Dirty {
    pub(super) const fn new() -> Self {
        Self { latest: Range::NONE, others: [Range::NONE; OTHERS], used: 0 }
    }

    /// Whether the frame is noted, as far as one look tells: what is freed in a row mostly lies together.
    #[inline(always)]
    pub(super) const fn holds(&self, index: u32) -> bool {
        self.latest.holds(index)
    }

    /// Adds a frame, with its block.
    #[inline(never)]
    pub(super) fn note(&mut self, index: u32) {
        let block = Range::block_of(index);
        if self.latest.is_empty() {
            self.latest = block;
        }
        let used = &mut self.others[..self.used];
        if self.latest.gap(block) == 0 {
            self.latest.include(block);
        } else if let Some(other) = used.iter_mut().find(|r| r.gap(block) == 0) {
            other.include(block);
            core::mem::swap(other, &mut self.latest);
        } else if let Some(free) = self.others.get_mut(self.used) {
            *free = core::mem::replace(&mut self.latest, block);
            self.used += 1;
        } else if let Some(nearest) =
            self.others.iter_mut().chain([&mut self.latest]).min_by_key(|r| r.gap(block))
        {
            nearest.include(block);
        }
    }

    /// Takes a frame out.
    fn take(&mut self) -> Option<u32> {
        if self.latest.is_empty() {
            self.used = self.used.checked_sub(1)?;
            self.latest = self.others[self.used];
        }
        self.latest.end -= 1;
        Some(self.latest.end)
    }

    /// Undoes the last [`Self::take`].
    const fn put_back(&mut self) {
        self.latest.end += 1;
    }

    const fn is_empty(&self) -> bool {
        self.latest.is_empty() && self.used == 0
    }
}

/// Whether there is something to zero, and whether a pcpu is at it: both without the allocator's lock, since every pcpu asks
/// whenever it has nothing to do.
#[derive(Debug, Default)]
pub(super) struct Scrubber {
    wanted: AtomicBool,
    pub(super) busy: AtomicBool,
}

impl Scrubber {
    /// There is something to zero again.
    pub(super) fn ask(&self) {
        self.wanted.store(true, Relaxed);
    }
}

impl FrameTable {
    /// Zeroes a few free frames, for a pcpu that has nothing else to do; `false`: there is no more that can be zeroed now, or
    /// another pcpu is at it.
    pub fn scrub_ahead(&self, m: &(impl Frames + Tlb + Cpu)) -> bool {
        if !self.scrubber.wanted.load(Relaxed) || self.scrubber.busy.swap(true, Acquire) {
            return false;
        }
        let more = self.scrub_some(m);
        self.scrubber.busy.store(false, Release);
        more
    }

    fn scrub_some(&self, m: &(impl Frames + Tlb + Cpu)) -> bool {
        let mut heap = self.heap.lock();
        for _ in 0..STEP {
            let Some(index) = heap.dirty.take() else { break };
            let Some(page) = self.info(mfn_of(index)) else { continue };
            if page.count_info() != CountInfo::of(FrameState::Free) || !heap.holds(self.pages, index) {
                continue;
            }
            let Some(flushed) = flush::is_done(m, page.stamp()) else {
                // It waits until the pcpus have flushed of their own accord: they have better to do than to answer to this.
                heap.dirty.put_back();
                return false;
            };
            Self::clean(m, mfn_of(index), &flushed);
            page.set_count_info(CountInfo::clean());
        }
        let more = !heap.dirty.is_empty();
        // Under the lock, so that whoever frees a frame afterwards asks anew.
        self.scrubber.wanted.store(more, Relaxed);
        more
    }

    /// Makes a frame as if nobody ever had it.
    pub(super) fn clean(m: &impl Frames, mfn: Mfn, _flushed: &flush::Flushed) {
        m.zero(mfn);
        m.set_m2p(mfn, u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn drained(dirty: &mut Dirty) -> Vec<u32> {
        let mut all: Vec<_> = core::iter::from_fn(|| dirty.take()).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn neighbours_are_a_range_whichever_way_they_come() {
        let mut dirty = Dirty::new();
        (1..4).rev().chain(4..6).for_each(|block| dirty.note(block * BLOCK + 7));
        assert_eq!(dirty.used, 0);
        assert!(dirty.holds(BLOCK) && dirty.holds(6 * BLOCK - 1));
        assert!(!dirty.holds(BLOCK - 1) && !dirty.holds(6 * BLOCK));
        assert_eq!(drained(&mut dirty), (BLOCK..6 * BLOCK).collect::<Vec<_>>());
        assert!(dirty.is_empty() && !dirty.holds(BLOCK));
    }

    #[test]
    fn the_range_that_grows_is_the_latest() {
        let mut dirty = Dirty::new();
        [BLOCK, 9 * BLOCK, 2 * BLOCK].iter().for_each(|&i| dirty.note(i));
        assert_eq!(dirty.used, 1);
        assert!(dirty.holds(BLOCK) && dirty.holds(2 * BLOCK) && !dirty.holds(9 * BLOCK));
        assert_eq!(drained(&mut dirty).len(), 3 * 512);
    }

    #[test]
    fn ranges_widen_where_there_are_too_many_and_lose_nothing() {
        let mut dirty = Dirty::new();
        let apart: Vec<u32> = (1..40).map(|i| i * 10_000).collect();
        apart.iter().for_each(|&i| dirty.note(i));
        assert_eq!(dirty.used, OTHERS);
        let all = drained(&mut dirty);
        assert!(apart.iter().all(|i| all.binary_search(i).is_ok()));
    }

    #[test]
    fn the_ends_of_the_table_are_no_special_case() {
        let mut dirty = Dirty::new();
        [0, u32::MAX - 1].iter().for_each(|&i| dirty.note(i));
        let all = drained(&mut dirty);
        assert!(all.first() == Some(&0) && all.last() == Some(&(u32::MAX - 1)));
    }
}
