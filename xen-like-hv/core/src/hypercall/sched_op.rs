//! `HYPERVISOR_sched_op`: giving up the pcpu, and ending.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort, PcpuId, VcpuId};
use pv_abi::sched::{
    SchedOp, SchedPinOverride, SchedPoll, SchedRemoteShutdown, SchedShutdown, SchedWatchdog,
};

use super::GuestPtr;
use crate::access;
use crate::cx::Cx;
use crate::domain::{lifecycle, notify};
use crate::error::{Args, HypercallResult};
use crate::port::{CpuMask, Machine};
use crate::sched::timers::TimerKind;

/// Most ports that one poll may name. The ABI sets no limit; a list without one could not be preempted.
const MAX_POLL_PORTS: u32 = 1024;
/// Watchdogs of a domain.
const WATCHDOGS: u8 = 2;
const NS_PER_S: u64 = 1_000_000_000;

/// The hypercall: `(operation, argument)`.
///
/// # Errors
/// `EFAULT` for an argument that cannot be read; what the operations say; `ENOSYS` for an unknown operation.
#[inline(always)]
pub fn sched_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let arg = args.get(1);
    match SchedOp::from_raw(args.low32(0)).ok_or(Errno::NoSys)? {
        SchedOp::Yield => {
            cx.hv.sched.yield_now(cx.m, cx.vcpu);
            Ok(0)
        }
        SchedOp::Block => block(cx),
        SchedOp::Shutdown => {
            let request = GuestPtr::<SchedShutdown>::new(arg)?.read(cx.m)?;
            lifecycle::shutdown(cx.hv, cx.m, cx.dom, request.reason & 0xff);
            Ok(0)
        }
        SchedOp::ShutdownCode => {
            let request = GuestPtr::<SchedShutdown>::new(arg)?.read(cx.m)?;
            cx.dom.slow.lock().announced.get_or_insert(request.reason & 0xff);
            Ok(0)
        }
        SchedOp::Poll => poll(cx, arg),
        SchedOp::RemoteShutdown => remote_shutdown(cx, arg),
        SchedOp::Watchdog => watchdog(cx, arg),
        SchedOp::PinOverride => pin_override(cx, arg),
    }
}

/// Unmasks events and waits for one. One that is pending already ends the wait at once.
fn block<M: Machine>(cx: &Cx<'_, M>) -> HypercallResult {
    let v = cx.vcpu;
    v.events.store_upcall_mask(cx.m, false);
    cx.hv.sched.block(cx.m, v);
    if v.events.upcall_wanted(cx.m) {
        cx.hv.sched.cancel_block(v);
        cx.m.request_exit_work();
    }
    Ok(0)
}

/// Waits until one of some ports is pending, masked or not, or until a time.
///
/// The vcpu counts as polling *before* the ports are looked at: an event that comes in between finds it and wakes it.
fn poll<M: Machine>(cx: &Cx<'_, M>, arg: u64) -> HypercallResult {
    let request = GuestPtr::<SchedPoll>::new(arg)?.read(cx.m)?;
    let ports = GuestPtr::<u32>::array(request.ports, u64::from(request.nr_ports))?;
    if request.nr_ports > MAX_POLL_PORTS {
        return Err(Errno::Inval.into());
    }
    cx.hv.sched.begin_poll(cx.dom, cx.vcpu);
    let only = match look_at(cx, &ports) {
        Ok(Seen::NothingPending(only)) => only,
        over => {
            cx.hv.sched.cancel_block(cx.vcpu);
            return over.map(|_| 0).map_err(Into::into);
        }
    };
    if request.timeout == 0 {
        cx.hv.sched.stop_timer(cx.vcpu, TimerKind::Poll);
    } else {
        cx.hv.sched.set_timer(cx.m, cx.vcpu, TimerKind::Poll, request.timeout);
    }
    cx.hv.sched.block_in_poll(cx.m, cx.vcpu, only);
    Ok(0)
}

/// What a look at the ports of a poll showed.
enum Seen {
    /// There is nothing to wait for.
    Pending,
    /// Nothing is pending; the port, if it is only one.
    NothingPending(Option<EvtchnPort>),
}

fn look_at<M: Machine>(cx: &Cx<'_, M>, ports: &GuestPtr<u32>) -> Result<Seen, Errno> {
    if cx.vcpu.events.upcall_wanted(cx.m) {
        return Ok(Seen::Pending);
    }
    let mut last = None;
    for index in 0..ports.count() {
        let port = EvtchnPort::new(ports.read_at(cx.m, index)?);
        if notify::port_is_pending(cx.m, cx.dom, port)? {
            return Ok(Seen::Pending);
        }
        last = Some(port);
    }
    Ok(Seen::NothingPending(last.filter(|_| ports.count() == 1)))
}

fn remote_shutdown<M: Machine>(cx: &Cx<'_, M>, arg: u64) -> HypercallResult {
    let request = GuestPtr::<SchedRemoteShutdown>::new(arg)?.read(cx.m)?;
    let target = cx.hv.domains.get(DomId::new(request.domain_id)).ok_or(Errno::Srch)?;
    access::control(cx.dom)?;
    lifecycle::shutdown(cx.hv, cx.m, &target, request.reason & 0xff);
    Ok(0)
}

/// Sets, renews or stops a watchdog: `id` 0 asks for a new one and returns its number.
fn watchdog<M: Machine>(cx: &Cx<'_, M>, arg: u64) -> HypercallResult {
    let request = GuestPtr::<SchedWatchdog>::new(arg)?.read(cx.m)?;
    let v0 = cx.dom.vcpu(VcpuId::new(0)).ok_or(Errno::Inval)?;
    let deadline = cx.m.now_ns().saturating_add(u64::from(request.timeout).saturating_mul(NS_PER_S));
    let mut slow = cx.dom.slow.lock();
    let (number, result) = match request.id {
        0 if request.timeout == 0 => return Err(Errno::Inval.into()),
        0 => {
            let free = (0..WATCHDOGS).find(|n| slow.watchdogs >> n & 1 == 0).ok_or(Errno::NoSpc)?;
            (free, u64::from(free) + 1)
        }
        id if id <= u32::from(WATCHDOGS) => (u8::try_from(id - 1).map_err(|_| Errno::Inval)?, 0),
        _ => return Err(Errno::Inval.into()),
    };
    if result == 0 && slow.watchdogs >> number & 1 == 0 {
        return Err(Errno::Inval.into());
    }
    if request.timeout == 0 {
        slow.watchdogs &= !(1 << number);
        cx.hv.sched.stop_timer(&v0, TimerKind::Watchdog(number));
    } else {
        slow.watchdogs |= 1 << number;
        cx.hv.sched.set_timer(cx.m, &v0, TimerKind::Watchdog(number), deadline);
    }
    Ok(result)
}

/// Binds the calling vcpu of dom0 to one pcpu for as long as it needs to talk to firmware there.
fn pin_override<M: Machine>(cx: &Cx<'_, M>, arg: u64) -> HypercallResult {
    access::control(cx.dom)?;
    let request = GuestPtr::<SchedPinOverride>::new(arg)?.read(cx.m)?;
    let saved = &cx.vcpu.sched.pinned_from;
    let Ok(pcpu) = u32::try_from(request.pcpu) else {
        let before = saved.swap(0, SeqCst);
        if before != 0 {
            cx.hv
                .sched
                .set_hard_affinity(cx.m, cx.vcpu, CpuMask::from_bits(before))
                .map_err(|_| Errno::Inval)?;
        }
        return Ok(0);
    };
    let target = CpuMask::of(PcpuId::new(pcpu));
    if target.intersection(cx.hv.sched.pcpus()).is_empty() {
        return Err(Errno::Inval.into());
    }
    if saved.load(Relaxed) != 0 {
        return Err(Errno::Busy.into());
    }
    saved.store(cx.vcpu.sched.hard_affinity().bits(), SeqCst);
    cx.hv.sched.set_hard_affinity(cx.m, cx.vcpu, target).map_err(|_| Errno::Inval)?;
    Ok(0)
}
