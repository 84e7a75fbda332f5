//! PCI: the machine's functions as the drivers of this image see them.
//!
//! Only what they need is decoded: identity, the first I/O BAR, the interrupt line.

use alloc::vec::Vec;

use pv_guest_kernel::privileged::pci;

const REG_COMMAND: u8 = 0x04;
const REG_HEADER_TYPE: u8 = 0x0e;
const REG_BAR0: u8 = 0x10;
const REG_SUBORDINATE_BUS: u8 = 0x1a;
const REG_SUBSYSTEM: u8 = 0x2e;
const REG_INTERRUPT_LINE: u8 = 0x3c;

const COMMAND_IO: u16 = 1;
const COMMAND_MASTER: u16 = 1 << 2;
const COMMAND_INTX_OFF: u16 = 1 << 10;
const HEADER_LAYOUT: u8 = 0x7f;
const HEADER_BRIDGE: u8 = 1;
const BAR_IO: u32 = 1;
const BAR_IO_ADDRESS: u32 = !3;

/// A function.
#[derive(Clone, Copy)]
pub(crate) struct Function {
    /// Where it is.
    pub(crate) place: pci::Function,
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

impl Function {
    fn read(place: pci::Function) -> Option<Self> {
        let (vendor, device) = place.identity()?;
        let bar = place.read_u32(REG_BAR0);
        let base = u16::try_from(bar & BAR_IO_ADDRESS).ok().filter(|base| *base != 0);
        Some(Self {
            place,
            vendor,
            device,
            subsystem: place.read_u16(REG_SUBSYSTEM),
            io_base: base.filter(|_| bar & BAR_IO != 0),
            irq_line: place.read_u8(REG_INTERRUPT_LINE),
        })
    }

    /// Lets the function decode its ports, master the bus and raise its INTx line.
    pub(crate) fn enable(&self) {
        let command = self.place.read_u16(REG_COMMAND);
        self.place.write_u16(REG_COMMAND, (command | COMMAND_IO | COMMAND_MASTER) & !COMMAND_INTX_OFF);
    }
}

/// All functions on bus 0 and on the buses that its bridges lead to.
pub(crate) fn scan() -> Vec<Function> {
    let is_bridge = |place: &pci::Function| place.read_u8(REG_HEADER_TYPE) & HEADER_LAYOUT == HEADER_BRIDGE;
    let bridges = pci::functions(1).filter(is_bridge);
    let last = bridges.map(|bridge| bridge.read_u8(REG_SUBORDINATE_BUS)).max().unwrap_or(0);
    pci::functions(u16::from(last) + 1).filter_map(Function::read).collect()
}
