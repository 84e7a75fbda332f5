//! The heap: a fixed share of memory, and whole frames for what is large during boot.
//!
//! Allocations come from a region sized by the machine's memory. Those of [`LARGE`] bytes or more take frames from the
//! boot allocator as long as it has some, and give them back when freed: a decompressed kernel must not claim a share
//! for ever. What grows because a guest asks for it asks first whether the heap is short, and reserves ([`HeapRoom`]); the rest is
//! for short allocations that cannot fail.
#![expect(unsafe_code, reason = "a global allocator")]

use crate::arch::mm::boot_alloc;
use crate::arch::mm::layout::{PAGE, direct_map};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut, with_exposed_provenance_mut};
use hv_core::boot_memory::Range;
use hv_sync::{HeapRoom, SpinLock, rank};
use talc::DefaultBinning;
use talc::base::Talc;
use talc::source::Manual;

#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "the allocator is not installed on the host"))]
/// Allocations from this size on are whole frames, while the boot allocator has some.
const LARGE: usize = 1 << 20;

/// The region, where it lies and how full it is.
struct Small {
    talc: Talc<Manual, DefaultBinning>,
    base: usize,
    size: usize,
    used: usize,
}

// SAFETY: the allocator's pointers lead only into the memory it owns; the lock keeps its users apart.
unsafe impl Send for Small {}

static SMALL: SpinLock<Small> =
    SpinLock::new(rank::HV_HEAP, Small { talc: Talc::new(Manual), base: 0, size: 0, used: 0 });

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
    small.base = usize::try_from(direct_map(start)).unwrap_or(0);
    let (base, size) = (with_exposed_provenance_mut(small.base), small.size);
    // SAFETY: the range was just taken from the free list, is mapped, and is the heap's for ever.
    let claimed = unsafe { small.talc.claim(base, size) };
    assert!(claimed.is_some(), "the heap could not be set up");
}

/// Bytes of the region for small things: all, and in use.
pub(crate) fn usage() -> (usize, usize) {
    let small = SMALL.lock();
    (small.size, small.used)
}

/// The same for the core, which lets guests have what the hypervisor itself does not need.
pub(crate) fn room() -> HeapRoom {
    let (size, used) = usage();
    HeapRoom { size, used }
}

/// The global allocator.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "the host has its own"))]
#[derive(Debug)]
pub(crate) struct Heap;

#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "the allocator is not installed on the host"))]
fn whole_frames(size: usize) -> u64 {
    (size as u64).next_multiple_of(PAGE)
}

// SAFETY: both ways give memory that is mapped, unused and as large and aligned as asked; what needs more
// than a page's alignment comes from the region.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE
            && layout.align() as u64 <= PAGE
            && let Some(range) = boot_alloc::try_take(whole_frames(layout.size()), PAGE)
        {
            return with_exposed_provenance_mut(usize::try_from(direct_map(range.start)).unwrap_or(0));
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
        let mut small = SMALL.lock();
        let address = pointer.expose_provenance();
        if !(small.base..small.base + small.size).contains(&address) {
            drop(small);
            let at = address as u64 - direct_map(0);
            boot_alloc::give_back(Range::new(at, at + whole_frames(layout.size())));
            return;
        }
        small.used -= layout.size();
        // SAFETY: the caller promises that `alloc` gave the pointer for this layout; it lies in the region.
        unsafe { small.talc.deallocate(pointer, layout) }
    }
}
