//! Privileged instructions, MSRs, CPUID.
//!
//! A guest's kernel runs at ring 3, so what only ring 0 may do raises #GP. The instruction is fetched once (I16), decoded
//! by a pure function, and carried out as far as the guest may have it done; all else stays the #GP it was. CPUID does
//! not fault; a guest that wants the hypervisor's answer puts the forced-emulation prefix, an invalid opcode, before it.
//!
//! | file | holds |
//! |---|---|
//! | [`decode`] | bytes to instruction |
//! | [`cpuid`], [`xstate`] | what CPUID tells a guest |
//! | [`msr`] | which MSRs a guest may read and write, and what happens then |
//! | [`io`] | ports: who may use which; PCI configuration |
//! | [`registers`] | control and debug registers, XCR0 |

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::ids::GuestVa;
use pv_abi::trap::EMULATE_PREFIX;

pub mod cpuid;
pub mod decode;
pub mod io;
pub mod msr;
pub mod registers;
#[cfg(test)]
mod tests;
pub mod xstate;

pub use io::PciConfig;

use crate::cx::Cx;
use crate::entry::GuestMode;
use crate::hypercall::guest_ptr::{Checked, access_ok};
use crate::port::{Machine, PvClockScale};
use crate::regs::UserRegs;
use decode::{Decoded, Gpr, Instruction, MAX_BYTES};

/// CR4: the guest's own OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4: the time stamp counter is for the kernel.
const CR4_TSD: u64 = 1 << 2;
/// The opcodes that are looked for before anything is decoded.
const RDMSR: [u8; 2] = [0x0f, 0x32];
const WRMSR: [u8; 2] = [0x0f, 0x30];
/// Low half of a register.
const LOW: u64 = 0xffff_ffff;

/// What became of an instruction that the hypervisor was asked to carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulation {
    /// Carried out; RIP is behind it, or still at it where a repeated instruction has more to do.
    Done,
    /// It raises an exception; RIP is at it.
    Inject {
        /// Vector.
        vector: u8,
        /// Error code, where the vector has one.
        error_code: u32,
        /// Address, for a page fault.
        cr2: u64,
    },
    /// Not one that the hypervisor emulates, or not for this guest in this state: the exception is the guest's.
    NotMine,
}

/// What became of the part behind the decoding.
enum Step {
    /// Go on behind the instruction.
    Next,
    /// RIP stays: there is more to do, after whatever waits meanwhile.
    Again,
    /// As [`Emulation::NotMine`].
    Refused,
    /// As [`Emulation::Inject`].
    Fault { vector: u8, error_code: u32, cr2: u64 },
}

/// `Next` where something was possible.
fn next_if(done: bool) -> Step {
    if done { Step::Next } else { Step::Refused }
}

/// Carries out the privileged instruction at RIP that raised #GP.
#[inline(always)]
pub fn privileged_instruction<M: Machine>(cx: &mut Cx<'_, M>) -> Emulation {
    let (bytes, length) = fetch(cx);
    let mode = cx.vcpu.entry.mode();
    // What kernels do whenever they change tasks needs no decoder.
    let opcode = [bytes[0], bytes[1]];
    if (opcode == RDMSR || opcode == WRMSR) && mode == GuestMode::Kernel && length >= opcode.len() {
        let done = if opcode == RDMSR { rdmsr(cx) } else { wrmsr(cx) };
        return settle(cx, opcode.len(), next_if(done));
    }
    let Some(decoded) = bytes.get(..length).and_then(decode::decode) else { return Emulation::NotMine };
    let step = match mode {
        GuestMode::Kernel => kernel_instruction(cx, decoded.instruction),
        GuestMode::User => user_instruction(cx, decoded.instruction),
    };
    settle(cx, decoded.length, step)
}

/// Carries out the instruction behind a forced-emulation prefix at RIP that raised #UD. Only CPUID has that form.
#[inline(always)]
pub fn forced_emulation<M: Machine>(cx: &mut Cx<'_, M>) -> Emulation {
    let (bytes, length) = fetch(cx);
    let Some(rest) = bytes.get(..length).and_then(|b| b.strip_prefix(&EMULATE_PREFIX)) else {
        return Emulation::NotMine;
    };
    // The form that everybody uses needs no decoder.
    let decoded = match rest {
        [0x0f, 0xa2, ..] => Some(Decoded { instruction: Instruction::Cpuid, length: 2 }),
        _ => decode::decode(rest),
    };
    match decoded {
        Some(Decoded { instruction: Instruction::Cpuid, length }) => {
            cpuid_instruction(cx);
            settle(cx, length + EMULATE_PREFIX.len(), Step::Next)
        }
        _ => Emulation::NotMine,
    }
}

/// The bytes at RIP, as many as can be read of the longest instruction.
#[inline(always)]
fn fetch<M: Machine>(cx: &Cx<'_, M>) -> ([u8; FETCHED], usize) {
    let rip = cx.regs.ip();
    // Two words where they lie in one page, which is nearly always.
    if rip.offset() <= 4096 - FETCHED as u64
        && let Some(at) = Checked::new(rip)
        && let Ok([first, second]) = cx.m.read_words(at)
    {
        return ((u128::from(second) << 64 | u128::from(first)).to_le_bytes(), MAX_BYTES);
    }
    fetch_across(cx)
}

/// Bytes that a fetch has room for: the longest instruction and one more.
const FETCHED: usize = 16;

/// The same near the end of a page: the instruction may end just before one that is not there.
#[cold]
fn fetch_across<M: Machine>(cx: &Cx<'_, M>) -> ([u8; FETCHED], usize) {
    let mut bytes = [0; FETCHED];
    let rip = cx.regs.rip;
    let in_page = usize::try_from(4096 - rip % 4096).unwrap_or(MAX_BYTES).min(MAX_BYTES);
    let mut read = |from: usize, to: usize| {
        let at = GuestVa::new(rip.wrapping_add(from as u64));
        let ok = access_ok(at, (to - from) as u64);
        ok && bytes.get_mut(from..to).is_some_and(|part| cx.m.copy_from_guest(part, at).is_ok())
    };
    let length = match (read(0, in_page), in_page) {
        (false, _) => 0,
        (true, MAX_BYTES) => MAX_BYTES,
        (true, _) => {
            if read(in_page, MAX_BYTES) {
                MAX_BYTES
            } else {
                in_page
            }
        }
    };
    (bytes, length)
}

/// Goes on behind an instruction of so many bytes, as its step says.
#[inline(always)]
fn settle<M: Machine>(cx: &mut Cx<'_, M>, length: usize, step: Step) -> Emulation {
    match step {
        Step::Next => {
            cx.regs.rip = cx.regs.rip.wrapping_add(length as u64);
            Emulation::Done
        }
        Step::Again => Emulation::Done,
        Step::Refused => Emulation::NotMine,
        Step::Fault { vector, error_code, cr2 } => Emulation::Inject { vector, error_code, cr2 },
    }
}

/// What a guest's processes may: ports where their IOPL allows it, and the interrupt flag, which is not theirs to change.
fn user_instruction<M: Machine>(cx: &mut Cx<'_, M>, instruction: Instruction) -> Step {
    match instruction {
        Instruction::PortIo { direction, port, width } => io::port_instruction(cx, direction, port, width),
        Instruction::Cli | Instruction::Sti => next_if(io::has_iopl(cx)),
        _ => Step::Refused,
    }
}

fn kernel_instruction<M: Machine>(cx: &mut Cx<'_, M>, instruction: Instruction) -> Step {
    match instruction {
        Instruction::PortIo { direction, port, width } => io::port_instruction(cx, direction, port, width),
        Instruction::StringIo { direction, width, repeated, short_addresses, segment } => {
            let string = io::StringIo { direction, width, repeated, short_addresses, segment };
            io::string_instruction(cx, &string)
        }
        // Swallowed: the upcall mask is what a PV kernel changes instead.
        Instruction::Cli | Instruction::Sti => next_if(io::has_iopl(cx)),
        Instruction::Clts => {
            registers::clear_task_switched(cx);
            Step::Next
        }
        Instruction::Wbinvd => {
            // Without devices of its own a guest has nothing to flush for, and may not slow the others down.
            if crate::access::control(cx.dom).is_ok() {
                cx.m.wbinvd();
            }
            Step::Next
        }
        Instruction::Rdmsr => next_if(rdmsr(cx)),
        Instruction::Wrmsr => next_if(wrmsr(cx)),
        Instruction::Rdtsc => rdtsc(cx),
        Instruction::Rdtscp => {
            cx.regs.rcx = u64::from(cx.vcpu.entry.tsc_aux.load(Relaxed));
            rdtsc(cx)
        }
        Instruction::Cpuid => {
            cpuid_instruction(cx);
            Step::Next
        }
        Instruction::Xsetbv => xsetbv(cx),
        Instruction::MovFromCr { cr, gpr } => match registers::read_cr(cx, cr) {
            Some(value) => {
                set_gpr(cx.regs, gpr, value);
                Step::Next
            }
            None => Step::Refused,
        },
        Instruction::MovToCr { cr, gpr } => {
            let value = gpr_value(cx.regs, gpr);
            next_if(registers::write_cr(cx, cr, value))
        }
        Instruction::MovFromDr { dr, gpr } => match registers::read_dr(cx, dr) {
            Some(value) => {
                set_gpr(cx.regs, gpr, value);
                Step::Next
            }
            None => Step::Refused,
        },
        Instruction::MovToDr { dr, gpr } => {
            let value = gpr_value(cx.regs, gpr);
            next_if(registers::write_dr(cx, dr, value))
        }
    }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & LOW).unwrap_or(0)
}

#[inline(never)]
fn rdmsr<M: Machine>(cx: &mut Cx<'_, M>) -> bool {
    let Some(value) = msr::read(cx, low(cx.regs.rcx)) else { return false };
    cx.regs.rax = value & LOW;
    cx.regs.rdx = value >> 32;
    true
}

#[inline(never)]
fn wrmsr<M: Machine>(cx: &mut Cx<'_, M>) -> bool {
    let value = cx.regs.rax & LOW | cx.regs.rdx << 32;
    let index = low(cx.regs.rcx);
    msr::write(cx, index, value)
}

/// The guest has switched the counter off for its processes, which does for its kernel too at ring 3.
fn rdtsc<M: Machine>(cx: &mut Cx<'_, M>) -> Step {
    if cx.vcpu.entry.cr4.load(Relaxed) & CR4_TSD == 0 {
        return Step::Refused;
    }
    let stamp = cx.m.rdtsc();
    cx.regs.rax = stamp & LOW;
    cx.regs.rdx = stamp >> 32;
    Step::Next
}

fn xsetbv<M: Machine>(cx: &mut Cx<'_, M>) -> Step {
    let value = cx.regs.rax & LOW | cx.regs.rdx << 32;
    if cx.vcpu.entry.cr4.load(Relaxed) & CR4_OSXSAVE == 0 {
        return Step::Fault { vector: crate::entry::trap::UD, error_code: 0, cr2: 0 };
    }
    next_if(low(cx.regs.rcx) == 0 && registers::set_xcr0(cx, value))
}

/// What CPUID's answers depend on, for this vcpu. The clock is looked at for the leaves that tell of it.
#[inline(always)]
fn view<M: Machine>(cx: &Cx<'_, M>, leaf: u32) -> cpuid::View {
    let scale = if cpuid::tells_of_the_clock(leaf) { cx.m.pvclock_scale() } else { PvClockScale::default() };
    cpuid::View {
        // A PV kernel learns from this bit, before it has set its own CR4, whether the hypervisor has switched XSAVE on;
        // its processes learn whether the kernel has.
        osxsave: cx.vcpu.entry.mode() == GuestMode::Kernel
            || cx.vcpu.entry.cr4.load(Relaxed) & CR4_OSXSAVE != 0,
        maddr_bits: cx.hv.platform.maddr_bits,
        tsc_khz: scale.tsc_khz,
        tsc_mul: scale.mul,
        tsc_shift: scale.shift,
    }
}

// On its own: what it keeps would lengthen every other instruction's way.
#[inline(never)]
fn cpuid_instruction<M: Machine>(cx: &mut Cx<'_, M>) {
    let hw = |leaf, subleaf| cx.m.cpuid(leaf, subleaf);
    let (leaf, subleaf) = (low(cx.regs.rax), low(cx.regs.rcx));
    let [a, b, c, d] = cpuid::answer(&hw, &view(cx, leaf), leaf, subleaf);
    cx.regs.rax = u64::from(a);
    cx.regs.rbx = u64::from(b);
    cx.regs.rcx = u64::from(c);
    cx.regs.rdx = u64::from(d);
}

fn gpr_value(regs: &mut UserRegs, gpr: Gpr) -> u64 {
    regs.general_mut(gpr.number()).map_or(0, |place| *place)
}

fn set_gpr(regs: &mut UserRegs, gpr: Gpr, value: u64) {
    if let Some(place) = regs.general_mut(gpr.number()) {
        *place = value;
    }
}
