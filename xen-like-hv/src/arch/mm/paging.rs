//! The hypervisor's page tables: the master L4 and what hangs off its slots 256 to 271.
//!
//! All sixteen L3 tables are made at once and never replaced, so an L4 that copies the sixteen entries sees every later
//! mapping. No mapping is both writable and executable; the image's code and constants are read-only in the direct map
//! too.
#![expect(unsafe_code, reason = "edits page tables")]

use super::boot_alloc;
use super::layout::{
    FIRST_SLOT, HUGE, IMAGE_BASE, LARGE, PAGE, RAM_LIMIT, SLOTS, direct_map, image_to_machine,
};
use crate::arch::cpu::{features, regs};
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicU64, Ordering};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const UNCACHED: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const PAGE_SIZE_BIT: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Attributes of a mapping.
pub(crate) type Attributes = u64;

/// Data of the hypervisor.
pub(crate) const DATA: Attributes = PRESENT | WRITABLE | ACCESSED | DIRTY | GLOBAL | NO_EXECUTE;
/// Constants of the hypervisor.
pub(crate) const READ_ONLY: Attributes = PRESENT | ACCESSED | GLOBAL | NO_EXECUTE;
/// Code of the hypervisor.
pub(crate) const TEXT: Attributes = PRESENT | ACCESSED | GLOBAL;
/// Registers of devices: entry 3 of the page attribute table, strongly uncached.
pub(crate) const DEVICE: Attributes = DATA | WRITE_THROUGH | UNCACHED;
/// Registers of devices, for a while: not global, since the frame changes.
pub(crate) const DEVICE_WINDOW: Attributes = DEVICE & !GLOBAL;
/// What guests may read.
pub(crate) const GUEST_READ_ONLY: Attributes = READ_ONLY | USER;

/// A guest's descriptors in a pcpu's window. Not global: the frames change with the guest.
pub(crate) const WINDOW: Attributes = DATA & !GLOBAL;
/// Zeroes in a pcpu's window.
pub(crate) const READ_ONLY_WINDOW: Attributes = READ_ONLY & !GLOBAL;
/// What of an entry decides where it leads and what may be done there.
pub(crate) const FRAME_AND_ACCESS: u64 = ADDRESS | PRESENT | WRITABLE;

/// Addresses the linker script defines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageSymbols {
    pub(crate) text: (u64, u64),
    pub(crate) rodata: (u64, u64),
    pub(crate) data: (u64, u64),
    pub(crate) image_end: u64,
}

/// Where the parts of the image lie.
pub(crate) fn image_symbols() -> ImageSymbols {
    // SAFETY: assembly or the linker script defines these symbols, with these types.
    unsafe extern "C" {
        static __text_start: u8;
        static __text_end: u8;
        static __rodata_start: u8;
        static __rodata_end: u8;
        static __data_start: u8;
        static __image_end: u8;
    }
    let at = |symbol: *const u8| symbol.expose_provenance() as u64;
    ImageSymbols {
        text: (at(&raw const __text_start), at(&raw const __text_end)),
        rodata: (at(&raw const __rodata_start), at(&raw const __rodata_end)),
        data: (at(&raw const __data_start), at(&raw const __image_end)),
        image_end: at(&raw const __image_end),
    }
}

/// Machine address of the master L4.
static MASTER: AtomicU64 = AtomicU64::new(0);

/// Machine address of the master L4.
pub(crate) fn master() -> u64 {
    MASTER.load(Ordering::Relaxed)
}

/// Loads the master L4: no guest runs.
pub(crate) fn load_idle_root() {
    // SAFETY: the master maps all of the hypervisor, and nothing else.
    unsafe { super::tlb::load_root_without_guest(master()) }
}

/// Loads a guest's L4.
///
/// # Safety
/// It must hold the hypervisor's sixteen entries and stay a page table while it is loaded.
pub(crate) unsafe fn load_root(at: u64) {
    // SAFETY: the caller vouches for the table.
    unsafe { super::tlb::load_guest_root(at) }
}

/// The sixteen entries that every L4 shares.
pub(crate) fn master_slots() -> [u64; SLOTS] {
    core::array::from_fn(|i| entry(master(), FIRST_SLOT + i).load(Ordering::Relaxed))
}

/// An entry of a table, through the direct map. Tables are only ever made of frames the boot allocator handed out.
fn entry(table: u64, index: usize) -> &'static AtomicU64 {
    let address = direct_map(table & ADDRESS) + 8 * index as u64;
    // SAFETY: page tables of the hypervisor are never freed, are reached only as atomics, and lie in the direct map.
    unsafe { AtomicU64::from_ptr(with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))) }
}

/// The index of an address in a table of a level, 1 to 4.
fn index(address: u64, level: u32) -> usize {
    usize::try_from(address >> (12 + 9 * (level - 1)) & 0x1ff).unwrap_or(0)
}

/// The table below an entry of `table`, made if it is not there.
fn descend(table: u64, address: u64, level: u32) -> u64 {
    let place = entry(table, index(address, level));
    let value = place.load(Ordering::Relaxed);
    if value & PRESENT == 0 {
        let below = boot_alloc::zeroed_frames(1);
        // The M2P's tables must let ring 3 through; what it may see is decided at the leaves.
        place.store(below | PRESENT | WRITABLE | USER | ACCESSED | DIRTY, Ordering::Release);
        return below;
    }
    assert!(value & PAGE_SIZE_BIT == 0, "{address:#x} lies in a large page");
    value & ADDRESS
}

/// The entry of a level for an address, its tables made as needed.
fn walk(address: u64, level: u32) -> &'static AtomicU64 {
    let mut table = master();
    let mut at = 4;
    while at > level {
        table = descend(table, address, at);
        at -= 1;
    }
    entry(table, index(address, level))
}

/// Maps whole pages, with the largest page size that fits. What was mapped there before is replaced; the caller
/// flushes if there was something.
pub(crate) fn map(address: u64, machine: u64, bytes: u64, attributes: Attributes) {
    let huge = features::get().huge_pages;
    let mut done = 0;
    while done < bytes {
        let (va, ma, left) = (address + done, machine + done, bytes - done);
        let fits = |size: u64| (va | ma) & (size - 1) == 0 && left >= size;
        let (level, size) = match () {
            () if huge && fits(HUGE) => (3, HUGE),
            () if fits(LARGE) => (2, LARGE),
            () => (1, PAGE),
        };
        let size_bit = if level > 1 { PAGE_SIZE_BIT } else { 0 };
        walk(va, level).store(ma | attributes | size_bit, Ordering::Release);
        done += size;
    }
}

/// The leaf entries of consecutive small pages that one L1 table holds, for code that rewrites them often.
pub(crate) fn leaf_entries(address: u64, pages: u64) -> *mut AtomicU64 {
    assert!(index(address, 1) as u64 + pages <= 512, "a window crosses a table's end");
    core::ptr::from_ref(walk(address, 1)).cast_mut()
}

/// Makes the master L4 with the image and the direct map, and switches to it.
pub(crate) fn build_master() {
    let l4 = boot_alloc::zeroed_frames(1);
    MASTER.store(l4, Ordering::Relaxed);
    for slot in 0..SLOTS {
        let l3 = boot_alloc::zeroed_frames(1);
        let flags = PRESENT | WRITABLE | USER | ACCESSED | DIRTY;
        entry(l4, FIRST_SLOT + slot).store(l3 | flags, Ordering::Relaxed);
    }
    let image = image_symbols();
    for ((start, end), attributes) in [(image.text, TEXT), (image.rodata, READ_ONLY), (image.data, DATA)] {
        map(start, image_to_machine(start), end - start, attributes);
    }
    build_direct_map(&image);
    // SAFETY: the new tables map the image where it runs, its stack (part of the image's data) and the direct map.
    unsafe { regs::write_cr3(l4) }
}

/// Maps all RAM, the image's code and constants without write access.
fn build_direct_map(image: &ImageSymbols) {
    let frozen = (image_to_machine(image.text.0), image_to_machine(image.rodata.1));
    for range in boot_alloc::memory_map().ram() {
        let cuts = [
            (range.start, range.end.min(frozen.0), DATA),
            (range.start.max(frozen.0), range.end.min(frozen.1), READ_ONLY),
            (range.start.max(frozen.1), range.end.min(RAM_LIMIT), DATA),
        ];
        for (start, end, attributes) in cuts {
            if start < end {
                map(direct_map(start), start, end - start, attributes);
            }
        }
    }
}

/// Puts the master's entries into the boot tables and leaves only their first 2 MiB identity-mapped, for the other
/// pcpus' first steps. [`close_boot_tables`] ends that.
pub(crate) fn open_boot_tables() -> u64 {
    let boot = boot_tables();
    for (slot, value) in (FIRST_SLOT..).zip(master_slots()) {
        entry(boot.l4, slot).store(value, Ordering::Relaxed);
    }
    for i in 1..4 {
        entry(boot.l3_identity, i).store(0, Ordering::Relaxed);
    }
    for i in 1..512 {
        entry(boot.l2, i).store(0, Ordering::Relaxed);
    }
    boot.l4
}

/// Removes the identity mapping.
pub(crate) fn close_boot_tables() {
    let boot = boot_tables();
    entry(boot.l4, 0).store(0, Ordering::Relaxed);
}

struct BootTables {
    l4: u64,
    l3_identity: u64,
    l2: u64,
}

fn boot_tables() -> BootTables {
    // SAFETY: assembly or the linker script defines these symbols, with these types.
    unsafe extern "C" {
        static boot_l4: u8;
        static boot_l3_identity: u8;
        static boot_l2: u8;
    }
    let at = |symbol: *const u8| symbol.expose_provenance() as u64 - IMAGE_BASE;
    BootTables {
        l4: at(&raw const boot_l4),
        l3_identity: at(&raw const boot_l3_identity),
        l2: at(&raw const boot_l2),
    }
}
