//! The hypervisor's state as a whole.

use alloc::string::String;

use crate::acpi::ConfigArea;
use crate::domain::DomainTable;
use crate::evtchn::GlobalVirqs;
use crate::evtchn::pirq::LineTable;
use crate::frame::FrameTable;
use crate::pci;
use crate::sched::Scheduler;

/// The firmware's names of a pcpu.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuName {
    /// Of its local APIC.
    pub apic_id: u32,
    /// In ACPI's tables.
    pub acpi_id: u32,
}

/// Facts about this boot that do not change.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    /// The hypervisor's command line.
    pub command_line: String,
    /// pcpus that were brought up.
    pub nr_pcpus: u32,
    /// What the firmware calls them, by number.
    pub cpu_names: alloc::vec::Vec<CpuName>,
    /// TSC frequency in kHz.
    pub tsc_khz: u32,
    /// Machine address width in bits.
    pub maddr_bits: u32,
    /// RAM of the machine in frames.
    pub total_frames: u64,
    /// The firmware's memory map, for dom0: `(start, length, type)` in bytes.
    pub memory_map: alloc::vec::Vec<(u64, u64, u32)>,
    /// PCI configuration space in memory, as the firmware tells of it.
    pub config_areas: alloc::vec::Vec<ConfigArea>,
}

/// All state. One exists for the machine; tests make as many as they like.
#[derive(Debug)]
pub struct Hypervisor {
    /// Facts about this boot.
    pub platform: Platform,
    /// Every frame of RAM.
    pub frames: FrameTable,
    /// Every domain.
    pub domains: DomainTable,
    /// Who runs where.
    pub sched: Scheduler,
    /// Who gets the virtual interrupts that concern the machine.
    pub virqs: GlobalVirqs,
    /// Who uses which physical interrupt line.
    pub lines: LineTable,
    /// PCI devices that dom0 has told of.
    pub pci: pci::Devices,
}

impl Hypervisor {
    /// The state of a machine without domains.
    #[must_use]
    pub fn new(platform: Platform, frames: FrameTable, sched: Scheduler) -> Self {
        Self {
            platform,
            frames,
            domains: DomainTable::default(),
            sched,
            virqs: GlobalVirqs::default(),
            lines: LineTable::default(),
            pci: pci::Devices::default(),
        }
    }
}
