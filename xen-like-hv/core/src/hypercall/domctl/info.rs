//! What the toolstack is told of domains and vcpus.

use pv_abi::domctl::{
    DOMINF_SHUTDOWN_MASK, DOMINF_SHUTDOWN_SHIFT, DomInfoFlags, Domctl, DomctlGetdomaininfo,
    DomctlGetvcpuinfo, INVALID_MAX_VCPU_ID,
};

use super::{Done, Outcome, vcpu_of};
use crate::cx::Cx;
use crate::domain::Domain;
use crate::hv::Hypervisor;
use crate::port::{Clock, Machine};
use crate::sched::state::flags;

pub(super) fn get_domain_info<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, op: &mut Domctl) -> Outcome {
    let info = domain_info(cx.hv, cx.m, dom);
    op.domain = info.domain;
    op.set_payload(&info);
    Ok(Done::WithResults)
}

/// A domain as the lists show it.
pub(crate) fn domain_info(hv: &Hypervisor, m: &impl Clock, dom: &Domain) -> DomctlGetdomaininfo {
    let now = m.now_ns();
    let mut info = DomctlGetdomaininfo {
        domain: dom.id.raw(),
        tot_pages: dom.mem.tot_pages(),
        max_pages: dom.mem.max_pages(),
        shared_info_frame: dom.shared_info.raw(),
        max_vcpu_id: INVALID_MAX_VCPU_ID,
        gpaddr_bits: u8::try_from(hv.platform.maddr_bits).unwrap_or(0),
        ..DomctlGetdomaininfo::default()
    };
    let vcpus = vcpu_flags(dom, now, &mut info);
    let mut all = if info.nr_online_vcpus == 0 { DomInfoFlags::empty() } else { vcpus };
    all.set(DomInfoFlags::DYING, dom.is_dead());
    let slow = dom.slow.lock();
    info.handle = slow.handle;
    info.ssidref = slow.ssidref;
    all.set(DomInfoFlags::PAUSED, slow.controller_pauses != 0);
    all.set(DomInfoFlags::SHUTDOWN, slow.shutdown.is_some());
    let reason = slow.shutdown.unwrap_or(0) & DOMINF_SHUTDOWN_MASK;
    info.flags = all.bits() | reason << DOMINF_SHUTDOWN_SHIFT;
    info
}

/// Adds up the vcpus: *blocked* where all that are up wait, *running* where one is on a pcpu.
fn vcpu_flags(dom: &Domain, now: u64, info: &mut DomctlGetdomaininfo) -> DomInfoFlags {
    let mut all = DomInfoFlags::BLOCKED;
    for v in dom.each_vcpu() {
        info.max_vcpu_id = v.id.raw();
        info.cpu_time = info.cpu_time.saturating_add(v.sched.runstate.cpu_time(now));
        let reasons = v.sched.flags();
        if reasons & flags::DOWN != 0 {
            continue;
        }
        info.nr_online_vcpus += 1;
        if reasons & flags::BLOCKED == 0 {
            all.remove(DomInfoFlags::BLOCKED);
        }
        if v.sched.pcpu().is_some() {
            all.insert(DomInfoFlags::RUNNING);
        }
    }
    all
}

pub(super) fn get_vcpu_info<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, op: &mut Domctl) -> Outcome {
    let mut info: DomctlGetvcpuinfo = op.payload();
    let v = vcpu_of(dom, info.vcpu)?;
    let reasons = v.sched.flags();
    info.online = u8::from(reasons & flags::DOWN == 0);
    info.blocked = u8::from(reasons & flags::BLOCKED != 0);
    info.running = u8::from(v.sched.pcpu().is_some());
    info.cpu_time = v.sched.runstate.cpu_time(cx.m.now_ns());
    info.cpu = v.sched.home().raw();
    op.set_payload(&info);
    Ok(Done::WithResults)
}
