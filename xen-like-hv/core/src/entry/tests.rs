//! What a guest finds on its stack and in its registers at each gate.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::ids::{DomId, GuestVa, Mfn};

use super::bounce::{Extra, bounce};
use super::trap::{self, Exception, SystemCall};
use super::{EventMasking, GuestMode, exit, iret};
use crate::access::Privilege;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::Exit;
use crate::fake::{FakeMachine, FakeWorld};
use crate::port::GuestMem;
use crate::regs::{
    GUEST_CS64, RFLAGS_FIXED, RFLAGS_IF, RFLAGS_IOPL, RFLAGS_NT, RFLAGS_TF, TRAP_SYSCALL, UserRegs,
};
use crate::vcpu::Vcpu;

const STACK: u64 = 0x7000;
const HANDLER: u64 = 0xffff_ffff_8000_1000;

struct Guest {
    world: FakeWorld,
    dom: Arc<Domain>,
    vcpu: Arc<Vcpu>,
    regs: UserRegs,
}

impl Guest {
    fn new() -> Self {
        let world = FakeWorld::new(64);
        let (dom, vcpu) = world.add_domain(DomId::new(1), Privilege::Unprivileged, 16);
        world.m.map_guest_page(STACK);
        let regs = UserRegs {
            rip: 0x1234,
            rsp: STACK + 0x808,
            cs: GUEST_CS64,
            ss: 0xe02b,
            rflags: RFLAGS_IF | RFLAGS_FIXED,
            rcx: 0xc,
            r11: 0xb,
            ..UserRegs::default()
        };
        Self { world, dom, vcpu, regs }
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut Cx<'_, FakeMachine>) -> R) -> R {
        let mut cx = Cx::new(&self.world.hv, &self.world.m, &self.dom, &self.vcpu, &mut self.regs);
        f(&mut cx)
    }

    fn stack<const N: usize>(&self) -> [u64; N] {
        let mut words = [0_u64; N];
        let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut words);
        self.world.m.copy_from_guest(bytes, GuestVa::new(self.regs.rsp)).expect("the stack is mapped");
        words
    }

    fn put_stack(&self, words: &[u64]) {
        let bytes = zerocopy::IntoBytes::as_bytes(words);
        self.world.m.copy_to_guest(GuestVa::new(self.regs.rsp), bytes).expect("the stack is mapped");
    }

    fn shared_word(&self) -> u64 {
        crate::port::Frames::words(&self.world.m, self.dom.shared_info)[0].load(Relaxed)
    }

    fn set_shared_word(&self, value: u64) {
        crate::port::Frames::words(&self.world.m, self.dom.shared_info)[0].store(value, Relaxed);
    }
}

#[test]
fn a_bounce_from_the_kernel_shows_what_was_interrupted() {
    let mut g = Guest::new();
    g.regs.rflags |= RFLAGS_TF | RFLAGS_NT;
    g.with(|cx| bounce(cx, HANDLER, EventMasking::Keep, Extra::ErrorCode(5))).expect("the stack is mapped");
    // 16-byte aligned, then eight words down.
    assert_eq!(g.regs.rsp, STACK + 0x800 - 64);
    let flags = RFLAGS_IF | RFLAGS_FIXED | RFLAGS_TF | RFLAGS_NT;
    assert_eq!(g.stack(), [0xc, 0xb, 5, 0x1234, 0xe030, flags, STACK + 0x808, 0xe02b]);
    assert_eq!((g.regs.rip, g.regs.cs, g.regs.entry_vector), (HANDLER, GUEST_CS64, TRAP_SYSCALL));
    assert_eq!(g.regs.rflags & (RFLAGS_TF | RFLAGS_NT), 0, "the handler starts with clean flags");
}

#[test]
fn a_masking_gate_masks_and_the_frame_remembers() {
    let mut g = Guest::new();
    g.with(|cx| bounce(cx, HANDLER, EventMasking::Mask, Extra::None)).expect("the stack is mapped");
    assert_eq!(g.shared_word() >> 8 & 0xff, 1);
    let [_, _, _, cs, flags, ..] = g.stack::<7>();
    assert_eq!((cs >> 32, flags & RFLAGS_IF), (0, RFLAGS_IF), "it was unmasked before");
    g.with(|cx| bounce(cx, HANDLER, EventMasking::Mask, Extra::None)).expect("the stack is mapped");
    let [_, _, _, cs, flags, ..] = g.stack::<7>();
    assert_eq!((cs >> 32, flags & RFLAGS_IF), (1, 0), "it was masked before");
}

#[test]
fn a_bounce_from_user_mode_takes_the_kernel_stack_and_tables() {
    let mut g = Guest::new();
    g.vcpu.mm.set_roots_for_test(Mfn::new(7), Mfn::new(8));
    g.vcpu.entry.set_mode(GuestMode::User);
    g.vcpu.entry.kernel_sp.store(STACK + 0x1000, Relaxed);
    g.regs.rsp = 0xdead;
    g.with(|cx| bounce(cx, HANDLER, EventMasking::Keep, Extra::None)).expect("the stack is mapped");
    let [_, _, rip, cs, _, rsp, _] = g.stack::<7>();
    assert_eq!((rip, cs, rsp), (0x1234, GUEST_CS64, 0xdead), "RPL 3 tells user mode");
    assert_eq!(g.vcpu.entry.mode(), GuestMode::Kernel);
    assert_eq!(g.world.m.effects.lock().roots, [Mfn::new(7)]);
}

#[test]
fn xsa_215_a_frame_never_reaches_into_the_hypervisor() {
    for sp in [0xffff_8000_0000_0008, 0xffff_8800_0000_0030, 0x8000_0000_0000, 0x10, 0xffff_8000_0000_0000] {
        let mut g = Guest::new();
        g.regs.rsp = sp;
        let refused = g.with(|cx| bounce(cx, HANDLER, EventMasking::Keep, Extra::ErrorCode(0)));
        assert!(refused.is_err(), "rsp {sp:#x}");
    }
}

#[test]
fn iret_forces_ring_3_and_interrupts_on() {
    let mut g = Guest::new();
    g.regs.entry_vector = TRAP_SYSCALL;
    let everything = u64::MAX;
    g.put_stack(&[1, 2, 3, 0, 0x4444, 0x8, everything, 0x5555, 0x10]);
    assert_eq!(g.with(iret::iret), Err(Exit::RegsReplaced));
    let r = g.regs;
    assert_eq!((r.rax, r.r11, r.rcx, r.rip, r.rsp), (1, 2, 3, 0x4444, 0x5555));
    assert_eq!((r.cs, r.ss), (0xb, 0x13));
    assert_eq!(r.rflags & (RFLAGS_IOPL | crate::regs::RFLAGS_VM), 0);
    assert_eq!(r.rflags & RFLAGS_IF, RFLAGS_IF);
    assert_eq!(r.entry_vector & TRAP_SYSCALL, 0, "RCX and R11 count, so SYSRET must not return");
    assert_eq!(g.shared_word() >> 8 & 0xff, 0, "RFLAGS.IF unmasks events");
}

#[test]
fn iret_to_user_mode_without_user_tables_crashes() {
    let mut g = Guest::new();
    g.put_stack(&[0, 0, 0, 0, 0x4444, 0x33, RFLAGS_IF, 0x5555, 0x2b]);
    assert!(matches!(g.with(iret::iret), Err(Exit::Crash(_))));
}

#[test]
fn iret_from_a_stack_that_is_not_there_crashes() {
    let mut g = Guest::new();
    for sp in [0x9000, 0xffff_8000_0000_0000, u64::MAX - 8] {
        g.regs.rsp = sp;
        assert!(matches!(g.with(iret::iret), Err(Exit::Crash(_))), "rsp {sp:#x}");
    }
}

#[test]
fn events_are_delivered_once_and_not_while_masked() {
    let mut g = Guest::new();
    g.vcpu.entry.event.set(HANDLER, EventMasking::Mask);
    g.set_shared_word(0x0101);
    g.with(exit::deliver_pending).expect("nothing to deliver");
    assert_eq!(g.regs.rip, 0x1234, "masked");
    g.set_shared_word(0x0001);
    g.with(exit::deliver_pending).expect("delivered");
    assert_eq!(g.regs.rip, HANDLER);
    g.regs.rip = 0x42;
    g.with(exit::deliver_pending).expect("nothing to deliver");
    assert_eq!(g.regs.rip, 0x42, "the upcall masks");
}

#[test]
fn an_exception_without_a_handler_ends_the_domain() {
    let mut g = Guest::new();
    let e = Exception { vector: trap::DE, error_code: 0, detail: 0 };
    assert!(g.with(|cx| trap::exception(cx, e)).is_err());
}

#[test]
fn a_page_fault_tells_address_and_mode() {
    let mut g = Guest::new();
    g.vcpu.entry.trap(trap::PF).expect("a vector").set(HANDLER, 0xe033, 0);
    g.with(|cx| trap::inject_page_fault(cx, 0xabc, 7)).expect("the stack is mapped");
    let [_, _, code, ..] = g.stack::<8>();
    assert_eq!(code, 3, "the guest's kernel is no user");
    let cr2 = crate::port::Frames::words(&g.world.m, g.dom.shared_info)[2].load(Relaxed);
    assert_eq!(cr2, 0xabc);
}

#[test]
fn a_system_call_without_a_callback_is_an_invalid_opcode() {
    let mut g = Guest::new();
    g.vcpu.entry.trap(trap::UD).expect("a vector").set(HANDLER, 0xe033, 0);
    g.with(|cx| trap::system_call(cx, SystemCall::Syscall64)).expect("the stack is mapped");
    let [_, _, rip, ..] = g.stack::<7>();
    assert_eq!(rip, 0x1232, "RIP is at the instruction");
}

#[test]
fn a_software_interrupt_needs_a_gate_that_permits_it() {
    let mut g = Guest::new();
    g.vcpu.entry.trap(trap::GP).expect("a vector").set(HANDLER, 0xe033, 0);
    g.vcpu.entry.trap(0x42).expect("a vector").set(HANDLER + 1, 0xe033, 0);
    g.vcpu.entry.trap(0x43).expect("a vector").set(HANDLER + 2, 0xe033, 3);
    let int = |n: u32| Exception { vector: trap::GP, error_code: n << 3 | 2, detail: 0 };
    g.with(|cx| trap::exception(cx, int(0x42))).expect("the stack is mapped");
    assert_eq!(g.regs.rip, HANDLER, "DPL 0: #GP");
    g.regs.rip = 0x1234;
    g.with(|cx| trap::exception(cx, int(0x43))).expect("the stack is mapped");
    assert_eq!(g.regs.rip, HANDLER + 2);
    let [_, _, rip, ..] = g.stack::<7>();
    assert_eq!(rip, 0x1236, "RIP is behind the instruction");
}

#[test]
fn a_failed_return_shows_the_selectors() {
    let mut g = Guest::new();
    assert!(g.with(|cx| trap::failed_return(cx, [1, 2, 3, 4])).is_err(), "no callback");
    g.vcpu.entry.failsafe.set(HANDLER, EventMasking::Keep);
    g.with(|cx| trap::failed_return(cx, [1, 2, 3, 4])).expect("the stack is mapped");
    let [_, _, ds, es, fs, gs, rip, ..] = g.stack::<11>();
    assert_eq!((ds, es, fs, gs, rip), (1, 2, 3, 4, 0x1234));
}

#[test]
fn a_gate_holds_canonical_addresses_only() {
    let gate = super::Gate::default();
    assert_eq!(gate.get(), None);
    for address in [1, 0x7fff_ffff_ffff, HANDLER, 0xffff_8000_0000_0000] {
        for masking in [EventMasking::Mask, EventMasking::Keep] {
            gate.set(address, masking);
            assert_eq!(gate.get(), Some((address, masking)), "{address:#x}");
        }
    }
    gate.set(0x1234_8000_0000_0000, EventMasking::Keep);
    assert_eq!(gate.get(), Some((0xffff_8000_0000_0000, EventMasking::Keep)), "the upper bits have no room");
    gate.set(0, EventMasking::Mask);
    assert_eq!(gate.get(), None, "no handler lies at 0");
}

#[test]
fn a_gate_of_the_table_says_who_may_raise_it() {
    let gate = super::TrapGate::default();
    for (flags, kernel, user) in
        [(0, false, false), (1, true, false), (2, true, false), (3, true, true), (7, true, true)]
    {
        gate.set(HANDLER, 0xe033, flags);
        assert_eq!(
            (gate.permits(GuestMode::Kernel), gate.permits(GuestMode::User)),
            (kernel, user),
            "{flags}"
        );
        assert_eq!(gate.flags(), flags);
        assert_eq!(
            gate.get().map(|(address, masking)| (address, masking == EventMasking::Mask)),
            Some((HANDLER, flags & 4 != 0))
        );
    }
    gate.clear();
    assert_eq!((gate.get(), gate.flags()), (None, 0));
}
