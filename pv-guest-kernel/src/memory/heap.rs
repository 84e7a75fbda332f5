//! The heap: `talc` over frames of the direct map, growing as needed. What is large gets frames of its own and gives them
//! back: in the growing part, which small values that stay soon lie all over, there would be no room for it a second time.
//! What is small is kept in [`Quick`] for whoever wants such a piece next.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use pv_abi::ids::Pfn;
use talc::DefaultBinning;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

use super::quick::{Class, Quick};
use super::{DIRECT_MAP, PAGE_SIZE, direct, frames, index};
use crate::sync::IrqLock;

/// Least number of frames by which the heap grows: 1 MiB.
const STEP_FRAMES: usize = 256;
/// Allocations of so many bytes have frames of their own, and leave one in [`KEPT_PART`] of all frames to smaller ones, of
/// which most cannot cope with a refusal. Whoever wants much at a time asks whether it can be had.
const LARGE: usize = 1 << 20;
const KEPT_PART: u64 = 32;

/// Hands frames to the heap.
#[derive(Debug)]
struct Frames {
    /// End of the part claimed last: the next one may continue it.
    end: Option<NonNull<u8>>,
}

// SAFETY: the pointer is only used under the heap's lock.
unsafe impl Send for Frames {}

// SAFETY: `acquire` uses the frame allocator only, which never allocates from the heap.
unsafe impl Source for Frames {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // The heap keeps a few words next to each allocation, and its maps in the first part.
        let overhead = 2 * PAGE_SIZE + layout.align();
        let frames_needed = layout.size().checked_add(overhead).ok_or(())?.div_ceil(PAGE_SIZE);
        // Of the large ones only those aligned to more than a page come here.
        if layout.size() >= LARGE && !frames::leave(frames_needed, KEPT_PART) {
            return Err(());
        }
        let count = frames_needed.max(STEP_FRAMES);
        let (pfn, count) = match frames::alloc(count) {
            Some(pfn) => (pfn, count),
            None => (frames::alloc(frames_needed).ok_or(())?, frames_needed),
        };
        let start = core::ptr::with_exposed_provenance_mut::<u8>(index(direct(pfn)));
        let size = count * PAGE_SIZE;
        if let Some(end) = talc.source.end.filter(|end| end.as_ptr() == start) {
            // SAFETY: the new frames follow the part that ends there, and are ours alone.
            talc.source.end = Some(unsafe { talc.extend(end, start.wrapping_add(size)) });
            return Ok(());
        }
        // SAFETY: frames fresh from the allocator, mapped writable one after another.
        talc.source.end = Some(unsafe { talc.claim(start, size) }.ok_or(())?);
        Ok(())
    }
}

/// Whether an allocation has frames of its own, and how many. It depends on the layout alone.
fn own_frames(layout: Layout) -> Option<usize> {
    let large = layout.size() >= LARGE && layout.align() <= PAGE_SIZE;
    large.then(|| layout.size().div_ceil(PAGE_SIZE))
}

fn alloc_large(count: usize) -> *mut u8 {
    let found = if frames::leave(count, KEPT_PART) { frames::alloc(count) } else { None };
    found.map_or(core::ptr::null_mut(), |pfn| core::ptr::with_exposed_provenance_mut(index(direct(pfn))))
}

/// What the heap consists of, but for the large ones.
struct Parts {
    /// Small pieces of `talc`'s that nobody uses.
    quick: Quick,
    talc: Talc<Frames, DefaultBinning>,
}

/// The heap; on bare metal it is the global allocator.
pub struct Heap(IrqLock<Parts>);

impl Heap {
    /// A small piece.
    fn alloc_small(&self, class: Class, layout: Layout) -> Option<NonNull<u8>> {
        let mut parts = self.0.lock();
        // SAFETY: no class is of size zero.
        parts.quick.take(class).or_else(|| unsafe { parts.talc.allocate(class.layout(layout)) })
    }

    /// # Safety
    /// The piece came from [`Heap::alloc_small`] with the same class, and nobody uses it any more.
    unsafe fn dealloc_small(&self, class: Class, piece: NonNull<u8>, layout: Layout) {
        let mut parts = self.0.lock();
        if !parts.quick.keep(class, piece) {
            // SAFETY: every piece of a class was allocated with this layout.
            unsafe { parts.talc.deallocate(piece.as_ptr(), class.layout(layout)) }
        }
    }
}

// SAFETY: the lock serialises `Talc`, whose methods keep the allocator's contract; a piece that `Quick` keeps is nobody
// else's, and is as large and as aligned as every layout of its class asks.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let allocated = match Class::of(layout) {
            Some(class) => self.alloc_small(class, layout),
            None => match own_frames(layout) {
                Some(count) => return alloc_large(count),
                // SAFETY: the caller's layout is not of size zero.
                None => unsafe { self.0.lock().talc.allocate(layout) },
            },
        };
        allocated.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let (Some(class), Some(piece)) = (Class::of(layout), NonNull::new(pointer)) {
            // SAFETY: as the caller promises, `alloc` returned the pointer for this layout, and so for its class.
            return unsafe { self.dealloc_small(class, piece, layout) };
        }
        if let Some(count) = own_frames(layout) {
            let page = (pointer.addr() as u64 - DIRECT_MAP) / PAGE_SIZE as u64;
            return frames::free(Pfn::new(page), count);
        }
        // SAFETY: as the caller promises, `alloc` returned the pointer for this layout.
        unsafe { self.0.lock().talc.deallocate(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises a valid size; the alignment is the old one.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let in_place = match (Class::of(layout), Class::of(new_layout)) {
            (None, None) => match (own_frames(layout), own_frames(new_layout)) {
                // SAFETY: as the caller promises; both sizes are the growing part's, and of no class.
                (None, None) => unsafe { self.0.lock().talc.try_realloc_in_place(pointer, layout, new_size) },
                (old, new) => old == new,
            },
            (old, new) => old == new,
        };
        if in_place {
            return pointer;
        }
        // SAFETY: not of size zero, by the caller's promise.
        let fresh = unsafe { self.alloc(new_layout) };
        if !fresh.is_null() {
            // SAFETY: both are live allocations of at least that many bytes.
            unsafe {
                fresh.copy_from_nonoverlapping(pointer, layout.size().min(new_size));
                self.dealloc(pointer, layout);
            }
        }
        fresh
    }
}

#[cfg_attr(target_os = "none", global_allocator)]
/// The one heap.
pub static HEAP: Heap =
    Heap(IrqLock::new(Parts { quick: Quick::new(), talc: Talc::new(Frames { end: None }) }));
