//! The allocator: buddy blocks of 2^0 to 2^18 frames, kept by the highest bit of their frame number.
//!
//! Zone `z` holds the blocks in `[2^z, 2^(z+1))`, so that a limit on address bits is a limit on zones, and low memory
//! is used last. A block's head keeps the block's order in its type word and the latest stamp of its frames.

use super::list;
use super::page_info::{CountInfo, FrameState, NIL, PageInfo, PageType, TypeInfo};
use super::scrub::Dirty;

/// Orders of blocks: 0 to 18 (1 GiB).
pub(super) const ORDERS: usize = 19;
const ZONES: usize = 32;

/// Free lists. Behind a lock of rank HEAP.
#[derive(Debug)]
pub(super) struct Heap {
    heads: [[u32; ORDERS]; ZONES],
    /// Bit `o` of word `z`: zone `z` has a block of order `o`.
    present: [u32; ZONES],
    /// Bit `z`: zone `z` has a block of any order.
    occupied: u32,
    free: u64,
    /// Frames that are set aside for domains.
    claimed: u64,
    /// Where free frames lie that are to be zeroed.
    pub(super) dirty: Dirty,
}

/// A block that left the allocator: its first frame, and the latest stamp of its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) first: u32,
    pub(super) stamp: u64,
}

fn zone_of(index: u32) -> usize {
    usize::try_from(index.checked_ilog2().unwrap_or(0)).unwrap_or(0)
}

/// The zones of frames with at most `bits` address bits, a bit each; 0 is no limit.
pub(super) fn zones_within(address_bits: u32) -> u32 {
    match address_bits {
        0 => u32::MAX,
        bits => 1_u32.checked_shl(bits.saturating_sub(12)).map_or(u32::MAX, |end| end - 1),
    }
}

/// The order of the free block whose head is this frame.
fn free_order(page: &PageInfo) -> Option<usize> {
    if page.count_info().state() != FrameState::Free {
        return None;
    }
    usize::try_from(page.type_info().count()).ok()?.checked_sub(1)
}

impl Heap {
    pub(super) const fn new() -> Self {
        Self {
            heads: [[NIL; ORDERS]; ZONES],
            present: [0; ZONES],
            occupied: 0,
            free: 0,
            claimed: 0,
            dirty: Dirty::new(),
        }
    }

    pub(super) const fn free_frames(&self) -> u64 {
        self.free
    }

    fn push(&mut self, pages: &[PageInfo], first: u32, order: usize, stamp: u64) {
        let zone = zone_of(first);
        let Some(page) = index(pages, first) else { return };
        page.note_unmapped(stamp);
        page.set_type_info(TypeInfo::of(PageType::None, order as u64 + 1));
        list::push(pages, &mut self.heads[zone][order], first);
        self.present[zone] |= 1 << order;
        self.occupied |= 1 << zone;
    }

    fn remove(&mut self, pages: &[PageInfo], first: u32, order: usize) {
        let zone = zone_of(first);
        list::unlink(pages, &mut self.heads[zone][order], first);
        if self.heads[zone][order] == NIL {
            self.present[zone] &= !(1 << order);
            if self.present[zone] == 0 {
                self.occupied &= !(1 << zone);
            }
        }
        if let Some(page) = index(pages, first) {
            page.set_type_info(TypeInfo::of(PageType::None, 0));
        }
    }

    /// Sets frames aside; `false` where there are not enough.
    pub(super) fn add_claim(&mut self, frames: u64) -> bool {
        let sum = self.claimed.saturating_add(frames);
        if sum > self.free {
            return false;
        }
        self.claimed = sum;
        true
    }

    /// Gives up a claim.
    pub(super) fn drop_claim(&mut self, frames: u64) {
        self.claimed -= frames;
    }

    /// Takes what was allocated off a claim; returns what is left of it.
    pub(super) fn use_claim(&mut self, own: u64, allocated: u64) -> u64 {
        let used = own.min(allocated);
        self.claimed -= used;
        own - used
    }

    /// Takes a block of `order` from those of `zones`, the highest first, for somebody with a claim of `own` frames.
    pub(super) fn take(&mut self, pages: &[PageInfo], order: usize, zones: u32, own: u64) -> Option<Block> {
        if self.free < (self.claimed - own) + (1 << order) {
            return None;
        }
        let fits = u32::MAX.checked_shl(u32::try_from(order).ok()?)?;
        let mut left = self.occupied & zones;
        while let Some(highest) = left.checked_ilog2() {
            left &= !(1 << highest);
            let zone = usize::try_from(highest).ok()?;
            let candidates = self.present[zone] & fits;
            if candidates != 0 {
                let from = usize::try_from(candidates.trailing_zeros()).ok()?;
                return self.split(pages, self.heads[zone][from], from, order);
            }
        }
        None
    }

    /// Takes the block `first` of order `from` and gives back what exceeds `order`.
    fn split(&mut self, pages: &[PageInfo], first: u32, from: usize, order: usize) -> Option<Block> {
        let stamp = index(pages, first)?.stamp();
        self.remove(pages, first, from);
        for o in (order..from).rev() {
            self.push(pages, first + (1 << o), o, stamp);
        }
        self.free -= 1 << order;
        Some(Block { first, stamp })
    }

    /// Gives a block back and joins it with its free neighbours. Its frames are in state `Free` already.
    pub(super) fn give(&mut self, pages: &[PageInfo], first: u32, order: usize) {
        self.free += 1 << order;
        let zone = zone_of(first);
        let mut stamp = index(pages, first).map_or(0, PageInfo::stamp);
        let (mut first, mut order) = (first, order);
        while order + 1 < ORDERS {
            let buddy = first ^ (1 << order);
            let Some(page) = index(pages, buddy) else { break };
            if zone_of(buddy) != zone || free_order(page) != Some(order) {
                break;
            }
            stamp = stamp.max(page.stamp());
            self.remove(pages, buddy, order);
            first = first.min(buddy);
            order += 1;
        }
        self.push(pages, first, order, stamp);
    }

    /// Whether the frame is in a block of the free lists. Its state alone does not tell: a block that has been taken is not
    /// at once somebody's.
    pub(super) fn holds(&self, pages: &[PageInfo], frame: u32) -> bool {
        (0..ORDERS).any(|order| index(pages, frame >> order << order).and_then(free_order) == Some(order))
    }

    /// Frames on the free lists, counted one by one; none where a block's head or a zone's bit does not say so.
    pub(super) fn recount(&self, pages: &[PageInfo]) -> Option<u64> {
        let mut sum = 0;
        for (zone, lists) in self.heads.iter().enumerate() {
            let occupied = lists.iter().any(|head| *head != NIL);
            if occupied != (self.occupied >> zone & 1 != 0) {
                return None;
            }
            for (order, head) in lists.iter().enumerate() {
                for first in list::iter(pages, *head) {
                    if index(pages, first).and_then(free_order) != Some(order) {
                        return None;
                    }
                    sum += 1 << order;
                }
            }
        }
        Some(sum)
    }
}

fn index(pages: &[PageInfo], i: u32) -> Option<&PageInfo> {
    pages.get(usize::try_from(i).ok()?)
}

/// Puts a frame into state `Free`, before it is given to the heap.
pub(super) fn mark_free(page: &PageInfo) {
    page.set_type_info(TypeInfo::of(PageType::None, 0));
    page.set_count_info(CountInfo::of(FrameState::Free));
}
