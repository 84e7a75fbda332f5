//! Bitmaps of the control interfaces (`xenctl_bitmap`), as far as 64 bits.

use pv_abi::domctl::XenctlBitmap;
use pv_abi::errno::Errno;

use super::GuestPtr;
use crate::port::GuestMem;

/// Most bytes written to one bitmap: more than any machine has pcpus.
const MAX_BYTES: u32 = 4096;

/// Reads the first 64 bits; a shorter bitmap has zeros behind it.
pub(super) fn read(m: &impl GuestMem, map: &XenctlBitmap) -> Result<u64, Errno> {
    let bits = map.nr_bits.min(64);
    let len = usize::try_from(bits.div_ceil(8)).map_err(|_| Errno::Inval)?;
    let mut bytes = [0; 8];
    GuestPtr::<u8>::array(map.bitmap, u64::from(bits.div_ceil(8)))?.read_slice(m, 0, &mut bytes[..len])?;
    let mask = u64::MAX.checked_shr(64 - bits).unwrap_or(0);
    Ok(u64::from_le_bytes(bytes) & mask)
}

/// Writes 64 bits, cut where the bitmap ends, with zeros behind them.
pub(super) fn write(m: &impl GuestMem, map: &XenctlBitmap, value: u64) -> Result<(), Errno> {
    let len = map.nr_bits.div_ceil(8);
    if len > MAX_BYTES {
        return Err(Errno::Inval);
    }
    let ptr = GuestPtr::<u8>::array(map.bitmap, u64::from(len))?;
    let mask = u64::MAX.checked_shr(64 - map.nr_bits.min(64)).unwrap_or(0);
    let bytes = (value & mask).to_le_bytes();
    for at in 0..u64::from(len) {
        let byte = usize::try_from(at).ok().and_then(|n| bytes.get(n)).copied().unwrap_or(0);
        ptr.write_at(m, at, &byte)?;
    }
    Ok(())
}
