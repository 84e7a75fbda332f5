//! Time and the scheduler.

use pv_abi::evtchn::VirqKind;
use pv_abi::hypercall::Hypercall;
use pv_abi::sched::SchedOp;
use pv_abi::vcpu::{VcpuOp, VcpuSetSingleshotTimer};
use pv_guest_kernel::time;
use test_guests::meter::Meter;
use test_guests::{Claim, call, ensure, ensure_eq};

/// A time that does not come while this runs.
const FAR_NS: u64 = 3_600_000_000_000;

pub(crate) fn measure(meter: &Meter) -> Claim {
    let plain = |number: Hypercall, args: [u64; 3]| call::succeed(number, args);
    meter.row("sched_yield", 1, || plain(Hypercall::SchedOp, [u64::from(SchedOp::Yield.raw()), 0, 0]))?;
    let mut deadline = time::now_ns() + FAR_NS;
    meter.row("timer_set", 1, || {
        deadline += 1000;
        plain(Hypercall::SetTimerOp, [deadline, 0, 0])
    })?;
    meter.row("timer_set_and_stop", 2, || {
        deadline += 1000;
        plain(Hypercall::SetTimerOp, [deadline, 0, 0])?;
        plain(Hypercall::SetTimerOp, [0, 0, 0])
    })?;
    let single = u64::from(VcpuOp::SetSingleshotTimer.raw());
    meter.row("timer_set_by_vcpu_op", 1, || {
        deadline += 1000;
        let timer = VcpuSetSingleshotTimer { timeout_abs_ns: deadline, ..VcpuSetSingleshotTimer::default() };
        plain(Hypercall::VcpuOp, [single, 0, call::address(&timer)])
    })?;
    let runstate = u64::from(VcpuOp::GetRunstateInfo.raw());
    meter.row("runstate_read", 1, || {
        let mut area = [0_u64; 6];
        plain(Hypercall::VcpuOp, [runstate, 0, call::address_mut(&mut area)])
    })?;
    ensure_eq!(call::call(Hypercall::SetTimerOp, [0]), 0, "stopping {:?}", VirqKind::Timer);
    meter.row("clock_read", 1, || {
        ensure!(time::now_ns() > 0, "a clock that stands");
        Ok(())
    })
}
