//! Pause, shut down, crash, resume.
//!
//! A domain's vcpus carry one flag for all reasons of the domain ([`flags::DOMAIN_PAUSED`]); the reasons are counted in
//! [`DomainSlow`], under its lock, so that the flag and the counts agree.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use pv_abi::errno::Errno;

use super::{Domain, DomainSlow, notify};
use crate::access::Privilege;
use crate::hv::Hypervisor;
use crate::port::Machine;
use crate::regs::UserRegs;
use crate::sched::state::flags;
use crate::vcpu::Vcpu;

/// `SHUTDOWN_poweroff`.
pub const SHUTDOWN_POWEROFF: u32 = 0;
/// `SHUTDOWN_suspend`.
pub const SHUTDOWN_SUSPEND: u32 = 2;
/// `SHUTDOWN_crash`.
pub const SHUTDOWN_CRASH: u32 = 3;
/// `SHUTDOWN_watchdog`.
pub const SHUTDOWN_WATCHDOG: u32 = 4;
/// The greatest reason that a guest may give (`SHUTDOWN_MAX`).
pub const SHUTDOWN_MAX: u32 = 5;

impl Domain {
    /// Whether anything keeps all of its vcpus from running.
    fn must_stand(&self, slow: &DomainSlow) -> bool {
        slow.controller_pauses != 0 || slow.holds != 0 || slow.shutdown.is_some() || self.is_dying()
    }

    /// Brings the vcpus' flag in line with the counts. The caller holds the lock of `slow`.
    fn apply<M: Machine>(&self, hv: &Hypervisor, m: &M, slow: &DomainSlow) {
        let stand = self.must_stand(slow);
        for v in self.each_vcpu() {
            if stand {
                hv.sched.stop(m, &v, flags::DOMAIN_PAUSED);
            } else {
                hv.sched.start(m, &v, flags::DOMAIN_PAUSED);
            }
        }
    }

    /// Waits until no pcpu has registers of its vcpus. The caller has stopped it and is not one of them.
    pub(super) fn wait_until_it_stands(&self, hv: &Hypervisor) {
        for v in self.each_vcpu() {
            hv.sched.wait_until_saved(&v);
        }
    }
}

/// Pauses a domain for the toolstack, and waits until it stands.
///
/// # Errors
/// `EUSERS` does not exist here: too many pauses are `EINVAL`.
pub fn pause_by_controller<M: Machine>(hv: &Hypervisor, m: &M, dom: &Domain) -> Result<(), Errno> {
    {
        let mut slow = dom.slow.lock();
        slow.controller_pauses = slow.controller_pauses.checked_add(1).ok_or(Errno::Inval)?;
        dom.apply(hv, m, &slow);
    }
    dom.wait_until_it_stands(hv);
    Ok(())
}

/// Takes one of the toolstack's pauses back.
///
/// # Errors
/// `EINVAL` where there is none.
pub fn unpause_by_controller<M: Machine>(hv: &Hypervisor, m: &M, dom: &Domain) -> Result<(), Errno> {
    let mut slow = dom.slow.lock();
    slow.controller_pauses = slow.controller_pauses.checked_sub(1).ok_or(Errno::Inval)?;
    dom.apply(hv, m, &slow);
    Ok(())
}

/// Runs `f` while the domain stands still. The caller is not one of its vcpus.
pub fn with_domain_held<M: Machine, R>(hv: &Hypervisor, m: &M, dom: &Domain, f: impl FnOnce() -> R) -> R {
    {
        let mut slow = dom.slow.lock();
        slow.holds = slow.holds.saturating_add(1);
        dom.apply(hv, m, &slow);
    }
    dom.wait_until_it_stands(hv);
    let result = f();
    let mut slow = dom.slow.lock();
    slow.holds = slow.holds.saturating_sub(1);
    dom.apply(hv, m, &slow);
    result
}

/// Shuts a domain down for `reason`. Its vcpus stop at their next exit; a second shutdown changes nothing. For dom0 it
/// is the machine that is shut down.
pub fn shutdown<M: Machine>(hv: &Hypervisor, m: &M, dom: &Domain, reason: u32) {
    let reason = {
        let mut slow = dom.slow.lock();
        if slow.shutdown.is_some() {
            return;
        }
        let reason = slow.announced.unwrap_or(reason);
        slow.shutdown = Some(reason);
        dom.apply(hv, m, &slow);
        reason
    };
    if dom.privilege == Privilege::Control {
        log::info!("{}: shut down, reason {reason}", dom.id);
        m.machine_shutdown(reason);
        return;
    }
    notify::domain_exception(hv, m);
}

/// Undoes a shutdown, for a suspend that was cancelled; a domain that has not shut down stays as it is.
pub fn resume<M: Machine>(hv: &Hypervisor, m: &M, dom: &Domain) {
    let mut slow = dom.slow.lock();
    slow.shutdown = None;
    slow.announced = None;
    dom.apply(hv, m, &slow);
}

/// Ends a domain whose state cannot be repaired: prints where it stood and shuts it down with `SHUTDOWN_crash`.
pub fn crash<M: Machine>(hv: &Hypervisor, m: &M, v: &Arc<Vcpu>, regs: &UserRegs, why: &str) {
    let Some(dom) = v.domain() else { return };
    if dom.slow.lock().shutdown.is_some() {
        return;
    }
    log::warn!("{}{}: crashed: {why}", v.dom_id, v.id);
    log::warn!(
        "rip {:016x} cs {:04x} rflags {:08x} rsp {:016x} ss {:04x}",
        regs.rip,
        regs.cs,
        regs.rflags,
        regs.rsp,
        regs.ss
    );
    log::warn!("rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", regs.rax, regs.rbx, regs.rcx, regs.rdx);
    log::warn!("rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", regs.rsi, regs.rdi, regs.rbp, regs.r8);
    log::warn!("r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", regs.r9, regs.r10, regs.r11, regs.r12);
    log::warn!("r13 {:016x} r14 {:016x} r15 {:016x}", regs.r13, regs.r14, regs.r15);
    shutdown(hv, m, &dom, SHUTDOWN_CRASH);
}

impl Domain {
    /// Marks it as dying and stops it for good; `false` where somebody else has done that.
    pub(crate) fn begin_dying<M: Machine>(&self, hv: &Hypervisor, m: &M) -> bool {
        let slow = self.slow.lock();
        if self.dying.swap(true, SeqCst) {
            return false;
        }
        self.apply(hv, m, &slow);
        true
    }
}
