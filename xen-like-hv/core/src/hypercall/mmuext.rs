//! `HYPERVISOR_mmuext_op`: pinning, base pointers, flushes, the LDT, clearing and copying frames.
//!
//! Restart is that of [`super::mmu`].

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, GuestVa, Mfn};
use pv_abi::mmu::{MmuextCmd, MmuextOp};
use pv_abi::pte::Level;

use super::GuestPtr;
use super::mmu::{ListCall, PgOwner, controls_devices, cpus_of_domain, cpus_of_vcpus};
use crate::cx::Cx;
use crate::error::{Args, HypercallResult};
use crate::mm::roots::Live;
use crate::mm::{Pt, TableError, walk};
use crate::port::{FlushScope, Machine};

/// Longest LDT.
const MAX_LDT_ENTRIES: u32 = 8192;
/// Descriptors in a page.
const ENTRIES_PER_PAGE: u32 = 512;

/// `HYPERVISOR_mmuext_op(list, count, *done, domain)`.
///
/// # Errors
/// `ESRCH`, `EPERM`: the domain. `EFAULT`: the list. `EINVAL`, `EPERM`, `EACCES`: an entry. `EOPNOTSUPP`: superpages.
/// `ENOSYS`: an unknown command.
#[inline(always)]
pub fn mmuext_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    Pt::of(cx).finish().map_err(|e| e.exit(args))?;
    if let Some(result) = ListCall::finished(args) {
        return Pt::of(cx).settle().map_err(|e| e.exit(args)).and(result);
    }
    let call = ListCall::new(cx, args)?;
    let owner = PgOwner::of(cx, DomId::new(args.low16(3)))?;
    let list = GuestPtr::<MmuextOp>::array(call.list, u64::from(call.count))?;
    let mut done = 0_u32;
    while done < call.count {
        if done != 0 && (!cx.vcpu.mm.pending.is_empty() || cx.m.preempt_pending()) {
            return Err(call.restart(cx, args, done, 24));
        }
        let result = list.read_at(cx.m, u64::from(done)).map_err(TableError::Errno);
        match result.and_then(|op| one_op(cx, &owner, &op)) {
            Ok(()) => done += 1,
            Err(TableError::Again) => return Err(call.restart(cx, args, done, 24)),
            Err(TableError::Errno(e)) => return call.end(cx, Err(e), done),
        }
        // What is left stays in the slot; the call goes on with it.
        let _ = Pt::of(cx).settle();
    }
    call.end(cx, Ok(()), done)
}

/// Whether the arguments are a list of one operation on oneself: what kernels ask for at each context switch and flush.
#[inline(always)]
pub(super) fn is_single(args: &Args) -> bool {
    args.low32(1) == 1 && args.low16(3) == DomId::SELF.raw()
}

/// [`mmuext_op`] where [`is_single`] holds: no list to go through, no owner to look up.
///
/// # Errors
/// As there.
#[inline(always)]
pub(super) fn single<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    Pt::of(cx).finish().map_err(|e| e.exit(args))?;
    let call = ListCall::single(args);
    let op = GuestPtr::<MmuextOp>::new(call.list)?.read(cx.m).map_err(TableError::Errno);
    match op.and_then(|op| single_op(cx, &op)) {
        Ok(()) => call.end(cx, Ok(()), 1),
        Err(TableError::Errno(e)) => call.end(cx, Err(e), 0),
        Err(TableError::Again) => Err(call.restart(cx, args, 0, 24)),
    }
}

/// The operations that need no more than this pcpu come first.
#[inline(always)]
fn single_op<M: Machine>(cx: &Cx<'_, M>, op: &MmuextOp) -> Result<(), TableError> {
    match MmuextCmd::from_raw(op.cmd) {
        Some(MmuextCmd::TlbFlushLocal) => cx.m.flush_local(FlushScope::All),
        Some(MmuextCmd::InvlpgLocal) => flush_page(op.arg1, |scope| cx.m.flush_local(scope)),
        Some(MmuextCmd::NewUserBaseptr) if op.arg1 == 0 => {
            return Pt::of(cx).set_user_root(cx.dom, cx.vcpu, None);
        }
        _ => return one_op_apart(cx, op),
    }
    Ok(())
}

#[inline(never)]
fn one_op_apart<M: Machine>(cx: &Cx<'_, M>, op: &MmuextOp) -> Result<(), TableError> {
    one_op(cx, &PgOwner::Current, op)
}

#[inline(always)]
fn one_op<M: Machine>(cx: &Cx<'_, M>, owner: &PgOwner, op: &MmuextOp) -> Result<(), TableError> {
    let command = MmuextCmd::from_raw(op.cmd).ok_or(Errno::NoSys)?;
    let mfn = Mfn::new(op.arg1);
    match command {
        MmuextCmd::PinL1Table => pin(cx, owner, mfn, Level::L1),
        MmuextCmd::PinL2Table => pin(cx, owner, mfn, Level::L2),
        MmuextCmd::PinL3Table => pin(cx, owner, mfn, Level::L3),
        MmuextCmd::PinL4Table => pin(cx, owner, mfn, Level::L4),
        MmuextCmd::UnpinTable => Pt::of(cx).unpin(mfn, owner.id(cx)),
        MmuextCmd::ClearPage => Ok(clear_page(cx, owner, mfn)?),
        MmuextCmd::CopyPage => Ok(copy_page(cx, owner, mfn, Mfn::new(op.arg2))?),
        MmuextCmd::MarkSuper | MmuextCmd::UnmarkSuper => Err(TableError::Errno(Errno::OpNotSupp)),
        _ => own_op(cx, owner, command, op),
    }
}

/// Operations on the calling vcpu: another domain cannot be named.
#[inline(always)]
fn own_op<M: Machine>(
    cx: &Cx<'_, M>,
    owner: &PgOwner,
    command: MmuextCmd,
    op: &MmuextOp,
) -> Result<(), TableError> {
    if !matches!(owner, PgOwner::Current) {
        return Err(TableError::Errno(Errno::Perm));
    }
    let page = FlushScope::Page(GuestVa::new(op.arg1));
    match command {
        MmuextCmd::NewBaseptr => {
            return Pt::of(cx).set_kernel_root(cx.dom, cx.vcpu, Mfn::new(op.arg1), Live::Yes);
        }
        MmuextCmd::NewUserBaseptr => {
            let root = (op.arg1 != 0).then(|| Mfn::new(op.arg1));
            return Pt::of(cx).set_user_root(cx.dom, cx.vcpu, root);
        }
        MmuextCmd::TlbFlushLocal => cx.m.flush_local(FlushScope::All),
        MmuextCmd::InvlpgLocal => flush_page(op.arg1, |scope| cx.m.flush_local(scope)),
        MmuextCmd::TlbFlushMulti => cx.m.flush(cpus_of_vcpus(cx, op.arg2)?, FlushScope::All),
        MmuextCmd::InvlpgMulti => cx.m.flush(cpus_of_vcpus(cx, op.arg2)?, page),
        MmuextCmd::TlbFlushAll => cx.m.flush(cpus_of_domain(cx.dom), FlushScope::All),
        MmuextCmd::InvlpgAll => cx.m.flush(cpus_of_domain(cx.dom), page),
        MmuextCmd::FlushCache => flush_cache(cx)?,
        MmuextCmd::FlushCacheGlobal => flush_cache_global(cx)?,
        MmuextCmd::SetLdt => set_ldt(cx, op.arg1, op.arg2)?,
        _ => return Err(TableError::Errno(Errno::NoSys)),
    }
    Ok(())
}

/// INVLPG of an address that is not canonical does nothing (SDM volume 2).
fn flush_page(va: u64, flush: impl FnOnce(FlushScope)) {
    let va = GuestVa::new(va);
    if va.is_canonical() {
        flush(FlushScope::Page(va));
    }
}

fn pin<M: Machine>(cx: &Cx<'_, M>, owner: &PgOwner, mfn: Mfn, level: Level) -> Result<(), TableError> {
    let pt = Pt::of(cx);
    let dom = owner.domain(cx).ok_or(Errno::Inval)?;
    let table = pt.get_table(mfn, level, dom.id, dom.privilege)?;
    pt.pin(table)?;
    if dom.mem.is_dying() && pt.unpin(mfn, dom.id).is_ok() {
        // The teardown may have passed this frame already: nobody else would unpin it.
        return Err(TableError::Errno(Errno::Inval));
    }
    Ok(())
}

fn clear_page<M: Machine>(cx: &Cx<'_, M>, owner: &PgOwner, mfn: Mfn) -> Result<(), Errno> {
    let page = cx.hv.frames.get_page_writable(cx.m, mfn, owner.id(cx))?;
    cx.m.zero(page.mfn());
    Ok(())
}

fn copy_page<M: Machine>(cx: &Cx<'_, M>, owner: &PgOwner, to: Mfn, from: Mfn) -> Result<(), Errno> {
    let source = cx.hv.frames.get_page(from, owner.id(cx))?;
    let target = cx.hv.frames.get_page_writable(cx.m, to, owner.id(cx))?;
    cx.m.copy(source.mfn(), 0, target.mfn(), 0, 4096);
    Ok(())
}

fn flush_cache<M: Machine>(cx: &Cx<'_, M>) -> Result<(), Errno> {
    if !controls_devices(cx.dom) {
        return Err(Errno::Acces);
    }
    cx.m.wbinvd();
    Ok(())
}

/// The machine can flush its own cache only; with one pcpu that is all of them.
fn flush_cache_global<M: Machine>(cx: &Cx<'_, M>) -> Result<(), Errno> {
    if !controls_devices(cx.dom) {
        return Err(Errno::Acces);
    }
    if !cx.m.online().without(cx.m.pcpu()).is_empty() {
        return Err(Errno::OpNotSupp);
    }
    cx.m.wbinvd();
    Ok(())
}

/// Finds the frames of an LDT in the guest's tables and hands them over.
fn set_ldt<M: Machine>(cx: &Cx<'_, M>, base: u64, entries: u64) -> Result<(), Errno> {
    let entries = u32::try_from(entries & 0xffff_ffff).map_err(|_| Errno::Inval)?;
    if !base.is_multiple_of(4096) || entries > MAX_LDT_ENTRIES {
        return Err(Errno::Inval);
    }
    let root = cx.vcpu.mm.kernel_root().ok_or(Errno::Inval)?;
    let mut frames = [0; 16];
    let pages = entries.div_ceil(ENTRIES_PER_PAGE);
    for (slot, page) in frames.iter_mut().zip(0..pages) {
        let va = GuestVa::new(base).checked_add(u64::from(page) * 4096).ok_or(Errno::Inval)?;
        *slot = walk::mapped_frame(&cx.hv.frames, cx.m, cx.dom.id, root, va).ok_or(Errno::Inval)?.raw();
    }
    let pages = usize::try_from(pages).map_err(|_| Errno::Inval)?;
    let frames = frames.get(..pages).ok_or(Errno::Inval)?;
    crate::entry::descriptors::set_ldt(&cx.hv.frames, cx.m, cx.dom, cx.vcpu, base, frames, entries)
}
