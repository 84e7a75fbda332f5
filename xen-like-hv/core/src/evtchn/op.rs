//! `HYPERVISOR_event_channel_op`: fetch, decode, authorise; the rest is done by the room's other files.

use alloc::sync::Arc;

use pv_abi::errno::Errno;
use pv_abi::evtchn::{
    EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindPirq, EvtchnBindVcpu, EvtchnBindVirq,
    EvtchnClose, EvtchnExpandArray, EvtchnInitControl, EvtchnOp, EvtchnReset, EvtchnSend, EvtchnSetPriority,
    EvtchnStatus, EvtchnUnmask,
};
use pv_abi::ids::{DomId, EvtchnPort, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{bind, close, fifo, pirq, send};
use crate::access;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Args, Exit, HypercallResult};
use crate::hypercall::GuestPtr;
use crate::port::Machine;

/// Whether the first argument asks for [`send_op`], the command that is called all day.
#[inline(always)]
pub(crate) fn is_send(args: &Args) -> bool {
    args.low32(0) == EvtchnOp::Send.raw()
}

/// Whether it asks for [`unmask_op`].
#[inline(always)]
pub(crate) fn is_unmask(args: &Args) -> bool {
    args.low32(0) == EvtchnOp::Unmask.raw()
}

/// Whether it asks for [`status_op`].
#[inline(always)]
pub(crate) fn is_status(args: &Args) -> bool {
    args.low32(0) == EvtchnOp::Status.raw()
}

/// The hypercall: `(command, argument)`.
///
/// # Errors
/// `ENOSYS` for an unknown command; `EFAULT` where the argument cannot be read or the answer cannot be written; else what the command says.
#[inline(always)]
pub fn event_channel_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let at = args.get(1);
    match EvtchnOp::from_raw(args.low32(0)).ok_or(Errno::NoSys)? {
        EvtchnOp::Send => send_op(cx, args),
        EvtchnOp::Unmask => unmask_op(cx, args),
        EvtchnOp::Close => {
            let op: EvtchnClose = GuestPtr::new(at)?.read(cx.m)?;
            close::close(cx.hv, cx.m, cx.dom, EvtchnPort::new(op.port))?;
            Ok(0)
        }
        EvtchnOp::BindVcpu => {
            let op: EvtchnBindVcpu = GuestPtr::new(at)?.read(cx.m)?;
            bind::bind_vcpu(cx.dom, EvtchnPort::new(op.port), VcpuId::new(op.vcpu))?;
            Ok(0)
        }
        EvtchnOp::AllocUnbound => answer(cx, at, alloc_unbound),
        EvtchnOp::BindInterdomain => answer(cx, at, bind_interdomain),
        EvtchnOp::BindVirq => answer(cx, at, |cx, op: &mut EvtchnBindVirq| {
            op.port = bind::bind_virq(cx.m, cx.dom, op.virq, VcpuId::new(op.vcpu))?.raw();
            Ok(())
        }),
        EvtchnOp::BindIpi => answer(cx, at, |cx, op: &mut EvtchnBindIpi| {
            op.port = bind::bind_ipi(cx.m, cx.dom, VcpuId::new(op.vcpu))?.raw();
            Ok(())
        }),
        EvtchnOp::BindPirq => answer(cx, at, |cx, op: &mut EvtchnBindPirq| {
            op.port = pirq::bind_pirq(cx.hv, cx.m, cx.dom, op.pirq)?.raw();
            Ok(())
        }),
        EvtchnOp::Status => status_op(cx, args),
        EvtchnOp::Reset => reset(cx, args),
        EvtchnOp::InitControl => {
            answer(cx, at, |cx, op: &mut EvtchnInitControl| fifo::init_control(cx.hv, cx.m, cx.dom, op))
        }
        EvtchnOp::ExpandArray => {
            let op: EvtchnExpandArray = GuestPtr::new(at)?.read(cx.m)?;
            fifo::expand_array(cx.hv, cx.m, cx.dom, op.array_gfn)?;
            Ok(0)
        }
        EvtchnOp::SetPriority => {
            let op: EvtchnSetPriority = GuestPtr::new(at)?.read(cx.m)?;
            fifo::set_priority(cx.dom, EvtchnPort::new(op.port), op.priority)?;
            Ok(0)
        }
    }
}

/// [`event_channel_op`] with [`EvtchnOp::Send`], apart so that it does not carry the others' stack frame.
///
/// # Errors
/// As there.
#[inline(always)]
pub(crate) fn send_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let op: EvtchnSend = GuestPtr::new(args.get(1))?.read(cx.m)?;
    if let Some(unfinished) = send::begin_send(cx.m, cx.dom, EvtchnPort::new(op.port))? {
        finish_send(cx, unfinished);
    }
    Ok(0)
}

/// Apart from the hot path, which keeps nothing for it but the context.
#[cold]
#[inline(never)]
fn finish_send<M: Machine>(cx: &Cx<'_, M>, unfinished: send::Unfinished<'_>) {
    send::finish_send(cx.hv, cx.m, cx.dom, unfinished);
}

/// The same with [`EvtchnOp::Unmask`].
///
/// # Errors
/// As there.
#[inline(always)]
pub(crate) fn unmask_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let op: EvtchnUnmask = GuestPtr::new(args.get(1))?.read(cx.m)?;
    if let Some(unfinished) = send::begin_unmask(cx.m, cx.dom, EvtchnPort::new(op.port))? {
        finish_unmask(cx, unfinished);
    }
    Ok(0)
}

#[cold]
#[inline(never)]
fn finish_unmask<M: Machine>(cx: &Cx<'_, M>, unfinished: send::Unfinished<'_>) {
    send::finish_unmask(cx.hv, cx.m, cx.dom, unfinished);
}

/// The same with [`EvtchnOp::Status`].
///
/// # Errors
/// As there.
#[inline(always)]
pub(crate) fn status_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    status(cx, args.get(1))?;
    Ok(0)
}

/// Reads an argument, has `f` fill in the answer, writes it back.
///
/// If that last step fails the port stays: the guest gave an address that it took away meanwhile, and can close it.
fn answer<M: Machine, T: FromBytes + IntoBytes + Immutable>(
    cx: &mut Cx<'_, M>,
    at: u64,
    f: impl FnOnce(&Cx<'_, M>, &mut T) -> Result<(), Errno>,
) -> HypercallResult {
    let ptr = GuestPtr::<T>::new(at)?;
    let mut op = ptr.read(cx.m)?;
    f(cx, &mut op)?;
    ptr.write(cx.m, &op)?;
    Ok(0)
}

/// The domain of an argument, which may be `DOMID_SELF`.
fn any_domain<M: Machine>(cx: &Cx<'_, M>, raw: u16) -> Result<Arc<Domain>, Errno> {
    Ok(other_domain(cx, raw)?.unwrap_or_else(|| cx.dom.clone()))
}

/// The same; none is the caller itself, which is at hand.
#[inline(always)]
fn other_domain<M: Machine>(cx: &Cx<'_, M>, raw: u16) -> Result<Option<Arc<Domain>>, Errno> {
    let id = DomId::new(raw);
    if id == DomId::SELF || id == cx.dom.id {
        return Ok(None);
    }
    cx.hv.domains.get(id).ok_or(Errno::Srch).map(Some)
}

fn alloc_unbound<M: Machine>(cx: &Cx<'_, M>, op: &mut EvtchnAllocUnbound) -> Result<(), Errno> {
    let dom = any_domain(cx, op.dom)?;
    access::act_on(cx.dom, dom.id)?;
    let remote = DomId::new(op.remote_dom);
    // "Self" is the caller, not the domain that gets the port.
    let remote = if remote == DomId::SELF { cx.dom.id } else { remote };
    op.port = bind::alloc_unbound(cx.m, &dom, remote)?.raw();
    Ok(())
}

fn bind_interdomain<M: Machine>(cx: &Cx<'_, M>, op: &mut EvtchnBindInterdomain) -> Result<(), Errno> {
    let remote = any_domain(cx, op.remote_dom)?;
    let port = EvtchnPort::new(op.remote_port);
    op.local_port = bind::bind_interdomain(cx.hv, cx.m, cx.dom, &remote, port)?.raw();
    Ok(())
}

#[inline(never)]
fn status<M: Machine>(cx: &Cx<'_, M>, at: u64) -> Result<(), Errno> {
    let ptr = GuestPtr::<EvtchnStatus>::new(at)?;
    let op = ptr.read(cx.m)?;
    let other = other_domain(cx, op.dom)?;
    let dom = other.as_ref().unwrap_or(cx.dom);
    let answer = bind::status(dom, &op)?;
    access::act_on(cx.dom, dom.id)?;
    ptr.write(cx.m, &answer)
}

fn reset<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let op: EvtchnReset = GuestPtr::new(args.get(1))?.read(cx.m)?;
    let dom = any_domain(cx, op.dom)?;
    access::act_on(cx.dom, dom.id)?;
    // Another domain's ports are reset by a toolstack that has paused it.
    if dom.id != cx.dom.id && dom.slow.lock().controller_pauses == 0 {
        return Err(Errno::Inval.into());
    }
    match close::reset(cx.hv, cx.m, &dom) {
        Ok(()) => Ok(0),
        Err(close::Preempted) => Err(Exit::Restart(*args)),
    }
}
