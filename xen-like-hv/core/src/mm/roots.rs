//! Base pointers: which L4 a vcpu runs on.
//!
//! Each base pointer owns a general and an L4 type reference. The new root is loaded before the old one's references
//! are given up, so no pcpu ever runs on a table that is out of use.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::Mfn;
use pv_abi::pte::Level;

use super::VcpuMm;
use super::tables::{Pt, TableError};
use super::work::PtMachine;
use crate::access::Privilege;
use crate::domain::Domain;
use crate::port::Cpu;
use crate::vcpu::Vcpu;

/// Whether the vcpu runs on this pcpu now, in its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// It does: the new root is loaded at once.
    Yes,
    /// It does not run.
    No,
}

impl<M: PtMachine> Pt<'_, M> {
    /// Makes an L4 of `dom` the root of the vcpu's kernel.
    ///
    /// # Errors
    /// `EINVAL` where it is not in order, or the domain is dying; `Again`.
    #[inline(always)]
    pub fn set_kernel_root(&self, dom: &Domain, vcpu: &Vcpu, mfn: Mfn, live: Live) -> Result<(), TableError> {
        refuse_dying(dom)?;
        if vcpu.mm.kernel_root() == Some(mfn) {
            // Its references stay; what a guest asks for is the flush that a load is.
            if live == Live::Yes {
                self.m.load_root(mfn);
            }
            return Ok(());
        }
        let new = self.get_table(mfn, Level::L4, dom.id, dom.privilege)?.into_raw();
        let old = vcpu.mm.kernel_root.swap(new.raw(), Relaxed);
        if live == Live::Yes {
            self.m.load_root(new);
        }
        self.put_root(old, dom);
        Ok(())
    }

    /// Makes an L4 of `dom` the root of the vcpu's user mode, or takes it away.
    ///
    /// # Errors
    /// As [`Self::set_kernel_root`].
    pub fn set_user_root(&self, dom: &Domain, vcpu: &Vcpu, mfn: Option<Mfn>) -> Result<(), TableError> {
        refuse_dying(dom)?;
        if vcpu.mm.user_root() == mfn {
            return Ok(());
        }
        let new = match mfn {
            Some(mfn) => self.get_table(mfn, Level::L4, dom.id, dom.privilege)?.into_raw().raw(),
            None => 0,
        };
        let old = vcpu.mm.user_root.swap(new, Relaxed);
        self.put_root(old, dom);
        Ok(())
    }

    /// Takes both roots from a vcpu that will not run again. `Again`: the rest is in the slot.
    ///
    /// # Errors
    /// `Again`.
    pub fn drop_roots(&self, dom: &Domain, mm: &VcpuMm) -> Result<(), TableError> {
        for word in [&mm.kernel_root, &mm.user_root] {
            self.drop_root(dom, word)?;
        }
        Ok(())
    }

    fn drop_root(&self, dom: &Domain, word: &AtomicU64) -> Result<(), TableError> {
        self.put_root(word.swap(0, Relaxed), dom);
        self.settle()
    }

    fn put_root(&self, raw: u64, dom: &Domain) {
        if raw != 0 {
            self.put_table_raw(Mfn::new(raw), dom.id);
        }
    }

    /// Pins the first L4 of a domain that is being built: the hypervisor wrote its tables, and they go through the
    /// same checks as a guest's.
    ///
    /// # Errors
    /// `EINVAL` where a table is not in order; `Again`.
    pub fn pin_initial_root(&self, dom: &Domain, mfn: Mfn) -> Result<(), TableError> {
        let privilege: Privilege = dom.privilege;
        let table = self.get_table(mfn, Level::L4, dom.id, privilege)?;
        self.pin(table)
    }
}

/// A dying domain's roots are given up once; one that is set afterwards would keep its tables for ever.
fn refuse_dying(dom: &Domain) -> Result<(), TableError> {
    if dom.mem.is_dying() { Err(TableError::Errno(Errno::Inval)) } else { Ok(()) }
}

/// Loads the kernel's root of a vcpu that is about to run here.
pub fn load_kernel_root(m: &impl Cpu, vcpu: &Vcpu) {
    if let Some(root) = vcpu.mm.kernel_root() {
        m.load_root(root);
    }
}
