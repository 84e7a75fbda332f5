use super::*;
use alloc::vec;
use alloc::vec::Vec;

/// A machine's memory: pieces at addresses.
struct Fake(Vec<(u64, Vec<u8>)>);

impl PhysRead for Fake {
    fn read(&self, at: u64, buffer: &mut [u8]) -> bool {
        self.0.iter().any(|(start, bytes)| {
            let Some(from) = at.checked_sub(*start).and_then(|o| usize::try_from(o).ok()) else {
                return false;
            };
            let Some(part) = bytes.get(from..from + buffer.len()) else { return false };
            buffer.copy_from_slice(part);
            true
        })
    }
}

fn checksummed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = bytes.iter().fold(0u8, |s, &b| s.wrapping_add(b));
    bytes[at] = bytes[at].wrapping_sub(sum);
    bytes
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut t = vec![0; HEADER];
    t[..4].copy_from_slice(signature);
    t[4..8].copy_from_slice(&u32::try_from(HEADER + body.len()).unwrap().to_le_bytes());
    t.extend(body);
    checksummed(t, 9)
}

fn rsdp(revision: u8, rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut r = vec![0; 20];
    r[..8].copy_from_slice(b"RSD PTR ");
    r[15] = revision;
    r[16..20].copy_from_slice(&rsdt.to_le_bytes());
    let mut r = checksummed(r, 8);
    r.extend(36u32.to_le_bytes());
    r.extend(xsdt.to_le_bytes());
    r.extend([0; 4]);
    checksummed(r, 32)
}

#[test]
fn the_root_pointer_is_found_in_either_area() {
    let low = Fake(vec![(0x40e, vec![0x40, 0x9f]), (0x9f400, [vec![0; 0x20], rsdp(0, 1, 0)].concat())]);
    assert_eq!(find_rsdp(&low), Some(0x9f420));
    let high = Fake(vec![(0xe_0000, [vec![0; 0x1_5550], rsdp(2, 1, 0)].concat())]);
    assert_eq!(find_rsdp(&high), Some(0xf_5550));
    let mut damaged = rsdp(0, 1, 0);
    damaged[17] ^= 1;
    assert_eq!(find_rsdp(&Fake(vec![(0xf_0000, damaged)])), None);
}

#[test]
fn the_wide_root_table_is_preferred_and_unreadable_tables_are_left_out() {
    let xsdt = table(b"XSDT", &[0x3000u64.to_le_bytes(), 0x9999_0000u64.to_le_bytes()].concat());
    let rsdt = table(b"RSDT", &0x4000u32.to_le_bytes());
    let pieces = |revision, xsdt_at| {
        Fake(vec![
            (0xf0000, rsdp(revision, 0x1000, xsdt_at)),
            (0x1000, rsdt.clone()),
            (0x2000, xsdt.clone()),
            (0x3000, table(b"APIC", &[0; 8])),
            (0x4000, table(b"FACP", &[0; 80])),
        ])
    };
    let wide = read_tables(&pieces(2, 0x2000), 0xf0000).unwrap();
    assert_eq!(wide.iter().map(|t| t.signature).collect::<Vec<_>>(), [*b"APIC"]);
    for old in [pieces(0, 0x2000), pieces(2, 0)] {
        let narrow = read_tables(&old, 0xf0000).unwrap();
        assert_eq!(narrow.find(b"FACP"), Some(&Table { signature: *b"FACP", at: 0x4000, length: 116 }));
    }
}

fn madt_with(entries: &[&[u8]]) -> Vec<u8> {
    let mut body = 0xfee0_0000u32.to_le_bytes().to_vec();
    body.extend(1u32.to_le_bytes());
    for entry in entries {
        body.extend(*entry);
    }
    table(b"APIC", &body)
}

#[test]
fn processors_io_apics_and_overrides_are_read() {
    let madt = parse_madt(&madt_with(&[
        &[0, 8, 0, 0, 1, 0, 0, 0],
        &[0, 8, 1, 4, 1, 0, 0, 0],
        &[0, 8, 2, 5, 0, 0, 0, 0],
        &[9, 16, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
        &[9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0],
        &[1, 12, 3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
        &[2, 10, 0, 9, 9, 0, 0, 0, 0xf, 0],
        &[4, 6, 0xff, 0, 0, 1],
    ]))
    .unwrap();
    assert!(madt.has_pic);
    let ids: Vec<u32> = madt.cpus.as_slice().iter().map(|c| c.apic_id).collect();
    assert_eq!(ids, [0, 4, 0x100]);
    assert_eq!(madt.io_apics.as_slice(), [IoApic { id: 3, at: 0xfec0_0000, gsi_base: 0 }]);
    assert_eq!(madt.isa_to_gsi(0).gsi, 2);
    assert_eq!(madt.isa_to_gsi(4), Override { isa_irq: 4, gsi: 4, active_low: false, level: false });
    assert_eq!(madt.isa_to_gsi(9), Override { isa_irq: 9, gsi: 9, active_low: true, level: true });
    assert_eq!(madt.ignored, 0);
}

#[test]
fn a_malformed_madt_ends_early_and_says_so() {
    let madt = parse_madt(&madt_with(&[&[0, 8, 0, 0, 1, 0, 0, 0], &[1, 3, 0], &[0, 0, 0, 0]])).unwrap();
    assert_eq!((madt.cpus.as_slice().len(), madt.ignored), (1, 2));
    let over_the_end = parse_madt(&madt_with(&[&[0, 200, 0, 0]])).unwrap();
    assert_eq!((over_the_end.cpus.as_slice().len(), over_the_end.ignored), (0, 1));
    assert!(parse_madt(&[0; 40]).is_none());
}

#[test]
fn the_fadt_prefers_wide_registers_and_takes_old_ones() {
    let mut old = table(b"FACP", &[0; 80]);
    old[40..44].copy_from_slice(&0x7fe0_0000u32.to_le_bytes());
    old[64..68].copy_from_slice(&0x604u32.to_le_bytes());
    old[76..80].copy_from_slice(&0x608u32.to_le_bytes());
    old[108] = 0x32;
    let fadt = parse_fadt(&old).unwrap();
    assert_eq!(fadt.dsdt, 0x7fe0_0000);
    assert_eq!(fadt.pm1a_control, Some(Register { space: Space::Io, at: 0x604 }));
    assert_eq!(fadt.pm_timer, Some(Register { space: Space::Io, at: 0x608 }));
    assert_eq!((fadt.pm1b_control, fadt.reset, fadt.cmos_century), (None, None, 0x32));

    let mut new = old.clone();
    new.resize(244, 0);
    new[113] |= 1 << 2;
    new[116] = 1;
    new[120..128].copy_from_slice(&0xcf9u64.to_le_bytes());
    new[128] = 0xf;
    new[140..148].copy_from_slice(&0x1_0000_0000u64.to_le_bytes());
    new[208] = 0;
    new[212..220].copy_from_slice(&0xfed8_0000u64.to_le_bytes());
    let fadt = parse_fadt(&new).unwrap();
    assert_eq!(fadt.dsdt, 0x1_0000_0000);
    assert_eq!(fadt.reset, Some((Register { space: Space::Io, at: 0xcf9 }, 0xf)));
    assert_eq!(fadt.pm_timer, Some(Register { space: Space::Memory, at: 0xfed8_0000 }));
    assert!(parse_fadt(&[0; 60]).is_none());
}

#[test]
fn soft_off_is_found_in_aml() {
    // As QEMU writes it: Name (_S5_, Package (4) { Zero, Zero, Zero, Zero }).
    assert_eq!(find_s5(b"xx\x08_S5_\x12\x06\x04\x00\x00\x00\x00"), Some((0, 0)));
    assert_eq!(find_s5(b"\x08\\_S5_\x12\x0a\x04\x0a\x05\x0a\x07\x00\x00"), Some((5, 7)));
    assert_eq!(find_s5(b"\x08_S5_\x12\x48\x00\x04\x01\x0a\x07"), Some((1, 7)));
    // A reference to it, or a method of that name, is not the object.
    assert_eq!(find_s5(b"\x70_S5_\x12\x06\x04\x00\x00\x00\x00"), None);
    assert_eq!(find_s5(b"\x08_S5_\x12"), None);
    assert_eq!(find_s5(b"_S5_"), None);
}
