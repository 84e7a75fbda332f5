//! Register state of a vcpu: into the pcpu and out of it.
//!
//! Extended state is switched eagerly, so that no register of one vcpu is ever there for another to see (I17, XSA-267).
#![expect(unsafe_code, reason = "reads and writes registers of the CPU")]

use core::sync::atomic::Ordering::Relaxed;

use hv_core::entry::GuestMode;
use hv_core::entry::context::FpuArea;
use hv_core::port::{Cpu, TaskSwitched};
use hv_core::vcpu::Vcpu;
use hv_core::{Machine, UserRegs};
use pv_abi::ids::Mfn;
use x86_64::registers::model_specific::Msr;

use super::cpu_info::NO_UPCALL;
use super::current::cpu_info;
use super::stubs::load_data_segment;
use crate::machine::Metal;

const MSR_FS_BASE: u32 = 0xc000_0100;
const MSR_GS_BASE: u32 = 0xc000_0101;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

pub(crate) fn read_msr(index: u32) -> u64 {
    // SAFETY: the callers read MSRs that every x86-64 CPU has.
    unsafe { Msr::new(index).read() }
}

pub(crate) fn write_base(index: BaseRegister, value: u64) {
    // SAFETY: the segment base MSRs; the hypervisor uses neither FS nor GS, and the value is canonical.
    unsafe { Msr::new(index.msr()).write(value) }
}

/// The segment base MSRs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BaseRegister {
    /// FS.
    Fs,
    /// GS, live.
    Gs,
    /// GS, behind SWAPGS.
    GsHidden,
}

impl BaseRegister {
    pub(crate) const fn msr(self) -> u32 {
        match self {
            Self::Fs => MSR_FS_BASE,
            Self::Gs => MSR_GS_BASE,
            Self::GsHidden => MSR_KERNEL_GS_BASE,
        }
    }
}

/// DS, ES, FS and GS as they are loaded now.
pub(crate) fn data_selectors() -> [u16; 4] {
    let (ds, es, fs, gs): (u16, u16, u16, u16);
    // SAFETY: reads selectors.
    unsafe {
        core::arch::asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
            out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
    }
    [ds, es, fs, gs]
}

/// Saves what the pcpu holds of `vcpu`.
pub(super) fn save(m: &Metal, vcpu: &Vcpu, regs: &UserRegs) {
    m.set_ts(TaskSwitched::Clear);
    let mut saved = vcpu.context.lock();
    saved.regs = *regs;
    [saved.ds, saved.es, saved.fs, saved.gs] = data_selectors();
    saved.fs_base = read_msr(MSR_FS_BASE);
    let (live, hidden) = (read_msr(MSR_GS_BASE), read_msr(MSR_KERNEL_GS_BASE));
    (saved.gs_base_kernel, saved.gs_base_user) = match vcpu.entry.mode() {
        GuestMode::Kernel => (live, hidden),
        GuestMode::User => (hidden, live),
    };
    // All of it, whatever the guest has enabled: SSE registers exist without XCR0's leave.
    crate::arch::cpu::load_xcr0(0);
    save_extended(&mut saved.fpu);
}

/// The page tables on which `vcpu` goes on.
pub(super) fn root(vcpu: &Vcpu) -> Option<Mfn> {
    match vcpu.entry.mode() {
        GuestMode::Kernel => vcpu.mm.kernel_root(),
        GuestMode::User => vcpu.mm.user_root(),
    }
}

/// Loads `vcpu`, whose page tables are loaded, into the pcpu, its general registers into `regs`.
pub(super) fn load(m: &Metal, vcpu: &Vcpu, regs: &mut UserRegs) {
    let mode = vcpu.entry.mode();
    load_tables(m, vcpu);
    let saved = vcpu.context.lock();
    load_selectors([saved.ds, saved.es, saved.fs], saved.gs, m);
    write_base(BaseRegister::Fs, saved.fs_base);
    let (live, hidden) = match mode {
        GuestMode::Kernel => (saved.gs_base_kernel, saved.gs_base_user),
        GuestMode::User => (saved.gs_base_user, saved.gs_base_kernel),
    };
    write_base(BaseRegister::Gs, live);
    write_base(BaseRegister::GsHidden, hidden);
    m.set_ts(TaskSwitched::Clear);
    crate::arch::cpu::load_xcr0(0);
    load_extended(&saved.fpu);
    crate::arch::cpu::load_xcr0(vcpu.entry.xcr0.load(Relaxed));
    crate::arch::cpu::load_tsc_aux(vcpu.entry.tsc_aux.load(Relaxed));
    *regs = saved.regs;
    drop(saved);
    load_control(m, vcpu);
    refresh_upcall_word(m, vcpu);
}

/// GDT and LDT windows.
fn load_tables(m: &Metal, vcpu: &Vcpu) {
    let tables = vcpu.entry.tables.lock();
    m.load_gdt(tables.gdt_frames(), tables.gdt_entries());
    m.load_ldt(tables.ldt_frames(), tables.ldt().1);
}

/// Selectors first, bases afterwards: loading a selector changes its base.
fn load_selectors(data: [u16; 3], gs: u16, m: &Metal) {
    for (which, selector) in (0_u32..).zip(data) {
        // SAFETY: the stub turns a fault into a null selector.
        let failed = unsafe { load_data_segment(which, u32::from(selector)) };
        if failed != 0 {
            // SAFETY: as above; the null selector loads.
            unsafe { load_data_segment(which, 0) };
        }
    }
    // The selector of the live GS is the one that shows, whichever base is live.
    if m.load_user_gs_selector(gs).is_err() {
        log::debug!(target: "guest", "a selector of a guest no longer loads: GS {gs:#x}");
    }
}

fn load_control(m: &Metal, vcpu: &Vcpu) {
    let entry = &vcpu.entry;
    m.set_guest_cr4(entry.cr4.load(Relaxed));
    if entry.task_switched.load(Relaxed) {
        m.set_ts(TaskSwitched::Set);
    }
    let debug = |i: usize| entry.debug.get(i).map_or(0, |d| d.load(Relaxed));
    m.write_debug_register(7, 0x400);
    if debug(7) & 0xff != 0 {
        for index in [0_u8, 1, 2, 3] {
            m.write_debug_register(index, debug(usize::from(index)));
        }
        m.write_debug_register(7, debug(7));
    }
}

/// Points the exit path at the vcpu's `vcpu_info`.
pub(super) fn refresh_upcall_word(m: &impl Machine, vcpu: &Vcpu) {
    let word = vcpu.events.upcall_word(m).unwrap_or(&NO_UPCALL[0]);
    cpu_info().upcall_word.store(word.as_ptr(), Relaxed);
}

/// Makes the exit path see no upcalls: nothing runs.
pub(super) fn clear_upcall_word() {
    cpu_info().upcall_word.store(NO_UPCALL[0].as_ptr(), Relaxed);
}

fn save_extended(area: &mut FpuArea) {
    let at = area.0.as_mut_ptr();
    if crate::arch::cpu::has_xsave() {
        // SAFETY: the area is 64-byte aligned and larger than what the enabled features need; TS is clear.
        unsafe {
            core::arch::asm!("xsave64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX,
                options(nostack, preserves_flags));
        }
    } else {
        // SAFETY: as above, 512 bytes.
        unsafe { core::arch::asm!("fxsave64 [{}]", in(reg) at, options(nostack, preserves_flags)) };
    }
}

/// Makes the pointers of the last x87 instruction those of one of the hypervisor's (XSA-52, XSA-172).
fn forget_fpu_pointers() {
    static NOTHING: u32 = 0;
    // SAFETY: TS is clear; all else that this changes is loaded next. EMMS makes room for what is loaded.
    unsafe {
        core::arch::asm!("fnclex", "emms", "fild dword ptr [{}]", in(reg) &raw const NOTHING,
            options(nostack, preserves_flags));
    }
}

fn load_extended(area: &FpuArea) {
    let at = area.0.as_ptr();
    if crate::arch::cpu::keeps_fpu_pointers() {
        forget_fpu_pointers();
    }
    if crate::arch::cpu::has_xsave() {
        // SAFETY: the area was written by XSAVE with the same features, or is the initial state with MXCSR checked.
        unsafe {
            core::arch::asm!("xrstor64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX,
                options(nostack, preserves_flags));
        }
    } else {
        // SAFETY: as above.
        unsafe { core::arch::asm!("fxrstor64 [{}]", in(reg) at, options(nostack, preserves_flags)) };
    }
}
