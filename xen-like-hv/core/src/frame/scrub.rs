//! Zeroing free frames before anybody asks for them, where a pcpu has nothing else to do.
//!
//! A frame that goes back to the allocator is noted here. An idle pcpu zeroes such frames a few at a time and marks each in
//! its count word; an allocation zeroes what is not marked. So a guest that is made after another has ended does not wait
//! for its memory, and one that is made at once is no worse off. Frames that nobody had since boot are not touched: a
//! machine's memory that is never used is never asked for.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use pv_abi::ids::Mfn;

use super::page_info::CountInfo;
use super::{FrameState, FrameTable, flush, mfn_of};
use crate::atomic::AtomicBool;
use crate::port::{Cpu, Frames, Tlb};

/// Frames that a step looks at. Somebody may be waiting for the allocator, and an interrupt for the pcpu.
const STEP: usize = 4;
/// Ranges that are told apart.
const RANGES: usize = 8;

/// Frames `[start, end)`.
#[derive(Clone, Copy, Debug, Default)]
struct Range {
    start: u32,
    end: u32,
}

impl Range {
    /// How much longer it is with that frame in it.
    fn growth(self, index: u32) -> u32 {
        self.start.saturating_sub(index).max((index + 1).saturating_sub(self.end))
    }

    fn include(&mut self, index: u32) {
        self.start = self.start.min(index);
        self.end = self.end.max(index + 1);
    }
}

/// Where frames lie that are free and not zeroed: in these ranges are all of them, and maybe others.
#[derive(Debug)]
pub(super) struct Dirty {
    ranges: [Range; RANGES],
    used: usize,
}

impl Dirty {
    pub(super) const fn new() -> Self {
        Self { ranges: [Range { start: 0, end: 0 }; RANGES], used: 0 }
    }

    /// Adds a frame. What is freed in a row mostly lies in a row, so the latest range is tried first.
    pub(super) fn note(&mut self, index: u32) {
        let used = &mut self.ranges[..self.used];
        if let Some(near) = used.iter_mut().rev().find(|r| r.growth(index) <= 1) {
            near.include(index);
        } else if let Some(free) = self.ranges.get_mut(self.used) {
            *free = Range { start: index, end: index + 1 };
            self.used += 1;
        } else if let Some(nearest) = self.ranges.iter_mut().min_by_key(|r| r.growth(index)) {
            nearest.include(index);
        }
    }

    /// Takes a frame out.
    fn take(&mut self) -> Option<u32> {
        let last = self.ranges.get_mut(self.used.checked_sub(1)?)?;
        last.end -= 1;
        let index = last.end;
        if last.start == last.end {
            self.used -= 1;
        }
        Some(index)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.used == 0
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
    pub(super) fn ask(&self) {
        if !self.wanted.load(Relaxed) {
            self.wanted.store(true, Relaxed);
        }
    }
}

impl FrameTable {
    /// Zeroes a few free frames, for a pcpu that has nothing else to do; `false`: there is no more, or another pcpu is at it.
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
            let stamp = page.stamp();
            let Some(flushed) = flush::is_done(m, stamp) else {
                heap.dirty.note(index);
                drop(heap);
                // Not under the lock: whoever is to flush may be waiting for it. The next step sees what it gave.
                let _flushed = flush::before_reuse(m, stamp);
                return true;
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

    fn drained(dirty: &mut Dirty) -> alloc::vec::Vec<u32> {
        let mut all: alloc::vec::Vec<_> = core::iter::from_fn(|| dirty.take()).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn frames_in_a_row_are_a_range_whichever_way_they_come() {
        let mut dirty = Dirty::new();
        (10..20).rev().chain(20..30).for_each(|i| dirty.note(i));
        assert_eq!(dirty.used, 1);
        dirty.note(15);
        assert_eq!(drained(&mut dirty), (10..30).collect::<alloc::vec::Vec<_>>());
        assert!(dirty.is_empty());
    }

    #[test]
    fn ranges_widen_where_there_are_too_many_and_lose_nothing() {
        let mut dirty = Dirty::new();
        let apart: alloc::vec::Vec<u32> = (1..40).map(|i| i * 100).collect();
        apart.iter().for_each(|&i| dirty.note(i));
        assert_eq!(dirty.used, RANGES);
        let all = drained(&mut dirty);
        assert!(apart.iter().all(|i| all.binary_search(i).is_ok()));
    }

    #[test]
    fn the_ends_of_the_table_are_no_special_case() {
        let mut dirty = Dirty::new();
        [0, u32::MAX - 1].iter().for_each(|&i| dirty.note(i));
        assert_eq!(drained(&mut dirty), [0, u32::MAX - 1]);
    }
}
