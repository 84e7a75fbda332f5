//! The last step of the hypervisor's build: its own symbol table, written into the section reserved for it, so that a
//! panic names functions.

use crate::failure::{Failure, Result};
use hv_core::symbols::{EncodeError, encode};
use std::fs;
use std::path::Path;

const SECTION: &str = ".symbols";
const SHT_SYMTAB: u32 = 2;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const SYMBOL_BYTES: usize = 24;
/// Names are shortened to this length when the table does not fit, and then again to half of it.
const SHORT_NAME: usize = 96;

/// A section header of an ELF64 file.
struct Section {
    name: usize,
    kind: u32,
    offset: usize,
    size: usize,
    link: usize,
}

/// Puts the image's function symbols into its `.symbols` section. An image without the section stays as it is.
pub(crate) fn embed(image: &Path) -> Result<()> {
    let mut file = fs::read(image).map_err(|error| Failure::at(image, &error))?;
    let broken = || Failure::new(format!("{}: no ELF64 file with sections", image.display()));
    let sections = sections(&file).ok_or_else(broken)?;
    let Some(room) = find(&file, &sections, SECTION) else { return Ok(()) };
    let (offset, size) = (room.offset, room.size);
    let symbols = functions(&file, &sections).ok_or_else(broken)?;
    let table = fitting(&symbols, size)?;
    let place = file.get_mut(offset..offset + table.len()).ok_or_else(broken)?;
    place.copy_from_slice(&table);
    fs::write(image, file).map_err(|error| Failure::at(image, &error))
}

/// The functions of an image by address, and the labels of its assembly.
pub(crate) fn of(image: &Path) -> Result<Vec<(u64, String)>> {
    let file = fs::read(image).map_err(|error| Failure::at(image, &error))?;
    let found = sections(&file).and_then(|sections| named(&file, &sections, &[STT_NOTYPE, STT_FUNC]));
    found.ok_or_else(|| Failure::new(format!("{}: no ELF64 file with symbols", image.display())))
}

/// The table with whole names if they fit, else with shorter ones.
fn fitting(symbols: &[(u64, String)], room: usize) -> Result<Vec<u8>> {
    let mut limit = usize::MAX;
    loop {
        let cut: Vec<(u64, &str)> = symbols
            .iter()
            .map(|(at, name)| (*at, name.get(..limit.min(name.len())).unwrap_or(name)))
            .collect();
        match encode(&cut, room) {
            Ok(table) => return Ok(table),
            Err(EncodeError::TooLarge(_)) if limit > SHORT_NAME / 4 => limit = limit.min(SHORT_NAME * 2) / 2,
            Err(error) => return Err(Failure::new(format!("the symbol table does not fit: {error:?}"))),
        }
    }
}

/// The functions of the symbol table by address, one name for each.
fn functions(file: &[u8], sections: &[Section]) -> Option<Vec<(u64, String)>> {
    named(file, sections, &[STT_FUNC])
}

/// The symbols of some kinds by address, one name for each.
fn named(file: &[u8], sections: &[Section], kinds: &[u8]) -> Option<Vec<(u64, String)>> {
    let table = sections.iter().find(|section| section.kind == SHT_SYMTAB)?;
    let names = sections.get(table.link)?;
    let bytes = file.get(table.offset..table.offset.checked_add(table.size)?)?;
    let mut found: Vec<(u64, String)> = Vec::new();
    for entry in bytes.chunks_exact(SYMBOL_BYTES) {
        let is_wanted = kinds.contains(&(entry.get(4)? & 0xf));
        let address = u64::from_le_bytes(entry.get(8..16)?.try_into().ok()?);
        if is_wanted && address != 0 {
            let name = text(file, names.offset + word(entry, 0)?)?;
            // Without the hash that tells crate versions apart.
            found.push((address, format!("{:#}", rustc_demangle::demangle(&name))));
        }
    }
    found.sort();
    found.dedup_by_key(|(address, _)| *address);
    Some(found)
}

fn sections(file: &[u8]) -> Option<Vec<Section>> {
    let is_elf64 = file.get(..5)? == b"\x7fELF\x02";
    let table = long(file, 0x28)?;
    let (entry, count) = (half(file, 0x3a)?, half(file, 0x3c)?);
    let read = |number: usize| {
        let at = table.checked_add(number.checked_mul(entry)?)?;
        Some(Section {
            name: word(file, at)?,
            kind: u32::try_from(word(file, at + 4)?).ok()?,
            offset: long(file, at + 0x18)?,
            size: long(file, at + 0x20)?,
            link: word(file, at + 0x28)?,
        })
    };
    is_elf64.then(|| (0..count).map(read).collect::<Option<Vec<_>>>())?
}

fn find<'a>(file: &[u8], sections: &'a [Section], name: &str) -> Option<&'a Section> {
    let names = sections.get(half(file, 0x3e)?)?;
    sections.iter().find(|section| text(file, names.offset + section.name).as_deref() == Some(name))
}

fn text(file: &[u8], at: usize) -> Option<String> {
    let bytes = file.get(at..)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(bytes.get(..end)?).into_owned())
}

fn half(file: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(file.get(at..at + 2)?.try_into().ok()?).into())
}

fn word(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?)).ok()
}

fn long(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(file.get(at..at + 8)?.try_into().ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_until_the_table_fits() {
        let symbols = vec![(16, "a".repeat(300)), (32, "b".repeat(300))];
        assert!(fitting(&symbols, 1000).is_ok_and(|table| table.len() > 600));
        assert!(fitting(&symbols, 300).is_ok_and(|table| table.len() <= 300));
        assert!(fitting(&symbols, 20).is_err());
    }

    #[test]
    fn what_is_no_elf_file_has_no_sections() {
        assert!(sections(b"not an elf file, but long enough to look at").is_none());
        assert!(sections(b"").is_none());
    }
}
