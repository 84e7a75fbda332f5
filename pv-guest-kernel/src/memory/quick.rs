//! Small pieces of the heap, kept for their next use.
//!
//! What serves requests takes and gives back the same few small pieces for each of them. A piece that is given back is kept
//! with others of its class, as long as there are few, and is found again without a look at the heap's maps.

use core::alloc::Layout;
use core::ptr::NonNull;

/// Sizes of one class lie within so many bytes; every piece has the largest of them.
const STEP: usize = 32;
/// Classes: pieces of up to 1 KiB.
const CLASSES: usize = 32;
/// Most pieces kept of a class: a quarter of a MiB of all classes.
const DEPTH: usize = 16;
/// The alignment of every piece.
const ALIGN: usize = 16;

/// Which pieces are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class(usize);

impl Class {
    /// The class of a layout; `None` for what is large, or aligned in a special way.
    #[inline]
    pub(super) const fn of(layout: Layout) -> Option<Self> {
        let class = layout.size().wrapping_sub(1) / STEP;
        if class < CLASSES && layout.align() <= ALIGN { Some(Self(class)) } else { None }
    }

    /// What each piece has. The layout itself where that is no layout, which does not happen.
    #[inline]
    pub(super) fn layout(self, layout: Layout) -> Layout {
        Layout::from_size_align((self.0 + 1) * STEP, ALIGN).unwrap_or(layout)
    }
}

/// The pieces of one class.
#[derive(Clone, Copy, Debug)]
struct Kept {
    count: usize,
    /// Their addresses.
    pieces: [usize; DEPTH],
}

/// All that is kept.
#[derive(Debug)]
pub(super) struct Quick([Kept; CLASSES]);

impl Quick {
    /// Nothing.
    pub(super) const fn new() -> Self {
        Self([Kept { count: 0, pieces: [0; DEPTH] }; CLASSES])
    }

    /// A piece of a class.
    #[inline]
    pub(super) fn take(&mut self, class: Class) -> Option<NonNull<u8>> {
        let kept = self.0.get_mut(class.0)?;
        let last = kept.count.checked_sub(1)?;
        let address = *kept.pieces.get(last)?;
        kept.count = last;
        NonNull::new(core::ptr::with_exposed_provenance_mut(address))
    }

    /// Keeps a piece; `false` if there are enough.
    #[inline]
    pub(super) fn keep(&mut self, class: Class, piece: NonNull<u8>) -> bool {
        let Some(kept) = self.0.get_mut(class.0) else { return false };
        let Some(place) = kept.pieces.get_mut(kept.count) else { return false };
        *place = piece.as_ptr().expose_provenance();
        kept.count += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn class(size: usize, align: usize) -> Option<Class> {
        Class::of(Layout::from_size_align(size, align).expect("a layout"))
    }

    #[test]
    fn every_layout_of_a_class_fits_its_pieces() {
        for size in 1..=STEP * CLASSES {
            for align in [1, 2, 4, 8, 16] {
                let layout = Layout::from_size_align(size, align).expect("a layout");
                let piece = Class::of(layout).expect("small").layout(layout);
                assert!(piece.size() >= size && piece.align() >= align, "{layout:?}");
                assert!(piece.size() < size + STEP, "{layout:?}");
                // Whoever gives the piece back tells its own layout: it must lead to the same piece.
                assert_eq!(Class::of(piece), Class::of(layout));
            }
        }
    }

    #[test]
    fn large_and_specially_aligned_ones_have_no_class() {
        assert_eq!(class(STEP * CLASSES + 1, 8), None);
        assert_eq!(class(8, 32), None);
        assert_eq!(class(0, 1), None);
        assert_eq!(class(usize::MAX / 4, 1), None);
    }

    #[test]
    fn a_piece_that_is_kept_is_found_again_in_its_class_alone() {
        let mut quick = Quick::new();
        let (small, other) = (class(20, 8).expect("small"), class(40, 8).expect("small"));
        let mut memory = [0_u8; DEPTH + 1];
        let pieces: Vec<NonNull<u8>> = memory.iter_mut().map(NonNull::from).collect();
        assert_eq!(quick.take(small), None);
        for piece in &pieces[..DEPTH] {
            assert!(quick.keep(small, *piece));
        }
        assert!(!quick.keep(small, pieces[DEPTH]), "more than enough are kept");
        assert_eq!(quick.take(other), None);
        for piece in pieces[..DEPTH].iter().rev() {
            assert_eq!(quick.take(small), Some(*piece));
        }
        assert_eq!(quick.take(small), None);
    }
}
