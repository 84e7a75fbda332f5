//! A call or sub-operation that does not exist answers the ABI's error, and nothing else happens.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::hypercall::Hypercall as H;
use pv_abi::mmu::MmuextOp;
use pv_guest_kernel::Context;
use pv_guest_kernel::hypercall::Errno;
use test_guests::{Claim, call, format};

test_guests::claim!(unknown_calls_answer_enosys);

/// Numbers without a call: gaps, beyond the table, beyond 32 bits.
const NUMBERS: [u64; 12] = [11, 43, 44, 47, 55, 63, 64, 127, 128, 0xffff_ffff, 1 << 32, u64::MAX];

/// An operation that no call has.
const NO_OP: u64 = 99;

fn unknown_calls_answer_enosys(_: &'static Context) -> Claim {
    for number in NUMBERS {
        call::refused(&format!("call {number:#x}"), call::number(number, [0; 5]), Errno::NoSys)?;
    }
    for (name, number, args) in [
        ("xen_version", H::XenVersion, [NO_OP, 0, 0]),
        ("sched_op", H::SchedOp, [NO_OP, 0, 0]),
        ("event_channel_op", H::EventChannelOp, [NO_OP, 0, 0]),
        ("vcpu_op", H::VcpuOp, [NO_OP, 0, 0]),
        ("vm_assist", H::VmAssist, [NO_OP, 0, 0]),
        ("callback_op", H::CallbackOp, [NO_OP, 0, 0]),
        ("console_io", H::ConsoleIo, [NO_OP, 0, 0]),
        ("physdev_op", H::PhysdevOp, [NO_OP, 0, 0]),
        ("nmi_op", H::NmiOp, [NO_OP, 0, 0]),
        ("memory_op", H::MemoryOp, [63, 0, 0]),
    ] {
        call::refused(name, call::call(number, args), Errno::NoSys)?;
    }
    for (name, number, args) in [
        ("vm_assist of an unknown type", H::VmAssist, [0, NO_OP]),
        ("set_segment_base of an unknown base", H::SetSegmentBase, [NO_OP, 0]),
    ] {
        call::refused(name, call::call(number, args), Errno::Inval)?;
    }
    page_table_calls()
}

fn page_table_calls() -> Claim {
    let extended = MmuextOp { cmd: 99, ..MmuextOp::default() };
    let (answer, done) = call::mmuext_op(&[extended]);
    call::refused("mmuext_op", answer, Errno::NoSys)?;
    test_guests::ensure_eq!(done, 0, "operations done");
    Ok(())
}
