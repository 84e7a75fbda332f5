//! pcpus, their places, and the one pool of them.

use pv_abi::errno::Errno;
use pv_abi::ids::PcpuId;
use pv_abi::sysctl::{
    CpupoolOpCmd, Sysctl, SysctlCpuinfo, SysctlCpupoolOp, SysctlCputopo, SysctlCputopoinfo, SysctlGetcpuinfo,
    SysctlSchedId,
};

use crate::cx::Cx;
use crate::hypercall::domctl::SCHEDULER;
use crate::hypercall::{GuestPtr, bitmap};
use crate::port::Machine;

pub(super) fn sched_id(op: &mut Sysctl) {
    op.set_payload(&SysctlSchedId { sched_id: SCHEDULER.raw() });
}

fn nr_pcpus<M: Machine>(cx: &Cx<'_, M>) -> u32 {
    u32::try_from(cx.hv.sched.pcpus().iter().count()).unwrap_or(0)
}

/// How long each pcpu has had nothing to do.
pub(super) fn cpu_info<M: Machine>(cx: &Cx<'_, M>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut request: SysctlGetcpuinfo = op.payload();
    let n = request.max_cpus.min(nr_pcpus(cx));
    let list = GuestPtr::array(request.info, u64::from(n))?;
    let now = cx.m.now_ns();
    for cpu in 0..n {
        let info = SysctlCpuinfo { idletime: cx.hv.sched.idle_ns(PcpuId::new(cpu), now) };
        list.write_at(cx.m, u64::from(cpu), &info)?;
    }
    request.nr_cpus = n;
    op.set_payload(&request);
    Ok(())
}

/// Where the pcpus are: one socket, a core each. A null handle asks for the number only.
pub(super) fn topology<M: Machine>(cx: &Cx<'_, M>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut request: SysctlCputopoinfo = op.payload();
    let n = nr_pcpus(cx);
    if request.cputopo != 0 {
        if request.num_cpus < n {
            return Err(Errno::NoBufs);
        }
        let list = GuestPtr::array(request.cputopo, u64::from(n))?;
        for cpu in 0..n {
            list.write_at(cx.m, u64::from(cpu), &SysctlCputopo { core: cpu, socket: 0, node: 0 })?;
        }
    }
    request.num_cpus = n;
    op.set_payload(&request);
    Ok(())
}

/// There is one pool with all pcpus; it can be looked at and not be changed.
pub(super) fn pool_op<M: Machine>(cx: &Cx<'_, M>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut request: SysctlCpupoolOp = op.payload();
    match CpupoolOpCmd::from_raw(request.op).ok_or(Errno::NoSys)? {
        CpupoolOpCmd::Info => {
            if request.cpupool_id != 0 {
                return Err(Errno::NoEnt);
            }
            bitmap::write(cx.m, &request.cpumap, cx.hv.sched.pcpus().bits())?;
            request.sched_id = SCHEDULER.raw();
            request.n_dom = u32::try_from(cx.hv.domains.count()).unwrap_or(u32::MAX);
        }
        CpupoolOpCmd::FreeInfo => bitmap::write(cx.m, &request.cpumap, 0)?,
        CpupoolOpCmd::Create
        | CpupoolOpCmd::Destroy
        | CpupoolOpCmd::AddCpu
        | CpupoolOpCmd::RmCpu
        | CpupoolOpCmd::MoveDomain => return Err(Errno::OpNotSupp),
    }
    op.set_payload(&request);
    Ok(())
}
