//! Making a domain, and giving it vcpus.
//!
//! Every step that can fail comes with the step that undoes it: after an error nothing is left, not a frame and not a
//! number.

use alloc::sync::Arc;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, VcpuId};

use super::{Domain, vcpu_info, wallclock};
use crate::access::Privilege;
use crate::frame::ShareAccess;
use crate::grant;
use crate::hv::Hypervisor;
use crate::port::Machine;
use crate::sched::state::flags;

/// Most vcpus of a domain.
pub const MAX_VCPUS: u32 = 128;

/// What a domain is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// What it may do to others.
    pub privilege: Privilege,
    /// The toolstack's name for it.
    pub handle: [u8; 16],
    /// The toolstack's label for it; kept, not used.
    pub ssidref: u32,
    /// vcpus that it may have.
    pub max_vcpus: u32,
    /// Its largest event channel port.
    pub max_evtchn_port: u32,
    /// Frames of its grant table; `None` for the default.
    pub max_grant_frames: Option<u32>,
    /// Frames of its maptrack; `None` for the default.
    pub max_maptrack_frames: Option<u32>,
    /// Frames that it may own at first.
    pub max_pages: u64,
}

impl Config {
    /// An unprivileged domain of one vcpu without memory.
    #[must_use]
    pub const fn unprivileged() -> Self {
        Self {
            privilege: Privilege::Unprivileged,
            handle: [0; 16],
            ssidref: 0,
            max_vcpus: 1,
            max_evtchn_port: u32::MAX,
            max_grant_frames: None,
            max_maptrack_frames: None,
            max_pages: 0,
        }
    }
}

/// Makes a domain without vcpus and without memory but for its shared-info page, paused once by the toolstack.
///
/// # Errors
/// `EINVAL` for a configuration that cannot be, `EEXIST` where the number is in use, `EBUSY` where frames of a former
/// domain of that number are still held by others, `ENOMEM`.
pub fn create<M: Machine>(hv: &Hypervisor, m: &M, id: DomId, config: &Config) -> Result<Arc<Domain>, Errno> {
    if config.max_vcpus == 0 || config.max_vcpus > MAX_VCPUS {
        return Err(Errno::Inval);
    }
    // The domain's own record is made of allocations that cannot fail.
    if memory_is_short!() {
        return Err(Errno::NoMem);
    }
    let mem = hv.frames.create_memory(id, config.max_pages)?;
    let Some(shared_info) = hv.frames.alloc_hypervisor(m) else {
        let _closed = hv.frames.close_memory(&mem);
        return Err(Errno::NoMem);
    };
    hv.frames.share_with(shared_info, &mem, ShareAccess::ReadWrite);
    let mut dom = Domain::new(id, config.privilege, shared_info, mem);
    dom.limits = super::Limits { max_vcpus: config.max_vcpus };
    {
        let slow = dom.slow.get_mut();
        slow.handle = config.handle;
        slow.ssidref = config.ssidref;
        slow.controller_pauses = 1;
        slow.created_ns = m.now_ns();
    }
    limit_services(&dom, config);
    mask_all_upcalls(m, &dom);
    let dom = Arc::new(dom);
    if let Err(e) = grant::grow(&hv.frames, m, &dom, 1) {
        undo(hv, &dom);
        return Err(e);
    }
    if !hv.domains.insert(dom.clone()) {
        undo(hv, &dom);
        return Err(Errno::Exist);
    }
    wallclock::publish(hv, m, &dom);
    Ok(dom)
}

/// Gives up the frames and the account of a domain that nobody has seen.
fn undo(hv: &Hypervisor, dom: &Domain) {
    grant::release_first_frames(&hv.frames, dom);
    hv.frames.free_hypervisor(dom.shared_info);
    let _closed = hv.frames.close_memory(&dom.mem);
}

/// Event channels and grants as far as the configuration and the hypervisor's heap allow.
fn limit_services(dom: &Domain, config: &Config) {
    dom.events.set_limit(config.max_evtchn_port);
    let size = |n: Option<u32>| n.and_then(|n| usize::try_from(n).ok());
    let maptrack = size(config.max_maptrack_frames).unwrap_or(grant::DEFAULT_MAX_MAPTRACK_FRAMES);
    let affordable = grant::maptrack_frames_within(hv_sync::heap().share());
    dom.grants.set_limits(size(config.max_grant_frames), Some(maptrack.min(affordable)));
}

/// The first state of shared-info: no vcpu wants an upcall.
fn mask_all_upcalls<M: Machine>(m: &M, dom: &Domain) {
    const UPCALL_MASK: u64 = 1 << 8;
    let slots = m.words(dom.shared_info).iter().step_by(pv_abi::shared_info::VCPU_INFO_SIZE / 8);
    for word in slots.take(pv_abi::frame::LEGACY_MAX_VCPUS) {
        word.store(UPCALL_MASK, core::sync::atomic::Ordering::SeqCst);
    }
}

/// Gives a domain the vcpus that it lacks up to its limit; all are down.
///
/// # Errors
/// `ENOMEM`.
pub fn add_vcpus<M: Machine>(hv: &Hypervisor, m: &M, dom: &Arc<Domain>) -> Result<(), Errno> {
    let slow = dom.slow.lock();
    while dom.vcpu(VcpuId::new(dom.limits.max_vcpus.saturating_sub(1))).is_none() {
        if memory_is_short!() {
            return Err(Errno::NoMem);
        }
        hv.sched.reserve(1).map_err(|_| Errno::NoMem)?;
        let v = dom.add_vcpu();
        vcpu_info::place_initially(m, dom, &v);
        hv.sched.admit(m, &v);
        if slow.controller_pauses != 0 {
            v.sched.set_flags(flags::DOMAIN_PAUSED);
        }
    }
    Ok(())
}
