//! The ELF64 container: header, loadable segments, note areas. Knows nothing of Xen.

use alloc::vec::Vec;

use crate::bytes::{range, u16_at, u32_at, u64_at};
use crate::error::ImageError;

const ELF_MAGIC: &[u8; 4] = b"\x7fELF";
const EHDR_LEN: usize = 64;
const PHDR_LEN: usize = 56;
const SHDR_LEN: usize = 64;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_NOTE: u32 = 7;
const EM_X86_64: u16 = 62;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
/// Far above what any kernel has; bounds our loops, not theirs.
const MAX_HEADERS: u16 = 256;

/// One loadable segment. `paddr` alone says where it goes (per-cpu segments have odd virtual addresses).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where its bytes begin in the file.
    pub file_offset: usize,
    /// How many bytes the file gives.
    pub file_len: usize,
    /// Its load address.
    pub paddr: u64,
    /// Its size in memory; what lies beyond the file's bytes is zero.
    pub mem_len: u64,
}

impl Segment {
    /// One past its last load address. `parse` has checked that this does not overflow.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.paddr.saturating_add(self.mem_len)
    }
}

/// What an ELF file says.
#[derive(Clone, Debug)]
pub(crate) struct Elf<'a> {
    pub(crate) entry: u64,
    pub(crate) segments: Vec<Segment>,
    /// Raw note areas: of the program headers, or of the sections when there are none.
    pub(crate) note_areas: Vec<&'a [u8]>,
}

/// Whether a file begins like an ELF.
pub(crate) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(ELF_MAGIC)
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        check_ident(file)?;
        let header = |what| ImageError::Truncated(what);
        let entry = u64_at(file, 24).ok_or(header("ELF header"))?;
        let mut elf = Self { entry, segments: Vec::new(), note_areas: Vec::new() };
        for (index, phdr) in headers(file, 32, 54, PHDR_LEN, "program headers")?.enumerate() {
            elf.take_program_header(file, index, phdr?)?;
        }
        if elf.segments.is_empty() {
            return Err(ImageError::NoSegments);
        }
        if elf.note_areas.is_empty() {
            elf.take_section_notes(file)?;
        }
        Ok(elf)
    }

    fn take_program_header(&mut self, file: &'a [u8], index: usize, phdr: &[u8]) -> Result<(), ImageError> {
        let bad = || ImageError::BadSegment(index);
        let kind = u32_at(phdr, 0).ok_or_else(bad)?;
        let offset = u64_at(phdr, 8).ok_or_else(bad)?;
        let paddr = u64_at(phdr, 24).ok_or_else(bad)?;
        let file_len = u64_at(phdr, 32).ok_or_else(bad)?;
        let mem_len = u64_at(phdr, 40).ok_or_else(bad)?;
        match kind {
            PT_LOAD if mem_len > 0 => {
                range(file, offset, file_len).ok_or(ImageError::Truncated("loadable segment"))?;
                if file_len > mem_len || paddr.checked_add(mem_len).is_none() {
                    return Err(bad());
                }
                let file_offset = usize::try_from(offset).map_err(|_| bad())?;
                let file_len = usize::try_from(file_len).map_err(|_| bad())?;
                self.segments.push(Segment { file_offset, file_len, paddr, mem_len });
            }
            PT_NOTE if offset != 0 => {
                let area = range(file, offset, file_len).ok_or(ImageError::Truncated("note segment"))?;
                self.note_areas.push(area);
            }
            _ => {}
        }
        Ok(())
    }

    /// Kernels without note segments may still have note sections.
    fn take_section_notes(&mut self, file: &'a [u8]) -> Result<(), ImageError> {
        for shdr in headers(file, 40, 58, SHDR_LEN, "section headers")? {
            let shdr = shdr?;
            if u32_at(shdr, 4) != Some(SHT_NOTE) {
                continue;
            }
            let place = u64_at(shdr, 24).zip(u64_at(shdr, 32));
            let area = place.and_then(|(offset, len)| range(file, offset, len));
            self.note_areas.push(area.ok_or(ImageError::Truncated("note section"))?);
        }
        Ok(())
    }
}

fn check_ident(file: &[u8]) -> Result<(), ImageError> {
    if !is_elf(file) {
        return Err(ImageError::NotElf);
    }
    let truncated = ImageError::Truncated("ELF header");
    let class = *file.get(4).ok_or(truncated.clone())?;
    if class == 1 {
        return Err(ImageError::Elf32);
    }
    let ident = file.get(..EHDR_LEN).ok_or(truncated.clone())?;
    let machine = u16_at(ident, 18).ok_or(truncated.clone())?;
    let kind = u16_at(ident, 16).ok_or(truncated)?;
    if class != 2 || ident.get(5) != Some(&1) {
        return Err(ImageError::WrongType);
    }
    if machine != EM_X86_64 {
        return Err(ImageError::WrongMachine(machine));
    }
    if kind != ET_EXEC && kind != ET_DYN {
        return Err(ImageError::WrongType);
    }
    Ok(())
}

/// Iterates a header table: its offset is the u64 at `offset_at`, entry size and count are the u16s at
/// `sizes_at`. An absent table (offset or count 0) has no entries.
fn headers<'a>(
    file: &'a [u8],
    offset_at: usize,
    sizes_at: usize,
    least: usize,
    what: &'static str,
) -> Result<impl Iterator<Item = Result<&'a [u8], ImageError>> + use<'a>, ImageError> {
    let truncated = || ImageError::Truncated("ELF header");
    let offset = u64_at(file, offset_at).ok_or_else(truncated)?;
    let size = u16_at(file, sizes_at).ok_or_else(truncated)?;
    let count = u16_at(file, sizes_at + 2).ok_or_else(truncated)?;
    let count = if offset == 0 { 0 } else { count };
    if count > MAX_HEADERS {
        return Err(ImageError::TooMany(what));
    }
    if count > 0 && usize::from(size) < least {
        return Err(ImageError::Truncated(what));
    }
    Ok((0..u64::from(count)).map(move |i| {
        let at = offset.checked_add(i * u64::from(size));
        at.and_then(|at| range(file, at, u64::from(size))).ok_or(ImageError::Truncated(what))
    }))
}
