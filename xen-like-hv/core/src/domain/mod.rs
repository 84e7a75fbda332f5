//! Domains: the table of them, their lifecycle and their limits.
//!
//! | file | holds |
//! |---|---|
//! | [`create`], [`teardown`] | its beginning and its end |
//! | [`dom0`] | the one that the hypervisor builds |
//! | [`context`] | the state of a vcpu, set and read |
//! | [`vcpu_info`], [`wallclock`] | what lies in its shared-info page |
//! | [`lifecycle`] | pause, shut down, crash, resume |
//! | [`notify`] | virtual interrupts that go with them |
//!
//! A domain is *alive* from its creation, *dying* once somebody destroys it, and gone when its last frame has been given
//! back and nobody holds a reference. It stands still while it is paused, shut down or dying.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64};

use hv_sync::{RwLock, SpinLock, rank};
use pv_abi::ids::{DomId, Mfn, VcpuId};
use pv_abi::vm_assist::VmAssist;

use crate::access::Privilege;
use crate::emulate::PciConfig;
use crate::evtchn::DomainEvents;
use crate::frame::DomainMemory;
use crate::grant::DomainGrants;
use crate::mm::DomainMm;
use crate::vcpu::Vcpu;

pub mod context;
pub mod create;
pub mod dom0;
pub mod lifecycle;
pub mod notify;
pub mod teardown;
pub mod vcpu_info;
pub mod wallclock;

#[cfg(test)]
mod tests;

pub use dom0::{Dom0Config, Dom0Error, build_dom0};

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
    /// How many those are: raised before a vcpu joins them, so before it can run.
    nr_vcpus: AtomicU32,
    /// Slow state.
    pub slow: SpinLock<DomainSlow>,
    /// Whether it is being destroyed; set once, under `slow`.
    dying: AtomicBool,
    /// vcpus that poll, so that an event's sender looks for them only where there are some.
    pub polling: AtomicU32,
    /// What it may have; set before anybody else sees it.
    pub limits: Limits,
    /// Whether the hypervisor has given up the shared-info page, at the end of its destruction.
    shared_info_gone: AtomicBool,
    /// Behaviours it has switched on, by [`VmAssist`] as bit.
    assists: AtomicU64,
    /// Its view of the PCI configuration mechanism.
    pub pci: PciConfig,
}

/// What a domain may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// vcpus.
    pub max_vcpus: u32,
}

/// State that only slow paths touch, under [`rank::DOMAIN`].
#[derive(Debug, Default)]
pub struct DomainSlow {
    /// The toolstack's name for it: a UUID.
    pub handle: [u8; 16],
    /// Pauses by the toolstack.
    pub controller_pauses: u32,
    /// Pauses by hypercalls that need it to stand still.
    pub holds: u32,
    /// The reason of its shutdown (ABI value), once it has shut down.
    pub shutdown: Option<u32>,
    /// The reason that it announced with `SCHEDOP_shutdown_code`.
    pub announced: Option<u32>,
    /// Watchdogs in use, by bit.
    pub watchdogs: u8,
    /// The toolstack's label for it.
    pub ssidref: u32,
    /// Seconds that its wall clock is ahead of the machine's.
    pub time_offset_s: i64,
    /// System time of its creation.
    pub created_ns: u64,
}

impl Domain {
    /// A domain without vcpus, with the account that [`crate::frame::FrameTable::create_memory`] opened for it.
    #[must_use]
    pub fn new(id: DomId, privilege: Privilege, shared_info: Mfn, mem: DomainMemory) -> Self {
        Self {
            id,
            privilege,
            shared_info,
            mem,
            mm: DomainMm::default(),
            events: DomainEvents::default(),
            grants: DomainGrants::default(),
            vcpus: RwLock::new(Vec::new()),
            nr_vcpus: AtomicU32::new(0),
            slow: new_slow([0; 16]),
            dying: AtomicBool::new(false),
            polling: AtomicU32::new(0),
            limits: Limits { max_vcpus: 1 },
            shared_info_gone: AtomicBool::new(false),
            assists: AtomicU64::new(0),
            pci: PciConfig::default(),
        }
    }

    /// The vcpu of that number.
    #[must_use]
    pub fn vcpu(&self, id: VcpuId) -> Option<Arc<Vcpu>> {
        let index = usize::try_from(id.raw()).ok()?;
        self.vcpus.read().get(index).cloned()
    }

    /// All vcpus, ascending. The list is not locked between two of them.
    pub fn each_vcpu(&self) -> impl Iterator<Item = Arc<Vcpu>> {
        (0_u32..).map_while(|n| self.vcpu(VcpuId::new(n)))
    }

    /// Whether it is being destroyed: nothing new may be bound, mapped or allocated for it.
    #[must_use]
    pub fn is_dying(&self) -> bool {
        self.dying.load(SeqCst)
    }

    /// Whether all of it is gone but what others hold.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.shared_info_gone.load(SeqCst)
    }

    /// Whether it has switched a behaviour on.
    #[must_use]
    pub fn has_assist(&self, kind: VmAssist) -> bool {
        self.assists.load(SeqCst) >> kind.raw() & 1 != 0
    }

    /// Switches a behaviour on or off for all its vcpus.
    pub fn set_assist(&self, kind: VmAssist, on: bool) {
        let bit = 1 << kind.raw();
        if on {
            self.assists.fetch_or(bit, SeqCst);
        } else {
            self.assists.fetch_and(!bit, SeqCst);
        }
        if kind == VmAssist::RunstateUpdateFlag {
            self.each_vcpu().for_each(|v| v.sched.areas.set_mark_updates(on));
        }
    }

    /// All behaviours, as in `vcpu_guest_context.vm_assist`.
    #[must_use]
    pub fn assists(&self) -> u64 {
        self.assists.load(SeqCst)
    }

    /// The word of all behaviours, for the image's entry code.
    #[must_use]
    pub const fn assists_word(&self) -> &AtomicU64 {
        &self.assists
    }

    /// Adds a vcpu, down and uninitialised, with the next number.
    pub fn add_vcpu(self: &Arc<Self>) -> Arc<Vcpu> {
        let weak: Weak<Self> = Arc::downgrade(self);
        let mut vcpus = self.vcpus.write();
        let id = VcpuId::new(u32::try_from(vcpus.len()).unwrap_or(u32::MAX));
        let v = Arc::new(Vcpu::new(&weak, self.id, id));
        v.sched.areas.set_mark_updates(self.has_assist(VmAssist::RunstateUpdateFlag));
        self.nr_vcpus.fetch_add(1, SeqCst);
        vcpus.push(v.clone());
        v
    }

    /// Whether it has no more than one vcpu. One that joins later has not run when this is asked: the tables that it
    /// will see are those of then, or later ones.
    #[must_use]
    #[inline(always)]
    pub fn has_one_vcpu(&self) -> bool {
        self.nr_vcpus.load(SeqCst) <= 1
    }
}

/// All domains by id.
#[derive(Debug)]
pub struct DomainTable {
    by_id: RwLock<BTreeMap<DomId, Arc<Domain>>>,
    /// Held by the control operation in progress; one at a time.
    pub(crate) control: SpinLock<()>,
    /// The number given last: the next domain gets the next one, so that numbers are not used again soon.
    rover: AtomicU32,
    /// Domains that die and are still in the table.
    zombies: AtomicU32,
    /// What dom0 has set the wall clock ahead by.
    wallclock_delta_ns: AtomicI64,
}

impl Default for DomainTable {
    fn default() -> Self {
        Self {
            by_id: RwLock::new(BTreeMap::new()),
            control: SpinLock::new(rank::DOMCTL, ()),
            rover: AtomicU32::new(0),
            zombies: AtomicU32::new(0),
            wallclock_delta_ns: AtomicI64::new(0),
        }
    }
}

impl DomainTable {
    /// The domain of that id.
    #[must_use]
    pub fn get(&self, id: DomId) -> Option<Arc<Domain>> {
        self.by_id.read().get(&id).cloned()
    }

    /// The domain with the least id from `first` on.
    #[must_use]
    pub fn next_from(&self, first: DomId) -> Option<Arc<Domain>> {
        self.by_id.read().range(first..).next().map(|(_, dom)| dom.clone())
    }

    /// All domains, ascending. The table is not locked between two of them.
    pub fn all(&self) -> impl Iterator<Item = Arc<Domain>> {
        let mut from = Some(DomId::new(0));
        core::iter::from_fn(move || {
            let dom = self.next_from(from?)?;
            from = dom.id.raw().checked_add(1).map(DomId::new);
            Some(dom)
        })
    }

    /// How many domains there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_id.read().len()
    }

    /// Adds a domain; `false` where its id is in use.
    pub fn insert(&self, dom: Arc<Domain>) -> bool {
        let mut all = self.by_id.write();
        if all.contains_key(&dom.id) {
            return false;
        }
        all.insert(dom.id, dom);
        true
    }

    fn remove(&self, id: DomId) -> bool {
        let gone = self.by_id.write().remove(&id);
        gone.is_some()
    }

    /// A number that no domain has: the one after the last given.
    #[must_use]
    pub fn free_id(&self) -> Option<DomId> {
        let all = self.by_id.read();
        let count = u32::from(DomId::FIRST_RESERVED.raw());
        let last = self.rover.load(SeqCst);
        let id = (1..count).map(|n| (last + n) % count).filter(|&n| n != 0).find_map(|n| {
            let id = DomId::new(u16::try_from(n).ok()?);
            (!all.contains_key(&id)).then_some(id)
        })?;
        self.rover.store(u32::from(id.raw()), SeqCst);
        Some(id)
    }
}

/// The lock that protects [`DomainSlow`] of a new domain.
#[must_use]
pub fn new_slow(handle: [u8; 16]) -> SpinLock<DomainSlow> {
    SpinLock::new(rank::DOMAIN, DomainSlow { handle, ..DomainSlow::default() })
}
