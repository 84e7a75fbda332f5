//! Zstandard frames (RFC 8878), as a kernel's build packs them.
//!
//! Kernels are packed with a window of 128 MiB, more than twice what they unpack to. The decoder keeps as
//! much of its output as the frame's window says, so the window is made as small as the output allows
//! before it sees the frame; what a frame costs is then bounded by what it may become.

use alloc::vec::Vec;

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::io::Read;

use crate::decompress::{exact, output, split_length};
use crate::error::ImageError;

pub(crate) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Where the frame header's flags are.
const FLAGS: usize = 4;
/// The flag of a frame whose window is its whole content and is not stated.
const SINGLE_SEGMENT: u8 = 1 << 5;
/// Where the window's size is, if it is stated.
const WINDOW: usize = 5;
/// The longest frame header there is.
const MAX_HEADER: usize = 18;
/// The most that the decoder takes beside its window's next power of two.
const BESIDE: usize = 4 << 20;

/// Unpacks one frame with the kernel's length behind it.
pub(crate) fn unzstd(payload: &[u8], limit: usize) -> Result<Vec<u8>, ImageError> {
    let (input, len) = split_length(payload)?;
    let mut out = output(len, limit)?;
    let window = smallest_window(out.len());
    is_there(window.bytes.next_power_of_two().saturating_add(BESIDE))?;
    let (mut decoder, mut rest) = begin(input, window)?;
    loop {
        decoder.decode_blocks(&mut rest, BlockDecodingStrategy::UptoBlocks(1)).map_err(|_| damaged())?;
        if decoder.is_finished() {
            break;
        }
        // More than the window: more than was stated.
        if decoder.can_collect() > 0 {
            return Err(ImageError::DamagedPayload("zstd: length"));
        }
    }
    if decoder.can_collect() > out.len() {
        return Err(ImageError::DamagedPayload("zstd: length"));
    }
    let done = decoder.read(&mut out).map_err(|_| damaged())?;
    if decoder.get_checksum_from_data().is_some_and(|sum| decoder.get_calculated_checksum() != Some(sum)) {
        return Err(ImageError::DamagedPayload("zstd: checksum"));
    }
    exact(out, done, "zstd: length")
}

/// The decoder would end everything if there were no memory for it; so it is looked for before.
fn is_there(bytes: usize) -> Result<(), ImageError> {
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| ImageError::OutOfMemory)
}

fn damaged() -> ImageError {
    ImageError::DamagedPayload("zstd")
}

/// A decoder that has read the header, with a window of at most `window`, and what follows the header.
fn begin(input: &[u8], window: Window) -> Result<(FrameDecoder, &[u8]), ImageError> {
    let mut header = [0; MAX_HEADER];
    let stated = input.len().min(MAX_HEADER);
    header[..stated].copy_from_slice(input.get(..stated).unwrap_or_default());
    if header[FLAGS] & SINGLE_SEGMENT == 0 {
        header[WINDOW] = header[WINDOW].min(window.descriptor);
    }
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(window.bytes as u64);
    // The second time it takes the memory for the whole window at once instead of by and by.
    for _ in 0..2 {
        decoder.init(&header[..stated]).map_err(|_| damaged())?;
    }
    let len = usize::try_from(decoder.bytes_read_from_source()).map_err(|_| damaged())?;
    Ok((decoder, input.get(len..).ok_or_else(damaged)?))
}

/// A window's size, and the byte that states it in a frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    bytes: usize,
    descriptor: u8,
}

/// The smallest window that holds `len` bytes; the largest of all if none does.
fn smallest_window(len: usize) -> Window {
    (0..=u8::MAX)
        .map(Window::stated_by)
        .find(|window| window.bytes >= len)
        .unwrap_or(Window::stated_by(u8::MAX))
}

impl Window {
    /// Five bits of exponent above three of mantissa; windows grow with the byte.
    fn stated_by(descriptor: u8) -> Self {
        let base = 1024usize << (descriptor >> 3);
        Self { bytes: base + base / 8 * usize::from(descriptor & 7), descriptor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decompress::decompress;
    use alloc::vec;

    /// 1200 bytes packed as the kernel's build does it (level 22, window of 128 MiB, checksum), then the length.
    const ZSTD: &[u8] = &[
        0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x88, 0xdd, 0x01, 0x00, 0xb4, 0x02, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05,
        0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16,
        0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27,
        0x28, 0x29, 0x2a, 0x2b, 0x68, 0x01, 0xe0, 0x0f, 0x11, 0xfc, 0x7f, 0x43, 0xe0, 0x0f, 0x04, 0x28, 0x2b,
        0xea, 0x48, 0xcc, 0xc7, 0xb0, 0x04, 0x00, 0x00,
    ];
    /// Where its checksum is.
    const CHECKSUM: usize = ZSTD.len() - 8;

    fn sample() -> Vec<u8> {
        (0..300u32).flat_map(|i| (i / 7).to_le_bytes()).collect()
    }

    fn with_length(frame: &[u8], len: usize) -> Vec<u8> {
        [frame, &u32::try_from(len).unwrap().to_le_bytes()].concat()
    }

    /// A frame of uncompressed blocks of these sizes, all zero, with a window of 1 MiB.
    fn plain(blocks: &[usize]) -> Vec<u8> {
        let mut frame = [&MAGIC[..], &[0, 10 << 3]].concat();
        for (i, &len) in blocks.iter().enumerate() {
            let head = u32::try_from(len).unwrap() << 3 | u32::from(i + 1 == blocks.len());
            frame.extend_from_slice(&head.to_le_bytes()[..3]);
            frame.resize(frame.len() + len, 0);
        }
        frame
    }

    #[test]
    fn zstd_comes_back() {
        assert_eq!(decompress(ZSTD, 1 << 20).unwrap(), sample());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        for cut in 4..ZSTD.len() - 4 {
            assert!(decompress(&with_length(&ZSTD[..cut], 1200), 1 << 20).is_err(), "{cut}");
        }
        for bit in (6 * 8)..(ZSTD.len() * 8) {
            let mut file = ZSTD.to_vec();
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(decompress(&file, 1 << 20).map_or(true, |out| out == sample()), "{bit}");
        }
        let mut file = ZSTD.to_vec();
        file[CHECKSUM] ^= 1;
        assert_eq!(decompress(&file, 1 << 20), Err(ImageError::DamagedPayload("zstd: checksum")));
    }

    #[test]
    fn more_or_less_than_stated_is_damage() {
        let wrong = Err(ImageError::DamagedPayload("zstd: length"));
        assert_eq!(decompress(&with_length(&plain(&[5000; 3]), 15_000), 1 << 20), Ok(vec![0; 15_000]));
        assert_eq!(decompress(&with_length(&plain(&[5000; 3]), 14_999), 1 << 20), wrong);
        assert_eq!(decompress(&with_length(&plain(&[5000; 3]), 15_001), 1 << 20), wrong);
        // Noticed at the first block that is too much, not at the end.
        let mut endless = plain(&[100_000; 4]);
        endless.truncate(350_000);
        assert_eq!(decompress(&with_length(&endless, 200_000), 1 << 20), wrong);
    }

    #[test]
    fn the_window_is_as_small_as_the_output_allows() {
        assert_eq!(smallest_window(0), Window { bytes: 1 << 10, descriptor: 0 });
        assert_eq!(
            smallest_window((1 << 20) + 1),
            Window { bytes: (1 << 20) + (1 << 17), descriptor: 10 << 3 | 1 }
        );
        for len in [1usize, 1023, 1024, 1025, 50 << 20, 56_000_001, usize::MAX >> 24] {
            let window = smallest_window(len);
            assert!(window.bytes >= len && window.bytes <= (len + len / 8 + 1024), "{len}: {window:?}");
        }
    }

    #[test]
    fn the_limit_holds_before_anything_is_allocated() {
        assert_eq!(decompress(ZSTD, 1000), Err(ImageError::TooLarge { need: 1200, limit: 1000 }));
    }
}
