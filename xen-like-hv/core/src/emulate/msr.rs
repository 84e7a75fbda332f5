//! Model-specific registers: which a guest's kernel may read and write, and what happens then.
//!
//! A register that is not listed raises #GP. One exception, which the ABI has for kernels that touch registers before
//! they have set up their exceptions: where the guest has no #GP handler yet and the machine has the register, it reads
//! as 0 and writes are dropped.

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::frame::{PAGE_SHIFT, PAGE_SIZE};
use pv_abi::ids::Mfn;

use crate::cx::Cx;
use crate::entry::trap::GP;
use crate::port::Machine;
use crate::regs::is_canonical;

/// The hypervisor's own: a write asks for a hypercall page.
const HYPERCALL_PAGE: u32 = 0x4000_0000;
const TSC: u32 = 0x10;
const APIC_BASE: u32 = 0x1b;
const FEATURE_CONTROL: u32 = 0x3a;
const MICROCODE_LEVEL: u32 = 0x8b;
const PLATFORM_INFO: u32 = 0xce;
const MISC_FEATURES: u32 = 0x140;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MISC_ENABLE: u32 = 0x1a0;
const PAT: u32 = 0x277;
const PERF_CAPABILITIES: u32 = 0x345;
/// Banks of the machine check architecture: control, status, address and further data of each of 32.
const FIRST_BANK: u32 = 0x400;
const LAST_BANK: u32 = 0x47f;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
/// AMD: performance counters and their selectors.
const FIRST_K7_COUNTER: u32 = 0xc001_0000;
const LAST_K7_COUNTER: u32 = 0xc001_0007;
const HWCR: u32 = 0xc001_0015;
/// AMD: the P-state limit and control registers.
const FIRST_PSTATE: u32 = 0xc001_0061;
const LAST_PSTATE: u32 = 0xc001_0063;
const DE_CFG: u32 = 0xc001_1029;

/// The page attribute table, the same for all.
const PAT_VALUE: u64 = 0x0000_0501_0007_0406;
/// What of EFER a guest sees: SCE, LME, LMA, NXE.
const EFER_VISIBLE: u64 = 0xd01;
/// The local APIC's page, enabled; and whether this is the boot processor.
const APIC_VALUE: u64 = 0xfee0_0800;
const APIC_BOOT: u64 = 1 << 8;
/// `FEATURE_CONTROL`: locked, with nothing enabled.
const LOCKED: u64 = 1;
/// `MISC_ENABLE`: neither branch traces nor precise events.
const NO_TRACES: u64 = 1 << 11 | 1 << 12;
/// `MISC_ENABLE`: bits that are told as they are: fast strings, and the limit on CPUID leaves.
const MISC_VISIBLE: u64 = 1;
/// `DE_CFG`: LFENCE waits for what is before it.
const LFENCE_SERIALISES: u64 = 1 << 1;

/// Reads a register for the guest; `None` raises #GP.
#[inline(always)]
pub fn read<M: Machine>(cx: &Cx<'_, M>, index: u32) -> Option<u64> {
    match index {
        // Read whenever a kernel changes tasks.
        FS_BASE => Some(cx.m.fs_base()),
        GS_BASE => Some(cx.m.gs_base()),
        KERNEL_GS_BASE => Some(cx.m.gs_base_hidden()),
        _ => read_other(cx, index),
    }
}

#[inline(never)]
fn read_other<M: Machine>(cx: &Cx<'_, M>, index: u32) -> Option<u64> {
    known(cx, index).or_else(|| tolerated(cx, index).then_some(0))
}

fn known<M: Machine>(cx: &Cx<'_, M>, index: u32) -> Option<u64> {
    let machine = |mask: u64| cx.m.read_msr(index).map(|value| value & mask);
    match index {
        HYPERCALL_PAGE => Some(0),
        TSC => Some(cx.m.rdtsc()),
        EFER => machine(EFER_VISIBLE),
        TSC_AUX => tsc_aux(cx),
        PAT => Some(PAT_VALUE),
        APIC_BASE => Some(APIC_VALUE | if cx.vcpu.id.raw() == 0 { APIC_BOOT } else { 0 }),
        MICROCODE_LEVEL => Some(machine(u64::MAX).unwrap_or(0)),
        FEATURE_CONTROL => machine(0).map(|_| LOCKED),
        MISC_ENABLE => machine(MISC_VISIBLE).map(|value| value | NO_TRACES),
        // No machine check banks; no performance counters; no faulting on CPUID.
        MCG_CAP | MCG_STATUS | PERF_CAPABILITIES | FIRST_BANK..=LAST_BANK => Some(0),
        PLATFORM_INFO | MISC_FEATURES => machine(0),
        FIRST_K7_COUNTER..=LAST_K7_COUNTER | HWCR | FIRST_PSTATE..=LAST_PSTATE => machine(0),
        DE_CFG => machine(0).map(|_| LFENCE_SERIALISES),
        _ => None,
    }
}

/// Writes a register for the guest; false raises #GP.
pub fn write<M: Machine>(cx: &Cx<'_, M>, index: u32, value: u64) -> bool {
    match index {
        FS_BASE | GS_BASE | KERNEL_GS_BASE => {
            // WRMSR of an address that is not canonical faults, and would fault in ring 0 here.
            if !is_canonical(value) {
                return false;
            }
            match index {
                FS_BASE => cx.m.set_fs_base(value),
                GS_BASE => cx.m.set_gs_base(value),
                _ => cx.m.set_gs_base_hidden(value),
            }
            true
        }
        TSC_AUX => set_tsc_aux(cx, value),
        HYPERCALL_PAGE => fill_hypercall_page(cx, value),
        // Written back as they were read, by kernels that know no better.
        EFER | PAT | APIC_BASE | MISC_ENABLE | FEATURE_CONTROL | MISC_FEATURES => {
            known(cx, index) == Some(value)
        }
        // The way to ask for the level: write 0, then CPUID.
        MICROCODE_LEVEL => value == 0,
        // Enabling banks or counters that are not there has no effect.
        MCG_STATUS
        | FIRST_BANK..=LAST_BANK
        | FIRST_K7_COUNTER..=LAST_K7_COUNTER
        | HWCR
        | FIRST_PSTATE..=LAST_PSTATE
        | DE_CFG => known(cx, index).is_some(),
        _ => tolerated(cx, index),
    }
}

/// Out of the way of registers that are read often.
#[cold]
#[inline(never)]
fn tsc_aux<M: Machine>(cx: &Cx<'_, M>) -> Option<u64> {
    cx.m.read_msr(TSC_AUX).map(|_| u64::from(cx.vcpu.entry.tsc_aux.load(Relaxed)))
}

#[cold]
#[inline(never)]
fn set_tsc_aux<M: Machine>(cx: &Cx<'_, M>, value: u64) -> bool {
    let Ok(value) = u32::try_from(value) else { return false };
    if cx.m.read_msr(TSC_AUX).is_none() {
        return false;
    }
    cx.vcpu.entry.tsc_aux.store(value, Relaxed);
    cx.m.set_tsc_aux(value);
    true
}

/// Fills the guest's frame `value >> 12` with the stubs of hypercalls. The low bits are the number of the page, of which
/// there is one.
#[cold]
#[inline(never)]
fn fill_hypercall_page<M: Machine>(cx: &Cx<'_, M>, value: u64) -> bool {
    let mfn = Mfn::new(value >> PAGE_SHIFT);
    if !value.is_multiple_of(PAGE_SIZE as u64) {
        return false;
    }
    let Ok(page) = cx.hv.frames.get_page_writable(cx.m, mfn, cx.dom.id) else { return false };
    let mut stubs = [0; PAGE_SIZE];
    cx.m.read(page.mfn(), 0, &mut stubs);
    pv_image::hypercall_page::fill(&mut stubs);
    cx.m.write(page.mfn(), 0, &stubs);
    true
}

/// Whether the guest is so early that it gets away with any register the machine has.
fn tolerated<M: Machine>(cx: &Cx<'_, M>, index: u32) -> bool {
    let has_handler = cx.vcpu.entry.trap(GP).is_some_and(|gate| gate.get().is_some());
    !has_handler && cx.m.read_msr(index).is_some()
}
