//! A range of I/O ports.

use pv_abi::physdev::PhysdevSetIopl;

use crate::arch::cpu;
use crate::hypercall::Result;
use crate::hypercall::typed::physdev;

/// Allows this vcpu's kernel to use the I/O ports that the domain may use. The SDK does it for every vcpu it
/// starts.
pub fn enable() -> Result {
    // The kernel counts as ring 1.
    physdev(PhysdevSetIopl { iopl: 1 }).map(drop)
}

/// The registers of a device that has them in I/O ports.
///
/// Offsets are relative to the first port and must lie in the range.
#[derive(Clone, Copy, Debug)]
pub struct PortRange {
    base: u16,
    len: u16,
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $input:ident, $output:ident) => {
        /// Reads a register.
        ///
        /// # Panics
        /// If `offset` is outside the range.
        #[must_use]
        pub fn $read(&self, offset: u16) -> $type {
            cpu::$input(self.port(offset))
        }

        /// Writes a register.
        ///
        /// # Panics
        /// If `offset` is outside the range.
        pub fn $write(&self, offset: u16, value: $type) {
            cpu::$output(self.port(offset), value);
        }
    };
}

impl PortRange {
    /// `len` ports from `base`.
    #[must_use]
    pub const fn new(base: u16, len: u16) -> Self {
        Self { base, len }
    }

    fn port(&self, offset: u16) -> u16 {
        assert!(offset < self.len, "register {offset:#x} outside the device");
        self.base.wrapping_add(offset)
    }

    access!(read_u8, write_u8, u8, in_u8, out_u8);
    access!(read_u16, write_u16, u16, in_u16, out_u16);
    access!(read_u32, write_u32, u32, in_u32, out_u32);
}
