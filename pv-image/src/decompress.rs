//! Unpacking of kernel payloads: gzip, XZ and the LZ4 legacy frame (which has no checksum: see [`crate::checksum`]); Zstandard is [`crate::zstd`]'s.
//!
//! Except for gzip, which carries its own, the kernel's build appends the unpacked length as a
//! little-endian `u32` to the packed stream. That length is only an upper bound for us: it decides the
//! allocation after it has been compared with the caller's limit.

use alloc::vec::Vec;

use xz4rust::{XzDecoder, XzError, XzNextBlockResult};

use crate::bytes::u32_at;
use crate::checksum::crc32;
use crate::error::ImageError;
use crate::zstd;

/// XZ streams of kernels use at most this dictionary (the build uses 32 MiB).
const XZ_MAX_DICT: usize = 64 << 20;
/// The dictionary that is tried first; a stream that needs a larger one says so before anything is unpacked.
const XZ_FIRST_DICT: usize = 1 << 16;
/// Every block of an LZ4 legacy frame but the last unpacks to exactly this.
const LZ4_BLOCK: usize = 8 << 20;
pub(crate) const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// Unpacks a bzImage payload, telling the method by its first bytes.
pub(crate) fn decompress(payload: &[u8], limit: usize) -> Result<Vec<u8>, ImageError> {
    let magic: [u8; 4] =
        payload.get(..4).and_then(|m| m.try_into().ok()).ok_or(ImageError::Truncated("bzImage payload"))?;
    match magic {
        [0x1f, 0x8b, ..] => gunzip(payload, limit),
        [0xfd, b'7', b'z', b'X'] => unxz(payload, limit),
        LZ4_LEGACY_MAGIC => unlz4(payload, limit),
        zstd::MAGIC => zstd::unzstd(payload, limit),
        [b'B', b'Z', b'h', _] => Err(ImageError::UnsupportedCompression("bzip2")),
        [0x89, b'L', b'Z', b'O'] => Err(ImageError::UnsupportedCompression("lzo")),
        [0x5d, 0, 0, _] => Err(ImageError::UnsupportedCompression("lzma")),
        other => Err(ImageError::UnknownCompression(other)),
    }
}

/// A zeroed buffer of the stream's stated length.
pub(crate) fn output(len: u32, limit: usize) -> Result<Vec<u8>, ImageError> {
    let need = usize::try_from(len).map_err(|_| ImageError::OutOfMemory)?;
    if need > limit {
        return Err(ImageError::TooLarge { need: u64::from(len), limit: limit as u64 });
    }
    zeroed(need)
}

pub(crate) fn zeroed(len: usize) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| ImageError::OutOfMemory)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Splits the appended length off.
pub(crate) fn split_length(payload: &[u8]) -> Result<(&[u8], u32), ImageError> {
    let at = payload.len().checked_sub(4).ok_or(ImageError::Truncated("bzImage payload"))?;
    let len = u32_at(payload, at).ok_or(ImageError::Truncated("bzImage payload"))?;
    Ok((payload.get(..at).unwrap_or_default(), len))
}

fn unxz(payload: &[u8], limit: usize) -> Result<Vec<u8>, ImageError> {
    let (input, len) = split_length(payload)?;
    let mut out = output(len, limit)?;
    let mut dict = XZ_FIRST_DICT;
    loop {
        match unxz_with(dict, input, &mut out)? {
            Unxz::Done(done) => return exact(out, done, "xz: length"),
            Unxz::NeedsDict(need) if need > XZ_MAX_DICT => {
                return Err(ImageError::DamagedPayload("xz: dictionary"));
            }
            // Blocks may each want more than the one before: the second time they get the most there is.
            Unxz::NeedsDict(need) => dict = if dict == XZ_FIRST_DICT { need } else { XZ_MAX_DICT },
        }
    }
}

/// What came of unpacking an XZ stream with a dictionary of some size.
enum Unxz {
    /// So many bytes.
    Done(usize),
    /// A block needs a larger one.
    NeedsDict(usize),
}

/// The decoder would end everything if there were no memory for a dictionary; so it gets one that is there.
fn unxz_with(dict: usize, mut input: &[u8], out: &mut [u8]) -> Result<Unxz, ImageError> {
    let mut decoder = XzDecoder::in_heap_with_alloc_dict(zeroed(dict)?, dict);
    let mut done = 0;
    loop {
        let room = out.get_mut(done..).unwrap_or_default();
        let step = match decoder.decode(input, room) {
            Ok(step) => step,
            Err(XzError::DictionaryTooLarge(need)) => {
                return Ok(Unxz::NeedsDict(usize::try_from(need).unwrap_or(usize::MAX)));
            }
            Err(_) => return Err(ImageError::DamagedPayload("xz")),
        };
        input = input.get(step.input_consumed()..).unwrap_or_default();
        done += step.output_produced();
        if matches!(step, XzNextBlockResult::EndOfStream(..)) {
            return Ok(Unxz::Done(done));
        }
        if step.input_consumed() == 0 && step.output_produced() == 0 {
            return Err(ImageError::DamagedPayload("xz: ends early"));
        }
    }
}

fn unlz4(payload: &[u8], limit: usize) -> Result<Vec<u8>, ImageError> {
    let (stream, len) = split_length(payload)?;
    let mut out = output(len, limit)?;
    let mut rest = stream.get(LZ4_LEGACY_MAGIC.len()..).unwrap_or_default();
    let mut done = 0usize;
    while !rest.is_empty() {
        let damaged = || ImageError::DamagedPayload("lz4");
        let packed = u32_at(rest, 0).and_then(|n| usize::try_from(n).ok()).ok_or_else(damaged)?;
        let block = packed.checked_add(4).and_then(|end| rest.get(4..end)).ok_or_else(damaged)?;
        let end = done.saturating_add(LZ4_BLOCK).min(out.len());
        let room = out.get_mut(done..end).ok_or_else(damaged)?;
        done += lz4_flex::block::decompress_into(block, room).map_err(|_| damaged())?;
        rest = rest.get(4 + packed..).unwrap_or_default();
    }
    exact(out, done, "lz4: length")
}

/// Unpacks one gzip member (RFC 1952) and checks its length and CRC.
pub(crate) fn gunzip(file: &[u8], limit: usize) -> Result<Vec<u8>, ImageError> {
    let truncated = || ImageError::Truncated("gzip stream");
    let start = gzip_header_len(file).ok_or_else(truncated)?;
    let trailer = file.len().checked_sub(8).filter(|&at| at >= start).ok_or_else(truncated)?;
    let crc = u32_at(file, trailer).ok_or_else(truncated)?;
    let len = u32_at(file, trailer + 4).ok_or_else(truncated)?;
    let mut out = output(len, limit)?;
    let packed = file.get(start..trailer).ok_or_else(truncated)?;
    let done =
        miniz_oxide::inflate::decompress_slice_iter_to_slice(&mut out, core::iter::once(packed), false, true)
            .map_err(|_| ImageError::DamagedPayload("gzip"))?;
    if crc32(out.get(..done).unwrap_or_default()) != crc {
        return Err(ImageError::DamagedPayload("gzip: checksum"));
    }
    exact(out, done, "gzip: length")
}

/// Length of the header, with its optional fields.
fn gzip_header_len(file: &[u8]) -> Option<usize> {
    const FHCRC: u8 = 2;
    const FEXTRA: u8 = 4;
    const FNAME: u8 = 8;
    const FCOMMENT: u8 = 16;
    let flags = *file.get(3)?;
    let mut at = 10usize;
    if flags & FEXTRA != 0 {
        let len = file.get(at..at + 2)?;
        at += 2 + usize::from(u16::from_le_bytes(len.try_into().ok()?));
    }
    for flag in [FNAME, FCOMMENT] {
        if flags & flag != 0 {
            at += file.get(at..)?.iter().position(|&b| b == 0)? + 1;
        }
    }
    if flags & FHCRC != 0 {
        at += 2;
    }
    Some(at)
}

pub(crate) fn exact(mut out: Vec<u8>, done: usize, what: &'static str) -> Result<Vec<u8>, ImageError> {
    if done != out.len() {
        return Err(ImageError::DamagedPayload(what));
    }
    out.truncate(done);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut file = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3];
        file.extend_from_slice(b"name\0");
        file.extend_from_slice(&miniz_oxide::deflate::compress_to_vec(data, 6));
        file.extend_from_slice(&crc32(data).to_le_bytes());
        file.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
        file
    }

    fn lz4(data: &[u8]) -> Vec<u8> {
        // A literals-only block needs no compressor: token 0xf0, length bytes, literals.
        let mut block = vec![];
        let len = data.len();
        assert!(len >= 15);
        block.push(0xf0);
        let mut rest = len - 15;
        while rest >= 255 {
            block.push(255);
            rest -= 255;
        }
        block.push(u8::try_from(rest).unwrap());
        block.extend_from_slice(data);
        let mut file = LZ4_LEGACY_MAGIC.to_vec();
        file.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
        file.extend_from_slice(&block);
        file.extend_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
        file
    }

    fn sample() -> Vec<u8> {
        (0..5000u32).flat_map(|i| (i / 7).to_le_bytes()).collect()
    }

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn gzip_comes_back() {
        assert_eq!(decompress(&gzip(&sample()), 1 << 20).unwrap(), sample());
    }

    #[test]
    fn lz4_comes_back() {
        assert_eq!(decompress(&lz4(&sample()), 1 << 20).unwrap(), sample());
    }

    /// The first 1200 bytes of `sample()` as the kernel's build packs them: xz with the x86 filter and a
    /// CRC-32, then the length.
    const XZ: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x01, 0x04, 0x00, 0x21,
        0x01, 0x10, 0x00, 0x8b, 0x21, 0x6f, 0x49, 0xe0, 0x04, 0xaf, 0x00, 0x51, 0x5d, 0x00, 0x00, 0x6e, 0x10,
        0x49, 0x68, 0x89, 0xfe, 0x2c, 0x65, 0x0f, 0x44, 0x6c, 0x67, 0x40, 0x11, 0xf3, 0x5e, 0xfd, 0xdc, 0xcf,
        0x42, 0xb9, 0x64, 0xab, 0x72, 0xa7, 0xc0, 0x90, 0xa6, 0x37, 0xc7, 0x3a, 0x60, 0x34, 0xbb, 0x5c, 0x81,
        0x61, 0x10, 0xcb, 0x6d, 0xe0, 0x00, 0x8e, 0x04, 0xd5, 0xf3, 0x2f, 0xf1, 0x9f, 0x0a, 0x4b, 0x37, 0xb4,
        0x06, 0xd7, 0x07, 0x9c, 0xc4, 0xa6, 0x46, 0x2b, 0x94, 0x2b, 0xa8, 0xeb, 0x04, 0xd3, 0x84, 0x32, 0x7d,
        0x3b, 0x9a, 0xe6, 0x0b, 0x3b, 0xfe, 0x4c, 0xfa, 0x1f, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0f, 0xb5, 0xda,
        0x8a, 0x00, 0x01, 0x69, 0xb0, 0x09, 0x00, 0x00, 0x00, 0xd1, 0xcd, 0x61, 0x81, 0x3e, 0x30, 0x0d, 0x8b,
        0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a, 0xb0, 0x04, 0x00, 0x00,
    ];

    #[test]
    fn xz_comes_back() {
        assert_eq!(decompress(XZ, 1 << 20).unwrap(), sample()[..1200]);
        let cut = &XZ[..XZ.len() - 40];
        assert!(matches!(
            decompress(cut, 1 << 30),
            Err(ImageError::DamagedPayload(_) | ImageError::TooLarge { .. })
        ));
    }

    #[test]
    fn damage_is_noticed() {
        let mut file = gzip(&sample());
        let middle = file.len() / 2;
        file[middle] ^= 0x55;
        assert!(matches!(gunzip(&file, 1 << 20), Err(ImageError::DamagedPayload(_))));
        let mut file = lz4(&sample());
        file[4] = 0xff;
        assert!(matches!(decompress(&file, 1 << 20), Err(ImageError::DamagedPayload("lz4"))));
    }

    #[test]
    fn the_limit_holds_before_anything_is_allocated() {
        let error = gunzip(&gzip(&sample()), 100).unwrap_err();
        assert_eq!(error, ImageError::TooLarge { need: 20_000, limit: 100 });
    }

    #[test]
    fn unknown_methods_are_named() {
        assert_eq!(decompress(b"BZh91AY", 10), Err(ImageError::UnsupportedCompression("bzip2")));
        assert_eq!(decompress(b"abcdef", 10), Err(ImageError::UnknownCompression(*b"abcd")));
    }
}
