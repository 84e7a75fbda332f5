//! `HYPERVISOR_sysctl`, interface 0x15: the machine as the toolstack sees it.
//!
//! Order of checks: the argument can be read (`EFAULT`), the version fits (`EACCES`), the caller may (`EPERM`), then the
//! command's own. Commands that are not known, or not for this machine, answer `ENOSYS`.

mod cpus;
mod machine;

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;
use pv_abi::sysctl::{INTERFACE_VERSION, Sysctl, SysctlCmd, SysctlGetdomaininfolist};

use super::GuestPtr;
use super::domctl::info::domain_info;
use crate::access;
use crate::cx::Cx;
use crate::domain::teardown;
use crate::error::{Args, HypercallResult};
use crate::port::Machine;

/// The hypercall: `(argument)`.
///
/// # Errors
/// See the module.
pub fn sysctl<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let ptr = GuestPtr::<Sysctl>::new(args.get(0))?;
    let mut op = ptr.read(cx.m)?;
    if op.interface_version != INTERFACE_VERSION {
        return Err(Errno::Acces.into());
    }
    access::control(cx.dom)?;
    run(cx, &mut op)?;
    ptr.write(cx.m, &op)?;
    Ok(0)
}

/// Every command here has results, so the argument always goes back.
fn run<M: Machine>(cx: &Cx<'_, M>, op: &mut Sysctl) -> Result<(), Errno> {
    match SysctlCmd::from_raw(op.cmd).ok_or(Errno::NoSys)? {
        SysctlCmd::ReadConsole => machine::read_console(cx, op),
        SysctlCmd::PhysInfo => machine::phys_info(cx, op),
        SysctlCmd::AvailHeap => machine::avail_heap(cx, op),
        SysctlCmd::NumaInfo => machine::numa_info(cx, op),
        SysctlCmd::SchedId => {
            cpus::sched_id(op);
            Ok(())
        }
        SysctlCmd::GetCpuInfo => cpus::cpu_info(cx, op),
        SysctlCmd::CpuTopoInfo => cpus::topology(cx, op),
        SysctlCmd::CpupoolOp => cpus::pool_op(cx, op),
        SysctlCmd::GetDomainInfoList => domain_info_list(cx, op),
        _ => Err(Errno::NoSys),
    }
}

/// Domains from a number on, as many as there is room for.
fn domain_info_list<M: Machine>(cx: &Cx<'_, M>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut request: SysctlGetdomaininfolist = op.payload();
    teardown::reap(cx.hv);
    let room = u64::from(request.max_domains);
    let list = GuestPtr::array(request.buffer, room)?;
    let mut from = Some(DomId::new(request.first_domain));
    let mut n = 0;
    while n < request.max_domains {
        let Some(dom) = from.and_then(|id| cx.hv.domains.next_from(id)) else { break };
        list.write_at(cx.m, u64::from(n), &domain_info(cx.hv, cx.m, &dom))?;
        from = dom.id.raw().checked_add(1).map(DomId::new);
        n += 1;
    }
    request.num_domains = n;
    op.set_payload(&request);
    Ok(())
}
