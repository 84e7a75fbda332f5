//! A vcpu's whole state, set and read: for `VCPUOP_initialise`, the toolstack, and the first vcpu of dom0.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use pv_abi::errno::Errno;
use pv_abi::ids::Mfn;
use pv_abi::trap::{VcpuGuestContext, VgcfFlags, cr3_to_mfn, mfn_to_cr3};
use pv_abi::vm_assist::VmAssist;

use super::Domain;
use crate::entry::{context, descriptors};
use crate::hv::Hypervisor;
use crate::hypercall::{debugreg, vm_assist};
use crate::mm::roots::Live;
use crate::mm::{Pt, TableError};
use crate::port::Machine;
use crate::sched::state::flags;
use crate::vcpu::Vcpu;

/// Why a context was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSet {
    /// It cannot be.
    Failed(Errno),
    /// Its page tables are still being checked: the same call is to be made again.
    Again,
}

impl From<TableError> for NotSet {
    fn from(e: TableError) -> Self {
        match e {
            TableError::Errno(e) => Self::Failed(e),
            TableError::Again => Self::Again,
        }
    }
}

impl From<Errno> for NotSet {
    fn from(e: Errno) -> Self {
        Self::Failed(e)
    }
}

/// Which vcpus [`set`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Only one that has had no context: a guest's own call.
    New,
    /// Any: the domain stands still.
    Any,
}

/// Sets the state of `v`, which does not run and will not while this goes on.
///
/// Nothing of it is in force where it fails; page tables that were checked stay checked. Two callers at once are kept
/// apart: unfinished page-table work is kept with the vcpu, and there is room for one piece.
///
/// # Errors
/// `EEXIST` where `which` does not fit; `EINVAL` for addresses that are not canonical, descriptor tables or page tables that are not in order;
/// `EOPNOTSUPP` for a context that brings its LDT; `EPERM` for breakpoints that a guest may not have.
pub fn set<M: Machine>(
    hv: &Hypervisor,
    m: &M,
    dom: &Domain,
    v: &Arc<Vcpu>,
    ctx: &VcpuGuestContext,
    which: Which,
) -> Result<(), NotSet> {
    if !v.sched.claim_context() {
        return Err(NotSet::Again);
    }
    let result = if which == Which::New && v.sched.initialised.load(SeqCst) {
        Err(Errno::Exist.into())
    } else {
        set_claimed(hv, m, dom, v, ctx)
    };
    v.sched.release_context();
    result
}

fn set_claimed<M: Machine>(
    hv: &Hypervisor,
    m: &M,
    dom: &Domain,
    v: &Arc<Vcpu>,
    ctx: &VcpuGuestContext,
) -> Result<(), NotSet> {
    if ctx.ldt_ents != 0 {
        return Err(Errno::OpNotSupp.into());
    }
    let entries = u32::try_from(ctx.gdt_ents).map_err(|_| Errno::Inval)?;
    let debug = checked_debug(ctx)?;
    context::check(ctx)?;
    set_roots(hv, m, dom, v, ctx)?;
    descriptors::set_gdt(&hv.frames, m, dom, v, &ctx.gdt_frames, entries)?;
    context::install(v, ctx)?;
    for (slot, value) in v.entry.debug.iter().zip(debug) {
        slot.store(value, Relaxed);
    }
    if v.id.raw() == 0 {
        for kind in VmAssist::ALL.iter().filter(|k| vm_assist::is_supported(**k)) {
            dom.set_assist(*kind, ctx.vm_assist >> kind.raw() & 1 != 0);
        }
    }
    if v.id.raw() == 0 {
        // Whoever built the domain has written its shared-info page.
        super::wallclock::publish(hv, m, dom);
    }
    v.sched.initialised.store(true, SeqCst);
    if VgcfFlags::from_bits_retain(ctx.flags).contains(VgcfFlags::ONLINE) {
        hv.sched.start(m, v, flags::DOWN);
    } else {
        hv.sched.stop(m, v, flags::DOWN);
    }
    Ok(())
}

/// DR0–DR7 as they may stand; 4 and 5 do not exist.
fn checked_debug(ctx: &VcpuGuestContext) -> Result<[u64; 8], Errno> {
    let mut all = [0; 8];
    for (index, (out, value)) in (0_u8..).zip(all.iter_mut().zip(ctx.debugreg)) {
        if index != 4 && index != 5 {
            *out = debugreg::checked(index, value)?;
        }
    }
    Ok(all)
}

/// Reads the state of `v`, which does not run.
pub fn get(dom: &Domain, v: &Vcpu, ctx: &mut VcpuGuestContext) {
    context::extract(v, ctx);
    if v.sched.flags() & flags::DOWN == 0 {
        ctx.flags |= VgcfFlags::ONLINE.bits();
    }
    ctx.ctrlreg[3] = v.mm.kernel_root().map_or(0, mfn_to_cr3);
    ctx.ctrlreg[1] = v.mm.user_root().map_or(0, |mfn| mfn_to_cr3(mfn) | 1);
    ctx.ctrlreg[4] = v.entry.cr4.load(Relaxed);
    if v.id.raw() == 0 {
        ctx.vm_assist = dom.assists();
    }
    let tables = v.entry.tables.lock();
    for (slot, mfn) in ctx.gdt_frames.iter_mut().zip(tables.gdt_frames()) {
        *slot = mfn.raw();
    }
    ctx.gdt_ents = u64::from(tables.gdt_entries());
    let (base, entries) = tables.ldt();
    (ctx.ldt_base, ctx.ldt_ents) = (base, u64::from(entries));
}

/// The root that a control-register value names, if it names one. The lowest bit of CR1 says that it is valid.
fn root(cr: u64) -> Option<Mfn> {
    (cr >> 12 != 0).then(|| cr3_to_mfn(cr))
}

/// Gives `v` its base pointers: the kernel's must be there, the user mode's may.
fn set_roots<M: Machine>(
    hv: &Hypervisor,
    m: &M,
    dom: &Domain,
    v: &Vcpu,
    ctx: &VcpuGuestContext,
) -> Result<(), NotSet> {
    let kernel = root(ctx.ctrlreg[3]).ok_or(Errno::Inval)?;
    let user = root(ctx.ctrlreg[1]);
    let pt = Pt { frames: &hv.frames, m, slot: &v.mm.pending };
    pt.finish()?;
    let result = if v.mm.kernel_root() == Some(kernel) {
        Ok(())
    } else {
        pt.set_kernel_root(dom, v, kernel, Live::No)
    };
    let result = result.and_then(|()| match user {
        same if same == v.mm.user_root() => Ok(()),
        other => pt.set_user_root(dom, v, other),
    });
    if result != Err(TableError::Again) {
        pt.settle()?;
    }
    Ok(result?)
}
