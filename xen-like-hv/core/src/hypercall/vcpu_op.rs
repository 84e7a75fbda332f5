//! `HYPERVISOR_vcpu_op`: bringing vcpus up and down, their timers and the areas that they share.

use core::sync::atomic::Ordering::SeqCst;

use alloc::boxed::Box;
use alloc::sync::Arc;

use pv_abi::errno::Errno;
use pv_abi::ids::VcpuId;
use pv_abi::shared_info::{TIME_INFO_SIZE, VCPU_INFO_SIZE};
use pv_abi::trap::VcpuGuestContext;
use pv_abi::vcpu::{
    SingleshotFlags, VcpuOp, VcpuRegisterRunstateMemoryArea, VcpuRegisterTimeMemoryArea,
    VcpuRegisterVcpuInfo, VcpuRunstateInfo, VcpuSetPeriodicTimer, VcpuSetSingleshotTimer,
};

use super::GuestPtr;
use crate::cx::Cx;
use crate::domain::context::{NotSet, Which};
use crate::domain::{context, lifecycle, vcpu_info};
use crate::error::{Args, Exit, HypercallResult};
use crate::port::Machine;
use crate::sched::state::flags;
use crate::sched::timers::TimerKind;
use crate::sched::{publish_runstate, publish_time_of_other};
use crate::vcpu::Vcpu;

/// Shortest period of the periodic timer.
const MIN_PERIOD_NS: u64 = 1_000_000;
/// Longest one.
const MAX_PERIOD_NS: u64 = u64::MAX >> 2;

/// The hypercall: `(operation, vcpu, argument)`.
///
/// # Errors
/// `ENOENT` for a vcpu that the domain does not have; `EFAULT`; what the operations say; `ENOSYS` for an unknown one.
#[inline(always)]
pub fn vcpu_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let id = VcpuId::new(args.low32(1));
    let other;
    // Mostly a vcpu asks about itself, and is at hand.
    let v = if id == cx.vcpu.id {
        cx.vcpu
    } else {
        other = cx.dom.vcpu(id).ok_or(Errno::NoEnt)?;
        &other
    };
    let arg = args.get(2);
    match VcpuOp::from_raw(args.low32(0)).ok_or(Errno::NoSys)? {
        VcpuOp::Initialise => initialise(cx, v, args),
        VcpuOp::Up => up(cx, v),
        VcpuOp::Down => down(cx, v),
        VcpuOp::IsUp => Ok(u64::from(v.sched.flags() & flags::DOWN == 0)),
        VcpuOp::GetRunstateInfo => {
            let info = v.sched.runstate.as_of(cx.m.now_ns());
            GuestPtr::<VcpuRunstateInfo>::new(arg)?.write(cx.m, &info)?;
            Ok(0)
        }
        VcpuOp::RegisterRunstateMemoryArea => register_runstate(cx, v, arg),
        VcpuOp::SetPeriodicTimer => {
            let period = GuestPtr::<VcpuSetPeriodicTimer>::new(arg)?.read(cx.m)?.period_ns;
            if !(MIN_PERIOD_NS..=MAX_PERIOD_NS).contains(&period) {
                return Err(Errno::Inval.into());
            }
            cx.hv.sched.set_period(cx.m, v, period);
            Ok(0)
        }
        VcpuOp::StopPeriodicTimer => {
            cx.hv.sched.set_period(cx.m, v, 0);
            Ok(0)
        }
        VcpuOp::SetSingleshotTimer => set_singleshot(cx, v, arg),
        VcpuOp::StopSingleshotTimer => {
            own(cx, v)?;
            cx.hv.sched.stop_timer(v, TimerKind::Singleshot);
            Ok(0)
        }
        VcpuOp::RegisterVcpuInfo => register_vcpu_info(cx, v, arg),
        VcpuOp::SendNmi => {
            if arg != 0 {
                return Err(Errno::Inval.into());
            }
            if !v.entry.nmi_pending.swap(true, SeqCst) {
                cx.hv.sched.notify(cx.m, v);
            }
            Ok(0)
        }
        // Only for vcpus of dom0 that are pinned one to one, which none is here.
        VcpuOp::GetPhysid => Err(Errno::Inval.into()),
        VcpuOp::RegisterVcpuTimeMemoryArea => register_time(cx, v, arg),
    }
}

fn own<M: Machine>(cx: &Cx<'_, M>, v: &Arc<Vcpu>) -> Result<(), Errno> {
    if Arc::ptr_eq(v, cx.vcpu) { Ok(()) } else { Err(Errno::Inval) }
}

/// Gives a vcpu its first registers. `EEXIST` where it has had some.
fn initialise<M: Machine>(cx: &mut Cx<'_, M>, v: &Arc<Vcpu>, args: &Args) -> HypercallResult {
    if v.events.info_location().is_none() {
        return Err(Errno::Inval.into());
    }
    let mut ctx: Box<VcpuGuestContext> = Box::default();
    GuestPtr::<VcpuGuestContext>::new(args.get(2))?.read_slice(cx.m, 0, core::slice::from_mut(&mut *ctx))?;
    match context::set(cx.hv, cx.m, cx.dom, v, &ctx, Which::New) {
        Ok(()) => Ok(0),
        Err(NotSet::Failed(e)) => Err(e.into()),
        Err(NotSet::Again) => Err(Exit::Restart(*args)),
    }
}

fn up<M: Machine>(cx: &Cx<'_, M>, v: &Arc<Vcpu>) -> HypercallResult {
    if !v.sched.initialised.load(SeqCst) {
        return Err(Errno::Inval.into());
    }
    cx.hv.sched.start(cx.m, v, flags::DOWN);
    Ok(0)
}

/// Takes a vcpu down. The last one that goes down switches the domain off.
fn down<M: Machine>(cx: &Cx<'_, M>, v: &Arc<Vcpu>) -> HypercallResult {
    let others_up = cx.dom.each_vcpu().any(|o| o.id != v.id && o.sched.flags() & flags::DOWN == 0);
    if others_up {
        cx.hv.sched.stop(cx.m, v, flags::DOWN);
    } else {
        lifecycle::shutdown(cx.hv, cx.m, cx.dom, lifecycle::SHUTDOWN_POWEROFF);
    }
    Ok(0)
}

fn register_runstate<M: Machine>(cx: &Cx<'_, M>, v: &Arc<Vcpu>, arg: u64) -> HypercallResult {
    let area = GuestPtr::<VcpuRegisterRunstateMemoryArea>::new(arg)?.read(cx.m)?;
    let ptr = GuestPtr::<VcpuRunstateInfo>::new(area.addr)?;
    v.sched.areas.set_runstate(area.addr);
    if Arc::ptr_eq(v, cx.vcpu) {
        publish_runstate(cx.m, v);
    } else {
        // The first contents only: an area that cannot be written now is tried again whenever the vcpu is switched.
        let _skipped = ptr.write(cx.m, &v.sched.runstate.as_of(cx.m.now_ns()));
    }
    Ok(0)
}

fn register_time<M: Machine>(cx: &Cx<'_, M>, v: &Arc<Vcpu>, arg: u64) -> HypercallResult {
    let area = GuestPtr::<VcpuRegisterTimeMemoryArea>::new(arg)?.read(cx.m)?;
    GuestPtr::<[u8; TIME_INFO_SIZE]>::new(area.addr)?;
    v.sched.areas.set_time(area.addr);
    publish_time_of_other(cx.m, v);
    Ok(0)
}

/// A time in the past goes off as soon as the pcpu's timer does, unless the guest asked to be told (`ETIME`).
fn set_singleshot<M: Machine>(cx: &Cx<'_, M>, v: &Arc<Vcpu>, arg: u64) -> HypercallResult {
    own(cx, v)?;
    let set = GuestPtr::<VcpuSetSingleshotTimer>::new(arg)?.read(cx.m)?;
    let must_be_future = SingleshotFlags::from_bits_retain(set.flags).contains(SingleshotFlags::FUTURE);
    if must_be_future && set.timeout_abs_ns < cx.m.now_ns() {
        return Err(Errno::Time.into());
    }
    cx.hv.sched.set_timer(cx.m, v, TimerKind::Singleshot, set.timeout_abs_ns);
    Ok(0)
}

/// Moves a vcpu's `vcpu_info` into the guest's own memory, once. An area that is not aligned or crosses its frame is
/// refused: later accesses are word by word in one frame (XSA-327).
fn register_vcpu_info<M: Machine>(cx: &Cx<'_, M>, v: &Arc<Vcpu>, arg: u64) -> HypercallResult {
    let area = GuestPtr::<VcpuRegisterVcpuInfo>::new(arg)?.read(cx.m)?;
    let size = u32::try_from(VCPU_INFO_SIZE).unwrap_or(u32::MAX);
    if area.offset > 4096 - size || area.offset & 7 != 0 {
        return Err(Errno::NxIo.into());
    }
    let down = v.sched.flags() & flags::DOWN != 0;
    vcpu_info::relocate(cx, v, area.mfn, area.offset, down)?;
    Ok(0)
}
