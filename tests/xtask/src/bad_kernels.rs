//! Kernels and ramdisks with one fault each, and what `pvctl create` has to say about them, word for word.

/// A domain that must not come into being.
pub(crate) struct Bad {
    /// The name of its kernel's file.
    pub(crate) name: &'static str,
    /// The kernel.
    pub(crate) kernel: Vec<u8>,
    /// Its configuration, but for the name.
    pub(crate) config: String,
    /// All that is said.
    pub(crate) message: String,
}

/// Bytes of the ramdisk that does not fit.
pub(crate) const BIG_RAMDISK: usize = 20 << 20;
/// How that ramdisk's file is called.
pub(crate) const RAMDISK: &str = "big";

/// A PV kernel as small as can be, never run: one segment at 1 MiB and these notes.
fn elf(notes: &[(u32, &[u8])]) -> Vec<u8> {
    let mut area = Vec::new();
    for (kind, desc) in notes {
        let len = u32::try_from(desc.len()).unwrap_or(u32::MAX);
        for word in [4, len, *kind] {
            area.extend(word.to_le_bytes());
        }
        area.extend(b"Xen\0");
        area.extend(*desc);
        area.resize(area.len().next_multiple_of(4), 0);
    }
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    // Executable, x86-64, version 1.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(0x10_0000_u64.to_le_bytes());
    file.extend(64_u64.to_le_bytes());
    file.resize(54, 0);
    // Two program headers of 56 bytes.
    file.extend([56, 0, 2, 0]);
    file.resize(64, 0);
    let (code, len) = (64 + 2 * 56_u64, area.len() as u64);
    for (kind, offset, addr, in_file, in_memory) in
        [(1_u32, code, 0x10_0000_u64, 16, 0x3000), (4, code + 16, 0, len, len)]
    {
        file.extend(kind.to_le_bytes());
        file.extend(7_u32.to_le_bytes());
        for field in [offset, addr, addr, in_file, in_memory, 4096] {
            file.extend(field.to_le_bytes());
        }
    }
    file.extend([0x90; 16]);
    file.extend(area);
    file
}

const VERSION: (u32, &[u8]) = (5, b"xen-3.0\0");
const LOADER: (u32, &[u8]) = (8, b"generic\0");

/// A Linux bzImage around a payload: boot protocol 2.15, or as given.
fn bzimage(protocol: u16, payload: &[u8], stated: usize) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&protocol.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&u32::try_from(stated).unwrap_or(u32::MAX).to_le_bytes());
    file.extend(payload);
    file
}

/// A Linux bzImage of today around a packed payload.
pub(crate) fn packed(payload: &[u8]) -> Vec<u8> {
    bzimage(0x20f, payload, payload.len())
}

/// A payload of a known format whose packed data are nonsense, with the length that belongs behind it.
fn damaged(magic: &[u8]) -> Vec<u8> {
    let mut payload = magic.to_vec();
    payload.extend([0xff; 64]);
    payload.extend(4096_u32.to_le_bytes());
    packed(&payload)
}

/// All of them.
pub(crate) fn all() -> Vec<Bad> {
    let good = elf(&[VERSION, LOADER]);
    let mut machine = good.clone();
    machine[18] = 183;
    let mut cut = good.clone();
    cut.truncate(70);
    let mut entry = good.clone();
    entry[24..32].copy_from_slice(&0x50_0000_u64.to_le_bytes());
    let kernels = [
        ("empty", Vec::new(), "the file is truncated: its header lies beyond its end"),
        ("elf-cut", cut, "the file is truncated: its program headers lies beyond its end"),
        ("elf-arm", machine, "an ELF for another machine (e_machine 183)"),
        ("elf-entry", entry, "the entry point 0x500000 lies outside the kernel"),
        ("elf-load", elf(&[VERSION, (8, b"other\0")]), "the kernel wants the loader 'other'"),
        (
            "elf-ver",
            elf(&[(5, b"xen-9.9\0"), LOADER]),
            "the kernel is for the interface 'xen-9.9', not xen-3.0",
        ),
        (
            "elf-feat",
            elf(&[VERSION, LOADER, (10, b"pae_pgdir_above_4gb|!time_travel\0")]),
            "the kernel requires the unknown feature 'time_travel'",
        ),
        ("bz-old", bzimage(0x207, &good, good.len()), "a bzImage older than boot protocol 2.08"),
        (
            "bz-cut",
            bzimage(0x20f, &good, good.len() + 1),
            "the file is truncated: its bzImage payload lies beyond its end",
        ),
        ("bz-what", packed(b"abcdefgh"), "the kernel's payload is of no known format ([61, 62, 63, 64])"),
        ("bz-bzip2", packed(b"BZh91AY"), "the kernel is packed with bzip2, not supported"),
        ("bz-lz4", damaged(&[0x02, 0x21, 0x4c, 0x18]), "the kernel's payload is damaged (lz4)"),
        ("bz-xz", damaged(b"\xfd7zXZ\0"), "the kernel's payload is damaged (xz)"),
        ("bz-zstd", damaged(&[0x28, 0xb5, 0x2f, 0xfd]), "the kernel's payload is damaged (zstd)"),
    ];
    let mut all: Vec<Bad> = kernels
        .into_iter()
        .map(|(name, kernel, why)| Bad {
            name,
            kernel,
            config: format!("kernel = '{name}'\nmemory = 16\n"),
            message: format!("error: {name}: {why}\n"),
        })
        .collect();
    all.push(Bad {
        name: "rd-big",
        kernel: good.clone(),
        config: format!("kernel = 'rd-big'\nramdisk = '{RAMDISK}'\nmemory = 16\n"),
        message:
            "error: rd-big: not enough memory: kernel and ramdisk take 20480 KiB, the domain has 16384 KiB\n"
                .into(),
    });
    all.push(Bad {
        name: "rd-none",
        kernel: good,
        config: "kernel = 'rd-none'\nramdisk = 'nowhere'\nmemory = 16\n".into(),
        message: "error: nowhere: no such file on the volume\n".into(),
    });
    all
}
