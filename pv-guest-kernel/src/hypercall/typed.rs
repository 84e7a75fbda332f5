//! Operations whose argument is a structure of numbers.
//!
//! Each structure is tied to its operation by a trait, and none of them holds an address or gives memory away, so these
//! calls are safe: the worst they can do is fail.

use pv_abi::evtchn::{
    EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindPirq, EvtchnBindVcpu, EvtchnBindVirq,
    EvtchnClose, EvtchnOp, EvtchnSend, EvtchnSetPriority, EvtchnStatus, EvtchnUnmask,
};
use pv_abi::ids::VcpuId;
use pv_abi::physdev::{
    PhysdevEoi, PhysdevIrqStatusQuery, PhysdevMapPirq, PhysdevOp, PhysdevPciDeviceAdd, PhysdevPirqEoiGmfn,
    PhysdevSetIopl, PhysdevSetupGsi, PhysdevUnmapPirq,
};
use pv_abi::sched::{SchedOp, SchedPoll, SchedShutdown};
use pv_abi::vcpu::{VcpuOp, VcpuSetSingleshotTimer};

use super::{Errno, Result, Wire, address_of, evtchn_op, physdev_op, sched_op, table, vcpu_op};

mod sealed {
    pub trait Sealed {}
}

macro_rules! tie {
    ($(#[$doc:meta])* $trait_name:ident, $op:ident, $function:ident, $call:ident: $($argument:ident => $variant:ident,)+) => {
        $(#[$doc])*
        pub trait $trait_name: Wire + sealed::Sealed {
            /// The operation that takes this structure.
            const OP: $op;
        }

        $(
            impl sealed::Sealed for $argument {}
            impl $trait_name for $argument {
                const OP: $op = $op::$variant;
            }
        )+

        /// Carries out the operation that belongs to `argument`; gives the structure back with the results in it.
        #[inline]
        pub fn $function<T: $trait_name>(mut argument: T) -> Result<T> {
            // SAFETY: the structure of this operation, without addresses.
            unsafe { $call(T::OP, &mut argument) }?;
            Ok(argument)
        }
    };
}

tie!(
    /// Argument of an event-channel operation.
    EvtchnArgument, EvtchnOp, evtchn, evtchn_op:
    EvtchnAllocUnbound => AllocUnbound,
    EvtchnBindInterdomain => BindInterdomain,
    EvtchnBindIpi => BindIpi,
    EvtchnBindPirq => BindPirq,
    EvtchnBindVcpu => BindVcpu,
    EvtchnBindVirq => BindVirq,
    EvtchnClose => Close,
    EvtchnSetPriority => SetPriority,
    EvtchnSend => Send,
    EvtchnStatus => Status,
    EvtchnUnmask => Unmask,
);

tie!(
    /// Argument of an operation on interrupt lines and devices.
    PhysdevArgument, PhysdevOp, physdev, physdev_op:
    PhysdevEoi => Eoi,
    PhysdevIrqStatusQuery => IrqStatusQuery,
    PhysdevMapPirq => MapPirq,
    PhysdevPciDeviceAdd => PciDeviceAdd,
    PhysdevPirqEoiGmfn => PirqEoiGmfnV2,
    PhysdevSetIopl => SetIopl,
    PhysdevSetupGsi => SetupGsi,
    PhysdevUnmapPirq => UnmapPirq,
);

/// Lets other vcpus run.
pub fn sched_yield() -> Result {
    // SAFETY: takes no memory.
    unsafe { table::sched_op([SchedOp::Yield.raw().into(), 0]) }.map(drop)
}

/// Opens events and sleeps until one is pending.
pub fn sched_block() -> Result {
    // SAFETY: takes no memory.
    unsafe { table::sched_op([SchedOp::Block.raw().into(), 0]) }.map(drop)
}

/// Sleeps until one of `ports` is pending or system time reaches `deadline_ns` (0: no limit).
pub fn sched_poll(ports: &[u32], deadline_ns: u64) -> Result {
    let mut argument = SchedPoll {
        ports: address_of(ports),
        nr_ports: u32::try_from(ports.len()).map_err(|_| Errno::Inval)?,
        timeout: deadline_ns,
        ..SchedPoll::default()
    };
    // SAFETY: the list of ports outlives the call and is only read.
    unsafe { sched_op(SchedOp::Poll, &mut argument) }.map(drop)
}

/// Ends the domain. Does not return if it succeeds.
pub fn sched_shutdown(reason: u32) -> Result {
    // SAFETY: a small structure that is only read.
    unsafe { sched_op(SchedOp::Shutdown, &mut SchedShutdown { reason }) }.map(drop)
}

/// An operation on a vcpu that takes no argument.
fn vcpu_plain(op: VcpuOp, vcpu: VcpuId) -> Result<u64> {
    // SAFETY: takes no structure.
    unsafe { vcpu_op::<u64>(op, vcpu.raw(), core::ptr::null_mut()) }
}

/// Whether a vcpu runs.
pub fn vcpu_is_up(vcpu: VcpuId) -> Result<bool> {
    vcpu_plain(VcpuOp::IsUp, vcpu).map(|up| up != 0)
}

/// Lets an initialised vcpu run.
pub fn vcpu_up(vcpu: VcpuId) -> Result {
    vcpu_plain(VcpuOp::Up, vcpu).map(drop)
}

/// Stops a vcpu.
pub fn vcpu_down(vcpu: VcpuId) -> Result {
    vcpu_plain(VcpuOp::Down, vcpu).map(drop)
}

/// Stops the periodic timer that a vcpu may start with.
pub fn stop_periodic_timer(vcpu: VcpuId) -> Result {
    vcpu_plain(VcpuOp::StopPeriodicTimer, vcpu).map(drop)
}

/// Sets the one-shot timer of a vcpu to an absolute time. A time in the past fires at once.
pub fn set_singleshot_timer(vcpu: VcpuId, deadline_ns: u64) -> Result {
    let mut argument =
        VcpuSetSingleshotTimer { timeout_abs_ns: deadline_ns, ..VcpuSetSingleshotTimer::default() };
    // SAFETY: the structure of this operation, only read.
    unsafe { vcpu_op(VcpuOp::SetSingleshotTimer, vcpu.raw(), &raw mut argument) }.map(drop)
}
