//! `HYPERVISOR_set_timer_op`, the older form of the one-shot timer.

use crate::cx::Cx;
use crate::domain::notify;
use crate::error::{Args, HypercallResult};
use crate::port::Machine;
use crate::sched::timers::TimerKind;

/// A time-out further away than this (13 days) is a guest's arithmetic gone wrong; it then gets a tick soon.
const FAR_NS: u64 = 1 << 50;
/// How soon.
const SOON_NS: u64 = 100_000_000;

/// The hypercall: `(absolute system time in nanoseconds)`; 0 stops the timer.
///
/// # Errors
/// None.
#[inline(always)]
pub fn set_timer_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let at = args.get(0);
    if at == 0 {
        cx.hv.sched.stop_timer(cx.vcpu, TimerKind::Singleshot);
        return Ok(0);
    }
    let now = cx.m.now_ns();
    let negative = at >> 63 != 0;
    let deadline =
        if negative || at.saturating_sub(now) >= FAR_NS { now.saturating_add(SOON_NS) } else { at };
    if deadline > now {
        cx.hv.sched.set_timer(cx.m, cx.vcpu, TimerKind::Singleshot, deadline);
    } else {
        goes_off(cx);
    }
    Ok(0)
}

/// A time that has come needs no timer: its event is sent at once, in less time than the pcpu's timer could be set and
/// go off.
#[cold]
#[inline(never)]
fn goes_off<M: Machine>(cx: &Cx<'_, M>) {
    cx.hv.sched.stop_timer(cx.vcpu, TimerKind::Singleshot);
    notify::timer(cx.hv, cx.m, cx.vcpu);
}
