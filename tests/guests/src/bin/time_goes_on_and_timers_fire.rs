//! System time never goes back and passes like the time stamp counter; a timer fires not before its time, and soon.
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::hypercall::Hypercall as H;
use pv_abi::vcpu::{SingleshotFlags, VcpuOp, VcpuSetPeriodicTimer, VcpuSetSingleshotTimer};
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::{Context, event, sched, time};
use test_guests::{Claim, call, ensure, ensure_eq, timer};

test_guests::claim!(time_goes_on_and_timers_fire);

const MILLISECOND_NS: u64 = 1_000_000;
/// Emulated machines on a busy host are late; never this late.
const LATE_NS: u64 = 2_000 * MILLISECOND_NS;

static FIRED: AtomicU64 = AtomicU64::new(0);
static FIRED_AT: AtomicU64 = AtomicU64::new(0);

fn time_goes_on_and_timers_fire(_: &'static Context) -> Claim {
    never_back()?;
    let timer = timer::take()?;
    timer.set_handler(|_| {
        FIRED_AT.store(time::now_ns(), Ordering::Relaxed);
        FIRED.fetch_add(1, Ordering::Relaxed);
    });
    for wait_ms in [0, 1, 10, 50] {
        fires_in_time(wait_ms, |at| call::call(H::SetTimerOp, [at]))?;
        fires_in_time(wait_ms, |at| singleshot(at, SingleshotFlags::empty()))?;
    }
    stopped_timers_stay_silent()?;
    periodic()
}

fn never_back() -> Claim {
    let mut last = time::now_ns();
    for _ in 0..20_000 {
        let now = time::now_ns();
        ensure!(now >= last, "time went back from {last} to {now}");
        last = now;
    }
    Ok(())
}

fn vcpu_op<T>(op: VcpuOp, argument: &mut T) -> i64 {
    call::call(H::VcpuOp, [u64::from(op.raw()), 0, call::address_mut(argument)])
}

fn singleshot(timeout_abs_ns: u64, flags: SingleshotFlags) -> i64 {
    let mut argument = VcpuSetSingleshotTimer { timeout_abs_ns, flags: flags.bits(), _pad: 0 };
    vcpu_op(VcpuOp::SetSingleshotTimer, &mut argument)
}

/// Sleeps until an event or until `limit_ns` have passed; whether the timer fired.
fn wait(limit_ns: u64) -> bool {
    let (before, end) = (FIRED.load(Ordering::Relaxed), time::now_ns() + limit_ns);
    while FIRED.load(Ordering::Relaxed) == before && time::now_ns() < end {
        sched::yield_now();
    }
    FIRED.load(Ordering::Relaxed) != before
}

fn fires_in_time(wait_ms: u64, set: impl Fn(u64) -> i64) -> Claim {
    let at = time::now_ns() + wait_ms * MILLISECOND_NS;
    let before = FIRED.load(Ordering::Relaxed);
    call::granted("setting a timer", set(at))?;
    while FIRED.load(Ordering::Relaxed) == before {
        // Without the timer nothing would end this sleep, and the machine would run into its limit.
        event::mask();
        if FIRED.load(Ordering::Relaxed) == before {
            sched::block();
        } else {
            event::unmask();
        }
    }
    let fired = FIRED_AT.load(Ordering::Relaxed);
    ensure!(fired >= at, "a timer of {wait_ms} ms fired {} ns early", at - fired);
    ensure!(fired - at < LATE_NS, "a timer of {wait_ms} ms fired {} ns late", fired - at);
    Ok(())
}

fn stopped_timers_stay_silent() -> Claim {
    let soon = time::now_ns() + 30 * MILLISECOND_NS;
    call::granted("set_timer_op", call::call(H::SetTimerOp, [soon]))?;
    call::granted("set_timer_op 0", call::call(H::SetTimerOp, [0]))?;
    ensure!(!wait(80 * MILLISECOND_NS), "a timer fired although it was stopped");
    call::granted("singleshot", singleshot(time::now_ns() + 30 * MILLISECOND_NS, SingleshotFlags::empty()))?;
    let stop = call::call(H::VcpuOp, [u64::from(VcpuOp::StopSingleshotTimer.raw()), 0, 0]);
    call::granted("stopping a singleshot timer", stop)?;
    ensure!(!wait(80 * MILLISECOND_NS), "a singleshot timer fired although it was stopped");
    Ok(())
}

fn periodic() -> Claim {
    let mut argument = VcpuSetPeriodicTimer { period_ns: 10 * MILLISECOND_NS };
    call::granted("a periodic timer", vcpu_op(VcpuOp::SetPeriodicTimer, &mut argument))?;
    for tick in 0..5 {
        ensure!(wait(LATE_NS), "tick {tick} of a periodic timer did not come");
    }
    let stop = call::call(H::VcpuOp, [u64::from(VcpuOp::StopPeriodicTimer.raw()), 0, 0]);
    call::granted("stopping the periodic timer", stop)?;
    // One tick may have been on its way.
    let _ = wait(20 * MILLISECOND_NS);
    ensure!(!wait(100 * MILLISECOND_NS), "a stopped periodic timer goes on");
    argument.period_ns = 1;
    let too_short = vcpu_op(VcpuOp::SetPeriodicTimer, &mut argument);
    ensure_eq!(too_short, Errno::Inval.to_ret(), "a period of 1 ns");
    Ok(())
}
