//! Segment descriptors and the task state segment of each pcpu.
//!
//! Every pcpu has a window of 16 pages in which its GDT lies: the first 14 are the running guest's, the hypervisor's own
//! descriptors are in the 15th. A guest without descriptors sees a page of zeroes there.
#![expect(unsafe_code, reason = "builds and loads GDT and TSS")]

use crate::arch::entry::cpu_info::CpuInfo;
use crate::arch::entry::idt::TablePointer;
use crate::arch::mm::layout::{self, PAGE, gdt_window, stack_block, stack_pages};
use crate::arch::mm::{self, boot_alloc, paging};
use crate::percpu;
use core::arch::asm;
use core::mem::size_of;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::Ordering;
use pv_abi::trap::FIRST_RESERVED_GDT_BYTE;

/// The hypervisor's 64-bit code.
pub(crate) const HV_CS: u16 = 0xe008;
/// The hypervisor's stack.
pub(crate) const HV_DS: u16 = 0xe010;
/// The task state segment.
pub(crate) const TSS_SELECTOR: u16 = 0xe040;
/// The guest's LDT.
pub(crate) const LDT_SELECTOR: u16 = 0xe050;
/// Last byte of the GDT.
const GDT_LIMIT: u16 = 0xe05f;

const CODE_64_RING0: u64 = 0x00af_9b00_0000_ffff;
const DATA_RING0: u64 = 0x00cf_9300_0000_ffff;
const CODE_32_RING3: u64 = 0x00cf_fb00_0000_ffff;
const DATA_RING3: u64 = 0x00cf_f300_0000_ffff;
const CODE_64_RING3: u64 = 0x00af_fb00_0000_ffff;

/// Interrupt stacks: which vector uses which entry of the TSS.
pub(crate) mod ist {
    /// Double faults.
    pub(crate) const DOUBLE_FAULT: u64 = 1;
    /// Non-maskable interrupts.
    pub(crate) const NMI: u64 = 2;
    /// Machine checks.
    pub(crate) const MACHINE_CHECK: u64 = 3;
    /// Debug exceptions.
    pub(crate) const DEBUG: u64 = 4;

    /// The entry a vector uses, 0 for none.
    pub(crate) const fn of_vector(vector: usize) -> u64 {
        match vector {
            1 => DEBUG,
            2 => NMI,
            8 => DOUBLE_FAULT,
            18 => MACHINE_CHECK,
            _ => 0,
        }
    }
}

/// The task state segment (Intel SDM volume 3, figure 8-11): stacks for entries, and no I/O bitmap.
#[repr(C, packed(4))]
struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_bitmap: u16,
}

/// Where the TSS lies in the page of the hypervisor's descriptors: behind them, aligned so that it fits.
const TSS_OFFSET: u64 = 0x800;

/// Makes the stack block and the descriptor windows of a pcpu. Called once per pcpu by the boot processor.
pub(crate) fn prepare(cpu: usize) {
    prepare_stacks(cpu);
    let frame = boot_alloc::zeroed_frames(1);
    percpu::record(cpu).descriptors.store(frame, Ordering::Relaxed);
    let window = gdt_window(cpu);
    // The windows' tables must exist in full: the context switch only rewrites entries.
    let entries = paging::leaf_entries(window, 2 * layout::GDT_WINDOW_PAGES);
    percpu::record(cpu).window_entries.store(entries, Ordering::Relaxed);
    for page in 0..layout::RESERVED_GDT_PAGE {
        paging::map(window + page * PAGE, mm::zero_frame(), PAGE, paging::READ_ONLY_WINDOW);
    }
    paging::map(window + layout::RESERVED_GDT_PAGE * PAGE, frame, PAGE, paging::DATA);
    // SAFETY: the frame was just allocated for this and is mapped.
    unsafe { write_descriptors(cpu, frame) }
}

/// Maps the stacks of a pcpu and leaves the guard pages unmapped; writes its `CpuInfo`.
fn prepare_stacks(cpu: usize) {
    let block = stack_block(cpu);
    let areas = [
        stack_pages::DOUBLE_FAULT,
        stack_pages::NMI,
        stack_pages::MACHINE_CHECK,
        stack_pages::DEBUG,
        stack_pages::PRIMARY,
    ];
    for area in areas {
        let bytes = (area.end - area.start) * PAGE;
        let frames = boot_alloc::zeroed_frames(area.end - area.start);
        paging::map(block + area.start * PAGE, frames, bytes, paging::DATA);
    }
    let info: *mut CpuInfo = with_exposed_provenance_mut(to_usize(CpuInfo::address(block)));
    // SAFETY: the end of the primary stack is mapped and not in use yet.
    unsafe { info.write(CpuInfo::new(cpu)) }
}

/// # Safety
/// `frame` must be an unused frame in the direct map, mapped as the reserved page of the pcpu's GDT window.
unsafe fn write_descriptors(cpu: usize, frame: u64) {
    let block = stack_block(cpu);
    let mut tss = Tss {
        reserved0: 0,
        rsp: [CpuInfo::entry_stack(block), 0, 0],
        reserved1: 0,
        ist: [0; 7],
        reserved2: 0,
        reserved3: 0,
        // Beyond the segment's limit: every I/O instruction of ring 3 faults.
        io_bitmap: 0xffff,
    };
    // In the order of the slots in `ist`.
    let ends = [
        stack_pages::DOUBLE_FAULT.end,
        stack_pages::NMI.end,
        stack_pages::MACHINE_CHECK.end,
        stack_pages::DEBUG.end,
    ];
    for (place, end) in (0..4).zip(ends) {
        tss.ist[place] = block + end * PAGE;
    }
    let tss_at = gdt_window(cpu) + layout::RESERVED_GDT_PAGE * PAGE + TSS_OFFSET;
    let [tss_low, tss_high] = system_segment(tss_at, size_of::<Tss>() as u64 - 1, 0x9);
    // Selectors 0xe000, 0xe008, … in order.
    let descriptors =
        [0, CODE_64_RING0, DATA_RING0, 0, CODE_32_RING3, DATA_RING3, CODE_64_RING3, 0, tss_low, tss_high];
    let page: *mut u64 = with_exposed_provenance_mut(to_usize(layout::direct_map(frame)));
    // SAFETY: the caller gives a whole frame; ten descriptors and the TSS at its offset lie inside.
    unsafe {
        for (index, descriptor) in descriptors.into_iter().enumerate() {
            page.add(index).write(descriptor);
        }
        page.byte_add(to_usize(TSS_OFFSET)).cast::<Tss>().write(tss);
    }
}

/// The two words of a descriptor of a TSS (kind 9) or LDT (kind 2).
pub(crate) const fn system_segment(base: u64, limit: u64, kind: u64) -> [u64; 2] {
    let low = limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (0x80 | kind) << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

/// Loads GDT, TSS and the hypervisor's segments on this pcpu; its windows must be mapped.
pub(crate) fn load(cpu: usize) {
    let pointer = TablePointer { limit: GDT_LIMIT, base: gdt_window(cpu) };
    debug_assert!(FIRST_RESERVED_GDT_BYTE as u64 == layout::RESERVED_GDT_PAGE * PAGE);
    // SAFETY: the table holds the selectors loaded here; the far return reloads CS and goes on behind itself.
    unsafe {
        asm!(
            "lgdt [{pointer}]",
            "mov ss, {ds:e}",
            "push {cs}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {zero:e}",
            "mov es, {zero:e}",
            "mov fs, {zero:e}",
            "mov gs, {zero:e}",
            "lldt {zero:x}",
            "ltr {tss:x}",
            pointer = in(reg) &raw const pointer,
            ds = in(reg) u64::from(HV_DS),
            cs = in(reg) u64::from(HV_CS),
            zero = in(reg) 0u64,
            tss = in(reg) u64::from(TSS_SELECTOR),
            scratch = out(reg) _,
        );
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(0)
}
