//! The registers of a vcpu, set and read by the toolstack.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use pv_abi::domctl::{Domctl, DomctlVcpucontext};
use pv_abi::errno::Errno;
use pv_abi::ids::VcpuId;
use pv_abi::trap::VcpuGuestContext;

use super::{Done, Outcome, Stopped, not_self};
use crate::cx::Cx;
use crate::domain::context::{NotSet, Which};
use crate::domain::{Domain, context, lifecycle};
use crate::hypercall::GuestPtr;
use crate::port::Machine;
use crate::vcpu::Vcpu;

fn vcpu_of(dom: &Domain, id: u32) -> Result<Arc<Vcpu>, Errno> {
    dom.vcpu(VcpuId::new(id)).ok_or(Errno::Inval)
}

/// Sets the context of a vcpu of a domain that stands still meanwhile. Taking a context away (a null handle) is not
/// supported.
pub(super) fn set<M: Machine>(cx: &Cx<'_, M>, dom: &Arc<Domain>, op: &Domctl) -> Outcome {
    not_self(cx, dom)?;
    let request: DomctlVcpucontext = op.payload();
    let v = vcpu_of(dom, request.vcpu)?;
    if request.ctxt == 0 {
        return Err(Errno::OpNotSupp.into());
    }
    let mut ctx: Box<VcpuGuestContext> = Box::default();
    read_into(cx, request.ctxt, &mut ctx)?;
    match lifecycle::with_domain_held(cx.hv, cx.m, dom, || {
        context::set(cx.hv, cx.m, dom, &v, &ctx, Which::Any)
    }) {
        Ok(()) => Ok(Done::Quietly),
        Err(NotSet::Failed(e)) => Err(e.into()),
        Err(NotSet::Again) => Err(Stopped::Preempted),
    }
}

fn read_into<M: Machine>(cx: &Cx<'_, M>, at: u64, ctx: &mut VcpuGuestContext) -> Result<(), Errno> {
    GuestPtr::<VcpuGuestContext>::new(at)?.read_slice(cx.m, 0, core::slice::from_mut(ctx))
}

pub(super) fn get<M: Machine>(cx: &Cx<'_, M>, dom: &Arc<Domain>, op: &Domctl) -> Outcome {
    not_self(cx, dom)?;
    let request: DomctlVcpucontext = op.payload();
    let v = vcpu_of(dom, request.vcpu)?;
    if !v.sched.initialised.load(SeqCst) {
        return Err(Errno::NoData.into());
    }
    let mut ctx: Box<VcpuGuestContext> = Box::default();
    lifecycle::with_domain_held(cx.hv, cx.m, dom, || context::get(dom, &v, &mut ctx));
    GuestPtr::<VcpuGuestContext>::new(request.ctxt)?.write(cx.m, &ctx)?;
    Ok(Done::Quietly)
}
