//! Memory for devices: contiguous in machine addresses, copied in and out.

#![expect(unsafe_code, reason = "declares 16-bit atomics fit for shared memory")]

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use pv_abi::ids::MachAddr;

use crate::memory::{Live, PAGE_SIZE, SharedPages};

/// How often to look for contiguous frames before giving up.
const ATTEMPTS: usize = 64;

// SAFETY: an atomic, every pattern of which is valid.
unsafe impl Live for AtomicU16 {}

/// Zeroed memory that a device may read and write. Freed when dropped, so the device must be done with it by then.
#[derive(Debug)]
pub struct DmaBuf {
    pages: SharedPages,
    maddr: MachAddr,
}

impl DmaBuf {
    /// At least `bytes` bytes in whole pages, one after another for the device too; `None` if there are none.
    #[must_use]
    pub fn alloc(bytes: usize) -> Option<Self> {
        let count = bytes.div_ceil(PAGE_SIZE).max(1);
        // Kept until the end, so that each attempt sees other frames.
        let mut rejected = Vec::new();
        for _ in 0..ATTEMPTS {
            let pages = SharedPages::new(count)?;
            match contiguous(&pages) {
                Some(maddr) => return Some(Self { pages, maddr }),
                None => rejected.push(pages),
            }
        }
        None
    }

    /// Where the device finds the first byte.
    #[must_use]
    pub const fn maddr(&self) -> MachAddr {
        self.maddr
    }

    /// Where the device finds the byte at `offset`.
    #[must_use]
    pub const fn maddr_at(&self, offset: usize) -> MachAddr {
        MachAddr::new(self.maddr.raw() + offset as u64)
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.pages.count() * PAGE_SIZE
    }

    /// Never: there is at least one page.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Copies bytes out.
    ///
    /// # Panics
    /// If the range leaves the buffer.
    pub fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        self.pages.area().read(offset, into);
    }

    /// Copies bytes in.
    ///
    /// # Panics
    /// If the range leaves the buffer.
    pub fn write_bytes(&self, offset: usize, from: &[u8]) {
        self.pages.area().write(offset, from);
    }
}

macro_rules! access {
    ($($read:ident, $write:ident, $type:ty, $atomic:ty;)+) => {
        impl DmaBuf {
            $(
                /// Reads a number in one access.
                ///
                /// # Panics
                /// If it lies outside the buffer or is not aligned.
                #[must_use]
                pub fn $read(&self, offset: usize) -> $type {
                    self.pages.area().view::<$atomic>(offset).load(Ordering::Relaxed)
                }

                /// Writes a number in one access.
                ///
                /// # Panics
                /// If it lies outside the buffer or is not aligned.
                pub fn $write(&self, offset: usize, value: $type) {
                    self.pages.area().view::<$atomic>(offset).store(value, Ordering::Relaxed);
                }
            )+
        }
    };
}

access! {
    read_u8, write_u8, u8, AtomicU8;
    read_u16, write_u16, u16, AtomicU16;
    read_u32, write_u32, u32, AtomicU32;
    read_u64, write_u64, u64, AtomicU64;
}

/// The machine address of the first page, if the others follow it.
fn contiguous(pages: &SharedPages) -> Option<MachAddr> {
    let first = pages.mfn(0)?;
    let follows =
        |number: usize| pages.mfn(number).is_some_and(|mfn| mfn.raw() == first.raw() + number as u64);
    (0..pages.count()).all(follows).then(|| first.to_maddr())
}
