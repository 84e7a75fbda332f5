//! The MCFG: PCI configuration space in memory (PCI Firmware Specification 3.2, 4.1.2).

use super::{HEADER, u16_at, u64_at};
use crate::bounded::Bounded;

/// Most areas that are looked at.
const MOST: usize = 16;
/// Bytes between the header and the first area.
const RESERVED: usize = 8;
/// Bytes of an area's entry.
const ENTRY: usize = 16;
/// Bytes of configuration space for each bus.
const BUS_BYTES: u64 = 1 << 20;

/// An area: 4 KiB for each function of a range of buses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfigArea {
    /// Machine address of bus 0's space, which need not be in the area.
    pub base: u64,
    /// Segment.
    pub segment: u16,
    /// First bus.
    pub first_bus: u8,
    /// Last bus.
    pub last_bus: u8,
}

impl ConfigArea {
    /// The area's first and last machine address.
    #[must_use]
    pub fn bounds(&self) -> Option<(u64, u64)> {
        let at = |bus: u64| self.base.checked_add(bus * BUS_BYTES);
        Some((at(self.first_bus.into())?, at(u64::from(self.last_bus) + 1)?.checked_sub(1)?))
    }

    /// Bus, device and function, and register that a machine address is for.
    #[must_use]
    pub fn named_by(&self, at: u64) -> Option<(u8, u8, u16)> {
        let (first, last) = self.bounds()?;
        let offset = at.checked_sub(self.base).filter(|_| (first..=last).contains(&at))?;
        let bus = u8::try_from(offset >> 20).ok()?;
        let [low, middle, high, ..] = offset.to_le_bytes();
        let devfn = high << 4 | middle >> 4;
        Some((bus, devfn, u16::from_le_bytes([low, middle & 0xf])))
    }
}

/// Parses a table whose sum holds. Areas that make no sense are left out.
#[must_use]
pub fn parse_mcfg(table: &[u8]) -> Bounded<ConfigArea, 16> {
    let mut areas = Bounded::<ConfigArea, MOST>::default();
    let entries = table.get(HEADER + RESERVED..).unwrap_or_default();
    for entry in entries.chunks_exact(ENTRY) {
        let (Some(base), Some(segment), Some(buses)) =
            (u64_at(entry, 0), u16_at(entry, 8), u16_at(entry, 10))
        else {
            continue;
        };
        let [first_bus, last_bus] = buses.to_le_bytes();
        let area = ConfigArea { base, segment, first_bus, last_bus };
        let sound = base != 0 && base.is_multiple_of(BUS_BYTES) && first_bus <= last_bus;
        if sound && area.bounds().is_some() && areas.push(area).is_err() {
            break;
        }
    }
    areas
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn table(areas: &[(u64, u16, u8, u8)]) -> Vec<u8> {
        let mut table = alloc::vec![0; HEADER + RESERVED];
        for (base, segment, first, last) in areas {
            table.extend(base.to_le_bytes());
            table.extend(segment.to_le_bytes());
            table.extend([*first, *last, 0, 0, 0, 0]);
        }
        table
    }

    #[test]
    fn areas_are_read_and_nonsense_is_left_out() {
        let found = parse_mcfg(&table(&[
            (0xb000_0000, 0, 0, 255),
            (0, 1, 0, 0),
            (0xb000_1000, 2, 0, 0),
            (0xb000_0000, 3, 9, 8),
            (0xffff_ffff_fff0_0000, 4, 1, 2),
            (0xc000_0000, 5, 16, 31),
        ]));
        let segments: Vec<_> = found.as_slice().iter().map(|area| area.segment).collect();
        assert_eq!(segments, [0, 5]);
        assert_eq!(found.as_slice()[1].bounds(), Some((0xc100_0000, 0xc1ff_ffff)));
        assert!(parse_mcfg(&[0; 40]).as_slice().is_empty(), "cut short");
        let mut cut = table(&[(0xb000_0000, 0, 0, 255)]);
        cut.pop();
        assert!(parse_mcfg(&cut).as_slice().is_empty());
    }

    #[test]
    fn an_address_names_a_register() {
        let area = ConfigArea { base: 0xb000_0000, segment: 0, first_bus: 1, last_bus: 2 };
        assert_eq!(area.named_by(0xb012_3456), Some((1, 0x23, 0x456)));
        assert_eq!(area.named_by(0xb02f_ffff), Some((2, 0xff, 0xfff)));
        assert_eq!(area.named_by(0xb000_0000), None, "bus 0 is not there");
        assert_eq!(area.named_by(0xb030_0000), None);
    }
}
