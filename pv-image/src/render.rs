//! Contents of the pages of a plan, one page at a time, once the machine frames are known.

use pv_abi::frame::PAGE_SIZE;
use pv_abi::ids::{MachAddr, Pfn};
use pv_abi::pte::Pte;

use crate::error::ImageError;
use crate::layout::{PAGE, PageRange};
use crate::plan::{FrameMap, PageKind, Plan};
use crate::start;

/// p2m entry of a hole.
const INVALID_P2M_ENTRY: u64 = u64::MAX;

impl<'a> Plan<'a> {
    /// The bytes of a page that the kernel or the ramdisk has as a whole, so that nothing has to be put together.
    #[must_use]
    pub fn whole_page(&self, pfn: Pfn) -> Option<&'a [u8; PAGE_SIZE]> {
        let raw = pfn.raw();
        if self.layout.kernel.contains(raw) {
            return self.kernel.whole_page(self.layout.va_of(raw));
        }
        let ramdisk = self.layout.ramdisk.filter(|ramdisk| ramdisk.pages.contains(raw))?;
        blob_from(self.ramdisk, ramdisk.pages, raw).first_chunk()
    }

    /// Fills `page` with what belongs at `pfn`, whatever it held before, and says what that is.
    /// The hypercall page is not filled in here: see [`Plan::hypercall_page`].
    ///
    /// # Errors
    /// [`ImageError::NoFrame`] when `frames` does not know a frame the page must name.
    pub fn render<F: FrameMap + ?Sized>(
        &self,
        pfn: Pfn,
        frames: &F,
        shared_info: MachAddr,
        page: &mut [u8; PAGE_SIZE],
    ) -> Result<PageKind, ImageError> {
        let kind = self.kind(pfn);
        if let Some(whole) = self.whole_page(pfn) {
            page.copy_from_slice(whole);
            return Ok(kind);
        }
        page.fill(0);
        let raw = pfn.raw();
        match kind {
            PageKind::Zero => {}
            PageKind::Table(_) => self.render_table(raw, frames, page)?,
            PageKind::Data if raw == self.layout.start_info => {
                start::write_start_info(self, frames, shared_info, page)?;
            }
            PageKind::Data if self.layout.p2m.list.contains(raw) => self.render_p2m(raw, frames, page),
            PageKind::Data => self.render_image(raw, page),
        }
        Ok(kind)
    }

    fn render_table<F: FrameMap + ?Sized>(
        &self,
        pfn: u64,
        frames: &F,
        page: &mut [u8; PAGE_SIZE],
    ) -> Result<(), ImageError> {
        let Some(base) = self.tables.at(pfn) else { return Ok(()) };
        for (index, slot) in (0u64..).zip(page.chunks_exact_mut(8)) {
            if let Some((target, flags)) = self.tables.entry(&self.layout, base, index) {
                let frame = frames.mfn(Pfn::new(target)).ok_or(ImageError::NoFrame(target))?;
                slot.copy_from_slice(&Pte::new(frame, flags).raw().to_le_bytes());
            }
        }
        Ok(())
    }

    fn render_p2m<F: FrameMap + ?Sized>(&self, pfn: u64, frames: &F, page: &mut [u8; PAGE_SIZE]) {
        let first = (pfn - self.layout.p2m.list.first) * (PAGE / 8);
        for (entry, slot) in (first..self.layout.nr_pages).zip(page.chunks_exact_mut(8)) {
            let mfn = frames.mfn(Pfn::new(entry)).map_or(INVALID_P2M_ENTRY, |mfn| mfn.raw());
            slot.copy_from_slice(&mfn.to_le_bytes());
        }
    }

    fn render_image(&self, pfn: u64, page: &mut [u8; PAGE_SIZE]) {
        if self.layout.kernel.contains(pfn) {
            self.kernel.copy_page(self.layout.va_of(pfn), page);
        } else if let Some(ramdisk) = self.layout.ramdisk {
            copy_blob(self.ramdisk, ramdisk.pages, pfn, page);
        }
    }
}

/// What `blob` has from page `pfn` of `range` on.
fn blob_from(blob: &[u8], range: PageRange, pfn: u64) -> &[u8] {
    usize::try_from((pfn - range.first) * PAGE).ok().and_then(|start| blob.get(start..)).unwrap_or_default()
}

/// The part of `blob` that lies in page `pfn` of `range`.
fn copy_blob(blob: &[u8], range: PageRange, pfn: u64, page: &mut [u8; PAGE_SIZE]) {
    let rest = blob_from(blob, range, pfn);
    let part = rest.get(..PAGE_SIZE).unwrap_or(rest);
    if let Some(target) = page.get_mut(..part.len()) {
        target.copy_from_slice(part);
    }
}
