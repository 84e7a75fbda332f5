//! Each wrong use of an event channel answers the ABI's error.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::evtchn::{
    EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindVcpu, EvtchnBindVirq, EvtchnClose,
    EvtchnOp, EvtchnSend, EvtchnStatus, EvtchnUnmask,
};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, VcpuId};
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::{Context, event};
use test_guests::{Claim, call, format};

test_guests::claim!(wrong_event_calls_are_refused);

/// Ports that cannot exist with two-level events, and one that is free.
const NO_PORTS: [u32; 4] = [4095, 4096, 131_072, u32::MAX];
const NO_DOMAIN: u16 = 0x7123;

fn op<T>(op: EvtchnOp, mut argument: T) -> i64 {
    call::call(Hypercall::EventChannelOp, [u64::from(op.raw()), call::address_mut(&mut argument)])
}

fn wrong_event_calls_are_refused(_: &'static Context) -> Claim {
    for port in NO_PORTS {
        call::refused(&format!("send to {port}"), op(EvtchnOp::Send, EvtchnSend { port }), Errno::Inval)?;
        call::refused(&format!("close of {port}"), op(EvtchnOp::Close, EvtchnClose { port }), Errno::Inval)?;
    }
    for port in [4096, u32::MAX] {
        let bind = EvtchnBindVcpu { port, vcpu: 0 };
        call::refused(&format!("bind_vcpu of {port}"), op(EvtchnOp::BindVcpu, bind), Errno::Inval)?;
        let unmask = EvtchnUnmask { port };
        call::refused(&format!("unmask of {port}"), op(EvtchnOp::Unmask, unmask), Errno::Inval)?;
        let status = EvtchnStatus { dom: DomId::SELF.raw(), port, ..EvtchnStatus::default() };
        call::refused(&format!("status of {port}"), op(EvtchnOp::Status, status), Errno::Inval)?;
    }
    wrong_lines()?;
    wrong_domains()?;
    call::refused("an argument nowhere", call::call(Hypercall::EventChannelOp, [4, 0x1000]), Errno::Fault)?;
    let inside = call::call(Hypercall::EventChannelOp, [4, 0xffff_8300_0000_0000]);
    call::refused("an argument in the hypervisor", inside, Errno::Fault)
}

fn wrong_lines() -> Claim {
    let virq = |virq, vcpu| op(EvtchnOp::BindVirq, EvtchnBindVirq { virq, vcpu, port: 0 });
    call::refused("virq 24", virq(24, 0), Errno::Inval)?;
    call::refused("virq 4294967295", virq(u32::MAX, 0), Errno::Inval)?;
    call::refused("virq timer of vcpu 500", virq(0, 500), Errno::NoEnt)?;
    let _held = event::bind_virq(pv_abi::evtchn::VirqKind::Debug, VcpuId::new(0))?;
    call::refused("virq debug twice", virq(1, 0), Errno::Exist)?;
    call::refused(
        "ipi to vcpu 500",
        op(EvtchnOp::BindIpi, EvtchnBindIpi { vcpu: 500, port: 0 }),
        Errno::NoEnt,
    )
}

fn wrong_domains() -> Claim {
    let alloc = EvtchnAllocUnbound { dom: NO_DOMAIN, remote_dom: 0, port: 0 };
    call::refused("alloc_unbound in no domain", op(EvtchnOp::AllocUnbound, alloc), Errno::Srch)?;
    let bind =
        EvtchnBindInterdomain { remote_dom: NO_DOMAIN, remote_port: 1, ..EvtchnBindInterdomain::default() };
    call::refused("bind to no domain", op(EvtchnOp::BindInterdomain, bind), Errno::Srch)?;
    let own = DomId::SELF.raw();
    let free =
        EvtchnBindInterdomain { remote_dom: own, remote_port: 4000, ..EvtchnBindInterdomain::default() };
    call::refused("bind to a free port", op(EvtchnOp::BindInterdomain, free), Errno::Inval)
}
