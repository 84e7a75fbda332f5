//! PCI configuration space, by the ports of mechanism 1.

use crate::arch::cpu::{in_u8, in_u16, in_u32, out_u8, out_u16, out_u32};
use crate::sync::IrqLock;

/// Address of the configuration register.
const ADDRESS_PORT: u16 = 0xcf8;
/// First of the four data ports.
const DATA_PORT: u16 = 0xcfc;

/// The two ports are one resource.
static PORTS: IrqLock<()> = IrqLock::new(());

/// A function of a PCI device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// Bus.
    pub bus: u8,
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

impl Function {
    /// A function. Bits beyond the field widths are dropped.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self { bus, device: device & 31, function: function & 7 }
    }

    /// Device and function as one number.
    #[must_use]
    pub const fn devfn(self) -> u8 {
        self.device << 3 | self.function
    }

    fn select(self, offset: u8) {
        let address =
            1 << 31 | u32::from(self.bus) << 16 | u32::from(self.devfn()) << 8 | u32::from(offset & !3);
        out_u32(ADDRESS_PORT, address);
    }

    fn data_port(offset: u8) -> u16 {
        DATA_PORT + u16::from(offset & 3)
    }

    /// Reads four bytes; the offset is rounded down to a multiple of four.
    #[must_use]
    pub fn read_u32(self, offset: u8) -> u32 {
        let _ports = PORTS.lock();
        self.select(offset);
        in_u32(DATA_PORT)
    }

    /// Reads two bytes; the offset must be even.
    #[must_use]
    pub fn read_u16(self, offset: u8) -> u16 {
        let _ports = PORTS.lock();
        self.select(offset);
        in_u16(Self::data_port(offset & !1))
    }

    /// Reads a byte.
    #[must_use]
    pub fn read_u8(self, offset: u8) -> u8 {
        let _ports = PORTS.lock();
        self.select(offset);
        in_u8(Self::data_port(offset))
    }

    /// Writes four bytes; the offset is rounded down to a multiple of four.
    pub fn write_u32(self, offset: u8, value: u32) {
        let _ports = PORTS.lock();
        self.select(offset);
        out_u32(DATA_PORT, value);
    }

    /// Writes two bytes; the offset must be even.
    pub fn write_u16(self, offset: u8, value: u16) {
        let _ports = PORTS.lock();
        self.select(offset);
        out_u16(Self::data_port(offset & !1), value);
    }

    /// Writes a byte.
    pub fn write_u8(self, offset: u8, value: u8) {
        let _ports = PORTS.lock();
        self.select(offset);
        out_u8(Self::data_port(offset), value);
    }

    /// Vendor and device number, if the function exists.
    #[must_use]
    pub fn identity(self) -> Option<(u16, u16)> {
        let vendor = self.read_u16(0);
        (vendor != 0xffff).then(|| (vendor, self.read_u16(2)))
    }
}

impl core::fmt::Display for Function {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

/// Every function of the first `buses` buses that exists.
pub fn functions(buses: u16) -> impl Iterator<Item = Function> {
    (0..buses)
        .filter_map(|bus| u8::try_from(bus).ok())
        .flat_map(|bus| (0..32).flat_map(move |device| device_functions(bus, device)))
}

fn device_functions(bus: u8, device: u8) -> impl Iterator<Item = Function> {
    const HEADER_TYPE: u8 = 0x0e;
    const MULTIFUNCTION: u8 = 0x80;
    let first = Function::new(bus, device, 0);
    let count = match first.identity() {
        None => 0,
        Some(_) if first.read_u8(HEADER_TYPE) & MULTIFUNCTION != 0 => 8,
        Some(_) => 1,
    };
    (0..count).map(move |function| Function::new(bus, device, function)).filter(|f| f.identity().is_some())
}
