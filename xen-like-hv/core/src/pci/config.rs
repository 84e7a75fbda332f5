//! Configuration space of a device, and what of it matters for messages (PCI Local Bus Specification 3.0, chapter 6).
//!
//! A device may answer anything: positions are bounded, lists end, and an address is believed only after the frame table has
//! said that no RAM and no controller of the hypervisor's lies there.

use super::Address;
use crate::frame::FrameTable;
use crate::port::{DeviceRegisters, PortWidth};
use pv_abi::ids::Mfn;

/// Identity of the capability for messages.
const MSI: u8 = 5;
/// Identity of the capability with a table of messages.
const MSIX: u8 = 0x11;
/// Bytes of the space: a capability that claims more would lead back to the header.
const SPACE: u16 = 256;
/// Most capabilities: the space behind the header, four bytes each.
const MOST_CAPABILITIES: usize = 48;

const COMMAND: u16 = 4;
const COMMAND_MEMORY: u16 = 1 << 1;
const STATUS: u16 = 6;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const HEADER_TYPE: u16 = 0xe;
const FIRST_BAR: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;
const PAGE: u64 = 4096;

/// A device's configuration space: the 256 bytes of mechanism 1.
pub(super) struct Config<'m, M> {
    m: &'m M,
    address: u32,
}

impl<'m, M: DeviceRegisters> Config<'m, M> {
    /// The space of a device of the first segment; other segments cannot be reached.
    pub(super) fn new(m: &'m M, at: Address) -> Option<Self> {
        let address = 1 << 31 | u32::from(at.bus) << 16 | u32::from(at.devfn) << 8;
        (at.segment == 0).then_some(Self { m, address })
    }

    fn register(&self, at: u16) -> (u32, u8) {
        (self.address | u32::from(at & 0xfc), u8::try_from(at & 3).unwrap_or(0))
    }

    pub(super) fn read(&self, at: u16, width: PortWidth) -> u32 {
        let (address, offset) = self.register(at);
        self.m.config_read(address, offset, width)
    }

    pub(super) fn write(&self, at: u16, width: PortWidth, value: u32) {
        let (address, offset) = self.register(at);
        self.m.config_write(address, offset, width, value);
    }

    fn read8(&self, at: u16) -> u8 {
        self.read(at, PortWidth::Byte).to_le_bytes()[0]
    }

    pub(super) fn read16(&self, at: u16) -> u16 {
        let [low, high, ..] = self.read(at, PortWidth::Word).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    pub(super) fn write16(&self, at: u16, value: u16) {
        self.write(at, PortWidth::Word, value.into());
    }

    fn read32(&self, at: u16) -> u32 {
        self.read(at, PortWidth::Dword)
    }

    /// The capability for messages, where all of it lies in configuration space.
    pub(super) fn msi(&self) -> Option<Msi> {
        self.capability(MSI).map(|at| Msi::read(self, at)).filter(|msi| msi.end() <= SPACE)
    }

    /// Where the capability with a table is, if all of it lies in configuration space.
    pub(super) fn msix(&self) -> Option<u16> {
        self.capability(MSIX).filter(|at| at + Msix::BYTES <= SPACE)
    }

    /// Where a capability is.
    fn capability(&self, identity: u8) -> Option<u16> {
        if self.read16(0) == u16::MAX || self.read16(STATUS) & STATUS_CAPABILITIES == 0 {
            return None;
        }
        let mut at = u16::from(self.read8(CAPABILITIES) & 0xfc);
        for _ in 0..MOST_CAPABILITIES {
            if at < 0x40 {
                return None;
            }
            let [id, next] = self.read16(at).to_le_bytes();
            if id == identity {
                return Some(at);
            }
            at = u16::from(next & 0xfc);
        }
        None
    }

    /// Whether the device answers in memory.
    pub(super) fn decodes_memory(&self) -> bool {
        self.read16(COMMAND) & COMMAND_MEMORY != 0
    }

    /// Machine address of a base address register for memory.
    fn memory_bar(&self, number: u16) -> Option<u64> {
        let bars = match self.read8(HEADER_TYPE) & 0x7f {
            0 => 6,
            1 => 2,
            _ => 0,
        };
        if number >= bars {
            return None;
        }
        let low = self.read32(FIRST_BAR + 4 * number);
        let high = match low & 7 {
            // 64 bits: the next register has the upper half.
            4 if number + 1 < bars => self.read32(FIRST_BAR + 4 * (number + 1)),
            0 | 2 => 0,
            _ => return None,
        };
        Some(u64::from(high) << 32 | u64::from(low & !0xf)).filter(|&base| base != 0)
    }

    /// Where a register of the MSI-X capability points: a BAR's number in its low bits, an offset in the others.
    fn pointer(&self, at: u16) -> Option<u64> {
        let value = self.read32(at);
        let [bar, ..] = (value & 7).to_le_bytes();
        self.memory_bar(bar.into())?.checked_add(u64::from(value & !7))
    }
}

/// The capability for messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Msi {
    /// Where it is.
    pub(super) at: u16,
    wide: bool,
    maskable: bool,
}

impl Msi {
    /// Control: the device sends messages.
    pub(super) const ENABLE: u16 = 1;
    /// Control: how many messages it may tell apart.
    pub(super) const MULTIPLE: u16 = 7 << 4;

    /// Reads what the capability at `at` can.
    fn read<M: DeviceRegisters>(config: &Config<'_, M>, at: u16) -> Self {
        let control = config.read16(at + 2);
        Self { at, wide: control & 1 << 7 != 0, maskable: control & 1 << 8 != 0 }
    }

    /// The control register.
    pub(super) fn control(self) -> u16 {
        self.at + 2
    }

    /// The low half of the address.
    pub(super) fn address(self) -> u16 {
        self.at + 4
    }

    /// The high half of the address, where there is one.
    pub(super) fn address_high(self) -> Option<u16> {
        self.wide.then_some(self.at + 8)
    }

    /// The value of the message.
    pub(super) fn data(self) -> u16 {
        if self.wide { self.at + 12 } else { self.at + 8 }
    }

    /// The mask, where there is one.
    pub(super) fn mask(self) -> Option<u16> {
        self.maskable.then_some(self.data() + 4)
    }

    /// One past its last byte.
    pub(super) fn end(self) -> u16 {
        self.mask().map_or(self.data() + 2, |mask| mask + 8)
    }
}

/// Frames, the last one included.
pub(super) type FrameRange = (Mfn, Mfn);

fn frames(at: u64, bytes: u64) -> Option<FrameRange> {
    let last = at.checked_add(bytes.max(1) - 1)?;
    Some((Mfn::new(at / PAGE), Mfn::new(last / PAGE)))
}

/// The capability with a table, and where the table is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Msix {
    /// Machine address of the table.
    pub(super) table: u64,
    /// Frames of the table.
    pub(super) table_frames: FrameRange,
    /// Frames of the pending bits.
    pub(super) pending_frames: FrameRange,
}

impl Msix {
    /// Control: the device sends messages.
    pub(super) const ENABLE: u16 = 1 << 15;
    /// Control: all entries are masked.
    pub(super) const MASK_ALL: u16 = 1 << 14;
    /// Bytes of an entry.
    pub(super) const ENTRY: u64 = 16;
    /// Bytes of the capability.
    pub(super) const BYTES: u16 = 12;

    /// Entries of the table.
    pub(super) fn entries<M: DeviceRegisters>(config: &Config<'_, M>, at: u16) -> u16 {
        (config.read16(at + 2) & 0x7ff) + 1
    }

    /// Finds the table of the capability at `at`: aligned, in registers of devices and nowhere else.
    pub(super) fn locate<M: DeviceRegisters>(
        config: &Config<'_, M>,
        at: u16,
        ram: &FrameTable,
    ) -> Option<Self> {
        let entries = u64::from(Self::entries(config, at));
        let table = config.pointer(at + 4)?;
        let pending = config.pointer(at + 8)?;
        let table_frames = frames(table, entries * Self::ENTRY)?;
        let pending_frames = frames(pending, entries.div_ceil(64) * 8)?;
        let are_devices =
            |(first, last): FrameRange| (first.raw()..=last.raw()).all(|mfn| ram.is_device(Mfn::new(mfn)));
        let sound = are_devices(table_frames) && are_devices(pending_frames);
        sound.then_some(Self { table, table_frames, pending_frames })
    }
}
