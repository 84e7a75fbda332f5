//! From a file to an ELF: plain ELF, gzip around an ELF, or a Linux bzImage with an ELF payload.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::ops::Range;

use crate::bytes::{array, place, u16_at, u32_at};
use crate::checksum;
use crate::decompress::{LZ4_LEGACY_MAGIC, decompress, gunzip};
use crate::elf::is_elf;
use crate::error::ImageError;

/// Offsets in the real-mode header of a bzImage (Linux x86 boot protocol).
mod header {
    pub(super) const SETUP_SECTS: usize = 0x1f1;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}

/// Payload fields exist since this version.
const FIRST_WITH_PAYLOAD: u16 = 0x0208;
const SECTOR: u64 = 512;

/// Gives the ELF inside `file`, unpacking it if need be to at most `limit` bytes.
///
/// # Errors
/// Says what is wrong with the file: [`ImageError::NotElf`], `Truncated`, `DamagedPayload`,
/// `UnsupportedCompression`, `TooLarge`, …
pub fn unpack(file: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, ImageError> {
    Ok(match find(file, limit)? {
        Found::Part(range) => Cow::Borrowed(file.get(range).unwrap_or_default()),
        Found::Unpacked(elf) => Cow::Owned(elf),
    })
}

/// The same for a file that is not needed any more: what need not be unpacked takes no memory beside it.
///
/// # Errors
/// Those of [`unpack`].
pub fn unpack_owned(mut file: Vec<u8>, limit: usize) -> Result<Vec<u8>, ImageError> {
    Ok(match find(&file, limit)? {
        Found::Part(range) => {
            file.truncate(range.end);
            file.drain(..range.start);
            file
        }
        Found::Unpacked(elf) => elf,
    })
}

/// Where the ELF is.
enum Found {
    /// In the file as it is.
    Part(Range<usize>),
    /// It was packed.
    Unpacked(Vec<u8>),
}

fn find(file: &[u8], limit: usize) -> Result<Found, ImageError> {
    if is_elf(file) {
        return Ok(Found::Part(0..file.len()));
    }
    if file.starts_with(&[0x1f, 0x8b]) {
        return expect_elf(gunzip(file, limit)?);
    }
    if !is_bzimage(file) {
        return Err(if file.len() < 4 { ImageError::Truncated("header") } else { ImageError::NotElf });
    }
    let (setup, place) = payload(file)?;
    let payload = file.get(place.clone()).unwrap_or_default();
    if is_elf(payload) {
        return Ok(Found::Part(place));
    }
    if payload.starts_with(&LZ4_LEGACY_MAGIC) {
        checksum::check(file, setup)?;
    }
    expect_elf(decompress(payload, limit)?)
}

fn expect_elf(unpacked: Vec<u8>) -> Result<Found, ImageError> {
    if is_elf(&unpacked) { Ok(Found::Unpacked(unpacked)) } else { Err(ImageError::NotElf) }
}

fn is_bzimage(file: &[u8]) -> bool {
    u16_at(file, header::BOOT_FLAG) == Some(0xaa55) && array(file, header::MAGIC) == Some(*b"HdrS")
}

/// The length of the real-mode code, and where the payload is.
fn payload(file: &[u8]) -> Result<(u64, Range<usize>), ImageError> {
    let truncated = || ImageError::Truncated("bzImage header");
    if u16_at(file, header::VERSION).ok_or_else(truncated)? < FIRST_WITH_PAYLOAD {
        return Err(ImageError::OldBzImage);
    }
    let sectors = match *file.get(header::SETUP_SECTS).ok_or_else(truncated)? {
        0 => 4,
        n => n,
    };
    let offset = u32_at(file, header::PAYLOAD_OFFSET).ok_or_else(truncated)?;
    let length = u32_at(file, header::PAYLOAD_LENGTH).ok_or_else(truncated)?;
    let setup = (u64::from(sectors) + 1) * SECTOR;
    let place = place(file, setup + u64::from(offset), u64::from(length));
    Ok((setup, place.ok_or(ImageError::Truncated("bzImage payload"))?))
}
