//! From a booted machine to running guests: the hypervisor's state, dom0, then the exit loop on every pcpu.

use alloc::string::String;
use alloc::vec::Vec;

use hv_core::Hypervisor;
use hv_core::boot_memory::Range;
use hv_core::frame::{FrameTable, PageInfo};
use hv_core::hv::Platform;
use hv_core::sched::Scheduler;
use pv_abi::ids::Mfn;

use crate::arch::entry::exit;
use crate::arch::mm::{boot_alloc, layout, tables};
use crate::arch::{acpi, boot as handover, cpu::features, irq, time};
use crate::{percpu, state};

/// Makes the state, builds dom0 and enters the exit loop.
pub(crate) fn run() -> ! {
    let hv = state::install(new_state());
    hand_over_memory(hv);
    wake_others();
    exit::enter()
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
    Hypervisor::new(platform(nr_pcpus), FrameTable::new(pages), Scheduler::new(nr_pcpus))
}

fn platform(nr_pcpus: u32) -> Platform {
    let map = boot_alloc::memory_map();
    let memory_map: Vec<_> =
        map.entries().iter().map(|e| (e.range.start, e.range.len(), e.kind.to_e820())).collect();
    Platform {
        command_line: String::from(handover::info().line),
        nr_pcpus,
        tsc_khz: u32::try_from(time::tsc_hz() / 1000).unwrap_or(u32::MAX),
        maddr_bits: features::get().address_bits,
        total_frames: map.ram_bytes() / layout::PAGE,
        memory_map,
    }
}

fn frames_of(range: Range) -> (Mfn, Mfn) {
    (Mfn::new(range.start.div_ceil(layout::PAGE)), Mfn::new(range.end / layout::PAGE))
}

/// Gives the core what memory is left, and says what lies between: devices for dom0, but not the interrupt controllers.
fn hand_over_memory(hv: &Hypervisor) {
    for range in boot_alloc::hand_over().ranges() {
        let (start, end) = frames_of(*range);
        hv.frames.add_free_range(start, end);
    }
    let mut at = 0;
    for ram in boot_alloc::memory_map().ram() {
        hv.frames.add_device_range(Mfn::new(at / layout::PAGE), Mfn::new(ram.start / layout::PAGE));
        at = ram.end;
    }
    let Some(madt) = acpi::platform().madt.as_ref() else { return };
    let controllers = madt.io_apics.as_slice().iter().map(|a| a.at).chain([madt.lapic_at]);
    for at in controllers {
        let mfn = at / layout::PAGE;
        hv.frames.deny_device_range(Mfn::new(mfn), Mfn::new(mfn + 1));
    }
}
