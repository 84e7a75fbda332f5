//! Where vcpus may run; nodes, of which there is one.

use core::sync::atomic::Ordering::SeqCst;

use pv_abi::domctl::{AffinityFlags, Domctl, DomctlNodeaffinity, DomctlVcpuaffinity};
use pv_abi::errno::Errno;

use super::{Done, Outcome, vcpu_of};
use crate::cx::Cx;
use crate::domain::Domain;
use crate::hypercall::bitmap;
use crate::port::{CpuMask, Machine};

/// The bit of the only node.
const NODE_0: u64 = 1;

/// Sets where a vcpu may run and where it likes to; writes back what is in force.
pub(super) fn set_vcpu<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, op: &Domctl) -> Outcome {
    let request: DomctlVcpuaffinity = op.payload();
    let v = vcpu_of(dom, request.vcpu)?;
    let flags = checked(&request)?;
    let pcpus = cx.hv.sched.pcpus();
    if flags.contains(AffinityFlags::FORCE) {
        v.sched.pinned_from.store(0, SeqCst);
    }
    if flags.contains(AffinityFlags::HARD) {
        let wanted = CpuMask::from_bits(bitmap::read(cx.m, &request.cpumap_hard)?);
        if v.sched.pinned_from.load(SeqCst) != 0 {
            return Err(Errno::Busy.into());
        }
        cx.hv.sched.set_hard_affinity(cx.m, &v, wanted).map_err(|_| Errno::Inval)?;
        bitmap::write(cx.m, &request.cpumap_hard, wanted.intersection(pcpus).bits())?;
    }
    if flags.contains(AffinityFlags::SOFT) {
        let wanted = CpuMask::from_bits(bitmap::read(cx.m, &request.cpumap_soft)?);
        let in_force = wanted.intersection(v.sched.hard_affinity()).intersection(pcpus);
        if in_force.is_empty() {
            return Err(Errno::Inval.into());
        }
        v.sched.set_soft_affinity(wanted);
        bitmap::write(cx.m, &request.cpumap_soft, in_force.bits())?;
    }
    Ok(Done::Quietly)
}

pub(super) fn get_vcpu<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, op: &Domctl) -> Outcome {
    let request: DomctlVcpuaffinity = op.payload();
    let v = vcpu_of(dom, request.vcpu)?;
    let flags = checked(&request)?;
    if flags.contains(AffinityFlags::HARD) {
        bitmap::write(cx.m, &request.cpumap_hard, v.sched.hard_affinity().bits())?;
    }
    if flags.contains(AffinityFlags::SOFT) {
        bitmap::write(cx.m, &request.cpumap_soft, v.sched.soft_affinity().bits())?;
    }
    Ok(Done::Quietly)
}

/// Something must be asked for, with a bitmap for it.
fn checked(request: &DomctlVcpuaffinity) -> Result<AffinityFlags, Errno> {
    let flags = AffinityFlags::from_bits_truncate(request.flags);
    let hard_missing = flags.contains(AffinityFlags::HARD) && request.cpumap_hard.bitmap == 0;
    let soft_missing = flags.contains(AffinityFlags::SOFT) && request.cpumap_soft.bitmap == 0;
    if flags.is_empty() || hard_missing || soft_missing { Err(Errno::Inval) } else { Ok(flags) }
}

pub(super) fn set_node<M: Machine>(cx: &Cx<'_, M>, op: &Domctl) -> Outcome {
    let request: DomctlNodeaffinity = op.payload();
    let nodes = bitmap::read(cx.m, &request.nodemap)?;
    if nodes & NODE_0 == 0 { Err(Errno::Inval.into()) } else { Ok(Done::Quietly) }
}

pub(super) fn get_node<M: Machine>(cx: &Cx<'_, M>, op: &Domctl) -> Outcome {
    let request: DomctlNodeaffinity = op.payload();
    bitmap::write(cx.m, &request.nodemap, NODE_0)?;
    Ok(Done::Quietly)
}
