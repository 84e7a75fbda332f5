//! From a booted machine to running guests: the hypervisor's state, dom0, then the exit loop on every pcpu.
#![expect(unsafe_code, reason = "lends the modules' bytes")]

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use hv_core::Hypervisor;
use hv_core::acpi::ConfigArea;
use hv_core::boot_memory::Range;
use hv_core::domain::dom0::Dom0Config;
use hv_core::frame::{FrameTable, PageInfo};
use hv_core::hv::{CpuName, Platform};
use hv_core::sched::Scheduler;
use hv_core::sched::policy::Fair;
use pv_abi::ids::Mfn;

use crate::arch::entry::exit;
use crate::arch::mm::{boot_alloc, layout, tables};
use crate::arch::{acpi, boot as handover, cpu::features, irq, time};
use crate::{percpu, state};

/// Makes the state, builds dom0 and enters the exit loop.
pub(crate) fn run() -> ! {
    let hv = state::install(new_state());
    let modules = handover::info().modules.as_slice();
    let Some(kernel) = modules.first() else {
        panic!("no dom0: the loader gave no module. The first module is its kernel, the second its ramdisk");
    };
    let ramdisk = modules.get(1);
    mark_devices(hv);
    hand_over_memory(hv, unpacking_room(bytes_of(kernel)));
    build_dom0(hv, kernel, ramdisk);
    // What the building needed is free now, and so are the modules.
    modules.iter().for_each(|module| boot_alloc::give_back(module.range));
    hand_over_memory(hv, 0);
    log::info!("{} MiB free for other domains", hv.frames.free_frames() >> 8);
    wake_others();
    exit::enter()
}

/// A module's bytes.
fn bytes_of(module: &handover::Module) -> &'static [u8] {
    let at = usize::try_from(layout::direct_map(module.range.start)).unwrap_or(0);
    let len = usize::try_from(module.range.len()).unwrap_or(0);
    // SAFETY: the boot allocator kept the modules' memory out of everybody's hands; it is given back only in `run`, when
    // nothing refers to it any more.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(at), len) }
}

/// Bytes to keep for unpacking a kernel: it grows up to eightfold, and growing a buffer takes the old and the new one.
fn unpacking_room(kernel: &[u8]) -> u64 {
    let packed = !kernel.starts_with(b"\x7fELF");
    let len = u64::try_from(kernel.len()).unwrap_or(0);
    let wanted = if packed { 32 * len } else { 4 << 20 };
    wanted.min(boot_alloc::free_bytes() / 2)
}

fn build_dom0(hv: &Hypervisor, kernel: &handover::Module, ramdisk: Option<&handover::Module>) {
    let options = crate::boot::options();
    let config = Dom0Config {
        memory: options.dom0_mem,
        vcpus: options.dom0_max_vcpus.unwrap_or(hv.platform.nr_pcpus),
    };
    let line = handover::without_name(kernel.line);
    log::info!("building dom0 from a module of {} KiB", kernel.range.len() >> 10);
    let ramdisk = ramdisk.map(bytes_of);
    if let Err(e) = hv_core::domain::dom0::build_dom0(
        hv,
        &state::MACHINE,
        bytes_of(kernel),
        ramdisk,
        line.as_bytes(),
        &config,
    ) {
        panic!("dom0 cannot be built: {e}");
    }
}

/// What the other pcpus do: wait for the state, then run guests.
pub(crate) fn run_other() -> ! {
    while state::hypervisor().is_none() {
        crate::arch::cpu::regs::wait_for_interrupt();
    }
    exit::enter()
}

fn wake_others() {
    for cpu in (0..percpu::count()).filter(|&cpu| cpu != percpu::this_cpu()) {
        irq::ipi::reschedule(cpu);
    }
}

fn new_state() -> Hypervisor {
    // SAFETY: a PageInfo is valid as zeroes and made of atomics; the core asks for the state of a frame, which zeroes say
    // is reserved, before it changes it, and only frames of RAM are ever handed to it.
    let pages: &'static [PageInfo] = tables::frame_table();
    let nr_pcpus = u32::try_from(percpu::count()).unwrap_or(1);
    Hypervisor::new(platform(nr_pcpus), FrameTable::new(pages), new_scheduler(nr_pcpus))
}

fn new_scheduler(nr_pcpus: u32) -> Scheduler {
    let fair = crate::boot::options().sched_slice_ms.map_or_else(Fair::default, Fair::with_slice_ms);
    Scheduler::with_policy(nr_pcpus, Box::new(fair))
}

fn platform(nr_pcpus: u32) -> Platform {
    let map = boot_alloc::memory_map();
    let memory_map: Vec<_> =
        map.entries().iter().map(|e| (e.range.start, e.range.len(), e.kind.to_e820())).collect();
    Platform {
        command_line: String::from(handover::info().line),
        nr_pcpus,
        cpu_names: (0..nr_pcpus).map(cpu_name).collect(),
        tsc_khz: u32::try_from(time::tsc_hz() / 1000).unwrap_or(u32::MAX),
        maddr_bits: features::get().address_bits,
        total_frames: map.ram_bytes() / layout::PAGE,
        memory_map,
        config_areas: acpi::platform()
            .config_areas
            .iter()
            .flat_map(|areas| areas.as_slice())
            .copied()
            .collect(),
    }
}

fn cpu_name(pcpu: u32) -> CpuName {
    let record = percpu::record(usize::try_from(pcpu).unwrap_or(0));
    CpuName { apic_id: record.apic_id.load(Relaxed), acpi_id: record.acpi_id.load(Relaxed) }
}

fn frames_of(range: Range) -> (Mfn, Mfn) {
    (Mfn::new(range.start.div_ceil(layout::PAGE)), Mfn::new(range.end / layout::PAGE))
}

/// Gives the core what memory is left, but for the topmost `keep` bytes.
fn hand_over_memory(hv: &Hypervisor, keep: u64) {
    let kept = boot_alloc::try_take(keep, layout::PAGE);
    for range in boot_alloc::hand_over().ranges() {
        let (start, end) = frames_of(*range);
        hv.frames.add_free_range(start, end);
    }
    if let Some(range) = kept {
        boot_alloc::give_back(range);
    }
}

/// Says what counts as no RAM: devices for dom0, but not the interrupt controllers. The first MiB does, as on Xen: firmware
/// leaves tables in it that dom0 looks for.
fn mark_devices(hv: &Hypervisor) {
    hv.frames.set_address_bits(features::get().address_bits);
    let mut at = boot_alloc::LOW_MEMORY;
    hv.frames.add_device_range(Mfn::new(0), Mfn::new(at / layout::PAGE));
    for ram in boot_alloc::memory_map().ram() {
        hv.frames.add_device_range(Mfn::new(at / layout::PAGE), Mfn::new(ram.start / layout::PAGE));
        at = ram.end;
    }
    for (first, last) in hv.platform.config_areas.iter().filter_map(ConfigArea::bounds) {
        let range = (Mfn::new(first / layout::PAGE), Mfn::new(last / layout::PAGE));
        if hv.frames.read_only_devices().add(range).is_err() {
            log::warn!("dom0 may write to configuration space at {first:#x}");
        }
    }
    let Some(madt) = acpi::platform().madt.as_ref() else { return };
    let controllers = madt.io_apics.as_slice().iter().map(|a| a.at).chain([madt.lapic_at]);
    for at in controllers {
        let mfn = at / layout::PAGE;
        hv.frames.deny_device_range(Mfn::new(mfn), Mfn::new(mfn + 1));
    }
}
