//! The boot order, as a list of calls.
#![expect(unsafe_code, reason = "entered from assembly, and changes stacks")]

use crate::arch::cpu::{features, gdt, setup, smp, speculation};
use crate::arch::entry::cpu_info::CpuInfo;
use crate::arch::entry::idt;
use crate::arch::irq::{apic, ioapic, ipi, pic};
use crate::arch::mm::{self, boot_alloc, layout};
use crate::arch::{acpi, boot as handover, entry, time, uart};
use crate::percpu;
use crate::{console, debug_keys, heap, log as logging, panic, selftest, start};
use core::sync::atomic::Ordering;
use hv_core::cmdline::{self, Options};
use spin::Once;

#[cfg(target_os = "none")]
#[global_allocator]
static HEAP: heap::Heap = heap::Heap;

static OPTIONS: Once<Options> = Once::new();

/// The command line's settings.
pub(crate) fn options() -> &'static Options {
    OPTIONS.wait()
}

/// The boot processor arrives here from assembly, on the boot tables and stack.
#[unsafe(no_mangle)]
extern "C" fn start_rust(magic: u32, pointer: u32) -> ! {
    idt::init_early();
    console::init_early();
    logging::init();
    let Some(info) = handover::collect(magic, pointer) else {
        panic!("started by neither a multiboot nor a PVH loader (magic {magic:#x})");
    };
    read_command_line(info.line);
    check_cpu();
    log::info!("started by {:?}", info.protocol);
    acpi::collect();
    init_memory(info);
    init_boot_cpu()
}

fn read_command_line(line: &'static str) {
    let first = OPTIONS.call_once(|| cmdline::parse(line, &mut |_| {}));
    console::configure(first);
    logging::configure(first);
    panic::configure(first);
    log::info!("xen-like-hv {}", env!("CARGO_PKG_VERSION"));
    log::info!("command line: {line}");
    // Again, now that complaints can be seen.
    cmdline::parse(line, &mut |complaint| log::warn!("command line: {complaint}"));
}

fn check_cpu() {
    let found = features::detect(options());
    if let Err(features::Missing(what)) = found {
        panic!("this CPU lacks {what}");
    }
    setup::enable_no_execute();
    let (text, used) = features::brand();
    log::info!("CPU: {}", core::str::from_utf8(&text[..used]).unwrap_or("?").trim());
    log::debug!("features: {:?}", features::get());
    speculation::report();
}

fn init_memory(info: &handover::BootInfo) {
    if info.dropped > 0 {
        log::warn!("{} modules or memory map entries did not fit", info.dropped);
    }
    let map = info.memory.sanitise(layout::RAM_LIMIT);
    for entry in map.entries() {
        log::debug!("memory {:012x}-{:012x} {:?}", entry.range.start, entry.range.end, entry.kind);
    }
    for (index, module) in info.modules.as_slice().iter().enumerate() {
        log::info!("module {index}: {} KiB, '{}'", module.range.len() >> 10, module.line);
    }
    let ram = map.ram_bytes();
    boot_alloc::init(map);
    entry::stubs::patch_smap(features::get().smap);
    mm::init();
    heap::init();
    let (m2p, frames) = mm::tables::bytes();
    log::info!(
        "memory: {} MiB RAM up to {:#x}; M2P {} MiB, frame table {} MiB, heap {} MiB; {} MiB free",
        ram >> 20,
        boot_alloc::memory_map().ram_end(),
        m2p >> 20,
        frames >> 20,
        heap::usage().0 >> 20,
        boot_alloc::free_bytes() >> 20
    );
}

/// Gives the boot processor its stack block and leaves the boot stack for good.
fn init_boot_cpu() -> ! {
    gdt::prepare(0);
    gdt::load(0);
    idt::init();
    setup::init(0);
    // SAFETY: `continue_boot` does not return, and nothing on the boot stack is needed any more.
    unsafe { entry::stubs::switch_to(CpuInfo::address(layout::stack_block(0)), continue_boot) }
}

/// The rest of the boot, on the boot processor's own stack.
extern "C" fn continue_boot() -> ! {
    percpu::set_ready();
    hv_sync::install(hv_sync::Hooks {
        relax: ipi::serve_flush,
        cpu: percpu::this_cpu,
        heap: crate::heap::room,
    });
    init_interrupts();
    time::init();
    let limit = options().maxcpus.and_then(|n| usize::try_from(n).ok()).unwrap_or(percpu::MAX_PCPUS);
    smp::start_others(limit, start::run_other);
    debug_keys::init();
    init_console_input();
    if options().selftest {
        selftest::run();
    }
    start::run()
}

fn init_interrupts() {
    pic::silence();
    let madt = acpi::platform().madt.as_ref();
    apic::init(madt.map_or(0xfee0_0000, |m| m.lapic_at), features::get().x2apic);
    apic::enable();
    percpu::record(0).apic_id.store(apic::id(), Ordering::Relaxed);
    percpu::this().online.store(true, Ordering::Release);
    if let Some(madt) = madt {
        ioapic::init(madt);
    }
}

/// Routes the serial port's interrupt to the boot processor.
fn init_console_input() {
    let Some(madt) = acpi::platform().madt.as_ref() else { return };
    let wiring = madt.isa_to_gsi(uart::COM1_IRQ);
    let signal = ioapic::Signal { level: wiring.level, active_low: wiring.active_low };
    match ioapic::route(wiring.gsi, apic::id(), signal) {
        Ok(_) => {
            ioapic::set_console(wiring.gsi);
            ioapic::unmask(wiring.gsi);
            console::enable_input();
        }
        Err(error) => log::warn!("no console input: interrupt {} {error:?}", wiring.gsi),
    }
}
