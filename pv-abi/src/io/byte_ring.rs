//! One direction of a byte stream between two domains: a buffer, a producer's and a consumer's index.
//!
//! Indices count without wrapping at the buffer's size. The other side's index is an allegation: a distance larger
//! than the buffer is an error.

use core::sync::atomic::Ordering;

use super::ring::RingError;
use crate::atomic::{AtomicU8, AtomicU32};

/// A view of one direction. Each side uses either the reading or the writing half.
#[derive(Clone, Copy, Debug)]
pub struct ByteRing<'a> {
    data: &'a [AtomicU8],
    cons: &'a AtomicU32,
    prod: &'a AtomicU32,
}

impl<'a> ByteRing<'a> {
    /// A view of `data`, whose length must be a power of two (else nothing can be read or written).
    #[must_use]
    pub const fn new(data: &'a [AtomicU8], cons: &'a AtomicU32, prod: &'a AtomicU32) -> Self {
        Self { data, cons, prod }
    }

    fn size(&self) -> Result<u32, RingError> {
        let size = u32::try_from(self.data.len()).map_err(|_| RingError::TooSmall)?;
        if size.is_power_of_two() { Ok(size) } else { Err(RingError::TooSmall) }
    }

    fn byte(&self, index: u32, size: u32) -> Option<&'a AtomicU8> {
        self.data.get(usize::try_from(index & (size - 1)).ok()?)
    }

    /// Bytes that wait to be read.
    pub fn available(&self) -> Result<u32, RingError> {
        let used = self.prod.load(Ordering::Acquire).wrapping_sub(self.cons.load(Ordering::Acquire));
        if used > self.size()? { Err(RingError::BadIndex) } else { Ok(used) }
    }

    /// Bytes that can be written.
    pub fn room(&self) -> Result<u32, RingError> {
        Ok(self.size()? - self.available()?)
    }

    /// Writes as much of `bytes` as fits; returns how much. The caller notifies the other side.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, RingError> {
        let size = self.size()?;
        let prod = self.prod.load(Ordering::Relaxed);
        let used = prod.wrapping_sub(self.cons.load(Ordering::Acquire));
        let room = size.checked_sub(used).ok_or(RingError::BadIndex)?;
        let mut index = prod;
        for (&value, _) in bytes.iter().zip(0..room) {
            if let Some(byte) = self.byte(index, size) {
                byte.store(value, Ordering::Relaxed);
            }
            index = index.wrapping_add(1);
        }
        self.prod.store(index, Ordering::Release);
        usize::try_from(index.wrapping_sub(prod)).map_err(|_| RingError::TooSmall)
    }

    /// Reads as much as waits and fits; returns how much. The caller notifies the other side.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, RingError> {
        let size = self.size()?;
        let cons = self.cons.load(Ordering::Relaxed);
        let used = self.prod.load(Ordering::Acquire).wrapping_sub(cons);
        if used > size {
            return Err(RingError::BadIndex);
        }
        let mut index = cons;
        for (target, _) in buffer.iter_mut().zip(0..used) {
            if let Some(byte) = self.byte(index, size) {
                *target = byte.load(Ordering::Relaxed);
            }
            index = index.wrapping_add(1);
        }
        // Release: the bytes were read before the space is given back.
        self.cons.store(index, Ordering::Release);
        usize::try_from(index.wrapping_sub(cons)).map_err(|_| RingError::TooSmall)
    }
}
