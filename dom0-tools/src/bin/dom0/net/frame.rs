//! A frame in pages of dom0's own.
//!
//! Each piece of the packet that a guest sent has a page of its own, so that one copy brings it here and one brings it to
//! the next guest. All frames together take a bounded number of pages, however many guests do not fetch theirs.

use alloc::vec::Vec;
use core::cell::Cell;

use dom0_tools::net::{FrameData, Meta};
use pv_abi::frame::PAGE_SIZE;
use pv_guest_kernel::BootLocal;

use crate::pages::TransferPage;

/// Most pages of all frames (16 MiB).
const MOST_PAGES: usize = 4096;

static PAGES: BootLocal<Cell<usize>> = BootLocal::new(Cell::new(0));

/// A frame. Its bytes and its marks change together, when a checksum is completed.
pub(crate) struct Frame {
    pages: Vec<TransferPage>,
    lens: Vec<usize>,
    len: usize,
    meta: Cell<Meta>,
}

impl Frame {
    /// A frame with room for pieces of these lengths, each at most a page; `None` if there is no memory.
    pub(crate) fn with_pieces(lens: impl ExactSizeIterator<Item = usize>, meta: Meta) -> Option<Self> {
        let count = lens.len();
        let taken = PAGES.get();
        let after = taken.get().checked_add(count).filter(|after| *after <= MOST_PAGES)?;
        let pages = TransferPage::take_many(count)?;
        taken.set(after);
        let lens: Vec<usize> = lens.map(|len| len.min(PAGE_SIZE)).collect();
        let len = lens.iter().sum();
        Some(Self { pages, lens, len, meta: Cell::new(meta) })
    }

    /// A frame of one piece that somebody has filled already.
    pub(crate) fn of_page(page: TransferPage, len: usize, meta: Meta) -> Self {
        let taken = PAGES.get();
        taken.set(taken.get().saturating_add(1));
        let len = len.min(PAGE_SIZE);
        Self { pages: alloc::vec![page], lens: alloc::vec![len], len, meta: Cell::new(meta) }
    }

    /// The pages, one for each piece.
    pub(crate) fn pages(&self) -> &[TransferPage] {
        &self.pages
    }

    /// The pieces' lengths.
    pub(crate) fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// What is known of it.
    pub(crate) fn meta(&self) -> Meta {
        self.meta.get()
    }

    /// Something more is known of it.
    pub(crate) fn set_meta(&self, meta: Meta) {
        self.meta.set(meta);
    }

    /// Calls `with` for each piece of a range: page, first byte within it, first byte within the range, bytes.
    fn walk(&self, at: usize, len: usize, mut with: impl FnMut(&TransferPage, usize, usize, usize)) {
        let (mut start, mut done) = (0, 0);
        for (page, &piece) in self.pages.iter().zip(&self.lens) {
            let from = (at + done).saturating_sub(start);
            if from < piece && done < len {
                let part = (piece - from).min(len - done);
                with(page, from, done, part);
                done += part;
            }
            start += piece;
        }
    }
}

impl FrameData for Frame {
    fn frame_len(&self) -> usize {
        self.len
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        let len = into.len();
        self.walk(at, len, |page, from, to, count| {
            page.read_bytes(from, into.get_mut(to..to + count).unwrap_or_default());
        });
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.walk(at, bytes.len(), |page, to, from, count| {
            page.write_bytes(to, bytes.get(from..from + count).unwrap_or_default());
        });
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let taken = PAGES.get();
        taken.set(taken.get().saturating_sub(self.pages.len()));
    }
}
