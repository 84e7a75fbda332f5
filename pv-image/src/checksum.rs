//! CRC-32, as gzip and Linux's build of a bzImage use it; and whether a bzImage is what its build made.
//!
//! An LZ4 legacy frame, unlike what the other methods make, carries no checksum: a flipped bit may well unpack to another
//! kernel. But until Linux 6.14 the build appended a checksum to the whole image.

use crate::bytes::{array, range, u16_at, u32_at};
use crate::error::ImageError;

/// Bytes that are taken in one step.
const STEP: usize = 16;

static TABLES: [[u32; 256]; STEP] = tables();

/// What each value of a byte does to the checksum when so many zeros follow it (reflected 0x04c11db7).
const fn tables() -> [[u32; 256]; STEP] {
    let mut tables = [[0u32; 256]; STEP];
    let mut i = 0u32;
    while i < 256 {
        let mut value = i;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 != 0 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        tables[0][i as usize] = value;
        i += 1;
    }
    let mut zeros = 1;
    while zeros < STEP {
        let mut i = 0;
        while i < 256 {
            let before = tables[zeros - 1][i];
            tables[zeros][i] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            i += 1;
        }
        zeros += 1;
    }
    tables
}

/// A checksum in the making.
struct Crc(u32);

impl Crc {
    const fn new() -> Self {
        Self(u32::MAX)
    }

    fn add(&mut self, data: &[u8]) {
        let (steps, rest) = data.as_chunks::<STEP>();
        for step in steps {
            self.0 = sixteen(self.0, step);
        }
        for &byte in rest {
            let index = usize::from(self.0.to_le_bytes()[0] ^ byte);
            self.0 = TABLES[0][index] ^ (self.0 >> 8);
        }
    }

    const fn value(&self) -> u32 {
        !self.0
    }
}

fn sixteen(crc: u32, step: &[u8; STEP]) -> u32 {
    let mut bytes = *step;
    for (byte, old) in bytes.iter_mut().zip(crc.to_le_bytes()) {
        *byte ^= old;
    }
    let parts = TABLES.iter().rev().zip(bytes).map(|(table, byte)| table[usize::from(byte)]);
    parts.fold(0, |all, part| all ^ part)
}

/// The CRC-32 of some bytes.
pub(crate) fn crc32(data: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.add(data);
    crc.value()
}

/// Offsets in the real-mode header of a bzImage (Linux x86 boot protocol).
mod header {
    pub(super) const SYSSIZE: usize = 0x1f4;
    /// Where the version's text is, less 0x200.
    pub(super) const KERNEL_VERSION: usize = 0x20e;
    /// Where an image that is also a PE file says that its PE header is.
    pub(super) const PE: usize = 0x3c;
}

/// The first Linux whose build appends no checksum.
const FIRST_WITHOUT: (u32, u32) = (6, 15);
/// What the checksum of an image and its checksum is.
const INTACT: u32 = u32::MAX;
/// Bytes of a unit of `syssize`.
const PARAGRAPH: u64 = 16;

/// Checks a bzImage that begins with `setup` bytes of real-mode code, if it has a checksum.
///
/// # Errors
/// `Truncated`, `DamagedPayload`.
pub(crate) fn check(file: &[u8], setup: u64) -> Result<(), ImageError> {
    if version(file).is_none_or(|version| version >= FIRST_WITHOUT) {
        return Ok(());
    }
    let truncated = ImageError::Truncated("bzImage kernel");
    let Some(size) = u32_at(file, header::SYSSIZE) else { return Err(truncated) };
    let image = range(file, 0, setup + u64::from(size) * PARAGRAPH).ok_or(truncated)?;
    let mut crc = Crc::new();
    let mut at = 0;
    // Whoever signs an image changes these, after its checksum was made.
    for (field, len) in signed(image).into_iter().flatten() {
        let (Some(before), true) = (image.get(at..field), image.len() >= field + len) else { break };
        crc.add(before);
        crc.add([0; 8].get(..len).unwrap_or_default());
        at = field + len;
    }
    crc.add(image.get(at..).unwrap_or_default());
    if crc.value() == INTACT { Ok(()) } else { Err(ImageError::DamagedPayload("the image's checksum")) }
}

/// Linux's version, as far as the image tells.
fn version(file: &[u8]) -> Option<(u32, u32)> {
    let at = usize::from(u16_at(file, header::KERNEL_VERSION).filter(|at| *at != 0)?) + 0x200;
    let mut numbers = file.get(at..)?.split(|byte| !byte.is_ascii_digit());
    let mut next = || core::str::from_utf8(numbers.next()?).ok()?.parse().ok();
    Some((next()?, next()?))
}

/// The fields of a PE header that a signature changes: its checksum, and the place of the signature.
fn signed(image: &[u8]) -> Option<[(usize, usize); 2]> {
    let pe = usize::try_from(u32_at(image, header::PE)?).ok()?;
    if !image.starts_with(b"MZ") || array(image, pe)? != *b"PE\0\0" {
        return None;
    }
    let optional = pe.checked_add(24)?;
    let directories = match u16_at(image, optional)? {
        0x20b => 112,
        0x10b => 96,
        _ => return None,
    };
    Some([(optional.checked_add(64)?, 4), (optional.checked_add(directories + 4 * 8)?, 8)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let long: Vec<u8> = (0..=255).collect();
        assert_eq!(crc32(&long), 0x2905_8c73);
        let slow = long
            .iter()
            .fold(u32::MAX, |crc, byte| TABLES[0][usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8));
        assert_eq!(crc32(&long), !slow);
    }

    const SETUP: usize = 1024;

    /// An image with a PE header, signed or not, and its checksum at its end.
    fn image(version: &[u8], signed: bool) -> Vec<u8> {
        let mut file = vec![0; SETUP + 4096];
        file[..2].copy_from_slice(b"MZ");
        file[header::PE] = 0x40;
        file[0x40..0x44].copy_from_slice(b"PE\0\0");
        file[0x58..0x5a].copy_from_slice(&0x20b_u16.to_le_bytes());
        file[header::SYSSIZE..][..4].copy_from_slice(&256_u32.to_le_bytes());
        file[header::KERNEL_VERSION..][..2].copy_from_slice(&0x100_u16.to_le_bytes());
        file[0x300..][..version.len()].copy_from_slice(version);
        for (number, byte) in file[SETUP..].iter_mut().enumerate() {
            *byte = u8::try_from(number * 7 % 251).unwrap();
        }
        let end = file.len() - 4;
        // The checksum's complement makes the whole one all ones.
        let crc = !crc32(&file[..end]);
        file[end..].copy_from_slice(&crc.to_le_bytes());
        if signed {
            file[0x98..0x9c].fill(0x5a);
            file[0xe8..0xf0].fill(0xa5);
            file.extend([0x77; 600]);
        }
        file
    }

    #[test]
    fn a_flipped_bit_is_found_but_for_a_signature_and_behind_the_image() {
        for signed in [false, true] {
            let good = image(b"6.1.0-9-amd64 (x@y) #1", signed);
            assert_eq!(check(&good, SETUP as u64), Ok(()));
            for at in [0x10, 0x99, 0xe9, SETUP, SETUP + 2000, SETUP + 4095] {
                let mut bad = good.clone();
                bad[at] ^= 4;
                let is_signature = [0x99, 0xe9].contains(&at);
                assert_eq!(check(&bad, SETUP as u64).is_ok(), is_signature, "{at:#x}");
            }
        }
    }

    #[test]
    fn images_without_a_checksum_are_taken_as_they_are() {
        for (version, has_one) in [(&b"6.14.9 "[..], true), (b"5.10", true), (b"6.15.0 ", false)] {
            let mut file = image(version, false);
            file[SETUP + 9] ^= 1;
            assert_eq!(check(&file, SETUP as u64).is_err(), has_one);
        }
        for version in [&b""[..], b"linux", b"6", b"99999999999.1"] {
            let mut file = image(version, false);
            file[SETUP + 9] ^= 1;
            assert_eq!(check(&file, SETUP as u64), Ok(()));
        }
    }

    #[test]
    fn wrong_numbers_are_told() {
        let mut file = image(b"6.1", false);
        file.truncate(SETUP + 4000);
        assert_eq!(check(&file, SETUP as u64), Err(ImageError::Truncated("bzImage kernel")));
        for pe in [0x3ff0_u32, u32::MAX, 1100] {
            let mut file = image(b"6.1", false);
            file[header::PE..][..4].copy_from_slice(&pe.to_le_bytes());
            assert!(check(&file, SETUP as u64).is_err());
        }
        let mut file = image(b"6.1", false);
        file[header::KERNEL_VERSION..][..2].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(check(&file, SETUP as u64), Ok(()));
    }
}
