//! Each wrong use of the FIFO calls answers the ABI's error and keeps no hold of the frame that it named.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::evtchn::{EvtchnExpandArray, EvtchnInitControl, EvtchnOp, EvtchnReset, EvtchnSetPriority};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, VcpuId};
use pv_guest_kernel::event::{self, Abi};
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::memory::{SharedPages, table};
use pv_guest_kernel::{Context, hypercall};
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claim!(wrong_fifo_calls_are_refused);

fn op<T>(op: EvtchnOp, mut argument: T) -> i64 {
    call::call(Hypercall::EventChannelOp, [u64::from(op.raw()), call::address_mut(&mut argument)])
}

fn init(control_gfn: u64, offset: u32, vcpu: u32) -> i64 {
    op(EvtchnOp::InitControl, EvtchnInitControl { control_gfn, offset, vcpu, ..Default::default() })
}

fn expand(array_gfn: u64) -> i64 {
    op(EvtchnOp::ExpandArray, EvtchnExpandArray { array_gfn })
}

fn priority(port: u32, priority: u32) -> i64 {
    op(EvtchnOp::SetPriority, EvtchnSetPriority { port, priority })
}

/// Booted with `events=2l`, so that the ABI is the guest's to change.
fn wrong_fifo_calls_are_refused(_: &'static Context) -> Claim {
    if event::abi() != Abi::TwoLevel {
        return Err(Trouble::error("the kernel uses FIFO events already"));
    }
    let pages = SharedPages::new(2).ok_or(Errno::NoMem)?;
    let (control, array) = (frame(&pages, 0)?, frame(&pages, 1)?);
    let channel = event::bind_ipi(VcpuId::new(0))?;
    let port = channel.port().raw();
    call::refused("an array without control block", expand(array), Errno::OpNotSupp)?;
    call::refused("a priority with two levels", priority(port, 1), Errno::NoSys)?;
    let wrong = [(4, 0), (4032, 0), (4096, 0), (u32::MAX - 7, 0)];
    for (offset, vcpu) in wrong {
        call::refused("a control block in the wrong place", init(control, offset, vcpu), Errno::Inval)?;
    }
    call::refused("a control block of no vcpu", init(control, 0, 500), Errno::NoEnt)?;
    for gfn in [0xf_ffff_ffff, u64::MAX, table::root().raw()] {
        call::refused("a control block in a frame that is not ours to give", init(gfn, 0, 0), Errno::Inval)?;
    }
    ensure_eq!(event::abi(), Abi::TwoLevel, "the ABI after refused calls");
    channel.notify()?;
    hypercall::raw::nothing();
    ensure!(channel.try_take(), "an event was lost after refused calls");
    call::granted("a control block", init(control, 4096 - 72, 0))?;
    call::refused("a second control block", init(array, 0, 0), Errno::Inval)?;
    for gfn in [0xf_ffff_ffff, table::root().raw()] {
        call::refused("an array in a frame that is not ours to give", expand(gfn), Errno::Inval)?;
    }
    call::refused("a priority too many", priority(port, 16), Errno::Inval)?;
    call::refused("a priority of no port", priority(u32::MAX, 1), Errno::Inval)?;
    call::granted("a priority", priority(port, 15))?;
    // The kernel knows nothing of all this: it goes back to where it was.
    let reset = op(EvtchnOp::Reset, EvtchnReset { dom: DomId::SELF.raw() });
    call::granted("reset", reset)?;
    call::refused("an array after reset", expand(array), Errno::OpNotSupp)
}

fn frame(pages: &SharedPages, number: usize) -> Claim<u64> {
    Ok(pages.mfn(number).ok_or(Errno::Inval)?.raw())
}
