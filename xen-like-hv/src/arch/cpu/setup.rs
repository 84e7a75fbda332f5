//! Per-CPU settings that hold as long as the machine runs: control registers and MSRs.
#![expect(unsafe_code, reason = "control registers and MSRs")]

use super::features::{self, Features};
use super::gdt::HV_CS;
use super::{regs, speculation};
use crate::arch::entry::cpu_info::CpuInfo;
use crate::arch::entry::stubs;
use crate::arch::mm::layout::stack_block;
use core::arch::asm;

const MSR_SYSENTER_CS: u32 = 0x174;
const MSR_SYSENTER_ESP: u32 = 0x175;
const MSR_SYSENTER_EIP: u32 = 0x176;
const MSR_PAT: u32 = 0x277;
const MSR_EFER: u32 = 0xc000_0080;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_CSTAR: u32 = 0xc000_0083;
const MSR_FMASK: u32 = 0xc000_0084;

/// Page attributes: the layout of the ABI, which guests read and rely on.
pub(crate) const PAT: u64 = 0x0000_0501_0007_0406;

const EFER_SCE: u64 = 1 << 0;
const EFER_NXE: u64 = 1 << 11;

const CR0_BASE: u64 = 0x8005_0033; // PG, AM, WP, NE, ET, MP, PE
const CR4_PAE: u64 = 1 << 5;
const CR4_MCE: u64 = 1 << 6;
const CR4_PGE: u64 = 1 << 7;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;

/// Flags that SYSCALL clears: all that could harm, IF, DF, TF, AC, NT, IOPL and the arithmetic ones.
const SYSCALL_CLEARS: u64 = 0x0025_7fd5;

/// SYSCALL loads CS 0xe008 and SS 0xe010; SYSRET loads SS 0xe02b and CS 0xe033 (64 bits) or 0xe023.
const STAR: u64 = 0xe023 << 48 | (HV_CS as u64) << 32;

/// NX before anything is mapped with it. The boot code did so where CPUID said it may.
pub(crate) fn enable_no_execute() {
    // SAFETY: the feature check has found NX.
    unsafe { regs::wrmsr(MSR_EFER, regs::rdmsr(MSR_EFER) | EFER_NXE) }
}

/// CR4 as the hypervisor wants it while it runs; the base for what a guest sees.
pub(crate) fn hypervisor_cr4(f: &Features) -> u64 {
    let mut cr4 = CR4_PAE | CR4_MCE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    let optional =
        [(f.fsgsbase, CR4_FSGSBASE), (f.xsave, CR4_OSXSAVE), (f.smep, CR4_SMEP), (f.smap, CR4_SMAP)];
    for (there, bit) in optional {
        if there {
            cr4 |= bit;
        }
    }
    cr4
}

/// Sets this pcpu up; it must run on its final page tables and GDT.
pub(crate) fn init(cpu: usize) {
    let f = features::get();
    // SAFETY: each value is what the manuals ask for a 64-bit kernel; the features were checked. With SMAP on, AC
    // must be off, which it is after reset and is made sure of here.
    unsafe {
        regs::write_cr0(CR0_BASE);
        regs::write_cr4(hypervisor_cr4(&f));
        if f.smap {
            asm!("clac", options(nomem, nostack));
        }
        if f.xsave {
            regs::xsetbv(f.xcr0);
        }
        regs::wrmsr(MSR_PAT, PAT);
        regs::wrmsr(MSR_EFER, regs::rdmsr(MSR_EFER) | EFER_SCE | EFER_NXE);
    }
    speculation::init();
    init_system_calls(cpu, &f);
}

/// Points the three system-call instructions at this pcpu's entries.
fn init_system_calls(cpu: usize, f: &Features) {
    let block = stack_block(cpu);
    let [syscall, compat, sysenter] = stubs::system_call_entries(cpu);
    // SAFETY: the entries of this pcpu, and its entry stack.
    unsafe {
        regs::wrmsr(MSR_STAR, STAR);
        regs::wrmsr(MSR_LSTAR, syscall);
        regs::wrmsr(MSR_CSTAR, compat);
        regs::wrmsr(MSR_FMASK, SYSCALL_CLEARS);
        if f.sysenter {
            regs::wrmsr(MSR_SYSENTER_CS, u64::from(HV_CS));
            regs::wrmsr(MSR_SYSENTER_ESP, CpuInfo::entry_stack(block));
            regs::wrmsr(MSR_SYSENTER_EIP, sysenter);
        }
    }
}
