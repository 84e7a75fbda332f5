//! Page-table updates, pinning, base pointers.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU64};

use pv_abi::ids::Mfn;

pub mod fault;

/// Page-table state of a domain as a whole.
#[derive(Debug, Default)]
pub struct DomainMm {
    architectural_iopl: AtomicBool,
}

impl DomainMm {
    /// Whether the virtual IOPL shows in frames (`VMASST_TYPE_architectural_iopl`).
    #[must_use]
    pub fn architectural_iopl(&self) -> bool {
        self.architectural_iopl.load(Relaxed)
    }
}

/// Base pointers of a vcpu; 0 is none.
#[derive(Debug, Default)]
pub struct VcpuMm {
    kernel_root: AtomicU64,
    user_root: AtomicU64,
}

fn root_of(word: &AtomicU64) -> Option<Mfn> {
    match word.load(Relaxed) {
        0 => None,
        mfn => Some(Mfn::new(mfn)),
    }
}

impl VcpuMm {
    /// Root of the page tables on which the guest's kernel runs.
    #[must_use]
    pub fn kernel_root(&self) -> Option<Mfn> {
        root_of(&self.kernel_root)
    }

    /// Root of the page tables on which its user mode runs.
    #[must_use]
    pub fn user_root(&self) -> Option<Mfn> {
        root_of(&self.user_root)
    }

    /// Sets both roots without references.
    #[cfg(test)]
    pub(crate) fn set_roots_for_test(&self, kernel: Mfn, user: Mfn) {
        self.kernel_root.store(kernel.raw(), Relaxed);
        self.user_root.store(user.raw(), Relaxed);
    }
}
