//! Acting on timers that are due.

use alloc::sync::Arc;

use pv_abi::ids::PcpuId;

use super::timers::TimerKind;
use crate::domain::{lifecycle, notify};
use crate::hv::Hypervisor;
use crate::port::Machine;
use crate::vcpu::Vcpu;

/// Acts on everything that is due on `pcpu`, the caller's own, and arms its timer anew. To be called from the exit and
/// idle loops after the timer interrupt, with no lock held.
pub fn run_timers<M: Machine>(hv: &Hypervisor, m: &M, pcpu: PcpuId) {
    let now = m.now_ns();
    hv.sched.timer_went_off(pcpu);
    while let Some((v, kind)) = hv.sched.take_due(pcpu, now) {
        fire(hv, m, pcpu, &v, kind, now);
    }
    hv.sched.check_slice(m, pcpu, now);
    hv.sched.rearm(m, pcpu);
}

fn fire<M: Machine>(hv: &Hypervisor, m: &M, pcpu: PcpuId, v: &Arc<Vcpu>, kind: TimerKind, now: u64) {
    match kind {
        TimerKind::Singleshot => notify::timer(hv, m, v),
        TimerKind::Periodic => {
            notify::timer(hv, m, v);
            hv.sched.next_period(pcpu, v, now);
        }
        TimerKind::Poll => hv.sched.unblock(m, v),
        TimerKind::Watchdog(_) => {
            if let Some(dom) = v.domain() {
                log::warn!("{}: watchdog has gone off", dom.id);
                lifecycle::shutdown(hv, m, &dom, lifecycle::SHUTDOWN_WATCHDOG);
            }
        }
    }
}
