//! The decoder and the emulator of privileged instructions against `iced-x86`.

use hv_core::emulate::decode::{Direction, Instruction, MAX_BYTES, decode as ours};
use hv_core::emulate::{Emulation, privileged_instruction};
use hv_core::port::GuestMem;
use hv_core::{Cx, UserRegs};
use iced_x86::{Code, Decoder, DecoderOptions, InstructionInfoFactory, Mnemonic, OpAccess, Register};
use pv_abi::ids::GuestVa;

use crate::bytes::Bytes;
use crate::machine::{ARG, World};

/// What the other decoder makes of the bytes.
fn theirs(bytes: &[u8]) -> iced_x86::Instruction {
    Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode()
}

/// The mnemonics that an instruction of ours may have there.
fn mnemonics(i: &Instruction) -> &'static [Mnemonic] {
    use Mnemonic as M;
    match i {
        Instruction::PortIo { direction: Direction::In, .. } => &[M::In],
        Instruction::PortIo { direction: Direction::Out, .. } => &[M::Out],
        Instruction::StringIo { direction: Direction::In, .. } => &[M::Insb, M::Insw, M::Insd],
        Instruction::StringIo { direction: Direction::Out, .. } => &[M::Outsb, M::Outsw, M::Outsd],
        Instruction::Cli => &[M::Cli],
        Instruction::Sti => &[M::Sti],
        Instruction::Clts => &[M::Clts],
        // With a prefix the same opcode has another name on processors that know it.
        Instruction::Wbinvd => &[M::Wbinvd, M::Wbnoinvd, M::Invd],
        Instruction::Rdmsr => &[M::Rdmsr],
        Instruction::Wrmsr => &[M::Wrmsr],
        Instruction::Rdtsc => &[M::Rdtsc],
        Instruction::Rdtscp => &[M::Rdtscp],
        Instruction::Cpuid => &[M::Cpuid],
        Instruction::Xsetbv => &[M::Xsetbv],
        Instruction::MovFromCr { .. } | Instruction::MovToCr { .. } => &[M::Mov],
        Instruction::MovFromDr { .. } | Instruction::MovToDr { .. } => &[M::Mov],
    }
}

/// Whether the other decoder sees a plain instruction, without prefixes, that ours must know.
fn must_know(i: &iced_x86::Instruction, bytes: &[u8]) -> bool {
    let plain = bytes.first().is_some_and(
        |b| !matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3),
    );
    let code = matches!(
        i.code(),
        Code::Cli
            | Code::Sti
            | Code::Clts
            | Code::Wbinvd
            | Code::Rdmsr
            | Code::Wrmsr
            | Code::Rdtsc
            | Code::Rdtscp
            | Code::Cpuid
            | Code::Xsetbv
            | Code::In_AL_imm8
            | Code::In_AL_DX
            | Code::In_EAX_imm8
            | Code::In_EAX_DX
            | Code::Out_imm8_AL
            | Code::Out_DX_AL
            | Code::Out_imm8_EAX
            | Code::Out_DX_EAX
            | Code::Insb_m8_DX
            | Code::Insd_m32_DX
            | Code::Outsb_DX_m8
            | Code::Outsd_DX_m32
    );
    plain && code
}

fn check_registers(i: &Instruction, t: &iced_x86::Instruction) {
    let number = |r: Register| u8::try_from(r.number()).ok();
    let (gpr, special, own) = match *i {
        Instruction::MovFromCr { cr, gpr } => (t.op0_register(), t.op1_register(), (gpr, cr)),
        Instruction::MovToCr { cr, gpr } => (t.op1_register(), t.op0_register(), (gpr, cr)),
        Instruction::MovFromDr { dr, gpr } => (t.op0_register(), t.op1_register(), (gpr, dr)),
        Instruction::MovToDr { dr, gpr } => (t.op1_register(), t.op0_register(), (gpr, dr)),
        _ => return,
    };
    assert_eq!(Some(own.0.number()), number(gpr.full_register()), "{t:?}");
    assert_eq!(Some(own.1), number(special), "{t:?}");
}

/// Whether a control or debug register is named that no processor has.
fn names_no_register(i: &Instruction) -> bool {
    match *i {
        Instruction::MovFromCr { cr, .. } | Instruction::MovToCr { cr, .. } => {
            !matches!(cr, 0 | 2 | 3 | 4 | 8)
        }
        Instruction::MovFromDr { dr, .. } | Instruction::MovToDr { dr, .. } => dr > 7,
        _ => false,
    }
}

/// See the crate.
pub(crate) fn decode(input: &[u8]) {
    let bytes = &input[..input.len().min(MAX_BYTES)];
    let t = theirs(bytes);
    match ours(bytes) {
        Some(d) => {
            if t.is_invalid() {
                // A register that does not exist raises #UD, which is never emulated; the emulator refuses it besides.
                assert!(names_no_register(&d.instruction), "{bytes:x?}: ours is {d:?}, theirs invalid");
                return;
            }
            assert_eq!(d.length, t.len(), "{bytes:x?}: {d:?} {t:?}");
            assert!(
                mnemonics(&d.instruction).contains(&t.mnemonic()),
                "{bytes:x?}: {d:?} {:?}",
                t.mnemonic()
            );
            check_registers(&d.instruction, &t);
        }
        None => assert!(!must_know(&t, bytes), "{bytes:x?}: {:?} is not known", t.mnemonic()),
    }
}

/// Which general registers an instruction may write, by number.
fn written(t: &iced_x86::Instruction) -> [bool; 16] {
    let mut info = InstructionInfoFactory::new();
    let mut may = [false; 16];
    for used in info.info(t).used_registers() {
        let r = used.register();
        let writes = !matches!(
            used.access(),
            OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
        );
        if writes && (r.is_gpr() || r.is_gpr32()) {
            may[r.number() % 16] = true;
        }
    }
    may
}

fn registers(b: &mut Bytes<'_>) -> UserRegs {
    let small = |b: &mut Bytes<'_>| if b.byte() & 1 == 0 { u64::from(b.byte()) } else { b.word() };
    UserRegs {
        rax: small(b),
        rcx: small(b),
        rdx: small(b),
        rdi: ARG + 0x1000 + u64::from(b.byte()),
        rsi: ARG + 0x1000 + u64::from(b.byte()),
        rbx: small(b),
        r8: small(b),
        r15: small(b),
        rip: ARG,
        cs: 0xe033,
        ss: 0xe02b,
        rflags: 0x202,
        rsp: ARG + 0x1800,
        ..UserRegs::default()
    }
}

/// See the crate.
pub(crate) fn emulate(input: &[u8]) {
    let w = World::new();
    let mut b = Bytes::new(input);
    let who = usize::from(b.byte() & 1);
    let before = registers(&mut b);
    let bytes = b.slice(MAX_BYTES);
    let _mapped = w.w.m.copy_to_guest(GuestVa::new(ARG), bytes);
    let mut regs = before;
    let a = &w.actors[who];
    let mut cx = Cx::new(&w.w.hv, &w.w.m, &a.dom, &a.vcpu, &mut regs);
    let what = privileged_instruction(&mut cx);
    // What lies behind the input in the guest's page is zeros, and the other decoder sees them too.
    let mut full = [0; MAX_BYTES];
    full[..bytes.len()].copy_from_slice(bytes);
    let t = theirs(&full);
    if what == Emulation::Done {
        assert!(!t.is_invalid(), "{full:x?}");
        let behind = before.rip + u64::try_from(t.len()).unwrap_or(0);
        let again = t.has_rep_prefix() || t.has_repne_prefix();
        assert!(regs.rip == behind || (again && regs.rip == before.rip), "{full:x?}: rip {:x}", regs.rip);
    } else {
        assert_eq!(regs.rip, before.rip, "{full:x?}: {what:?}");
    }
    let may = written(&t);
    let (mut old, mut new) = (before, regs);
    for n in 0..16 {
        let same = old.general_mut(n) == new.general_mut(n);
        assert!(same || may[usize::from(n)], "{full:x?}: register {n} changed, {what:?}");
    }
    let segments = |r: &UserRegs| (r.cs, r.ss, r.rflags);
    assert_eq!(segments(&before), segments(&regs), "{full:x?}");
    w.audit();
}
