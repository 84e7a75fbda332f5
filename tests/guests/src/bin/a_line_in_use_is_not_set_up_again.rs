//! A line stays as it was set up when it is mapped, and one that is bound is not set up again: a dom0 names a line for each
//! device that shares it, and the devices that use it already must not lose it.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::evtchn::BindPirqFlags;
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::DomId;
use pv_abi::physdev::{MapPirqType, PhysdevApic, PhysdevMapPirq, PhysdevOp, PhysdevSetupGsi};
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::{Context, event};
use test_guests::{Claim, call, ensure_eq};

test_guests::claim!(a_line_in_use_is_not_set_up_again);

/// A line that no device of the machine uses, of the IO-APIC at the usual place.
const LINE: u32 = 20;
const IO_APIC: u64 = 0xfec0_0000;
/// In the low half of a line's entry.
const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;

fn a_line_in_use_is_not_set_up_again(_: &'static Context) -> Claim {
    ensure_eq!(state()? & MASKED, MASKED, "before anybody uses it");
    call::granted("by edge, active high", set_up(0, 0))?;
    map()?;
    ensure_eq!(state()? & (MASKED | LEVEL | ACTIVE_LOW), MASKED, "mapped, as it was set up");
    let channel = event::bind_pirq(LINE, BindPirqFlags::WILL_SHARE)?;
    let bound = state()?;
    ensure_eq!(bound & (MASKED | LEVEL | ACTIVE_LOW), 0, "bound");
    call::refused("by level, active low", set_up(1, 1), Errno::Exist)?;
    map()?;
    ensure_eq!(state()?, bound, "still bound");
    drop(channel);
    Ok(())
}

fn state() -> Claim<u32> {
    let mut argument = PhysdevApic { apic_physbase: IO_APIC, reg: 0x10 + 2 * LINE, ..PhysdevApic::default() };
    let args = [u64::from(PhysdevOp::ApicRead.raw()), call::address_mut(&mut argument)];
    call::granted("reading the line's entry", call::call(Hypercall::PhysdevOp, args))?;
    Ok(argument.value)
}

fn set_up(triggering: u8, polarity: u8) -> i64 {
    let argument = PhysdevSetupGsi { gsi: 20, triggering, polarity, ..PhysdevSetupGsi::default() };
    call::call(Hypercall::PhysdevOp, [u64::from(PhysdevOp::SetupGsi.raw()), call::address(&argument)])
}

fn map() -> Claim {
    let mut argument = PhysdevMapPirq {
        domid: DomId::SELF.raw(),
        kind: MapPirqType::Gsi.raw(),
        index: 20,
        pirq: 20,
        ..PhysdevMapPirq::default()
    };
    let args = [u64::from(PhysdevOp::MapPirq.raw()), call::address_mut(&mut argument)];
    call::granted("mapping the line", call::call(Hypercall::PhysdevOp, args)).map(drop)
}
