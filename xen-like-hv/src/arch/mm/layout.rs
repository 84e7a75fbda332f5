//! The hypervisor's part of the address space: L4 slots 256 to 271.

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// Bytes of a 2 MiB page.
pub(crate) const LARGE: u64 = 2 << 20;
/// Bytes of a 1 GiB page.
pub(crate) const HUGE: u64 = 1 << 30;

/// First of the hypervisor's L4 slots.
pub(crate) const FIRST_SLOT: usize = 256;
/// How many there are.
pub(crate) const SLOTS: usize = 16;

/// Slot 256: machine frame to pseudo-physical frame, readable by guests.
pub(crate) const M2P_BASE: u64 = 0xffff_8000_0000_0000;
/// Slot 257: one record per machine frame.
pub(crate) const FRAME_TABLE_BASE: u64 = 0xffff_8080_0000_0000;
/// Slot 258: device registers and other single mappings.
pub(crate) const VMAP_BASE: u64 = 0xffff_8100_0000_0000;
/// Slot 258 too, its upper half: a page for each pcpu that shows registers for one access.
pub(crate) const REGISTER_WINDOWS_BASE: u64 = 0xffff_8140_0000_0000;
/// Slot 259: windows on descriptor tables, one stretch per pcpu.
pub(crate) const WINDOWS_BASE: u64 = 0xffff_8180_0000_0000;
/// Slot 261: the image, linked at this plus its machine address.
pub(crate) const IMAGE_BASE: u64 = 0xffff_82d0_8000_0000;
/// Slot 261 too, within 2 GiB of the image: the stack blocks.
pub(crate) const STACKS_BASE: u64 = 0xffff_82d0_c000_0000;
/// Slots 262 to 271: all RAM.
pub(crate) const DIRECT_MAP_BASE: u64 = 0xffff_8300_0000_0000;
/// RAM from here on is not used: 1 TiB.
pub(crate) const RAM_LIMIT: u64 = 1 << 40;

/// Bytes of a stack block: aligned, found from any stack pointer inside.
pub(crate) const STACK_SIZE: u64 = 128 << 10;
/// Pages of a block, by what they are for; what is not named is not mapped and guards what is.
pub(crate) mod stack_pages {
    use core::ops::Range;
    /// Double faults.
    pub(crate) const DOUBLE_FAULT: Range<u64> = 1..3;
    /// Non-maskable interrupts.
    pub(crate) const NMI: Range<u64> = 4..6;
    /// Machine checks.
    pub(crate) const MACHINE_CHECK: Range<u64> = 7..9;
    /// Debug exceptions: a guest can make one arrive on the first instruction of a system-call stub.
    pub(crate) const DEBUG: Range<u64> = 10..12;
    /// The primary stack; `CpuInfo` lies at its end.
    pub(crate) const PRIMARY: Range<u64> = 16..32;
}

/// Pages of one pcpu's GDT window; the LDT window of as many pages follows.
pub(crate) const GDT_WINDOW_PAGES: u64 = 16;
/// Bytes of a pcpu's two windows.
pub(crate) const WINDOW_STRIDE: u64 = 2 * GDT_WINDOW_PAGES * PAGE;
/// The page of the GDT window that holds the hypervisor's own descriptors.
pub(crate) const RESERVED_GDT_PAGE: u64 = 14;

/// A pcpu's page for registers.
pub(crate) const fn register_window(cpu: usize) -> u64 {
    REGISTER_WINDOWS_BASE + cpu as u64 * PAGE
}

/// Where a pcpu's GDT window begins.
pub(crate) const fn gdt_window(cpu: usize) -> u64 {
    WINDOWS_BASE + cpu as u64 * WINDOW_STRIDE
}

/// Where a pcpu's LDT window begins.
pub(crate) const fn ldt_window(cpu: usize) -> u64 {
    gdt_window(cpu) + GDT_WINDOW_PAGES * PAGE
}

/// Where a pcpu's stack block begins.
pub(crate) const fn stack_block(cpu: usize) -> u64 {
    STACKS_BASE + cpu as u64 * STACK_SIZE
}

/// The direct-map address of a machine address in RAM.
pub(crate) const fn direct_map(at: u64) -> u64 {
    DIRECT_MAP_BASE + at
}

/// The machine address of an address in the image.
pub(crate) const fn image_to_machine(address: u64) -> u64 {
    address - IMAGE_BASE
}

/// Whether an address lies in the guard pages below a primary stack.
pub(crate) const fn is_stack_guard(address: u64) -> bool {
    let page = (address & (STACK_SIZE - 1)) / PAGE;
    address >= STACKS_BASE && page >= stack_pages::DEBUG.end && page < stack_pages::PRIMARY.start
}
