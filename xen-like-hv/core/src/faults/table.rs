//! The scenarios together, and the ABI's tables of sub-operations.

use alloc::vec::Vec;

use pv_abi::callback::CallbackOp;
use pv_abi::console::ConsoleIoOp;
use pv_abi::domctl::{Domctl, DomctlCmd};
use pv_abi::evtchn::EvtchnOp;
use pv_abi::grant::GnttabOp;
use pv_abi::hypercall::Hypercall;
use pv_abi::memory::MemoryOp;
use pv_abi::mmu::MmuextCmd;
use pv_abi::nmi::NmiOp;
use pv_abi::physdev::PhysdevOp;
use pv_abi::platform::{PlatformCmd, PlatformOp};
use pv_abi::sched::SchedOp;
use pv_abi::sysctl::{Sysctl, SysctlCmd};
use pv_abi::vcpu::VcpuOp;
use pv_abi::version::XenVersionOp;
use pv_abi::vm_assist::VmAssistCmd;

use super::{ARG, GUEST, SELF, Scenario, Who, World, control, ext, guest};

/// Every scenario.
pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = guest::scenarios();
    all.extend(guest::memory());
    all.extend(guest::grants_and_events());
    all.extend(control::machine());
    all.extend(control::domains());
    all
}

/// Every sub-operation that the ABI knows: its call, its number, its name.
pub(super) fn sub_operations() -> Vec<(Hypercall, u64, &'static str)> {
    let mut all = Vec::new();
    macro_rules! family {
        ($call:ident, $ops:ident) => {
            all.extend($ops::ALL.iter().map(|op| (Hypercall::$call, u64::from(op.raw()), op.abi_name())));
        };
    }
    family!(MemoryOp, MemoryOp);
    family!(ConsoleIo, ConsoleIoOp);
    family!(GrantTableOp, GnttabOp);
    family!(VmAssist, VmAssistCmd);
    family!(VcpuOp, VcpuOp);
    family!(MmuextOp, MmuextCmd);
    family!(NmiOp, NmiOp);
    family!(SchedOp, SchedOp);
    family!(CallbackOp, CallbackOp);
    family!(EventChannelOp, EvtchnOp);
    family!(PhysdevOp, PhysdevOp);
    family!(XenVersion, XenVersionOp);
    family!(Sysctl, SysctlCmd);
    family!(Domctl, DomctlCmd);
    family!(PlatformOp, PlatformCmd);
    all
}

/// What dom0 sees of a sub-operation with an argument of zeros.
pub(super) fn plainly(call: Hypercall, sub: u64) -> i64 {
    let w = World::new();
    let number = u32::try_from(sub).unwrap();
    let args = match call {
        Hypercall::Domctl => {
            w.put(ARG, &Domctl::new(DomctlCmd::from_raw(number).unwrap(), GUEST, &0_u64));
            [ARG, 0, 0, 0, 0]
        }
        Hypercall::Sysctl => {
            w.put(ARG, &Sysctl::new(SysctlCmd::from_raw(number).unwrap(), &0_u64));
            [ARG, 0, 0, 0, 0]
        }
        Hypercall::PlatformOp => {
            w.put(ARG, &PlatformOp::new(PlatformCmd::from_raw(number).unwrap(), &0_u64));
            [ARG, 0, 0, 0, 0]
        }
        Hypercall::MmuextOp => {
            w.put(ARG, &ext(MmuextCmd::from_raw(number).unwrap(), 0, 0));
            [ARG, 1, 0, u64::from(SELF), 0]
        }
        Hypercall::GrantTableOp => {
            w.put(ARG, &[0_u64; 16]);
            [sub, ARG, 1, 0, 0]
        }
        Hypercall::VcpuOp => {
            w.put(ARG, &[0_u64; 16]);
            [sub, 0, ARG, 0, 0]
        }
        _ => {
            w.put(ARG, &[0_u64; 16]);
            [sub, ARG, ARG, 0, 0]
        }
    };
    w.run(Who::Dom0, call, args)
}
