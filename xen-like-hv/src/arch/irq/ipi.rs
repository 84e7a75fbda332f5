//! Interrupts between pcpus: look at your runqueue, flush your TLB.
//!
//! A flush is asked for by drawing a ticket from the target's counter and waiting until the target has served it. The
//! target serves all tickets drawn so far with one flush. Whoever waits serves its own pcpu meanwhile, so two pcpus
//! that wait for one another with interrupts off get on.

use super::{apic, vectors};
use crate::arch::mm::tlb;
use crate::percpu;
use hv_core::port::CpuMask;

/// Serves what others asked of this pcpu's TLB. Called by the interrupt handler and by every spin loop.
pub(crate) fn serve_flush() {
    percpu::this().flushes.serve(tlb::flush_local);
}

/// Flushes what the TLBs of the pcpus in `mask` have of guests, and returns when all have done so.
pub(crate) fn flush_on(mask: u64) {
    let own = percpu::this_cpu();
    let others = mask & percpu::all_mask() & !(1 << own);
    if others != 0 {
        flush_with_others(others, mask & 1 << own != 0);
    } else if mask & 1 << own != 0 {
        tlb::flush_local();
    }
}

/// The part with other pcpus in it; apart, so that a pcpu alone does not carry the tickets.
#[inline(never)]
fn flush_with_others(others: u64, this_too: bool) {
    let mut tickets = [0u64; percpu::MAX_PCPUS];
    for cpu in bits(others) {
        tickets[cpu] = percpu::record(cpu).flushes.draw();
        apic::send(cpu, vectors::FLUSH);
    }
    if this_too {
        tlb::flush_local();
    }
    for cpu in bits(others) {
        while !percpu::record(cpu).flushes.is_served(tickets[cpu]) {
            hv_sync::relax();
        }
    }
}

/// Asks a pcpu to look at its runqueue; returns at once.
pub(crate) fn reschedule(cpu: usize) {
    if cpu == percpu::this_cpu() {
        percpu::raise(percpu::softirq::RESCHED);
    } else {
        apic::send(cpu, vectors::RESCHEDULE);
    }
}

/// Stops all other pcpus for good, by NMI, since they may run with interrupts off. Only in a panic.
pub(crate) fn stop_others() {
    if !apic::is_ready() {
        return;
    }
    for cpu in bits(percpu::all_mask() & !(1 << percpu::this_cpu())) {
        apic::send_nmi(cpu);
    }
}

/// The numbers of the set bits, of those that are pcpus.
pub(crate) fn bits(mask: u64) -> impl Iterator<Item = usize> {
    CpuMask::from_bits(mask & percpu::all_mask()).iter().filter_map(|cpu| usize::try_from(cpu.raw()).ok())
}
