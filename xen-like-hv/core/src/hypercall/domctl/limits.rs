//! Limits, address size, scheduling parameters.

use alloc::sync::Arc;

use pv_abi::domctl::{
    Domctl, DomctlAddressSize, DomctlMaxMem, DomctlMaxVcpus, DomctlSchedulerOp, SchedulerId, SchedulerOpCmd,
};
use pv_abi::errno::Errno;

use super::{Done, Outcome, not_self};
use crate::cx::Cx;
use crate::domain::{Domain, create};
use crate::port::Machine;
use crate::sched::policy::DEFAULT_WEIGHT;

/// The scheduler that the tools are told of: the one whose parameters (weight) ours takes.
pub(crate) const SCHEDULER: SchedulerId = SchedulerId::Credit2;
/// A cap that leaves things as they are.
const CAP_UNCHANGED: u16 = u16::MAX;

/// Makes the vcpus. The number is the one that the domain was made for.
pub(super) fn max_vcpus<M: Machine>(cx: &Cx<'_, M>, dom: &Arc<Domain>, op: &Domctl) -> Outcome {
    not_self(cx, dom)?;
    let request: DomctlMaxVcpus = op.payload();
    if request.max != dom.limits.max_vcpus || dom.is_dying() {
        return Err(Errno::Inval.into());
    }
    create::add_vcpus(cx.hv, cx.m, dom)?;
    Ok(Done::Quietly)
}

pub(super) fn max_mem(dom: &Domain, op: &Domctl) -> Outcome {
    let request: DomctlMaxMem = op.payload();
    dom.mem.set_max_pages((request.max_memkb >> 2).min(u64::from(u32::MAX)));
    Ok(Done::Quietly)
}

/// Only 64-bit guests.
pub(super) fn set_address_size(op: &Domctl) -> Outcome {
    let request: DomctlAddressSize = op.payload();
    if request.size == 64 { Ok(Done::Quietly) } else { Err(Errno::Inval.into()) }
}

pub(super) fn get_address_size(op: &mut Domctl) -> Outcome {
    op.set_payload(&DomctlAddressSize { size: 64 });
    Ok(Done::WithResults)
}

/// The weight of a domain's vcpus; there is no cap.
pub(super) fn scheduler_op(dom: &Domain, op: &mut Domctl) -> Outcome {
    let mut request: DomctlSchedulerOp = op.payload();
    if request.sched_id != SCHEDULER.raw() {
        return Err(Errno::Inval.into());
    }
    match SchedulerOpCmd::from_raw(request.cmd).ok_or(Errno::Inval)? {
        SchedulerOpCmd::GetInfo => {
            let weight = dom.each_vcpu().next().map_or(DEFAULT_WEIGHT, |v| v.sched.weight());
            request.weight = u16::try_from(weight).unwrap_or(u16::MAX);
            request.cap = 0;
            op.set_payload(&request);
            Ok(Done::WithResults)
        }
        SchedulerOpCmd::PutInfo => {
            if request.cap != 0 && request.cap != CAP_UNCHANGED {
                return Err(Errno::OpNotSupp.into());
            }
            if request.weight != 0 {
                dom.each_vcpu().for_each(|v| v.sched.set_weight(u32::from(request.weight)));
            }
            Ok(Done::Quietly)
        }
        SchedulerOpCmd::PutVcpuInfo | SchedulerOpCmd::GetVcpuInfo => Err(Errno::OpNotSupp.into()),
    }
}
