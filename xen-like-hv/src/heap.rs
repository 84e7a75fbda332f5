//! The heap: a fixed share of memory for small things, whole frames for large ones.
//!
//! Small allocations come from a region sized by the machine's memory. Those of [`LARGE`] bytes or more take frames,
//! from the boot allocator at first and from the frame allocator once it is installed with [`set_frame_source`], and
//! give them back when freed: a decompressed kernel must not swell the heap for ever. Exhaustion is an error the
//! caller sees (`try_reserve`), never more than that.
#![expect(unsafe_code, reason = "a global allocator")]

use crate::arch::mm::boot_alloc;
use crate::arch::mm::layout::{PAGE, direct_map};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut, with_exposed_provenance_mut};
use hv_core::boot_memory::Range;
use hv_sync::{SpinLock, rank};
use spin::Once;
use talc::DefaultBinning;
use talc::base::Talc;
use talc::source::Manual;

/// Allocations from this size on are whole frames.
const LARGE: usize = 1 << 20;

/// Where whole frames come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameSource {
    /// Takes contiguous frames; the machine address of the first.
    pub(crate) take: fn(frames: u64) -> Option<u64>,
    /// Gives them back.
    pub(crate) give_back: fn(at: u64, frames: u64),
}

static SOURCE: Once<FrameSource> = Once::new();

/// Large allocations come from here from now on. Those already made must be freed before the boot allocator hands its
/// memory over, or they are given to the new source.
pub(crate) fn set_frame_source(source: FrameSource) {
    SOURCE.call_once(|| source);
}

fn take_frames(frames: u64) -> Option<u64> {
    match SOURCE.get() {
        Some(source) => (source.take)(frames),
        None => boot_alloc::try_take(frames * PAGE, PAGE).map(|range| range.start),
    }
}

fn give_back_frames(at: u64, frames: u64) {
    match SOURCE.get() {
        Some(source) => (source.give_back)(at, frames),
        None => boot_alloc::give_back(Range::new(at, at + frames * PAGE)),
    }
}

/// The region for small allocations and how full it is.
struct Small {
    talc: Talc<Manual, DefaultBinning>,
    size: usize,
    used: usize,
}

// SAFETY: the allocator's pointers lead only into the memory it owns; the lock keeps its users apart.
unsafe impl Send for Small {}

static SMALL: SpinLock<Small> =
    SpinLock::new(rank::HV_HEAP, Small { talc: Talc::new(Manual), size: 0, used: 0 });

/// Bytes for small things: a 32nd of memory, at least 8 and at most 192 MiB.
fn share(ram: u64) -> u64 {
    (ram / 32).clamp(8 << 20, 192 << 20) & !(PAGE - 1)
}

/// Gives the heap its share of memory.
pub(crate) fn init() {
    let bytes = share(boot_alloc::memory_map().ram_bytes());
    let start = boot_alloc::zeroed(bytes, PAGE);
    let mut small = SMALL.lock();
    small.size = usize::try_from(bytes).unwrap_or(0);
    let base = with_exposed_provenance_mut(usize::try_from(direct_map(start)).unwrap_or(0));
    let size = small.size;
    // SAFETY: the range was just taken from the free list, is mapped, and is the heap's for ever.
    let claimed = unsafe { small.talc.claim(base, size) };
    assert!(claimed.is_some(), "the heap could not be set up");
}

/// Bytes of the region for small things: all, and in use.
pub(crate) fn usage() -> (usize, usize) {
    let small = SMALL.lock();
    (small.size, small.used)
}

/// The global allocator.
#[derive(Debug)]
pub(crate) struct Heap;

fn frames_for(size: usize) -> u64 {
    (size as u64).div_ceil(PAGE)
}

// SAFETY: both ways give memory that is mapped, unused and as large and aligned as asked; large alignments beyond a page
// are refused for whole frames.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            if layout.align() as u64 > PAGE {
                return null_mut();
            }
            let at = take_frames(frames_for(layout.size()));
            return at.map_or(null_mut(), |at| {
                with_exposed_provenance_mut(usize::try_from(direct_map(at)).unwrap_or(0))
            });
        }
        let mut small = SMALL.lock();
        // SAFETY: the caller promises a layout that is not empty.
        let found = unsafe { small.talc.allocate(layout) };
        if found.is_some() {
            small.used += layout.size();
        }
        found.map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if layout.size() >= LARGE {
            let at = pointer.expose_provenance() as u64 - direct_map(0);
            give_back_frames(at, frames_for(layout.size()));
            return;
        }
        let mut small = SMALL.lock();
        small.used -= layout.size();
        // SAFETY: the caller promises that `alloc` gave the pointer for this layout.
        unsafe { small.talc.deallocate(pointer, layout) }
    }
}
