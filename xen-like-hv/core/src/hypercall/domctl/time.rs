//! A domain's wall clock and time-stamp counter.

use alloc::sync::Arc;

use pv_abi::domctl::{Domctl, DomctlSettimeoffset, DomctlTscInfo, TscMode};
use pv_abi::errno::Errno;

use super::{Done, Outcome, not_self};
use crate::cx::Cx;
use crate::domain::{Domain, wallclock};
use crate::port::Machine;

pub(super) fn set_time_offset<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, op: &Domctl) -> Outcome {
    let request: DomctlSettimeoffset = op.payload();
    dom.slow.lock().time_offset_s = request.time_offset_seconds;
    wallclock::publish(cx.hv, cx.m, dom);
    Ok(Done::Quietly)
}

/// Guests see the machine's own counter. That is what the default means where it is safe, and never means anything else.
pub(super) fn set_tsc_info<M: Machine>(cx: &Cx<'_, M>, dom: &Arc<Domain>, op: &Domctl) -> Outcome {
    not_self(cx, dom)?;
    let request: DomctlTscInfo = op.payload();
    match TscMode::from_raw(request.tsc_mode).ok_or(Errno::Inval)? {
        TscMode::Default | TscMode::NeverEmulate => Ok(Done::Quietly),
        TscMode::AlwaysEmulate => Err(Errno::OpNotSupp.into()),
    }
}

pub(super) fn get_tsc_info<M: Machine>(cx: &Cx<'_, M>, dom: &Arc<Domain>, op: &mut Domctl) -> Outcome {
    not_self(cx, dom)?;
    let created = dom.slow.lock().created_ns;
    op.set_payload(&DomctlTscInfo {
        tsc_mode: TscMode::NeverEmulate.raw(),
        gtsc_khz: cx.hv.platform.tsc_khz,
        incarnation: 0,
        pad: 0,
        elapsed_nsec: cx.m.now_ns().saturating_sub(created),
    });
    Ok(Done::WithResults)
}
