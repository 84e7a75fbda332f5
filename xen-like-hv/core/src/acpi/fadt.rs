//! The FADT: registers for power and time (5.2.9), and the `_S5_` package of the DSDT.

use super::{u16_at, u32_at, u64_at};

/// An address space of a register (5.2.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Machine memory.
    Memory,
    /// I/O ports.
    Io,
}

/// Where a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Its address space.
    pub space: Space,
    /// Its address there.
    pub at: u64,
}

/// What is used of the FADT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fadt {
    /// Machine address of the DSDT.
    pub dsdt: u64,
    /// PM1a control register: sleep type and enable.
    pub pm1a_control: Option<Register>,
    /// PM1b control register.
    pub pm1b_control: Option<Register>,
    /// The 3.579545 MHz counter.
    pub pm_timer: Option<Register>,
    /// Whether that counter has 32 bits rather than 24.
    pub pm_timer_is_32_bits: bool,
    /// The reset register and what to write there.
    pub reset: Option<(Register, u8)>,
    /// Byte of the CMOS that holds the century, 0 for none.
    pub cmos_century: u8,
    /// Interrupt by which events are announced.
    pub sci_irq: u16,
    /// Whether the hardware-reduced profile is used: then there are no PM1 registers.
    pub hardware_reduced: bool,
}

/// Parses a FADT, header included; old, shorter revisions lack the later fields.
pub fn parse_fadt(table: &[u8]) -> Option<Fadt> {
    let flags = u32_at(table, 112)?;
    let old_dsdt = u64::from(u32_at(table, 40)?);
    let new_dsdt = u64_at(table, 140).unwrap_or(0);
    let reset_value = table.get(128).copied();
    let has_reset = flags & 1 << 10 != 0;
    let reset = generic(table, 116).filter(|_| has_reset).zip(reset_value);
    Some(Fadt {
        dsdt: if new_dsdt != 0 { new_dsdt } else { old_dsdt },
        pm1a_control: register(table, 172, 64),
        pm1b_control: register(table, 184, 68),
        pm_timer: register(table, 208, 76),
        pm_timer_is_32_bits: flags & 1 << 8 != 0,
        reset,
        cmos_century: *table.get(108)?,
        sci_irq: u16_at(table, 46)?,
        hardware_reduced: flags & 1 << 20 != 0,
    })
}

/// A register from its 12-byte generic address where that is there and set, else from its old port number.
fn register(table: &[u8], new: usize, old: usize) -> Option<Register> {
    generic(table, new).or_else(|| {
        let port = u32_at(table, old)?;
        (port != 0).then_some(Register { space: Space::Io, at: u64::from(port) })
    })
}

/// A generic address structure: space, width, offset, access size, 64-bit address.
fn generic(table: &[u8], at: usize) -> Option<Register> {
    let space = match table.get(at)? {
        0 => Space::Memory,
        1 => Space::Io,
        _ => return None,
    };
    let address = u64_at(table, at + 4)?;
    (address != 0).then_some(Register { space, at: address })
}

/// The sleep types of soft-off for PM1a and PM1b: the first two elements of `Name (_S5_, Package {...})`.
///
/// In AML (20.2) that is NameOp 08, optionally a root prefix, the name, PackageOp 12, a package length of 1 to 4 bytes,
/// the number of elements, and the elements: 00, 01, or 0A and a byte.
pub fn find_s5(dsdt: &[u8]) -> Option<(u8, u8)> {
    dsdt.windows(4).enumerate().filter(|(_, name)| name == b"_S5_").find_map(|(at, _)| {
        let before = dsdt.get(..at)?;
        let named = before.ends_with(&[0x08]) || before.ends_with(&[0x08, b'\\']);
        let package = dsdt.get(at + 4..)?.strip_prefix(&[0x12]).filter(|_| named)?;
        let length_bytes = 1 + usize::from(package.first()? >> 6);
        let elements = package.get(length_bytes + 1..)?;
        let (a, rest) = small_integer(elements)?;
        Some((a, small_integer(rest).map_or(a, |(b, _)| b)))
    })
}

/// A constant up to 255 and what follows it.
fn small_integer(aml: &[u8]) -> Option<(u8, &[u8])> {
    match *aml {
        [value @ (0 | 1), ref rest @ ..] | [0x0a, value, ref rest @ ..] => Some((value, rest)),
        _ => None,
    }
}
