//! Entries of a guest into the hypervisor and back: exceptions, events, system calls, iret. Whatever comes in, what goes
//! out to ring 3 is in order (I18).

use std::sync::atomic::Ordering::Relaxed;

use hv_core::entry::exit::deliver_pending;
use hv_core::entry::trap::{Exception, exception, failed_return, inject, int80};
use hv_core::port::{Frames, GuestMem};
use hv_core::{Cx, UserRegs};
use pv_abi::callback::CallbackRegister;
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::GuestVa;
use pv_abi::trap::{IretFrame, TrapInfo};
use zerocopy::IntoBytes;

use crate::bytes::Bytes;
use crate::machine::{ARG, World};

const IF: u64 = 1 << 9;
const IOPL: u64 = 3 << 12;
const VM: u64 = 1 << 17;

fn address(b: &mut Bytes<'_>) -> u64 {
    match b.byte() % 5 {
        0 => ARG + u64::from(b.byte()) * 64,
        1 => 0xffff_8000_0000_0000 + u64::from(b.byte()),
        2 => (1 << 47) - 16 + u64::from(b.byte() % 32),
        3 => b.word(),
        _ => 0x1000,
    }
}

fn frame(b: &mut Bytes<'_>) -> UserRegs {
    UserRegs {
        rip: address(b),
        rsp: address(b),
        cs: b.pick(&[0xe033, 0xe023, 0x33, 0x10, 0xe030, 0xffff, 0]) | 3,
        ss: b.pick(&[0xe02b, 0x2b, 0x18, 0xffff, 0]) | 3,
        rflags: b.word() & 0x0025_0fd5 | IF | 2,
        rax: b.word(),
        rcx: b.word(),
        r11: b.word(),
        ..UserRegs::default()
    }
}

fn tables(w: &World, b: &mut Bytes<'_>) {
    let trap = |b: &mut Bytes<'_>| TrapInfo {
        vector: b.byte() % 32,
        flags: b.byte(),
        cs: b.pick(&[0xe033, 0x33, 0x10, 0]),
        _pad: 0,
        address: address(b),
    };
    let list = [trap(b), trap(b), trap(b), TrapInfo::default()];
    let _mapped = w.w.m.copy_to_guest(GuestVa::new(ARG), list.as_bytes());
    call(w, Hypercall::SetTrapTable, [ARG, 0]);
    for kind in [0, 1, 2, 4] {
        let arg = CallbackRegister { kind, flags: u16::from(b.byte() & 1), _pad: 0, address: address(b) };
        let _mapped = w.w.m.copy_to_guest(GuestVa::new(ARG), arg.as_bytes());
        call(w, Hypercall::CallbackOp, [0, ARG]);
    }
    call(w, Hypercall::StackSwitch, [b.pick(&[0xe02b, 0x2b, 0]), address(b)]);
}

fn call(w: &World, number: Hypercall, args: [u64; 2]) {
    let mut regs = UserRegs { rax: number.raw(), rdi: args[0], rsi: args[1], rip: 2, ..UserRegs::default() };
    w.dispatch(1, &mut regs);
}

/// I18, as far as the frame says it: ring 3, interrupts on, no I/O privilege, no virtual-8086 mode.
fn assert_goes_to_ring_3(regs: &UserRegs, what: u8) {
    assert_eq!((regs.cs & 3, regs.ss & 3), (3, 3), "step {what}: {regs:x?}");
    assert_eq!(regs.rflags & (IF | IOPL | VM), IF, "step {what}: {regs:x?}");
}

/// See the crate.
pub(crate) fn traps(input: &[u8]) {
    let w = World::new();
    let mut b = Bytes::new(input);
    tables(&w, &mut b);
    let mut regs = frame(&mut b);
    for _ in 0..24 {
        if b.is_empty() {
            break;
        }
        let step = b.byte() % 8;
        let alive = one(&w, &mut b, step, &mut regs);
        if !alive || w.actors[1].dom.slow.lock().shutdown.is_some() {
            break;
        }
        assert_goes_to_ring_3(&regs, step);
    }
    w.audit();
}

/// One entry; whether the guest can go on.
fn one(w: &World, b: &mut Bytes<'_>, step: u8, regs: &mut UserRegs) -> bool {
    if step == 0 {
        *regs = frame(b);
        return true;
    }
    if step == 1 {
        let iret = IretFrame {
            rax: b.word(),
            r11: b.word(),
            rcx: b.word(),
            flags: b.pick(&[0, 0x100, u64::MAX]),
            rip: address(b),
            cs: b.word(),
            rflags: b.word(),
            rsp: address(b),
            ss: b.word(),
        };
        let _mapped = w.w.m.copy_to_guest(GuestVa::new(ARG + 0x1000), iret.as_bytes());
        (regs.rsp, regs.rax) = (ARG + 0x1000, Hypercall::Iret.raw());
        w.dispatch(1, regs);
        return true;
    }
    let a = &w.actors[1];
    let mut cx = Cx::new(&w.w.hv, &w.w.m, &a.dom, &a.vcpu, regs);
    let (vector, error_code) = (b.byte() % 32, u32::from(b.byte()));
    match step {
        2 => inject(&mut cx, vector, error_code).is_ok(),
        3 => exception(&mut cx, Exception { vector, error_code, detail: address(b) }).is_ok(),
        4 => int80(&mut cx).is_ok(),
        5 => failed_return(&mut cx, [1, 2, 3, 4]).is_ok(),
        6 => {
            // An event comes: upcall pending, not masked.
            w.w.m.words(a.dom.shared_info)[0].store(1, Relaxed);
            deliver_pending(&mut cx).is_ok()
        }
        _ => deliver_pending(&mut cx).is_ok(),
    }
}
