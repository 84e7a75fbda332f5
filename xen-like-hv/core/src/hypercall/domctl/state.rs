//! Pause, unpause, destroy, resume, name, trigger.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use pv_abi::domctl::{Domctl, DomctlSendtrigger, DomctlSetVirqHandler, DomctlSetdomainhandle};
use pv_abi::errno::Errno;
use pv_abi::ids::Virq;

use super::{Done, Outcome, Stopped, not_self, vcpu_of};
use crate::cx::Cx;
use crate::domain::{Domain, lifecycle, teardown};
use crate::port::Machine;

/// `XEN_DOMCTL_SENDTRIGGER_NMI`.
const TRIGGER_NMI: u32 = 0;

pub(super) fn destroy<M: Machine>(cx: &Cx<'_, M>, dom: &Arc<Domain>) -> Outcome {
    not_self(cx, dom)?;
    teardown::destroy(cx.hv, cx.m, dom).map_err(|teardown::Unfinished| Stopped::Preempted)?;
    Ok(Done::Quietly)
}

pub(super) fn pause<M: Machine>(cx: &Cx<'_, M>, dom: &Arc<Domain>) -> Outcome {
    not_self(cx, dom)?;
    lifecycle::pause_by_controller(cx.hv, cx.m, dom)?;
    Ok(Done::Quietly)
}

pub(super) fn unpause<M: Machine>(cx: &Cx<'_, M>, dom: &Arc<Domain>) -> Outcome {
    lifecycle::unpause_by_controller(cx.hv, cx.m, dom)?;
    Ok(Done::Quietly)
}

/// Lets a domain that has shut down go on, for a suspend that was cancelled; one that has not goes on anyway.
pub(super) fn resume<M: Machine>(cx: &Cx<'_, M>, dom: &Arc<Domain>) -> Outcome {
    not_self(cx, dom)?;
    lifecycle::resume(cx.hv, cx.m, dom);
    Ok(Done::Quietly)
}

pub(super) fn set_handle(dom: &Domain, op: &Domctl) -> Outcome {
    let request: DomctlSetdomainhandle = op.payload();
    dom.slow.lock().handle = request.handle;
    Ok(Done::Quietly)
}

/// A virtual NMI; a PV guest has no other trigger.
pub(super) fn send_trigger<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, op: &Domctl) -> Outcome {
    let request: DomctlSendtrigger = op.payload();
    let v = vcpu_of(dom, request.vcpu)?;
    if request.trigger != TRIGGER_NMI {
        return Err(Errno::NoSys.into());
    }
    if !v.entry.nmi_pending.swap(true, SeqCst) {
        cx.hv.sched.notify(cx.m, &v);
    }
    Ok(Done::Quietly)
}

pub(super) fn set_virq_handler<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, op: &Domctl) -> Outcome {
    let request: DomctlSetVirqHandler = op.payload();
    cx.hv.virqs.set_handler(Virq::new(request.virq), dom.id)?;
    Ok(Done::Quietly)
}
