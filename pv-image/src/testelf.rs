//! Makes small ELFs with notes, for tests.

use alloc::vec;
use alloc::vec::Vec;

/// Description of an ELF to make.
#[derive(Clone)]
pub(crate) struct TestElf {
    pub(crate) entry: u64,
    /// (paddr, bytes, mem_len)
    pub(crate) segments: Vec<(u64, Vec<u8>, u64)>,
    /// (type, descriptor)
    pub(crate) notes: Vec<(u32, Vec<u8>)>,
}

impl TestElf {
    /// Like the smallest kernels: linked at 1 MiB, VIRT_BASE absent.
    pub(crate) fn minimal() -> Self {
        let notes = vec![
            (5, b"xen-3.0\0".to_vec()),
            (6, b"test\0".to_vec()),
            (8, b"generic\0".to_vec()),
            (9, b"yes\0".to_vec()),
            (10, b"!writable_page_tables|pae_pgdir_above_4gb\0".to_vec()),
            (2, 0x10_6000u64.to_le_bytes().to_vec()),
        ];
        let code = (0..0x7e18u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
        Self { entry: 0x10_0000, segments: vec![(0x10_0000, code, 0x1_1000)], notes }
    }

    /// Like Linux: high VIRT_BASE, INIT_P2M, MOD_START_PFN.
    pub(crate) fn linux() -> Self {
        let n = |v: u64| v.to_le_bytes().to_vec();
        let notes = vec![
            (3, n(0xffff_ffff_8000_0000)),
            (4, n(0)),
            (1, n(0xffff_ffff_8307_91c0)),
            (5, b"xen-3.0\0".to_vec()),
            (6, b"linux\0".to_vec()),
            (8, b"generic\0".to_vec()),
            (9, b"yes\0".to_vec()),
            (10, b"!writable_page_tables|pae_pgdir_above_4gb".to_vec()),
            (15, n(0x80_0000_0000)),
            (16, 1u32.to_le_bytes().to_vec()),
            (17, 0x8801u32.to_le_bytes().to_vec()),
            (12, n(0xffff_8000_0000_0000)),
        ];
        Self { entry: 0x100_0000, segments: vec![(0x100_0000, vec![0xcc; 0x3000], 0x3a0_0000)], notes }
    }

    pub(crate) fn without_note(mut self, kind: u32) -> Self {
        self.notes.retain(|(k, _)| *k != kind);
        self
    }

    pub(crate) fn with_note(self, kind: u32, desc: &[u8]) -> Self {
        let mut elf = self.without_note(kind);
        elf.notes.push((kind, desc.to_vec()));
        elf
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let notes = self.note_area();
        let phnum = self.segments.len() + 1;
        let mut data_at = 64 + 56 * phnum;
        let mut file = self.header(phnum);
        for (paddr, bytes, mem_len) in &self.segments {
            file.extend(phdr(1, data_at as u64, *paddr, bytes.len() as u64, *mem_len));
            data_at += bytes.len();
        }
        file.extend(phdr(4, data_at as u64, 0, notes.len() as u64, notes.len() as u64));
        for (_, bytes, _) in &self.segments {
            file.extend(bytes);
        }
        file.extend(notes);
        file
    }

    fn header(&self, phnum: usize) -> Vec<u8> {
        let mut h = vec![0u8; 64];
        h[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        h[16..18].copy_from_slice(&2u16.to_le_bytes());
        h[18..20].copy_from_slice(&62u16.to_le_bytes());
        h[24..32].copy_from_slice(&self.entry.to_le_bytes());
        h[32..40].copy_from_slice(&64u64.to_le_bytes());
        h[54..56].copy_from_slice(&56u16.to_le_bytes());
        h[56..58].copy_from_slice(&u16::try_from(phnum).unwrap().to_le_bytes());
        h
    }

    fn note_area(&self) -> Vec<u8> {
        let mut area = Vec::new();
        for (kind, desc) in &self.notes {
            area.extend(4u32.to_le_bytes());
            area.extend(u32::try_from(desc.len()).unwrap().to_le_bytes());
            area.extend(kind.to_le_bytes());
            area.extend(b"Xen\0");
            area.extend(desc);
            area.resize(area.len().next_multiple_of(4), 0);
        }
        area
    }
}

fn phdr(kind: u32, offset: u64, paddr: u64, file_len: u64, mem_len: u64) -> Vec<u8> {
    let mut h = Vec::new();
    h.extend(kind.to_le_bytes());
    h.extend(7u32.to_le_bytes());
    for field in [offset, paddr, paddr, file_len, mem_len, 4096] {
        h.extend(field.to_le_bytes());
    }
    h
}
