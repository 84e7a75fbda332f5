//! Memory of the machine: the boot allocator, the hypervisor's page tables, M2P and frame table.

pub(crate) mod boot_alloc;
pub(crate) mod layout;
pub(crate) mod paging;
pub(crate) mod ram;
pub(crate) mod registers;
pub(crate) mod tables;
pub(crate) mod tlb;
pub(crate) mod windows;

use core::sync::atomic::{AtomicU64, Ordering};
use layout::PAGE;

pub(crate) use paging::{load_idle_root, load_root, master_slots as hypervisor_l4_entries};
pub(crate) use tables::m2p_word;

/// A frame of zeroes that is mapped, read-only, where nothing else is.
static ZERO_FRAME: AtomicU64 = AtomicU64::new(0);
/// The next free address of the area for single mappings.
static NEXT_VMAP: AtomicU64 = AtomicU64::new(layout::VMAP_BASE);

/// Builds the final page tables and switches to them; then M2P and frame table.
///
/// Called once, on the boot tables, with the boot allocator filled.
pub(crate) fn init() {
    paging::build_master();
    ZERO_FRAME.store(boot_alloc::zeroed_frames(1), Ordering::Relaxed);
    boot_alloc::use_all_memory();
    tables::build();
    registers::init();
}

/// The frame of zeroes.
pub(crate) fn zero_frame() -> u64 {
    ZERO_FRAME.load(Ordering::Relaxed)
}

/// Maps device registers, uncached, for ever; returns the virtual address. `at` and `bytes` are whole pages.
///
/// Only for boot: it neither checks for exhaustion of the area (512 GiB) nor ever unmaps.
pub(crate) fn map_device(at: u64, bytes: u64) -> u64 {
    // One page is left out behind each mapping.
    let address = NEXT_VMAP.fetch_add(bytes + PAGE, Ordering::Relaxed);
    paging::map(address, at, bytes, paging::DEVICE);
    address
}
