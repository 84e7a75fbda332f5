//! `HYPERVISOR_domctl`, interface 0x15: the control of domains by the toolstack.
//!
//! Order of checks: the argument can be read (`EFAULT`), the version fits (`EACCES`), the domain exists (`ESRCH`), the
//! caller may (`EPERM`), then the command's own. One control operation runs at a time; a caller that finds another one
//! in progress restarts. Nobody without the privilege gets as far as that lock (XSA-492).

mod affinity;
mod context;
mod create;
pub(crate) mod info;
mod limits;
pub(crate) use limits::SCHEDULER;
mod memory;
mod state;
mod time;

#[cfg(test)]
mod tests;

use alloc::sync::Arc;

use pv_abi::domctl::{Domctl, DomctlCmd, INTERFACE_VERSION};
use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, VcpuId};

use super::GuestPtr;
use crate::access;
use crate::cx::Cx;
use crate::domain::{Domain, teardown};
use crate::error::{Args, Exit, HypercallResult};
use crate::port::Machine;
use crate::vcpu::Vcpu;

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// Nothing of the argument has changed.
    Quietly,
    /// The argument has results in it: it goes back to the caller.
    WithResults,
}

/// Why a command did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It failed.
    Failed(Errno),
    /// It is to be issued again.
    Preempted,
}

impl From<Errno> for Stopped {
    fn from(e: Errno) -> Self {
        Self::Failed(e)
    }
}

type Outcome = Result<Done, Stopped>;

/// The hypercall: `(argument)`.
///
/// # Errors
/// See the module.
pub fn domctl<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let ptr = GuestPtr::<Domctl>::new(args.get(0))?;
    let mut op = ptr.read(cx.m)?;
    if op.interface_version != INTERFACE_VERSION {
        return Err(Errno::Acces.into());
    }
    let cmd = DomctlCmd::from_raw(op.cmd);
    let target = find(cx, cmd, op.domain)?;
    access::control(cx.dom)?;
    let hv = cx.hv;
    let Some(_one_at_a_time) = hv.domains.control.try_lock() else { return Err(Exit::Restart(*args)) };
    teardown::reap(hv);
    let outcome = match target {
        Some(dom) => on_domain(cx, cmd, &dom, &mut op),
        None => create::create(cx, &mut op),
    };
    match outcome {
        Ok(Done::Quietly) => Ok(0),
        Ok(Done::WithResults) => {
            ptr.write(cx.m, &op)?;
            Ok(0)
        }
        Err(Stopped::Failed(e)) => Err(e.into()),
        Err(Stopped::Preempted) => Err(Exit::Restart(*args)),
    }
}

/// The domain that a command is about; `None` for the command that makes one.
fn find<M: Machine>(cx: &Cx<'_, M>, cmd: Option<DomctlCmd>, id: u16) -> Result<Option<Arc<Domain>>, Errno> {
    let id = DomId::new(id);
    match cmd {
        Some(DomctlCmd::CreateDomain) => Ok(None),
        // Asks for the domain of that number or the next one: how tools walk through all of them.
        Some(DomctlCmd::GetDomainInfo) if id.is_ordinary() => {
            cx.hv.domains.next_from(id).map(Some).ok_or(Errno::Srch)
        }
        Some(DomctlCmd::GetDomainInfo) => Err(Errno::Inval),
        _ if id == DomId::SELF => Ok(Some(cx.dom.clone())),
        _ => cx.hv.domains.get(id).map(Some).ok_or(Errno::Srch),
    }
}

fn on_domain<M: Machine>(
    cx: &mut Cx<'_, M>,
    cmd: Option<DomctlCmd>,
    dom: &Arc<Domain>,
    op: &mut Domctl,
) -> Outcome {
    match cmd.ok_or(Errno::NoSys)? {
        DomctlCmd::DestroyDomain => state::destroy(cx, dom),
        DomctlCmd::PauseDomain => state::pause(cx, dom),
        DomctlCmd::UnpauseDomain => state::unpause(cx, dom),
        DomctlCmd::ResumeDomain => state::resume(cx, dom),
        DomctlCmd::SetDomainHandle => state::set_handle(dom, op),
        DomctlCmd::SendTrigger => state::send_trigger(cx, dom, op),
        DomctlCmd::SetVirqHandler => state::set_virq_handler(cx, dom, op),
        DomctlCmd::GetDomainInfo => info::get_domain_info(cx, dom, op),
        DomctlCmd::GetVcpuInfo => info::get_vcpu_info(cx, dom, op),
        DomctlCmd::MaxVcpus => limits::max_vcpus(cx, dom, op),
        DomctlCmd::MaxMem => limits::max_mem(dom, op),
        DomctlCmd::SetAddressSize => limits::set_address_size(op),
        DomctlCmd::GetAddressSize => limits::get_address_size(op),
        DomctlCmd::SchedulerOp => limits::scheduler_op(dom, op),
        DomctlCmd::SetVcpuContext => context::set(cx, dom, op),
        DomctlCmd::GetVcpuContext => context::get(cx, dom, op),
        DomctlCmd::SetVcpuAffinity => affinity::set_vcpu(cx, dom, op),
        DomctlCmd::GetVcpuAffinity => affinity::get_vcpu(cx, dom, op),
        DomctlCmd::SetNodeAffinity => affinity::set_node(cx, op),
        DomctlCmd::GetNodeAffinity => affinity::get_node(cx, op),
        DomctlCmd::HypercallInit => memory::hypercall_init(cx, dom, op),
        DomctlCmd::GetPageFrameInfo3 => memory::get_page_frame_info(cx, dom, op),
        DomctlCmd::SetTimeOffset => time::set_time_offset(cx, dom, op),
        DomctlCmd::SetTscInfo => time::set_tsc_info(cx, dom, op),
        DomctlCmd::GetTscInfo => time::get_tsc_info(cx, dom, op),
        _ => Err(Errno::NoSys.into()),
    }
}

/// Refuses commands of a domain about itself that would stop it half-way.
fn not_self<M: Machine>(cx: &Cx<'_, M>, dom: &Arc<Domain>) -> Result<(), Errno> {
    if Arc::ptr_eq(dom, cx.dom) { Err(Errno::Inval) } else { Ok(()) }
}

/// A vcpu of a domain by number: `EINVAL` past its limit, `ESRCH` where it has not been made.
fn vcpu_of(dom: &Domain, id: u32) -> Result<Arc<Vcpu>, Errno> {
    if id >= dom.limits.max_vcpus {
        return Err(Errno::Inval);
    }
    dom.vcpu(VcpuId::new(id)).ok_or(Errno::Srch)
}
