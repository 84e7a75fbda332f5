//! Keys that look into the core: domains, and the audits.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hv_core::Hypervisor;
use hv_core::domain::Domain;
use hv_core::port::Clock;
use hv_core::vcpu::Vcpu;

use crate::arch::entry::current::current;
use crate::log::print_line;
use crate::state::{MACHINE, hypervisor};

/// Prints every domain and its vcpus.
pub(super) fn show_domains() {
    let Some(hv) = hypervisor() else { return };
    print_line!("hv:   {} of {} frames free", hv.frames.free_frames(), hv.frames.total_frames());
    for dom in hv.domains.all() {
        let dying = if dom.is_dying() { ", dying" } else { "" };
        print_line!("hv:   {}: {} of {} pages{dying}", dom.id, dom.mem.tot_pages(), dom.mem.max_pages());
        dom.each_vcpu().for_each(|v| show_vcpu(&v));
    }
}

fn show_vcpu(v: &Arc<Vcpu>) {
    let s = &v.sched;
    let ms = s.runstate.cpu_time(MACHINE.now_ns()) / 1_000_000;
    let wanted = if v.events.upcall_wanted(&MACHINE) { ", upcall waits" } else { "" };
    print_line!(
        "hv:     {}: {:?}, flags {:#x}, home {}, {ms} ms run, in its {:?}{wanted}",
        v.id,
        s.runstate.state(),
        s.flags(),
        s.home(),
        v.entry.mode()
    );
    if let Some(saved) = v.context.try_lock().filter(|_| s.pcpu().is_none()) {
        print_line!("hv:       rip {:016x} rsp {:016x}", saved.regs.rip, saved.regs.rsp);
    }
}

/// Recounts event channels, grants and frames of all domains, which stand still meanwhile.
pub(super) fn audit() {
    let Some(hv) = hypervisor() else { return };
    let domains: Vec<Arc<Domain>> = hv.domains.all().collect();
    let stopped = stop_others(hv, &domains);
    let faults = report(hv, &domains);
    for v in &stopped {
        hv.sched.unpause(&MACHINE, v);
    }
    print_line!("hv:   {} domains, {faults} faults", domains.len());
}

/// The machine's last audit, where the command line asks for one. The caller is within a call of dom0's vcpu, which
/// holds nothing; all others stop for good.
pub(crate) fn final_audit() {
    let Some(hv) = hypervisor() else { return };
    let domains: Vec<Arc<Domain>> = hv.domains.all().collect();
    let stopped = stop_others(hv, &domains);
    let faults = report(hv, &domains);
    print_line!("hv: audit: {faults} faults, {} domains, {} vcpus stopped", domains.len(), stopped.len());
}

/// Prints every complaint; how many there are.
fn report(hv: &Hypervisor, domains: &[Arc<Domain>]) -> usize {
    let wrong = hv_core::audit::audit(hv, &MACHINE, domains);
    wrong.iter().for_each(|what| print_line!("hv:   {what}"));
    wrong.len()
}

/// Pauses all vcpus but the one in whose exit this key is served; that one stands still anyway.
fn stop_others(hv: &Hypervisor, domains: &[Arc<Domain>]) -> Vec<Arc<Vcpu>> {
    let own = current().map(|c| &c.vcpu);
    let others: Vec<Arc<Vcpu>> = domains
        .iter()
        .flat_map(|dom| dom.each_vcpu())
        .filter(|v| own.is_none_or(|own| !Arc::ptr_eq(own, v)))
        .collect();
    others.iter().for_each(|v| hv.sched.pause(&MACHINE, v));
    others.iter().for_each(|v| hv.sched.wait_until_saved(v));
    others
}
