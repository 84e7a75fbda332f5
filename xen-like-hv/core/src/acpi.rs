//! The few ACPI tables a hypervisor needs, parsed from untrusted bytes.
//!
//! The reader of machine memory is a port ([`PhysRead`]), so everything here runs on the host. Sections cited are
//! those of the ACPI specification 6.5. No AML is interpreted: the one AML object that matters, `_S5_`, is found by
//! its encoding.

use crate::bounded::Bounded;

mod fadt;
mod madt;
mod mcfg;

pub use fadt::{Fadt, Register, Space, find_s5, parse_fadt};
pub use madt::{Cpu, IoApic, Madt, Override, parse_madt};
pub use mcfg::{ConfigArea, parse_mcfg};

/// Reads machine memory that the firmware's tables point to.
pub trait PhysRead {
    /// Fills `buffer` from machine address `at`; false where that cannot be read.
    fn read(&self, at: u64, buffer: &mut [u8]) -> bool;
}

/// Bytes of a system description table's header (5.2.6).
pub const HEADER: usize = 36;

/// Most tables that are looked at.
pub const MAX_TABLES: usize = 64;

/// The root pointer's signature (5.2.5.3).
const RSDP_SIGNATURE: &[u8; 8] = b"RSD PTR ";

/// One table: signature, address, length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Four letters.
    pub signature: [u8; 4],
    /// Machine address of its header.
    pub at: u64,
    /// Bytes, header included.
    pub length: u32,
}

/// The tables the root table lists.
#[derive(Clone, Copy, Debug)]
pub struct Tables(Bounded<Table, MAX_TABLES>);

impl Tables {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Table> {
        self.0.as_slice().iter()
    }

    /// The first with a signature.
    pub fn find(&self, signature: &[u8; 4]) -> Option<&Table> {
        self.iter().find(|t| &t.signature == signature)
    }
}

/// Looks for the root pointer: on 16-byte boundaries of the first KiB of the extended BIOS data area, whose address
/// the word at 0x40e gives, then of 0xe0000–0xfffff (5.2.5.1).
pub fn find_rsdp(memory: &dyn PhysRead) -> Option<u64> {
    let mut word = [0; 2];
    let ebda = if memory.read(0x40e, &mut word) { u64::from(u16::from_le_bytes(word)) << 4 } else { 0 };
    let areas = [(ebda, ebda + 1024), (0xe_0000, 0x10_0000)];
    areas
        .into_iter()
        .filter(|&(start, _)| start >= 0x400)
        .flat_map(|(start, end)| (start..end).step_by(16))
        .find(|&at| read_rsdp(memory, at).is_some())
}

/// The address of the root table and whether its entries have 64 bits.
fn read_rsdp(memory: &dyn PhysRead, at: u64) -> Option<(u64, bool)> {
    let mut old = [0; 20];
    if !memory.read(at, &mut old) || &old[..8] != RSDP_SIGNATURE || !sums_to_zero(&old) {
        return None;
    }
    let rsdt = u64::from(u32_at(&old, 16)?);
    let mut new = [0; 36];
    // Revision 2 and later have an XSDT address, which is to be preferred when it is there and its sum holds.
    if old[15] >= 2 && memory.read(at, &mut new) && sums_to_zero(&new) {
        let xsdt = u64_at(&new, 24)?;
        if xsdt != 0 {
            return Some((xsdt, true));
        }
    }
    Some((rsdt, false))
}

/// Reads the root table and the header of everything it lists. Tables that cannot be read are left out.
pub fn read_tables(memory: &dyn PhysRead, rsdp: u64) -> Option<Tables> {
    let (root, wide) = read_rsdp(memory, rsdp)?;
    let header = read_header(memory, root)?;
    if &header.signature != if wide { b"XSDT" } else { b"RSDT" } {
        return None;
    }
    let entry_bytes = if wide { 8 } else { 4 };
    let mut tables = Tables(Bounded::new(Table::default()));
    let count = (u64::from(header.length).saturating_sub(HEADER as u64)) / entry_bytes;
    for index in 0..count.min(MAX_TABLES as u64) {
        let mut entry = [0; 8];
        let part = if wide { &mut entry[..] } else { &mut entry[..4] };
        if !memory.read(root + HEADER as u64 + index * entry_bytes, part) {
            break;
        }
        if let Some(table) = read_header(memory, u64::from_le_bytes(entry)) {
            // There is room for as many as the loop runs.
            let _ = tables.0.push(table);
        }
    }
    Some(tables)
}

/// Reads one table's header; the DSDT, which only the FADT names, is found this way too.
pub fn read_header(memory: &dyn PhysRead, at: u64) -> Option<Table> {
    let mut header = [0; HEADER];
    if at == 0 || !memory.read(at, &mut header) {
        return None;
    }
    let length = u32_at(&header, 4)?;
    let signature = [header[0], header[1], header[2], header[3]];
    (usize::try_from(length).ok()? >= HEADER).then_some(Table { signature, at, length })
}

/// Whether the bytes sum to zero, as those of every table do.
pub fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, &b| sum.wrapping_add(b)) == 0
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
