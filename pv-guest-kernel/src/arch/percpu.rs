//! State of one vcpu, found through the GS base.
//!
//! The hypervisor swaps the GS bases of user and kernel mode itself, so in the kernel GS always leads here.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::trap::TrapFrame;

/// How many vcpus the SDK runs: those that have a `vcpu_info` in the shared page.
pub const MAX_VCPUS: usize = 32;

/// What one vcpu keeps for itself. Only that vcpu writes it, except `id`, set before it starts.
#[repr(C, align(64))]
pub(crate) struct PerVcpu {
    /// Number of the vcpu. At offset 0: `vcpu_id` reads it through GS.
    id: AtomicU32,
    /// How many [`crate::sync::Masked`] live.
    masked_depth: AtomicU32,
    /// Whether events were masked before the first of them.
    masked_before: AtomicBool,
    /// Stack pointer of the `user_enter` under way; 0 if there is none.
    pub(super) user_rsp: AtomicU64,
    /// Where the registers of user mode go when it ends.
    pub(super) user_frame: AtomicPtr<TrapFrame>,
}

impl PerVcpu {
    const fn new() -> Self {
        Self {
            id: AtomicU32::new(0),
            masked_depth: AtomicU32::new(0),
            masked_before: AtomicBool::new(false),
            user_rsp: AtomicU64::new(0),
            user_frame: AtomicPtr::new(core::ptr::null_mut()),
        }
    }
}

static AREAS: [PerVcpu; MAX_VCPUS] = [const { PerVcpu::new() }; MAX_VCPUS];

/// Prepares the area of `vcpu` and returns its address, the GS base to give to that vcpu.
pub(crate) fn prepare(vcpu: u32) -> Option<u64> {
    let area = AREAS.get(usize::try_from(vcpu).ok()?)?;
    area.id.store(vcpu, Ordering::Relaxed);
    Some((&raw const *area).addr() as u64)
}

/// The number of this vcpu. On the host there is only one.
#[cfg(not(target_os = "none"))]
#[must_use]
pub const fn vcpu_id() -> u32 {
    0
}

/// The number of this vcpu.
#[cfg(target_os = "none")]
#[inline]
#[must_use]
pub fn vcpu_id() -> u32 {
    let id: u32;
    // SAFETY: boot and `smp` point GS at a `PerVcpu` before anything else runs on a vcpu.
    unsafe {
        core::arch::asm!("mov {0:e}, gs:[0]", out(reg) id, options(nostack, preserves_flags, readonly));
    }
    id
}

/// The number of this vcpu as an index below [`MAX_VCPUS`].
#[inline]
#[must_use]
pub fn vcpu_index() -> usize {
    vcpu_id() as usize % MAX_VCPUS
}

/// The area of this vcpu.
pub(super) fn current() -> &'static PerVcpu {
    &AREAS[vcpu_index()]
}

/// Notes that events have been masked for one more reason. Runs with events masked, so nothing comes between.
#[inline]
pub(crate) fn enter_masked(was_masked: bool) {
    let area = current();
    let depth = area.masked_depth.load(Ordering::Relaxed);
    if depth == 0 {
        area.masked_before.store(was_masked, Ordering::Relaxed);
    }
    area.masked_depth.store(depth + 1, Ordering::Relaxed);
}

/// Notes that one reason is gone; true if it was the last one and events are to be opened.
#[inline]
pub(crate) fn leave_masked() -> bool {
    let area = current();
    let depth = area.masked_depth.load(Ordering::Relaxed).saturating_sub(1);
    area.masked_depth.store(depth, Ordering::Relaxed);
    depth == 0 && !area.masked_before.load(Ordering::Relaxed)
}
