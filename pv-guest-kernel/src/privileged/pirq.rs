//! Interrupt lines of devices, as events.

use core::sync::atomic::{AtomicBool, Ordering};

use pv_abi::evtchn::BindPirqFlags;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::physdev::{
    IrqStatus, MapPirqType, PhysdevEoi, PhysdevIrqStatusQuery, PhysdevMapPirq, PhysdevPciDeviceAdd,
    PhysdevPirqEoiGmfn, PhysdevSetupGsi, PhysdevUnmapPirq,
};

use super::pci::Function;
use crate::event::{self, EventChannel};
use crate::hypercall::typed::physdev;
use crate::hypercall::{self, Result};

/// `setup_gsi.triggering`: level.
const LEVEL: u8 = 1;
/// `setup_gsi.polarity`: active high.
const ACTIVE_HIGH: u8 = 0;
/// `setup_gsi.polarity`: active low.
const ACTIVE_LOW: u8 = 1;
/// Lines of ISA.
const ISA_LINES: u32 = 16;

/// A line that is bound to an event channel.
pub struct Irq {
    pirq: u32,
    channel: EventChannel,
    needs_eoi: AtomicBool,
}

impl Irq {
    /// Binds a PCI INTx line. On a PC board these are level-triggered; the board's firmware wires those that PCI shares with
    /// ISA active high, which the interrupt-source overrides say for them. The others are active low.
    pub fn bind_pci_gsi(gsi: u32) -> Result<Self> {
        let number = i32::try_from(gsi).map_err(|_| hypercall::Errno::Inval)?;
        let setup = PhysdevSetupGsi {
            gsi: number,
            triggering: LEVEL,
            polarity: if gsi < ISA_LINES { ACTIVE_HIGH } else { ACTIVE_LOW },
            ..PhysdevSetupGsi::default()
        };
        match physdev(setup) {
            // The line may have been set up already, by firmware's tables.
            Ok(_) | Err(hypercall::Errno::Exist) => {}
            Err(error) => return Err(error),
        }
        let map = PhysdevMapPirq {
            domid: DomId::SELF.raw(),
            kind: MapPirqType::Gsi.raw(),
            index: number,
            pirq: number,
            ..PhysdevMapPirq::default()
        };
        let map = physdev(map)?;
        let pirq = u32::try_from(map.pirq).map_err(|_| hypercall::Errno::Inval)?;
        let channel = event::bind_pirq(pirq, BindPirqFlags::WILL_SHARE)?;
        let irq = Self { pirq, channel, needs_eoi: AtomicBool::new(true) };
        irq.learn_eoi()?;
        // A line that was up before it was bound would never rise again.
        irq.eoi();
        Ok(irq)
    }

    /// Binds a message-signalled interrupt of `function`; the hypervisor programs the device's capability, and must
    /// know the function ([`add_pci_function`]). For MSI-X `entry` names the vector and the machine address of the
    /// table; for MSI it is `None`.
    pub fn bind_msi(function: Function, entry: Option<(u16, u64)>) -> Result<Self> {
        let map = PhysdevMapPirq {
            domid: DomId::SELF.raw(),
            kind: MapPirqType::MsiSeg.raw(),
            index: -1,
            pirq: -1,
            bus: i32::from(function.bus),
            devfn: i32::from(function.devfn()),
            entry_nr: entry.map_or(0, |(number, _)| i32::from(number)),
            table_base: entry.map_or(0, |(_, table)| table),
            ..PhysdevMapPirq::default()
        };
        let map = physdev(map)?;
        let pirq = u32::try_from(map.pirq).map_err(|_| hypercall::Errno::Inval)?;
        let channel = event::bind_pirq(pirq, BindPirqFlags::empty())?;
        let irq = Self { pirq, channel, needs_eoi: AtomicBool::new(true) };
        irq.learn_eoi()?;
        irq.eoi();
        Ok(irq)
    }

    fn learn_eoi(&self) -> Result {
        let query = physdev(PhysdevIrqStatusQuery { irq: self.pirq, flags: 0 })?;
        let needs = IrqStatus::from_bits_retain(query.flags).contains(IrqStatus::NEEDS_EOI);
        self.needs_eoi.store(needs, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for the line to fire.
    pub async fn wait(&self) {
        self.channel.wait().await;
    }

    /// Says that the devices on the line have been served, so that it may fire again.
    pub fn eoi(&self) {
        if self.needs_eoi.load(Ordering::Relaxed) {
            // There is no other way to go on if the hypervisor refuses.
            let _ = physdev(PhysdevEoi { irq: self.pirq });
        }
    }

    /// The line's number in the hypervisor.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.pirq
    }
}

/// Gives a pirq back that no [`Irq`] uses any more.
pub fn unmap(pirq: u32) -> Result {
    let pirq = i32::try_from(pirq).map_err(|_| hypercall::Errno::Inval)?;
    physdev(PhysdevUnmapPirq { domid: DomId::SELF.raw(), _pad: 0, pirq }).map(drop)
}

/// Shares a frame of this domain with the hypervisor, which sets a bit there for each pirq that wants an EOI. The frame is the
/// hypervisor's to write until the domain ends.
pub fn share_eoi_map(frame: Mfn) -> Result {
    physdev(PhysdevPirqEoiGmfn { gmfn: frame.raw() }).map(drop)
}

/// Tells the hypervisor about a PCI function; needed once before [`Irq::bind_msi`].
pub fn add_pci_function(function: Function) -> Result {
    let argument =
        PhysdevPciDeviceAdd { bus: function.bus, devfn: function.devfn(), ..PhysdevPciDeviceAdd::default() };
    match physdev(argument) {
        Ok(_) | Err(hypercall::Errno::Exist) => Ok(()),
        Err(error) => Err(error),
    }
}
