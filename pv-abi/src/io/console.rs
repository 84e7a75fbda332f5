//! The console page of a domU: two byte streams.

use core::sync::atomic::{AtomicU8, AtomicU32};

use super::byte_ring::ByteRing;

/// Bytes of the ring towards the guest.
pub const IN_SIZE: usize = 1024;
/// Bytes of the ring from the guest.
pub const OUT_SIZE: usize = 2048;

/// The console page. `in` is written by the back end, `out` by the guest.
#[derive(Debug)]
#[repr(C)]
#[doc(alias = "xencons_interface")]
pub struct XenconsInterface {
    /// Typed bytes (the ABI's `in`).
    pub input: [AtomicU8; IN_SIZE],
    /// Printed bytes (the ABI's `out`).
    pub output: [AtomicU8; OUT_SIZE],
    /// Index of the guest.
    pub in_cons: AtomicU32,
    /// Index of the back end.
    pub in_prod: AtomicU32,
    /// Index of the back end.
    pub out_cons: AtomicU32,
    /// Index of the guest.
    pub out_prod: AtomicU32,
}

impl XenconsInterface {
    /// The stream towards the guest.
    #[must_use]
    pub const fn input_ring(&self) -> ByteRing<'_> {
        ByteRing::new(&self.input, &self.in_cons, &self.in_prod)
    }

    /// The stream from the guest.
    #[must_use]
    pub const fn output_ring(&self) -> ByteRing<'_> {
        ByteRing::new(&self.output, &self.out_cons, &self.out_prod)
    }
}

impl Default for XenconsInterface {
    fn default() -> Self {
        Self {
            input: [const { AtomicU8::new(0) }; IN_SIZE],
            output: [const { AtomicU8::new(0) }; OUT_SIZE],
            in_cons: AtomicU32::new(0),
            in_prod: AtomicU32::new(0),
            out_cons: AtomicU32::new(0),
            out_prod: AtomicU32::new(0),
        }
    }
}
