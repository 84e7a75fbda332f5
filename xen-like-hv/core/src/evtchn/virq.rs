//! Virtual interrupt lines: which belong to a vcpu, which to a domain, and who gets the global ones.

use core::sync::atomic::AtomicU16;
use core::sync::atomic::Ordering::SeqCst;

use pv_abi::errno::Errno;
use pv_abi::evtchn::{NR_VIRQS, VirqKind};
use pv_abi::ids::{DomId, Virq};

/// Whether a line exists once per domain rather than once per vcpu.
#[must_use]
pub fn is_global(virq: Virq) -> bool {
    let per_vcpu = [VirqKind::Timer, VirqKind::Debug, VirqKind::Xenoprof, VirqKind::Xenpmu];
    per_vcpu.iter().all(|line| line.virq() != virq)
}

/// Number of lines.
const LINES: usize = NR_VIRQS as usize;

/// Which domain gets each global line.
#[derive(Debug)]
pub struct GlobalVirqs {
    handlers: [AtomicU16; LINES],
}

impl Default for GlobalVirqs {
    fn default() -> Self {
        Self { handlers: [const { AtomicU16::new(DomId::DOM0.raw()) }; LINES] }
    }
}

impl GlobalVirqs {
    fn slot(&self, virq: Virq) -> Option<&AtomicU16> {
        self.handlers.get(usize::try_from(virq.raw()).ok()?)
    }

    /// The domain that gets a line.
    #[must_use]
    pub fn handler(&self, virq: Virq) -> DomId {
        self.slot(virq).map_or(DomId::DOM0, |slot| DomId::new(slot.load(SeqCst)))
    }

    /// Names the domain that gets a line (`XEN_DOMCTL_set_virq_handler`).
    ///
    /// # Errors
    /// `EINVAL` for a line that does not exist or belongs to vcpus.
    pub fn set_handler(&self, virq: Virq, dom: DomId) -> Result<(), Errno> {
        let slot = self.slot(virq).ok_or(Errno::Inval)?;
        if !is_global(virq) {
            return Err(Errno::Inval);
        }
        slot.store(dom.raw(), SeqCst);
        Ok(())
    }

    /// Gives the lines of a domain that goes away back to dom0.
    pub fn forget(&self, dom: DomId) {
        for slot in &self.handlers {
            let _other = slot.compare_exchange(dom.raw(), DomId::DOM0.raw(), SeqCst, SeqCst);
        }
    }
}
