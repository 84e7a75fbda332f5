//! State of one vcpu, found through the GS base.
//!
//! The hypervisor swaps the GS bases of user and kernel mode itself, so in the kernel GS always leads here.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::trap::TrapFrame;

/// How many vcpus the SDK runs: those that have a `vcpu_info` in the shared page.
pub const MAX_VCPUS: usize = 32;

/// What one vcpu keeps for itself. Only that vcpu writes it, except `id`, set before it starts.
#[repr(C, align(64))]
pub(crate) struct PerVcpu {
    /// Number of the vcpu. At offset 0: `vcpu_id` reads it through GS.
    id: AtomicU32,
    /// Stack pointer of the `user_enter` under way; 0 if there is none.
    pub(super) user_rsp: AtomicU64,
    /// Where the registers of user mode go when it ends.
    pub(super) user_frame: AtomicPtr<TrapFrame>,
}

impl PerVcpu {
    const fn new() -> Self {
        Self {
            id: AtomicU32::new(0),
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

/// The number of this vcpu.
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
