//! A virtual CPU.
//!
//! While it runs, its registers live in the pcpu and in the frame on that pcpu's stack; otherwise in [`Vcpu::context`].

use alloc::sync::{Arc, Weak};

use hv_sync::{SpinLock, rank};
use pv_abi::ids::{DomId, VcpuId};

use crate::domain::Domain;
use crate::entry::{SavedContext, VcpuEntry};
use crate::evtchn::VcpuEvents;
use crate::mm::VcpuMm;
use crate::sched::VcpuSched;

/// A virtual CPU: one part per room that has something to say about it.
#[derive(Debug)]
pub struct Vcpu {
    /// Number in its domain.
    pub id: VcpuId,
    /// Its domain's id, for messages.
    pub dom_id: DomId,
    /// Its domain.
    domain: Weak<Domain>,
    /// Registers while it does not run.
    pub context: SpinLock<SavedContext>,
    /// Gates, callbacks, mode, descriptor tables.
    pub entry: VcpuEntry,
    /// Base pointers and unfinished page-table work.
    pub mm: VcpuMm,
    /// Where its `vcpu_info` is and what it waits for.
    pub events: VcpuEvents,
    /// Run state, affinity, timers.
    pub sched: VcpuSched,
}

impl Vcpu {
    /// A vcpu that has never run and is down.
    #[must_use]
    pub fn new(domain: &Weak<Domain>, dom_id: DomId, id: VcpuId) -> Self {
        Self {
            id,
            dom_id,
            domain: domain.clone(),
            context: SpinLock::new(rank::CONTEXT, SavedContext::default()),
            entry: VcpuEntry::default(),
            mm: VcpuMm::default(),
            events: VcpuEvents::default(),
            sched: VcpuSched::default(),
        }
    }

    /// Its domain, as long as that exists.
    #[must_use]
    pub fn domain(&self) -> Option<Arc<Domain>> {
        self.domain.upgrade()
    }
}
