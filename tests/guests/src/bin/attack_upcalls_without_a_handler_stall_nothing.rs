//! A vcpu whose events are open, pending and without a handler goes on, and so does its pcpu: the way out of the
//! hypervisor must not wait for an upcall that nobody takes.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::hypercall::Hypercall as H;
use pv_abi::ids::VcpuId;
use pv_guest_kernel::{Context, event};
use test_guests::{Claim, call, ensure_eq};

test_guests::claim!(attack_upcalls_without_a_handler_stall_nothing);

const CALLS: usize = 1000;

fn attack_upcalls_without_a_handler_stall_nothing(_: &'static Context) -> Claim {
    let ipi = event::bind_ipi(VcpuId::new(0))?;
    ensure_eq!(call::call(H::SetCallbacks, [0, 0, 0]), 0, "taking every callback away");
    ipi.notify()?;
    for _ in 0..CALLS {
        ensure_eq!(call::call(H::XenVersion, [0, 0]), (4 << 16) + 17, "a call with an upcall pending");
    }
    Ok(())
}
