//! A compact symbol table inside the image: address to name, for backtraces.
//!
//! The table is written into the image after linking (its section is reserved by the linker script), so a build that
//! skips that step merely prints addresses. Layout, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic `SYM1` |
//! | 4 | number of symbols n |
//! | 8 | base address |
//! | 8 × (n + 1) | offset from the base, offset of the name in the names; ascending; the last ends the names |
//! | rest | names, one after the other, UTF-8 |

use alloc::vec::Vec;

const MAGIC: u32 = u32::from_le_bytes(*b"SYM1");
const HEADER: usize = 16;
const ROW: usize = 8;

/// Why a table could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// It needs this many bytes, more than there is room for.
    TooLarge(usize),
    /// A symbol lies 4 GiB or more above the first one.
    TooFar(u64),
}

/// Makes a table of at most `room` bytes from symbols sorted by address.
///
/// # Errors
/// When the symbols do not fit; the caller may drop some or shorten names.
pub fn encode(symbols: &[(u64, &str)], room: usize) -> Result<Vec<u8>, EncodeError> {
    let base = symbols.first().map_or(0, |s| s.0);
    let names: usize = symbols.iter().map(|s| s.1.len()).sum();
    let total = HEADER + (symbols.len() + 1) * ROW + names;
    let too_large = EncodeError::TooLarge(total);
    if total > room {
        return Err(too_large);
    }
    let mut out = Vec::with_capacity(total);
    out.extend(MAGIC.to_le_bytes());
    out.extend(u32::try_from(symbols.len()).map_err(|_| too_large)?.to_le_bytes());
    out.extend(base.to_le_bytes());
    let mut name_at = 0u32;
    for &(address, name) in symbols {
        let offset = address.checked_sub(base).and_then(|o| u32::try_from(o).ok());
        out.extend(offset.ok_or(EncodeError::TooFar(address))?.to_le_bytes());
        out.extend(name_at.to_le_bytes());
        name_at += u32::try_from(name.len()).map_err(|_| too_large)?;
    }
    out.extend(u32::MAX.to_le_bytes());
    out.extend(name_at.to_le_bytes());
    for (_, name) in symbols {
        out.extend(name.as_bytes());
    }
    Ok(out)
}

/// The symbol at or below an address and the distance from it.
pub fn lookup(table: &[u8], address: u64) -> Option<(&str, u64)> {
    if word(table, 0)? != MAGIC {
        return None;
    }
    let count = usize::try_from(word(table, 4)?).ok()?;
    let base = u64::from(word(table, 8)?) | u64::from(word(table, 12)?) << 32;
    let offset = u32::try_from(address.checked_sub(base)?).ok()?;
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if word(table, row(middle))? <= offset { low = middle + 1 } else { high = middle }
    }
    let at = row(low.checked_sub(1)?);
    let names = table.get(row(count + 1)..)?;
    let (from, to) = (word(table, at + 4)?, word(table, at + ROW + 4)?);
    let name = names.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)?;
    Some((core::str::from_utf8(name).ok()?, u64::from(offset - word(table, at)?)))
}

fn row(index: usize) -> usize {
    HEADER + index * ROW
}

fn word(table: &[u8], at: usize) -> Option<u32> {
    let bytes = table.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_82d0_8010_0000;

    #[test]
    fn an_address_finds_the_symbol_below_it() {
        let table = encode(&[(BASE, "start"), (BASE + 0x40, "äh"), (BASE + 0x90, "last")], 4096).unwrap();
        assert_eq!(lookup(&table, BASE), Some(("start", 0)));
        assert_eq!(lookup(&table, BASE + 0x3f), Some(("start", 0x3f)));
        assert_eq!(lookup(&table, BASE + 0x41), Some(("äh", 1)));
        assert_eq!(lookup(&table, BASE + 0x1000), Some(("last", 0xf70)));
        assert_eq!(lookup(&table, BASE - 1), None);
    }

    #[test]
    fn an_empty_or_damaged_table_finds_nothing() {
        assert_eq!(lookup(&[0; 64], BASE), None);
        assert_eq!(lookup(&[], BASE), None);
        assert_eq!(lookup(&encode(&[], 64).unwrap(), BASE), None);
        let table = encode(&[(BASE, "start"), (BASE + 8, "end")], 4096).unwrap();
        for cut in 0..table.len() {
            // No cut may panic, and none may give a name that is not there.
            let found = lookup(&table[..cut], BASE + 9);
            assert!(found.is_none(), "cut at {cut}: {found:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(encode(&[(BASE, "abc")], 34), Err(EncodeError::TooLarge(35)));
        assert_eq!(
            encode(&[(BASE, "a"), (BASE + (1 << 32), "b")], 4096),
            Err(EncodeError::TooFar(BASE + (1 << 32)))
        );
    }
}
