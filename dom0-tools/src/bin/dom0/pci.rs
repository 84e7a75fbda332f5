//! PCI: finding the machine's devices through configuration mechanism one (ports 0xcf8 and 0xcfc).
//!
//! The hypervisor lets dom0 reach these two ports and nobody else. Only what the drivers of this image need
//! is decoded: identity, the first I/O BAR, the interrupt line.

use alloc::vec::Vec;
use core::fmt;
use pv_guest_kernel::privileged::ports::PortRange;

const ADDRESS_PORT: u16 = 0xcf8;
const ENABLE: u32 = 1 << 31;
const VENDOR_NONE: u16 = 0xffff;

const REG_ID: u8 = 0x00;
const REG_COMMAND: u8 = 0x04;
const REG_HEADER: u8 = 0x0c;
const REG_BAR0: u8 = 0x10;
const REG_SUBSYSTEM: u8 = 0x2c;
const REG_INTERRUPT: u8 = 0x3c;

const COMMAND_IO: u32 = 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_INTX_OFF: u32 = 1 << 10;
const HEADER_MULTI: u32 = 1 << 23;
/// Bits 16..=22 of the header register: the layout of the header.
const HEADER_TYPE: u32 = 0x7f << 16;
/// A PCI-to-PCI bridge; its bus numbers are at register 0x18.
const HEADER_BRIDGE: u32 = 1 << 16;
const BAR_IO: u32 = 1;

/// Where a function sits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bdf {
    bus: u8,
    dev: u8,
    func: u8,
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.dev, self.func)
    }
}

/// What the drivers ask of a function.
#[derive(Clone, Copy)]
pub(crate) struct Function {
    /// Its address.
    pub(crate) bdf: Bdf,
    /// Vendor.
    pub(crate) vendor: u16,
    /// Device.
    pub(crate) device: u16,
    /// Subsystem device id; a transitional virtio device tells its type here.
    pub(crate) subsystem: u16,
    /// First port of BAR 0, if that is an I/O BAR.
    pub(crate) io_base: Option<u16>,
    /// The interrupt line register: on a PC the GSI when there is no AML interpreter to say better.
    pub(crate) irq_line: u8,
}

/// The configuration mechanism. One per machine.
pub(crate) struct ConfigSpace {
    ports: PortRange,
}

impl ConfigSpace {
    /// Takes the two ports.
    pub(crate) fn new() -> Self {
        Self { ports: PortRange::new(ADDRESS_PORT, 8) }
    }

    fn select(&self, bdf: Bdf, reg: u8) {
        let place = u32::from(bdf.bus) << 16 | u32::from(bdf.dev) << 11 | u32::from(bdf.func) << 8;
        self.ports.write_u32(0, ENABLE | place | u32::from(reg & 0xfc));
    }

    fn read(&self, bdf: Bdf, reg: u8) -> u32 {
        self.select(bdf, reg);
        self.ports.read_u32(4)
    }

    fn write(&self, bdf: Bdf, reg: u8, value: u32) {
        self.select(bdf, reg);
        self.ports.write_u32(4, value);
    }

    fn function(&self, bdf: Bdf) -> Option<Function> {
        let id = self.read(bdf, REG_ID);
        let [v0, v1, d0, d1] = id.to_le_bytes();
        let vendor = u16::from_le_bytes([v0, v1]);
        if vendor == VENDOR_NONE {
            return None;
        }
        let bar = self.read(bdf, REG_BAR0);
        let [b0, b1, ..] = (bar & !3).to_le_bytes();
        let io_base = (bar & BAR_IO != 0 && bar & !3 != 0).then(|| u16::from_le_bytes([b0, b1]));
        let [_, _, s0, s1] = self.read(bdf, REG_SUBSYSTEM).to_le_bytes();
        let [irq_line, ..] = self.read(bdf, REG_INTERRUPT).to_le_bytes();
        Some(Function {
            bdf,
            vendor,
            device: u16::from_le_bytes([d0, d1]),
            subsystem: u16::from_le_bytes([s0, s1]),
            io_base,
            irq_line,
        })
    }

    /// All functions on bus 0 and on what its bridges lead to.
    pub(crate) fn scan(&self) -> Vec<Function> {
        let mut found = Vec::new();
        self.scan_bus(0, &mut found);
        found
    }

    fn scan_bus(&self, bus: u8, found: &mut Vec<Function>) {
        for dev in 0..32 {
            let first = Bdf { bus, dev, func: 0 };
            let Some(function) = self.function(first) else { continue };
            found.push(function);
            let header = self.read(first, REG_HEADER);
            if header & HEADER_TYPE == HEADER_BRIDGE {
                let [_, secondary, ..] = self.read(first, 0x18).to_le_bytes();
                // A bridge that nobody set up reads 0; a lower bus number would be a loop.
                if secondary > bus {
                    self.scan_bus(secondary, found);
                }
            }
            if header & HEADER_MULTI != 0 {
                found.extend((1..8).filter_map(|func| self.function(Bdf { bus, dev, func })));
            }
        }
    }

    /// Lets a function decode its ports, master the bus and raise its INTx line.
    pub(crate) fn enable(&self, bdf: Bdf) {
        let command = self.read(bdf, REG_COMMAND) & 0xffff;
        self.write(bdf, REG_COMMAND, (command | COMMAND_IO | COMMAND_MASTER) & !COMMAND_INTX_OFF);
    }
}
