//! Registers of a vcpu while it does not run.

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::trap::{TrapInfo, UserRegs as WireRegs, VcpuGuestContext, VgcfFlags};

use super::{EventMasking, GuestMode};
use crate::regs::{GUEST_CS64, RFLAGS_FIXED, RFLAGS_IF, RFLAGS_IOPL, RFLAGS_VM, UserRegs, is_canonical};
use crate::vcpu::Vcpu;

/// Bytes of an extended-state area: x87, SSE, AVX and AVX-512 fit.
pub const FPU_AREA_BYTES: usize = 4096;

/// Extended register state in the layout of XSAVE (the first 512 bytes are those of FXSAVE).
#[repr(C, align(64))]
pub struct FpuArea(pub [u8; FPU_AREA_BYTES]);

impl Default for FpuArea {
    /// The state after FNINIT: control word 0x37f, MXCSR 0x1f80.
    fn default() -> Self {
        let mut area = [0; FPU_AREA_BYTES];
        area[0] = 0x7f;
        area[1] = 0x03;
        area[24] = 0x80;
        area[25] = 0x1f;
        Self(area)
    }
}

impl fmt::Debug for FpuArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FpuArea")
    }
}

/// Registers of a vcpu that does not run.
#[derive(Debug, Default)]
pub struct SavedContext {
    /// General registers and return frame.
    pub regs: UserRegs,
    /// DS.
    pub ds: u16,
    /// ES.
    pub es: u16,
    /// FS.
    pub fs: u16,
    /// GS.
    pub gs: u16,
    /// FS base.
    pub fs_base: u64,
    /// GS base of the guest's kernel.
    pub gs_base_kernel: u64,
    /// GS base of its user mode.
    pub gs_base_user: u64,
    /// Extended state.
    pub fpu: Box<FpuArea>,
}

/// Sets the registers, gates and callbacks of a vcpu that does not run from a context that a guest or the toolstack
/// gave. Base pointers, descriptor tables and the vm_assist bits are the caller's.
///
/// # Errors
/// `EINVAL` for an address that is not canonical.
pub fn install(vcpu: &Vcpu, ctx: &VcpuGuestContext) -> Result<(), Errno> {
    check(ctx)?;
    let flags = VgcfFlags::from_bits_retain(ctx.flags);
    set_gates(vcpu, ctx, flags);
    let in_kernel = flags.contains(VgcfFlags::IN_KERNEL);
    vcpu.entry.set_mode(if in_kernel { GuestMode::Kernel } else { GuestMode::User });
    vcpu.entry.kernel_sp.store(ctx.kernel_sp, Relaxed);
    vcpu.entry.kernel_ss.store(ctx.kernel_ss | 3, Relaxed);
    vcpu.entry.iopl.store(ctx.user_regs.rflags & RFLAGS_IOPL, Relaxed);
    let mut saved = vcpu.context.lock();
    saved.regs = regs_from_wire(&ctx.user_regs);
    saved.ds = ctx.user_regs.ds;
    saved.es = ctx.user_regs.es;
    saved.fs = ctx.user_regs.fs;
    saved.gs = ctx.user_regs.gs;
    saved.fs_base = ctx.fs_base;
    saved.gs_base_kernel = ctx.gs_base_kernel;
    saved.gs_base_user = ctx.gs_base_user;
    *saved.fpu = FpuArea::default();
    if flags.contains(VgcfFlags::I387_VALID)
        && let Some(area) = saved.fpu.0.get_mut(..ctx.fpu_ctxt.len())
    {
        area.copy_from_slice(&ctx.fpu_ctxt);
        limit_mxcsr(area);
    }
    Ok(())
}

/// Reserved bits of MXCSR would fault at the next restore (XSA-53 class).
fn limit_mxcsr(area: &mut [u8]) {
    if let [low, high, upper, top] = &mut area[24..28] {
        *low = 0x80 | (*low & 0x7f);
        *high &= 0xff;
        *upper = 0;
        *top = 0;
    }
}

/// Whether all addresses of a context are canonical.
///
/// # Errors
/// `EINVAL`.
pub fn check(ctx: &VcpuGuestContext) -> Result<(), Errno> {
    let canonical = [
        ctx.event_callback_eip,
        ctx.failsafe_callback_eip,
        ctx.syscall_callback_eip,
        ctx.fs_base,
        ctx.gs_base_kernel,
        ctx.gs_base_user,
        ctx.user_regs.rip,
    ];
    let all =
        canonical.iter().all(|a| is_canonical(*a)) && ctx.trap_ctxt.iter().all(|t| is_canonical(t.address));
    if all { Ok(()) } else { Err(Errno::Inval) }
}

fn set_gates(vcpu: &Vcpu, ctx: &VcpuGuestContext, flags: VgcfFlags) {
    for (gate, info) in vcpu.entry.traps.iter().zip(&ctx.trap_ctxt) {
        gate.set(info.address, info.cs | 3, info.flags);
    }
    let masking = |flag| if flags.contains(flag) { EventMasking::Mask } else { EventMasking::Keep };
    vcpu.entry.event.set(ctx.event_callback_eip, EventMasking::Mask);
    vcpu.entry.failsafe.set(ctx.failsafe_callback_eip, masking(VgcfFlags::FAILSAFE_DISABLES_EVENTS));
    vcpu.entry.syscall.set(ctx.syscall_callback_eip, masking(VgcfFlags::SYSCALL_DISABLES_EVENTS));
}

/// General registers as a guest may have them: ring 3, IF set, IOPL 0.
fn regs_from_wire(w: &WireRegs) -> UserRegs {
    let cs = if w.cs == 0 { GUEST_CS64 } else { u64::from(w.cs | 3) };
    UserRegs {
        r15: w.r15,
        r14: w.r14,
        r13: w.r13,
        r12: w.r12,
        rbp: w.rbp,
        rbx: w.rbx,
        r11: w.r11,
        r10: w.r10,
        r9: w.r9,
        r8: w.r8,
        rax: w.rax,
        rcx: w.rcx,
        rdx: w.rdx,
        rsi: w.rsi,
        rdi: w.rdi,
        error_code: 0,
        entry_vector: 0,
        rip: w.rip,
        cs,
        rflags: (w.rflags & 0xffff_ffff & !(RFLAGS_IOPL | RFLAGS_VM)) | RFLAGS_IF | RFLAGS_FIXED,
        rsp: w.rsp,
        ss: u64::from(w.ss | 3),
    }
}

/// The context of a vcpu that does not run, for the toolstack. Base pointers, descriptor tables and the vm_assist
/// bits are the caller's.
pub fn extract(vcpu: &Vcpu, ctx: &mut VcpuGuestContext) {
    let saved = vcpu.context.lock();
    if let Some(area) = saved.fpu.0.get(..ctx.fpu_ctxt.len()) {
        ctx.fpu_ctxt.copy_from_slice(area);
    }
    let mut flags = VgcfFlags::I387_VALID;
    flags.set(VgcfFlags::IN_KERNEL, vcpu.entry.mode() == GuestMode::Kernel);
    ctx.user_regs = regs_to_wire(&saved.regs);
    ctx.user_regs.ds = saved.ds;
    ctx.user_regs.es = saved.es;
    ctx.user_regs.fs = saved.fs;
    ctx.user_regs.gs = saved.gs;
    ctx.user_regs.rflags = (ctx.user_regs.rflags & !RFLAGS_IOPL) | vcpu.entry.iopl.load(Relaxed);
    ctx.fs_base = saved.fs_base;
    ctx.gs_base_kernel = saved.gs_base_kernel;
    ctx.gs_base_user = saved.gs_base_user;
    ctx.kernel_sp = vcpu.entry.kernel_sp.load(Relaxed);
    ctx.kernel_ss = vcpu.entry.kernel_ss.load(Relaxed);
    for (vector, (gate, info)) in vcpu.entry.traps.iter().zip(&mut ctx.trap_ctxt).enumerate() {
        *info = TrapInfo {
            vector: u8::try_from(vector).unwrap_or(u8::MAX),
            flags: gate.flags(),
            cs: gate.selector(),
            _pad: 0,
            address: gate.get().map_or(0, |(address, _)| address),
        };
    }
    let mut put = |gate: &super::Gate, flag: Option<VgcfFlags>| {
        let (address, masking) = gate.get().unwrap_or((0, EventMasking::Keep));
        if let Some(flag) = flag {
            flags.set(flag, masking == EventMasking::Mask);
        }
        address
    };
    ctx.event_callback_eip = put(&vcpu.entry.event, None);
    ctx.failsafe_callback_eip = put(&vcpu.entry.failsafe, Some(VgcfFlags::FAILSAFE_DISABLES_EVENTS));
    ctx.syscall_callback_eip = put(&vcpu.entry.syscall, Some(VgcfFlags::SYSCALL_DISABLES_EVENTS));
    ctx.flags = flags.bits();
    for (value, slot) in ctx.debugreg.iter_mut().zip(&vcpu.entry.debug) {
        *value = slot.load(Relaxed);
    }
}

fn regs_to_wire(r: &UserRegs) -> WireRegs {
    let low16 = |v: u64| u16::try_from(v & 0xffff).unwrap_or(0);
    WireRegs {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        rbp: r.rbp,
        rbx: r.rbx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        rax: r.rax,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        rip: r.rip,
        cs: low16(r.cs),
        rflags: r.rflags,
        rsp: r.rsp,
        ss: low16(r.ss),
        ..WireRegs::default()
    }
}
