//! Domains: the table of them, their lifecycle and their limits.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hv_sync::{RwLock, SpinLock, rank};
use pv_abi::ids::{DomId, Mfn, VcpuId};

use crate::access::Privilege;
use crate::evtchn::DomainEvents;
use crate::frame::DomainMemory;
use crate::grant::DomainGrants;
use crate::mm::DomainMm;
use crate::vcpu::Vcpu;

/// A domain: one part per room that has something to say about it.
#[derive(Debug)]
pub struct Domain {
    /// Its number.
    pub id: DomId,
    /// What it may do to others.
    pub privilege: Privilege,
    /// The frame of its `shared_info`: the hypervisor's, mapped by the guest.
    pub shared_info: Mfn,
    /// Frames it owns and may own.
    pub mem: DomainMemory,
    /// Page-table state of the domain as a whole.
    pub mm: DomainMm,
    /// Event channels.
    pub events: DomainEvents,
    /// Grant table and maptrack.
    pub grants: DomainGrants,
    /// vcpus by number; grows while the domain is built, never shrinks.
    pub vcpus: RwLock<Vec<Arc<Vcpu>>>,
    /// Slow state.
    pub slow: SpinLock<DomainSlow>,
}

/// State that only slow paths touch, under [`rank::DOMAIN`].
#[derive(Debug, Default)]
pub struct DomainSlow {
    /// The toolstack's name for it: a UUID.
    pub handle: [u8; 16],
}

impl Domain {
    /// The vcpu of that number.
    #[must_use]
    pub fn vcpu(&self, id: VcpuId) -> Option<Arc<Vcpu>> {
        let index = usize::try_from(id.raw()).ok()?;
        self.vcpus.read().get(index).cloned()
    }
}

/// All domains by id.
#[derive(Debug, Default)]
pub struct DomainTable {
    by_id: RwLock<BTreeMap<DomId, Arc<Domain>>>,
}

impl DomainTable {
    /// The domain of that id.
    #[must_use]
    pub fn get(&self, id: DomId) -> Option<Arc<Domain>> {
        self.by_id.read().get(&id).cloned()
    }
}

/// The lock that protects [`DomainSlow`] of a new domain.
#[must_use]
pub fn new_slow(handle: [u8; 16]) -> SpinLock<DomainSlow> {
    SpinLock::new(rank::DOMAIN, DomainSlow { handle })
}
