//! The MADT: processors and interrupt controllers (5.2.12).

use super::{HEADER, u16_at, u32_at, u64_at};
use crate::bounded::Bounded;

/// Most processors that are looked at; more than are used, since firmware lists disabled ones too.
const MAX_CPUS: usize = 256;

/// A usable processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Its local APIC's id.
    pub apic_id: u32,
    /// The firmware's number for it, which dom0 may ask for.
    pub acpi_id: u32,
}

/// An IO-APIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoApic {
    /// Its id.
    pub id: u8,
    /// Machine address of its registers.
    pub at: u64,
    /// First global system interrupt of its pins.
    pub gsi_base: u32,
}

/// An ISA interrupt that is not at the pin of its number, or not edge-triggered and active high.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// ISA interrupt.
    pub isa_irq: u8,
    /// Where it arrives.
    pub gsi: u32,
    /// Whether a low level is the active one.
    pub active_low: bool,
    /// Whether the level, not the edge, signals.
    pub level: bool,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Madt {
    /// Machine address of the local APICs' registers.
    pub lapic_at: u64,
    /// Whether there is a pair of 8259s to be silenced.
    pub has_pic: bool,
    /// Usable processors, in the firmware's order.
    pub cpus: Bounded<Cpu, MAX_CPUS>,
    /// IO-APICs.
    pub io_apics: Bounded<IoApic, 16>,
    /// Interrupt source overrides.
    pub overrides: Bounded<Override, 32>,
    /// Entries that were malformed or too many.
    pub ignored: usize,
}

impl Madt {
    /// Where an ISA interrupt arrives.
    pub fn isa_to_gsi(&self, isa_irq: u8) -> Override {
        let standard = Override { isa_irq, gsi: u32::from(isa_irq), active_low: false, level: false };
        self.overrides.as_slice().iter().find(|o| o.isa_irq == isa_irq).copied().unwrap_or(standard)
    }
}

/// Parses a whole MADT, header included.
pub fn parse_madt(table: &[u8]) -> Option<Madt> {
    let mut madt = Madt {
        lapic_at: u64::from(u32_at(table, HEADER)?),
        has_pic: u32_at(table, HEADER + 4)? & 1 != 0,
        cpus: Bounded::new(Cpu::default()),
        io_apics: Bounded::new(IoApic::default()),
        overrides: Bounded::new(Override::default()),
        ignored: 0,
    };
    let mut rest = table.get(HEADER + 8..)?;
    while let &[kind, length, ..] = rest {
        let Some(entry) = rest.get(..usize::from(length)).filter(|_| length >= 2) else {
            madt.ignored += 1;
            break;
        };
        if parse_entry(&mut madt, kind, entry).is_none() {
            madt.ignored += 1;
        }
        rest = &rest[usize::from(length)..];
    }
    Some(madt)
}

/// One entry; `None` when it is malformed or there is no room for it.
fn parse_entry(madt: &mut Madt, kind: u8, entry: &[u8]) -> Option<()> {
    match kind {
        0 => add_cpu(madt, u32::from(*entry.get(3)?), u32::from(*entry.get(2)?), u32_at(entry, 4)?, 0xff),
        9 => add_cpu(madt, u32_at(entry, 4)?, u32_at(entry, 12)?, u32_at(entry, 8)?, u32::MAX),
        1 => madt
            .io_apics
            .push(IoApic {
                id: *entry.get(2)?,
                at: u64::from(u32_at(entry, 4)?),
                gsi_base: u32_at(entry, 8)?,
            })
            .ok(),
        2 => {
            let flags = u16_at(entry, 8)?;
            let parsed = Override {
                isa_irq: *entry.get(3)?,
                gsi: u32_at(entry, 4)?,
                active_low: flags & 3 == 3,
                level: flags >> 2 & 3 == 3,
            };
            madt.overrides.push(parsed).ok()
        }
        5 => {
            madt.lapic_at = u64_at(entry, 4)?;
            Some(())
        }
        // NMI wiring, other architectures and what is yet to come.
        _ => Some(()),
    }
}

/// Adds a processor that is enabled (flags bit 0), has a valid id and was not listed before: a processor may have
/// both a local APIC and a local x2APIC entry.
fn add_cpu(madt: &mut Madt, apic_id: u32, acpi_id: u32, flags: u32, invalid: u32) -> Option<()> {
    let known = madt.cpus.as_slice().iter().any(|c| c.apic_id == apic_id);
    if flags & 1 == 0 || apic_id == invalid || known {
        return Some(());
    }
    madt.cpus.push(Cpu { apic_id, acpi_id }).ok()
}
