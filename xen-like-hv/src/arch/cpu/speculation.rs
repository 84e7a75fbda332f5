//! Carries out what hv-core decides about speculative execution: settings at the start of each pcpu, barriers between
//! vcpus.
#![expect(unsafe_code, reason = "model-specific registers, VERW, the stack of return predictions")]

use super::gdt::HV_DS;
use super::regs;
use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};
use hv_core::speculation::{Barriers, Facts, Settings};

const MSR_SPEC_CTRL: u32 = 0x48;
const MSR_PRED_CMD: u32 = 0x49;
const MSR_ARCH_CAPABILITIES: u32 = 0x10a;
const MSR_TSX_CTRL: u32 = 0x122;
const MSR_EFER: u32 = 0xc000_0080;

const IBPB: u64 = 1;
/// Transactions abort at once, and CPUID does not tell of them.
const TSX_OFF: u64 = 3;
const EFER_AIBRSE: u64 = 1 << 21;

/// Bits of [`BARRIERS`].
const BRANCHES: u8 = 1 << 0;
const RETURNS: u8 = 1 << 1;
const BUFFERS: u8 = 1 << 2;

/// What [`between_vcpus`] does; the same on all pcpus.
static BARRIERS: AtomicU8 = AtomicU8::new(0);

fn facts() -> Facts {
    let leaf = |number: u32| {
        let top = regs::cpuid(number & 0x8000_0000, 0).eax;
        (top >= number).then(|| regs::cpuid(number, 0))
    };
    let mut facts = Facts {
        leaf_7_edx: leaf(7).map_or(0, |r| r.edx),
        extended_8_ebx: leaf(0x8000_0008).map_or(0, |r| r.ebx),
        extended_21_eax: leaf(0x8000_0021).map_or(0, |r| r.eax),
        capabilities: 0,
    };
    if facts.has_capabilities() {
        // SAFETY: CPUID says that the register is there.
        facts.capabilities = unsafe { regs::rdmsr(MSR_ARCH_CAPABILITIES) };
    }
    facts
}

/// Sets this pcpu up.
pub(super) fn init() {
    let facts = facts();
    let Settings { spec_ctrl, automatic_ibrs, no_transactions } = facts.settings();
    // SAFETY: each register and bit is one that the CPU says it has.
    unsafe {
        if spec_ctrl != 0 {
            regs::wrmsr(MSR_SPEC_CTRL, spec_ctrl);
        }
        if automatic_ibrs {
            regs::wrmsr(MSR_EFER, regs::rdmsr(MSR_EFER) | EFER_AIBRSE);
        }
        if no_transactions {
            regs::wrmsr(MSR_TSX_CTRL, TSX_OFF);
        }
    }
    let Barriers { branches, returns, buffers } = facts.barriers();
    let bit = |wanted: bool, bit: u8| if wanted { bit } else { 0 };
    BARRIERS
        .store(bit(branches, BRANCHES) | bit(returns, RETURNS) | bit(buffers, BUFFERS), Ordering::Relaxed);
}

/// Prints what is done.
pub(crate) fn report() {
    let facts = facts();
    log::info!("speculation: {:?}, between vcpus {:?}", facts.settings(), facts.barriers());
}

/// Leaves nothing of one vcpu for the next to speculate with.
pub(crate) fn between_vcpus() {
    let wanted = BARRIERS.load(Ordering::Relaxed);
    if wanted & BRANCHES != 0 {
        // SAFETY: the CPU says that the register and its bit are there.
        unsafe { regs::wrmsr(MSR_PRED_CMD, IBPB) };
    }
    if wanted & RETURNS != 0 {
        fill_returns();
    }
    if wanted & BUFFERS != 0 {
        let selector = HV_DS;
        // SAFETY: checks a selector of the hypervisor's own; it changes nothing but a flag.
        unsafe { asm!("verw word ptr [{}]", in(reg) &raw const selector, options(nostack, readonly)) };
    }
}

/// Makes the CPU predict returns to a place that leads nowhere, 32 times: more than it keeps.
fn fill_returns() {
    // SAFETY: each call is undone by the last instruction.
    unsafe {
        asm!(".rept 32", "call 3f", "2: pause", "lfence", "jmp 2b", "3:", ".endr", "add rsp, 32 * 8",);
    }
}
