//! State of a vcpu that instructions alone can set and read: the upper halves of the AVX registers, MXCSR, the bases of GS,
//! and `TSC_AUX`. For guests that look whether another's can be seen.

use crate::attempt::{Code, Regs};
use crate::frames::Frame;
use crate::{Claim, ensure_eq};
use pv_guest_kernel::arch::cpu;
use pv_guest_kernel::event;

/// x87, SSE and AVX.
const AVX_STATE: u64 = 7;
/// What the hypervisor switches: those, and the three parts of AVX-512.
const SWITCHED: u64 = 0xe7;
const OSXSAVE: u64 = 1 << 18;
const REGISTERS: u8 = 16;
/// Words of one AVX register.
const WORDS: u64 = 4;
const GS_BASE: u64 = 0xc000_0101;
const HIDDEN_GS_BASE: u64 = 0xc000_0102;
const TSC_AUX: u64 = 0xc000_0103;
/// `set_segment_base`, and what it is for: the user's GS, the kernel's GS.
const SET_SEGMENT_BASE: u8 = 25;
const USER_GS: u8 = 1;
const KERNEL_GS: u8 = 2;
/// `mov eax, 29; xor edi, edi; syscall`: yields.
const YIELD: [u8; 9] = [0xb8, 29, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];

/// XSAVE and AVX, in leaf 1.
const HAS_AVX: u32 = 1 << 26 | 1 << 28;

/// Whether the processor has AVX, asked without the hypervisor: CPUID does not fault for a guest.
fn processor_has_avx(code: &Code) -> Claim<bool> {
    let mut registers = Regs { rax: 1, ..Regs::default() };
    // push rbx; cpuid; pop rbx
    ensure_eq!(code.run(&[0x53, 0x0f, 0xa2, 0x5b], &mut registers), Ok(()), "cpuid");
    Ok(registers.rcx & u64::from(HAS_AVX) == u64::from(HAS_AVX))
}

/// Switches AVX on where the processor has it, which the hypervisor must then offer; whether it is on. No state may be
/// offered that is not switched.
pub fn enable_avx(code: &Code) -> Claim<bool> {
    let offered = cpu::cpuid_forced(1, 0).ecx & HAS_AVX == HAS_AVX;
    ensure_eq!(offered, processor_has_avx(code)?, "AVX as it is offered");
    if !offered {
        return Ok(false);
    }
    let offered = cpu::cpuid_forced(0xd, 0);
    let offered = u64::from(offered.edx) << 32 | u64::from(offered.eax);
    ensure_eq!(offered & !SWITCHED, 0, "state that is offered and not switched");
    // mov rax, cr4; or rax, rbx; mov cr4, rax
    let mut registers = Regs { rbx: OSXSAVE, ..Regs::default() };
    let enable = [0x0f, 0x20, 0xe0, 0x48, 0x09, 0xd8, 0x0f, 0x22, 0xe0];
    ensure_eq!(code.run(&enable, &mut registers), Ok(()), "switching XSAVE on");
    let mut registers = Regs { rax: AVX_STATE, ..Regs::default() };
    ensure_eq!(code.run(&[0x0f, 0x01, 0xd1], &mut registers), Ok(()), "xsetbv");
    // xgetbv
    let mut registers = Regs::default();
    ensure_eq!(code.run(&[0x0f, 0x01, 0xd0], &mut registers), Ok(()), "xgetbv");
    ensure_eq!(registers.rax, AVX_STATE, "the state that is switched on");
    // State that is not offered cannot be switched on.
    for wrong in (0..64).map(|bit| 1 << bit).filter(|bit| bit & offered == 0 && bit & 0xe0 == 0) {
        let mut registers =
            Regs { rax: (AVX_STATE | wrong) & 0xffff_ffff, rdx: (wrong >> 32), ..Regs::default() };
        let answer = code.run(&[0x0f, 0x01, 0xd1], &mut registers);
        ensure_eq!(answer.map_err(|trap| trap.vector), Err(13), "xsetbv of component {wrong:#x}");
    }
    Ok(true)
}

/// `vmovups` between all registers and `[rbx]` on: opcode 0x10 loads, 0x11 stores.
fn move_all(code: &Code, area: &Frame, opcode: u8) -> Claim {
    let mut bytes = [0; REGISTERS as usize * 8];
    for (number, place) in (0..REGISTERS).zip(bytes.chunks_exact_mut(8)) {
        let prefix = if number < 8 { 0xfc } else { 0x7c };
        let offset = u32::from(number) * 32;
        place[..4].copy_from_slice(&[0xc5, prefix, opcode, 0x83 | (number & 7) << 3]);
        place[4..].copy_from_slice(&offset.to_le_bytes());
    }
    let mut registers = Regs { rbx: area.va(), ..Regs::default() };
    ensure_eq!(code.run(&bytes, &mut registers), Ok(()), "moving the AVX registers");
    Ok(())
}

/// Fills the upper halves; the lower ones are SSE's, and what `area` says of them is loaded too.
pub fn load_avx(code: &Code, area: &Frame, word: impl Fn(u64) -> u64) -> Claim {
    (0..u64::from(REGISTERS) * WORDS).for_each(|n| area.set_word(n, word(n)));
    move_all(code, area, 0x10)
}

/// Wants each word of the AVX registers to be what `word` says.
pub fn check_avx(code: &Code, area: &Frame, word: impl Fn(u64) -> u64) -> Claim {
    (0..u64::from(REGISTERS) * WORDS).for_each(|n| area.set_word(n, !word(n)));
    move_all(code, area, 0x11)?;
    for n in 0..u64::from(REGISTERS) * WORDS {
        ensure_eq!(area.word(n), word(n), "word {} of ymm{}", n % WORDS, n / WORDS);
    }
    Ok(())
}

/// `mov eax, 25; mov edi, which; mov rsi, base; syscall`
fn set_base(which: u8, base: u64) -> [u8; 22] {
    let mut bytes = [0; 22];
    bytes[..12].copy_from_slice(&[0xb8, SET_SEGMENT_BASE, 0, 0, 0, 0xbf, which, 0, 0, 0, 0x48, 0xbe]);
    bytes[12..20].copy_from_slice(&base.to_le_bytes());
    bytes[20..].copy_from_slice(&[0x0f, 0x05]);
    bytes
}

fn read_register(code: &Code, number: u64) -> Claim<u64> {
    let mut registers = Regs { rcx: number, ..Regs::default() };
    ensure_eq!(code.run(&[0x0f, 0x32], &mut registers), Ok(()), "rdmsr");
    Ok(registers.rdx << 32 | registers.rax & 0xffff_ffff)
}

/// Yields with both bases of GS set, and wants to find both as they were. The kernel's own is put back: until then no
/// event may come, because handlers need it.
pub fn gs_across_a_yield(code: &Code, pattern: u64) -> Claim {
    let own = read_register(code, GS_BASE)?;
    let (kernel, user) = (pattern & 0x7fff_ffff_f000, (pattern ^ 0x5555) & 0x7fff_ffff_ffff);
    let was_masked = event::mask();
    let mut bytes = [0; 128];
    let mut length = 0;
    let mut put = |piece: &[u8]| {
        bytes[length..length + piece.len()].copy_from_slice(piece);
        length += piece.len();
    };
    put(&set_base(USER_GS, user));
    put(&set_base(KERNEL_GS, kernel));
    put(&YIELD);
    // mov ecx, GS_BASE; rdmsr; mov r8d, eax; mov r9d, edx
    put(&[0xb9, 0x01, 0x01, 0x00, 0xc0, 0x0f, 0x32, 0x41, 0x89, 0xc0, 0x41, 0x89, 0xd1]);
    put(&set_base(KERNEL_GS, own));
    let mut registers = Regs::default();
    let outcome = code.run(&bytes[..length], &mut registers);
    if !was_masked {
        event::unmask();
    }
    ensure_eq!(outcome, Ok(()), "a yield with another GS");
    ensure_eq!(registers.r9 << 32 | registers.r8, kernel, "the kernel's GS base after a switch");
    ensure_eq!(read_register(code, HIDDEN_GS_BASE)?, user, "the user's GS base after a switch");
    Ok(())
}

/// RDTSCP, in leaf 0x80000001.
const HAS_RDTSCP: u32 = 1 << 27;

/// Whether RDTSCP is offered.
pub fn has_rdtscp() -> bool {
    cpu::cpuid_forced(0x8000_0001, 0).edx & HAS_RDTSCP != 0
}

/// What RDTSCP says of where it runs.
pub fn tsc_aux(code: &Code) -> Claim<u64> {
    let mut registers = Regs::default();
    ensure_eq!(code.run(&[0x0f, 0x01, 0xf9], &mut registers), Ok(()), "rdtscp");
    Ok(registers.rcx)
}

/// Yields with a value of `TSC_AUX`, and wants to find it as it was.
pub fn tsc_aux_across_a_yield(code: &Code, value: u32) -> Claim {
    let mut registers = Regs { rcx: TSC_AUX, rax: value.into(), ..Regs::default() };
    ensure_eq!(code.run(&[0x0f, 0x30], &mut registers), Ok(()), "wrmsr of TSC_AUX");
    ensure_eq!(code.run(&YIELD, &mut Regs::default()), Ok(()), "yield");
    ensure_eq!(tsc_aux(code)?, value.into(), "TSC_AUX after a switch");
    ensure_eq!(read_register(code, TSC_AUX)?, value.into(), "TSC_AUX as the register is read");
    Ok(())
}

/// The hidden base of GS of this vcpu.
pub fn hidden_gs(code: &Code) -> Claim<u64> {
    read_register(code, HIDDEN_GS_BASE)
}
