//! From the loader's hand-over to one [`BootInfo`], whichever loader it was.
#![expect(unsafe_code, reason = "reads what the loader left in memory")]

use crate::arch::mm::layout::direct_map;
use core::arch::global_asm;
use core::sync::atomic::{AtomicUsize, Ordering};
use hv_core::boot_memory::{MemoryMap, Range};
use hv_core::bounded::Bounded;
use spin::Once;

mod multiboot;
mod pvh;

global_asm!(include_str!("boot/entry.s"), options(att_syntax));

/// Which protocol started the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Multiboot, version 1.
    Multiboot,
    /// PVH.
    Pvh,
}

/// A file that the loader left in memory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Module {
    /// Where it lies.
    pub(crate) range: Range,
    /// Its line, file name and all.
    pub(crate) line: &'static str,
}

/// What the loader told.
#[derive(Debug)]
pub(crate) struct BootInfo {
    /// How we were started.
    pub(crate) protocol: Protocol,
    /// The raw memory map.
    pub(crate) memory: MemoryMap,
    /// The command line without the image's name.
    pub(crate) line: &'static str,
    /// Modules: dom0's kernel, then its ramdisk.
    pub(crate) modules: Bounded<Module, 8>,
    /// The ACPI root pointer, where the loader knows it.
    pub(crate) rsdp: Option<u64>,
    /// Modules or map entries that did not fit.
    pub(crate) dropped: usize,
}

static BOOT_INFO: Once<BootInfo> = Once::new();

/// What the loader told; there after [`collect`].
pub(crate) fn info() -> &'static BootInfo {
    BOOT_INFO.wait()
}

/// Reads the loader's hand-over, while the first 4 GiB are mapped. Strings are copied; modules stay where they are.
///
/// `None` means that neither loader was recognised.
pub(crate) fn collect(magic: u32, pointer: u32) -> Option<&'static BootInfo> {
    let info = match magic {
        multiboot::MAGIC => multiboot::collect(pointer),
        pvh::MAGIC => pvh::collect(u64::from(pointer)),
        _ => return None,
    };
    Some(BOOT_INFO.call_once(|| info))
}

/// Reads a value of plain integers from machine memory below 4 GiB.
fn read<T: zerocopy::FromBytes>(at: u64) -> T {
    // SAFETY: the boot tables map the first 4 GiB for reading; any bytes make a `T`.
    unsafe { core::ptr::with_exposed_provenance::<T>(to_usize(direct_map(at))).read_unaligned() }
}

/// Addresses have 64 bits here.
const fn to_usize(value: u64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits on the one target")]
    {
        value as usize
    }
}

/// Room for copies of the command lines.
const TEXT_BYTES: usize = 16 << 10;
static mut TEXT: [u8; TEXT_BYTES] = [0; TEXT_BYTES];
static TEXT_USED: AtomicUsize = AtomicUsize::new(0);

/// Copies a zero-terminated string out of machine memory; what is not UTF-8 or too long is cut.
fn copy_text(at: u64) -> &'static str {
    if at == 0 {
        return "";
    }
    let from = TEXT_USED.load(Ordering::Relaxed);
    let mut to = from;
    while to < TEXT_BYTES {
        let byte: u8 = read(at + (to - from) as u64);
        if byte == 0 {
            break;
        }
        // SAFETY: one CPU runs, and bytes from TEXT_USED on were not lent out yet.
        unsafe { (&raw mut TEXT).cast::<u8>().add(to).write(byte) };
        to += 1;
    }
    TEXT_USED.store(to, Ordering::Relaxed);
    // SAFETY: these bytes are never written again: TEXT_USED has moved past them.
    let bytes = unsafe { core::slice::from_raw_parts((&raw const TEXT).cast::<u8>().add(from), to - from) };
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
    }
}

/// The part of a line behind its first word: loaders put the file's name there.
pub(crate) fn without_name(line: &str) -> &str {
    line.trim_start().split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start())
}
