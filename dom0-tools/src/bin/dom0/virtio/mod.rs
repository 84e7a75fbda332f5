//! virtio devices with the legacy (transitional) PCI interface: registers in an I/O BAR, one INTx line.
//!
//! The legacy interface is enough for QEMU's disks and consoles and needs no mapping of device memory.
//! [`Transport`] is a device's registers, [`queue::Queue`] one of its rings, [`blk`], [`console`] and [`net`] the drivers.

pub(crate) mod blk;
pub(crate) mod console;
pub(crate) mod net;
pub(crate) mod queue;

use crate::pci::Function;
use pv_abi::errno::Errno;
use pv_guest_kernel::privileged::ports::PortRange;
use queue::{Queue, QueueError};

/// The vendor of every virtio device.
pub(crate) const VENDOR: u16 = 0x1af4;
/// Subsystem id of a network card.
pub(crate) const TYPE_NET: u16 = 1;
/// Subsystem id of a disk.
pub(crate) const TYPE_BLOCK: u16 = 2;
/// Subsystem id of a console.
pub(crate) const TYPE_CONSOLE: u16 = 3;
/// Transitional devices have ids up to this one; later ids have no legacy registers.
const LAST_TRANSITIONAL: u16 = 0x103f;

const REG_HOST_FEATURES: u16 = 0x00;
const REG_GUEST_FEATURES: u16 = 0x04;
const REG_QUEUE_PFN: u16 = 0x08;
const REG_QUEUE_SIZE: u16 = 0x0c;
const REG_QUEUE_SELECT: u16 = 0x0e;
const REG_QUEUE_NOTIFY: u16 = 0x10;
const REG_STATUS: u16 = 0x12;
const REG_ISR: u16 = 0x13;
const REG_CONFIG: u16 = 0x14;
/// Registers plus the part of the device's own configuration that the drivers read.
const NR_PORTS: u16 = 0x50;

const STATUS_ACKNOWLEDGE: u8 = 1;
const STATUS_DRIVER: u8 = 2;
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FAILED: u8 = 0x80;

/// Why a device cannot be used.
#[derive(Debug)]
pub(crate) enum InitError {
    /// Only the modern interface is there.
    NoLegacyInterface,
    /// The device lacks a feature that the driver builds on.
    MissingFeature(&'static str),
    /// A ring could not be set up.
    Queue(QueueError),
    /// Its interrupt line cannot be had.
    Interrupt(Errno),
}

impl core::fmt::Display for InitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoLegacyInterface => f.write_str("no legacy (I/O port) interface"),
            Self::MissingFeature(name) => write!(f, "the device does not offer {name}"),
            Self::Queue(QueueError::Absent) => f.write_str("a queue is missing"),
            Self::Interrupt(error) => write!(f, "interrupt line: {}", error.name()),
            Self::Queue(QueueError::NoMemory) => f.write_str("no contiguous memory for a queue"),
        }
    }
}

/// A device's registers.
pub(crate) struct Transport {
    ports: PortRange,
}

impl Transport {
    /// Resets the device and says that a driver is here. Returns the features the device offers.
    pub(crate) fn start(function: &Function) -> Result<(Self, u32), InitError> {
        let base = function.io_base.ok_or(InitError::NoLegacyInterface)?;
        if function.device > LAST_TRANSITIONAL {
            return Err(InitError::NoLegacyInterface);
        }
        function.enable();
        let ports = PortRange::new(base, NR_PORTS);
        ports.write_u8(REG_STATUS, 0);
        ports.write_u8(REG_STATUS, STATUS_ACKNOWLEDGE);
        ports.write_u8(REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
        let offered = ports.read_u32(REG_HOST_FEATURES);
        Ok((Self { ports }, offered))
    }

    /// Says which features the driver uses.
    pub(crate) fn accept(&self, features: u32) {
        self.ports.write_u32(REG_GUEST_FEATURES, features);
    }

    /// Makes ring `index` for up to `depth` requests in flight and tells the device where it is.
    pub(crate) fn queue(&self, index: u16, depth: u16) -> Result<Queue, InitError> {
        self.ports.write_u16(REG_QUEUE_SELECT, index);
        let size = self.ports.read_u16(REG_QUEUE_SIZE);
        let queue = Queue::new(index, size, depth).map_err(InitError::Queue)?;
        self.ports.write_u32(REG_QUEUE_PFN, queue.page_number());
        Ok(queue)
    }

    /// The driver is ready.
    pub(crate) fn run(&self) {
        self.ports.write_u8(REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK);
    }

    /// The driver gives up.
    pub(crate) fn fail(&self) {
        self.ports.write_u8(REG_STATUS, STATUS_FAILED);
    }

    /// Tells the device that ring `index` has new buffers.
    pub(crate) fn notify(&self, index: u16) {
        self.ports.write_u16(REG_QUEUE_NOTIFY, index);
    }

    /// Reads, and by that clears, the interrupt cause; the INTx line falls.
    pub(crate) fn take_isr(&self) -> u8 {
        self.ports.read_u8(REG_ISR)
    }

    /// A word of the device's own configuration.
    pub(crate) fn config_u32(&self, offset: u16) -> u32 {
        self.ports.read_u32(REG_CONFIG + offset)
    }
}
