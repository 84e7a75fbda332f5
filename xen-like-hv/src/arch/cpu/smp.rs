//! Starting the other pcpus, one after the other (Intel SDM volume 3, 9.4.4).
#![expect(unsafe_code, reason = "copies the trampoline to low memory")]

use super::{gdt, setup};
use crate::arch::entry::cpu_info::CpuInfo;
use crate::arch::entry::idt;
use crate::arch::irq::apic;
use crate::arch::mm::layout::{PAGE, direct_map, stack_block};
use crate::arch::mm::{boot_alloc, paging, ram};
use crate::arch::{acpi, cpu::regs, time};
use crate::percpu::{self, MAX_PCPUS};
use core::arch::global_asm;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use hv_core::boot_memory::Range;

global_asm!(include_str!("../boot/trampoline.s"), options(att_syntax));

/// How long a pcpu may take to come up. Emulators are slow.
const PATIENCE_US: u64 = 3_000_000;

/// The words of the trampoline that are filled in; the layout is that of `trampoline_data`.
#[repr(C)]
struct Fill {
    gdt_limit: u16,
    gdt: [u8; 4],
    pad: u16,
    jump_32: u32,
    cs_32: u16,
    pad_32: u16,
    jump_64: u32,
    cs_64: u16,
    pad_64: u16,
    cr3: u64,
    stack: u64,
    entry: u64,
    argument: u64,
}

const _: () = assert!(size_of::<Fill>() == 56);

// SAFETY: assembly or the linker script defines these symbols, with these types.
unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_data: u8;
    static trampoline_offsets: [u32; 3];
}

/// What every pcpu but the first does for ever; set by the boot code before they are started.
static IDLE: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// Pcpus that came up; tells the boot processor that the trampoline is free.
static ARRIVED: AtomicU64 = AtomicU64::new(0);

/// Starts the pcpus the firmware lists, up to `limit` in all. Each sets itself up and then runs `idle` for ever.
pub(crate) fn start_others(limit: usize, idle: fn() -> !) {
    let Some(madt) = acpi::platform().madt.as_ref() else { return };
    let own = apic::id();
    let listed = madt.cpus.as_slice();
    if let Some(this) = listed.iter().find(|cpu| cpu.apic_id == own) {
        percpu::record(0).acpi_id.store(this.acpi_id, Ordering::Relaxed);
    }
    let others = || listed.iter().filter(|cpu| cpu.apic_id != own);
    let wanted = others().count().min(limit.min(MAX_PCPUS).saturating_sub(1));
    if wanted > 0 {
        let Some(page) = low_page() else {
            log::warn!("no memory below 1 MiB: only one pcpu");
            return;
        };
        IDLE.store((idle as *const ()).cast_mut(), Ordering::Release);
        let tables = paging::open_boot_tables();
        for cpu in others().take(wanted) {
            start(page, tables, cpu);
        }
        paging::close_boot_tables();
        crate::arch::mm::tlb::flush_own();
        // dom0 may look at low memory, and addresses of the hypervisor are none of its business.
        let trampoline: *mut u8 = with_exposed_provenance_mut(usize::try_from(direct_map(page)).unwrap_or(0));
        // SAFETY: RAM that nobody uses any more: whoever came up has left it, whoever did not has been sent back.
        unsafe { ram::zero_page(trampoline) };
    }
    log::info!("{} of {} pcpus in use", percpu::count(), listed.len().max(1));
}

/// A page for the trampoline: the highest RAM below 640 KiB, above the firmware's own data.
fn low_page() -> Option<u64> {
    let low = Range::new(0x2000, 0xa_0000);
    boot_alloc::memory_map()
        .ram()
        .map(|r| Range::new(r.start.max(low.start), r.end.min(low.end)))
        .filter(|r| r.len() >= PAGE)
        .map(|r| r.end - PAGE)
        .max()
}

/// Starts one pcpu and waits for it.
fn start(page: u64, tables: u64, cpu: &hv_core::acpi::Cpu) {
    let number = percpu::count();
    if cpu.apic_id > 0xfe && !apic::is_x2apic() {
        log::warn!("pcpu with APIC id {:#x} cannot be reached without x2APIC", cpu.apic_id);
        return;
    }
    gdt::prepare(number);
    let record = percpu::record(number);
    record.apic_id.store(cpu.apic_id, Ordering::Relaxed);
    record.acpi_id.store(cpu.acpi_id, Ordering::Relaxed);
    // SAFETY: the page is RAM that nobody uses: low memory is never handed out.
    unsafe { write_trampoline(page, tables, number) }
    apic::send_init(cpu.apic_id);
    time::delay_us(10_000);
    let Ok(startup_page) = u8::try_from(page / PAGE) else { return };
    let before = ARRIVED.load(Ordering::Acquire);
    let came = |patience_us: u64| {
        let end = time::now_ns() + patience_us * 1000;
        while ARRIVED.load(Ordering::Acquire) == before && time::now_ns() < end {
            core::hint::spin_loop();
        }
        ARRIVED.load(Ordering::Acquire) != before
    };
    apic::send_startup(cpu.apic_id, startup_page);
    // The second message is for CPUs that lost the first; one that runs ignores it.
    if !came(200_000) {
        apic::send_startup(cpu.apic_id, startup_page);
        if !came(PATIENCE_US) {
            log::error!("the CPU with APIC id {:#x} did not start", cpu.apic_id);
            // It must not come up late and find the trampoline filled in for another.
            apic::send_init(cpu.apic_id);
            return;
        }
    }
    percpu::set_count(number + 1);
}

/// # Safety
/// `page` must be an unused page of RAM below 1 MiB, mapped in the direct map.
unsafe fn write_trampoline(page: u64, tables: u64, number: usize) {
    let start = &raw const trampoline_start;
    let length = (&raw const trampoline_end).addr() - start.addr();
    let data = (&raw const trampoline_data).addr() - start.addr();
    let copy: *mut u8 = with_exposed_provenance_mut(usize::try_from(direct_map(page)).unwrap_or(0));
    let base = u32::try_from(page).unwrap_or(0);
    // SAFETY: a constant of the image.
    let [gdt, to_32, to_64] = unsafe { trampoline_offsets };
    let fill = Fill {
        gdt_limit: 31,
        gdt: (base + gdt).to_le_bytes(),
        pad: 0,
        jump_32: base + to_32,
        cs_32: 24,
        pad_32: 0,
        jump_64: base + to_64,
        cs_64: 8,
        pad_64: 0,
        cr3: tables,
        // The primary stack of the pcpu, below its `CpuInfo`.
        stack: CpuInfo::address(stack_block(number)),
        entry: (ap_entry as *const ()).expose_provenance() as u64,
        argument: number as u64,
    };
    // SAFETY: the caller gives the page; the trampoline is shorter than a page.
    unsafe {
        copy.copy_from_nonoverlapping(start, length);
        copy.add(data).cast::<Fill>().write_unaligned(fill);
    }
}

/// Where another pcpu arrives in 64-bit mode, on its own stack and the boot tables.
extern "C" fn ap_entry(number: u64) -> ! {
    let cpu = usize::try_from(number).unwrap_or(0);
    // SAFETY: the master tables map everything this pcpu runs on.
    unsafe { regs::write_cr3(paging::master()) }
    gdt::load(cpu);
    idt::load();
    setup::init(cpu);
    apic::enable();
    time::timer::init_this_cpu();
    percpu::this().online.store(true, Ordering::Release);
    ARRIVED.fetch_add(1, Ordering::Release);
    let idle = IDLE.load(Ordering::Acquire);
    // SAFETY: `start_others` stored a function of this type before any pcpu was started.
    let idle: fn() -> ! = unsafe { core::mem::transmute(idle) };
    idle()
}
