//! The exit loop: what a pcpu does between a visit of one guest and the next instruction of another.
//!
//! Order: timers, device interrupts, console, scheduling, then what waits for the vcpu that is to run. The loop ends
//! when nothing is left; the stub then looks at the work word once more and leaves.
#![expect(unsafe_code, reason = "called by the stubs; reaches their frame; waits for interrupts")]

use alloc::sync::Arc;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use hv_core::Hypervisor;
use hv_core::port::Cpu;
use hv_core::sched::{publish_runstate, publish_time};

use super::context;
use super::cpu_info::work;
use super::current::{Current, cpu_info, current, frame, replace};
use super::guest;
use crate::arch::cpu::speculation;
use crate::machine::Metal;
use crate::state;

/// Called by the exit path while the work word is not 0 or an upcall is wanted.
#[unsafe(no_mangle)]
extern "C" fn exit_work() {
    let Some(hv) = state::hypervisor() else { return };
    let m = &state::MACHINE;
    loop {
        let todo = cpu_info().work.swap(0, AcqRel);
        // Nothing but an upcall: whatever concerns the scheduler comes with a bit of its own.
        if todo == 0 && current().is_some() {
            guest::deliver_pending();
            if cpu_info().work.load(Relaxed) == 0 {
                return;
            }
            continue;
        }
        if todo & (work::TIMER | work::PIRQ | work::CONSOLE) != 0 {
            interrupts(hv, m, todo);
        }
        if todo & work::RESCHED != 0 || current().is_none() || hv.sched.resched_needed(m.pcpu()) {
            schedule(hv, m);
        }
        if let Some(c) = current() {
            context::refresh_upcall_word(m, &c.vcpu);
        }
        guest::deliver_pending();
        if cpu_info().work.load(Relaxed) == 0 {
            return;
        }
    }
}

/// What interrupt handlers left for later.
fn interrupts(hv: &Hypervisor, m: &Metal, todo: u32) {
    if todo & work::TIMER != 0 {
        hv_core::sched::run_timers(hv, m, m.pcpu());
    }
    if todo & work::PIRQ != 0 {
        crate::arch::irq::deliver_pirqs(hv, m);
    }
    if todo & work::CONSOLE != 0 && crate::debug_keys::poll() {
        hv_core::evtchn::send_global_virq(hv, m, pv_abi::evtchn::VirqKind::Console);
    }
}

/// Chooses who runs next, waiting for somebody where nobody can, and loads it.
fn schedule(hv: &'static Hypervisor, m: &Metal) {
    loop {
        let Some(next) = hv.sched.pick_next(m, m.pcpu()) else {
            switch_away(hv, m, None);
            idle(hv, m);
            continue;
        };
        if current().is_some_and(|c| Arc::ptr_eq(&c.vcpu, &next)) {
            return;
        }
        // A vcpu whose domain has gone meanwhile cannot run.
        let next = next.domain().map(|dom| Current { dom, vcpu: next });
        switch_away(hv, m, next.as_ref());
        if let Some(next) = next {
            return switch_to(hv, m, next);
        }
    }
}

/// Saves the vcpu that ran here, so that another pcpu may take it or its domain may go, and loads the page tables of the
/// next one: at once, since each load of a root costs the whole TLB.
fn switch_away(hv: &'static Hypervisor, m: &Metal, next: Option<&Current>) {
    let former = replace(hv, None);
    if let Some(former) = &former {
        context::clear_upcall_word();
        publish_runstate(m, &former.vcpu);
        // SAFETY: nobody else refers to the frame: the vcpu's context is gone.
        context::save(m, &former.vcpu, unsafe { &*frame() });
    }
    match next.and_then(|next| context::root(&next.vcpu)) {
        // This drops what is left of the former guest: entries of guests are never global.
        Some(root) => m.load_root(root),
        // Where nobody ran, no guest's tables are loaded.
        None if former.is_some() => crate::arch::mm::load_idle_root(),
        None => {}
    }
    // Not before: from here on nothing keeps the former one's tables.
    if let Some(former) = former {
        hv.sched.context_saved(m, &former.vcpu);
    }
}

/// Loads `next`, whose page tables are loaded.
fn switch_to(hv: &'static Hypervisor, m: &Metal, next: Current) {
    speculation::between_vcpus();
    // SAFETY: as above; the new vcpu has no context yet.
    context::load(m, &next.vcpu, unsafe { &mut *frame() });
    publish_time(m, &next.vcpu);
    publish_runstate(m, &next.vcpu);
    replace(hv, Some(next));
}

/// Waits for an interrupt, with what may as well be done now, and deals with what it left.
fn idle(hv: &Hypervisor, m: &Metal) {
    while cpu_info().work.load(Relaxed) == 0 && hv.frames.scrub_ahead(m) {
        // SAFETY: the handlers of interrupts in the hypervisor set flags only; STI's shadow covers one instruction.
        unsafe { core::arch::asm!("sti", "nop", "cli", options(nostack)) };
    }
    if cpu_info().work.load(Relaxed) == 0 {
        // SAFETY: as above; STI's shadow lets HLT begin before the first.
        unsafe { core::arch::asm!("sti", "hlt", "cli", options(nostack)) };
    }
    #[cfg(feature = "stretch")]
    super::stretch::restart();
    let todo = cpu_info().work.swap(0, AcqRel);
    interrupts(hv, m, todo);
}

/// Starts running guests on this pcpu: never returns.
pub(crate) fn enter() -> ! {
    let info = cpu_info();
    context::clear_upcall_word();
    info.work.store(work::RESCHED, Relaxed);
    let top = core::ptr::from_ref(info).expose_provenance();
    // SAFETY: the boot stack frame is given up: RSP becomes the address at which the exit path expects CpuInfo, and the
    // exit path calls back into `exit_work`, which finds a vcpu to run before it returns.
    unsafe { core::arch::asm!("mov rsp, {}", "jmp exit_to_guest", in(reg) top, options(noreturn)) }
}
