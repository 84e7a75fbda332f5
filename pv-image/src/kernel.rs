//! A kernel image: an ELF whose Xen notes have been found good.

use alloc::vec::Vec;

use pv_abi::frame::PAGE_SIZE;

use crate::bytes::range;
use crate::elf::{Elf, Segment};
use crate::error::ImageError;
use crate::layout::PAGE;
use crate::notes::Notes;

/// First address of the hypervisor's L4 slots, and one past the last.
const HYPERVISOR: core::ops::Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;

/// A parsed and checked kernel.
#[derive(Clone, Debug)]
pub struct KernelImage<'a> {
    bytes: &'a [u8],
    segments: Vec<Segment>,
    notes: Notes,
    entry: u64,
    virt_base: u64,
    virt_offset: u64,
    start: u64,
    end: u64,
}

impl<'a> KernelImage<'a> {
    /// Parses an ELF (see [`crate::unpack`] for what is packed).
    ///
    /// # Errors
    /// Any flaw of the ELF, of its notes, or of the addresses they give.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let elf = Elf::parse(bytes)?;
        let notes = Notes::parse(&elf.note_areas)?;
        notes.check()?;
        let virt_base = notes.virt_base.unwrap_or(0);
        if virt_base % 4096 != 0 {
            return Err(ImageError::BadNote("VIRT_BASE"));
        }
        let paddr_offset = notes.paddr_offset.unwrap_or(0);
        let first = elf.segments.iter().map(|s| s.paddr).min().unwrap_or(0);
        let last = elf.segments.iter().map(Segment::end).max().unwrap_or(0);
        // Load addresses below the offset would lie below VIRT_BASE.
        let start = place(first, paddr_offset, virt_base)?;
        let end = place(last, paddr_offset, virt_base)?;
        let entry = notes.entry.unwrap_or(elf.entry);
        if entry < start || entry > end {
            return Err(ImageError::EntryOutside(entry));
        }
        let virt_offset = virt_base.wrapping_sub(paddr_offset);
        let kernel = Self { bytes, segments: elf.segments, notes, entry, virt_base, virt_offset, start, end };
        check_range(kernel.virt_base, kernel.end)?;
        Ok(kernel)
    }

    /// The notes.
    #[must_use]
    pub const fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The loadable segments.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Virtual address of the entry point.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// Virtual address of pfn 0.
    #[must_use]
    pub const fn virt_base(&self) -> u64 {
        self.virt_base
    }

    /// First virtual address of the kernel.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// One past its last virtual address (bss included).
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Copies what the image has for the page at virtual address `va` (page-aligned) into `page`,
    /// which the caller has zeroed.
    pub(crate) fn copy_page(&self, va: u64, page: &mut [u8]) {
        for (at, bytes) in self.parts(va) {
            if let Some(target) = page.get_mut(at..at + bytes.len()) {
                target.copy_from_slice(bytes);
            }
        }
    }

    /// The page at `va`, where one segment alone has it, all of it.
    pub(crate) fn whole_page(&self, va: u64) -> Option<&'a [u8; PAGE_SIZE]> {
        let mut parts = self.parts(va);
        let (_, bytes) = parts.next()?;
        if parts.next().is_some() { None } else { bytes.try_into().ok() }
    }

    /// What the segments have for the page at `va`, with the place of each part in the page.
    fn parts(&self, va: u64) -> impl Iterator<Item = (usize, &'a [u8])> {
        self.segments.iter().filter_map(move |segment| {
            let start = segment.paddr.wrapping_add(self.virt_offset);
            // Sizes were checked against the file, so these stay within 64 bits.
            let from = start.max(va);
            let file_end = start.wrapping_add(segment.file_len as u64);
            let len = file_end.min(va.saturating_add(PAGE)).checked_sub(from).filter(|&len| len != 0)?;
            let part = range(self.bytes, segment.file_offset as u64 + (from - start), len)?;
            Some((usize::try_from(from - va).ok()?, part))
        })
    }
}

/// Virtual address of a load address.
fn place(paddr: u64, paddr_offset: u64, virt_base: u64) -> Result<u64, ImageError> {
    paddr
        .checked_sub(paddr_offset)
        .and_then(|rel| virt_base.checked_add(rel))
        .ok_or(ImageError::BadAddress(paddr))
}

/// Refuses ranges that are not wholly a guest's: the hypervisor's slots, or the non-canonical hole.
pub(crate) fn check_range(start: u64, end: u64) -> Result<(), ImageError> {
    const LOW_END: u64 = 1 << 47;
    if start > end {
        return Err(ImageError::BadAddress(start));
    }
    let low = end <= LOW_END;
    let high = start >= HYPERVISOR.end;
    if low || high { Ok(()) } else { Err(ImageError::BadAddress(start)) }
}
