//! `HYPERVISOR_grant_table_op`: fetch, decode, authorise; one operation after the other.
//!
//! Restart: between operations, where something urgent waits, the list pointer and the count in the registers are moved
//! on by what is done. Inside an operation nothing is left half-way.

use alloc::sync::Arc;

use pv_abi::errno::Errno;
use pv_abi::grant::{
    GnttabCopy, GnttabGetVersion, GnttabMapGrantRef, GnttabOp, GnttabQuerySize, GnttabSetVersion,
    GnttabSetupTable, GnttabUnmapGrantRef, GrantStatus,
};
use pv_abi::ids::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{copy, map};
use crate::access;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Args, Exit, HypercallResult};
use crate::hypercall::GuestPtr;
use crate::port::Machine;

/// Bits of the command that name the operation.
const CMD_MASK: u32 = (1 << 20) - 1;
/// Unmaps that share a flush.
const UNMAP_BATCH: u32 = 32;
/// The only version of tables.
const VERSION_1: u32 = 1;

/// The hypercall: `(command, operations, count)`.
///
/// # Errors
/// `EINVAL` for a count that is negative, or not 1 where one operation is expected; `ENOSYS` for a command that is not
/// offered; `EFAULT` where an operation cannot be read or its status cannot be written. What an operation itself says is
/// in its status.
#[inline(always)]
pub fn grant_table_op<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let command = args.low32(0);
    let (at, count) = (args.get(1), u64::from(args.low32(2)));
    if command & !CMD_MASK != 0 || count > u64::from(u32::MAX / 2) {
        return Err(Errno::Inval.into());
    }
    match GnttabOp::from_raw(command).ok_or(Errno::NoSys)? {
        GnttabOp::MapGrantRef => each::<M, GnttabMapGrantRef>(cx, args, at, count, map::map_one),
        GnttabOp::UnmapGrantRef => unmap(cx, args, at, count),
        GnttabOp::Copy => each::<M, GnttabCopy>(cx, args, at, count, copy::copy_one),
        GnttabOp::SetupTable => setup_table(cx, at, count),
        GnttabOp::QuerySize => query_size(cx, at, count),
        GnttabOp::SetVersion => set_version(cx, at, count),
        GnttabOp::GetVersion => get_version(cx, at, count),
        GnttabOp::DumpTable
        | GnttabOp::Transfer
        | GnttabOp::UnmapAndReplace
        | GnttabOp::GetStatusFrames
        | GnttabOp::SwapGrantRef
        | GnttabOp::CacheFlush => Err(Errno::NoSys.into()),
    }
}

/// The same call with what is left to do.
fn rest<T>(args: &Args, list: &GuestPtr<T>, done: u64) -> Exit {
    let mut left = *args;
    left.0[1] = list.address().saturating_add(done.saturating_mul(GuestPtr::<T>::stride()));
    left.0[2] = list.count().saturating_sub(done);
    Exit::Restart(left)
}

fn each<M: Machine, T: FromBytes + IntoBytes + Immutable>(
    cx: &Cx<'_, M>,
    args: &Args,
    at: u64,
    count: u64,
    one: impl Fn(&Cx<'_, M>, &mut T),
) -> HypercallResult {
    let list = GuestPtr::<T>::array(at, count)?;
    for index in 0..count {
        if index != 0 && cx.m.preempt_pending() {
            return Err(rest(args, &list, index));
        }
        let mut op = list.read_at(cx.m, index)?;
        one(cx, &mut op);
        list.write_at(cx.m, index, &op)?;
    }
    Ok(0)
}

fn unmap<M: Machine>(cx: &Cx<'_, M>, args: &Args, at: u64, count: u64) -> HypercallResult {
    let list = GuestPtr::<GnttabUnmapGrantRef>::array(at, count)?;
    if count == 1 {
        let mut op = list.read(cx.m)?;
        let mut taken = [map::unmap_one(cx, &mut op)];
        let told = list.write(cx.m, &op);
        map::finish(cx, &mut taken);
        return told.map(|()| 0).map_err(Exit::Err);
    }
    let mut done = 0;
    while done < count {
        if done != 0 && cx.m.preempt_pending() {
            return Err(rest(args, &list, done));
        }
        let end = done.saturating_add(u64::from(UNMAP_BATCH)).min(count);
        unmap_batch(cx, &list, done..end)?;
        done = end;
    }
    Ok(0)
}

/// Some unmaps with one flush. Whatever happens to the guest's list, what was taken away is finished.
fn unmap_batch<M: Machine>(
    cx: &Cx<'_, M>,
    list: &GuestPtr<GnttabUnmapGrantRef>,
    range: core::ops::Range<u64>,
) -> Result<(), Errno> {
    let mut batch = [const { None }; UNMAP_BATCH as usize];
    let mut result = Ok(());
    for (slot, index) in batch.iter_mut().zip(range) {
        let mut op = match list.read_at(cx.m, index) {
            Ok(op) => op,
            Err(e) => {
                result = Err(e);
                break;
            }
        };
        *slot = map::unmap_one(cx, &mut op);
        result = list.write_at(cx.m, index, &op);
        if result.is_err() {
            break;
        }
    }
    map::finish(cx, &mut batch);
    result
}

/// Reads the one argument of an operation that takes one.
fn only<M: Machine, T: FromBytes + IntoBytes + Immutable>(
    cx: &Cx<'_, M>,
    at: u64,
    count: u64,
) -> Result<(GuestPtr<T>, T), Errno> {
    if count != 1 {
        return Err(Errno::Inval);
    }
    let ptr = GuestPtr::<T>::new(at)?;
    let op = ptr.read(cx.m)?;
    Ok((ptr, op))
}

/// The domain whose table is meant; the status if there is none or it is not the caller's affair.
fn subject<M: Machine>(cx: &Cx<'_, M>, raw: u16) -> Result<Arc<Domain>, GrantStatus> {
    let id = DomId::new(raw);
    if id == DomId::SELF || id == cx.dom.id {
        return Ok(cx.dom.clone());
    }
    let dom = cx.hv.domains.get(id).ok_or(GrantStatus::BadDomain)?;
    access::act_on(cx.dom, id).map_err(|_| GrantStatus::PermissionDenied)?;
    Ok(dom)
}

fn setup_table<M: Machine>(cx: &Cx<'_, M>, at: u64, count: u64) -> HypercallResult {
    let (ptr, mut op) = only::<M, GnttabSetupTable>(cx, at, count)?;
    op.status = match publish_frames(cx, &op) {
        Ok(()) => GrantStatus::Okay,
        Err(status) => status,
    }
    .raw();
    ptr.write(cx.m, &op)?;
    Ok(0)
}

fn publish_frames<M: Machine>(cx: &Cx<'_, M>, op: &GnttabSetupTable) -> Result<(), GrantStatus> {
    let dom = subject(cx, op.dom)?;
    let wanted = usize::try_from(op.nr_frames).map_err(|_| GrantStatus::GeneralError)?;
    super::grow(&cx.hv.frames, cx.m, &dom, wanted).map_err(|_| GrantStatus::GeneralError)?;
    let bad = |_| GrantStatus::BadVirtAddr;
    let list = GuestPtr::<u64>::array(op.frame_list, u64::from(op.nr_frames)).map_err(bad)?;
    for index in 0..wanted {
        let mfn = dom.grants.frame(index).ok_or(GrantStatus::GeneralError)?;
        let n = u64::try_from(index).map_err(|_| GrantStatus::GeneralError)?;
        list.write_at(cx.m, n, &mfn.raw()).map_err(bad)?;
    }
    Ok(())
}

fn query_size<M: Machine>(cx: &Cx<'_, M>, at: u64, count: u64) -> HypercallResult {
    let (ptr, mut op) = only::<M, GnttabQuerySize>(cx, at, count)?;
    op.status = match subject(cx, op.dom) {
        Ok(dom) => {
            let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            op.nr_frames = size(dom.grants.nr_frames());
            op.max_nr_frames = size(dom.grants.max_frames());
            GrantStatus::Okay
        }
        Err(status) => status,
    }
    .raw();
    ptr.write(cx.m, &op)?;
    Ok(0)
}

/// Version 1 is in force already; version 2 is unknown, as on a host from before there were versions.
fn set_version<M: Machine>(cx: &Cx<'_, M>, at: u64, count: u64) -> HypercallResult {
    let (ptr, op) = only::<M, GnttabSetVersion>(cx, at, count)?;
    match op.version {
        VERSION_1 => {
            ptr.write(cx.m, &op)?;
            Ok(0)
        }
        2 => Err(Errno::NoSys.into()),
        _ => Err(Errno::Inval.into()),
    }
}

fn get_version<M: Machine>(cx: &Cx<'_, M>, at: u64, count: u64) -> HypercallResult {
    let (ptr, mut op) = only::<M, GnttabGetVersion>(cx, at, count)?;
    subject(cx, op.dom).map_err(|status| match status {
        GrantStatus::BadDomain => Errno::Srch,
        _ => Errno::Perm,
    })?;
    op.version = VERSION_1;
    ptr.write(cx.m, &op)?;
    Ok(0)
}
