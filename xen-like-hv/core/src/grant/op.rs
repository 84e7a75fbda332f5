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
use zerocopy::{FromBytes, Immutable, IntoBytes, transmute};

use super::granter::LastGranter;
use super::{alone, copy, map};
use crate::access;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Args, Exit, HypercallResult};
use crate::hypercall::GuestPtr;
use crate::hypercall::guest_ptr::{Checked, CheckedList, Record};
use crate::mm::grant_map::{ForMany, ForOne, LockL1};
use crate::port::Machine;

/// Bits of the command that name the operation.
const CMD_MASK: u32 = (1 << 20) - 1;
/// Unmaps that share a flush, maps and unmaps that lock an L1 once.
const BATCH: usize = 32;
/// The only version of tables.
const VERSION_1: u32 = 1;

/// Whether the arguments name one operation: [`one_map`], [`one_unmap`], [`one_copy`], or a rarer one.
#[inline(always)]
pub(crate) fn is_one(args: &Args) -> bool {
    args.low32(2) == 1
}

/// Whether the command is that of [`one_map`].
#[inline(always)]
pub(crate) fn is_map(args: &Args) -> bool {
    args.low32(0) == GnttabOp::MapGrantRef.raw()
}

/// Whether it is that of [`one_unmap`].
#[inline(always)]
pub(crate) fn is_unmap(args: &Args) -> bool {
    args.low32(0) == GnttabOp::UnmapGrantRef.raw()
}

/// Whether it is that of [`one_copy`].
#[inline(always)]
pub(crate) fn is_copy(args: &Args) -> bool {
    args.low32(0) == GnttabOp::Copy.raw()
}

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
        GnttabOp::MapGrantRef if count == 1 => one_map(cx, args),
        GnttabOp::MapGrantRef => map(cx, args, count),
        GnttabOp::UnmapGrantRef if count == 1 => one_unmap(cx, args),
        GnttabOp::UnmapGrantRef => unmap(cx, args, count),
        GnttabOp::Copy if count == 1 => one_copy(cx, args),
        GnttabOp::Copy => copy(cx, args, count),
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
fn rest<const WORDS: usize>(args: &Args, list: &CheckedList<WORDS>) -> Exit {
    let mut left = *args;
    left.0[1] = list.address().raw();
    left.0[2] = list.left();
    Exit::Restart(left)
}

/// Words of a map, an unmap, a copy.
const MAP: usize = size_of::<GnttabMapGrantRef>() / 8;
const UNMAP: usize = size_of::<GnttabUnmapGrantRef>() / 8;
const COPY: usize = size_of::<GnttabCopy>() / 8;

/// One operation after the other: each is read, done, and told of before the next is read.
#[inline(always)]
fn each<M: Machine, const WORDS: usize>(
    cx: &Cx<'_, M>,
    args: &Args,
    count: u64,
    mut one: impl FnMut(&CheckedList<WORDS>, Record<WORDS>) -> Result<(), Errno>,
) -> HypercallResult {
    let mut list = CheckedList::<WORDS>::new(args.get(1), count)?;
    while let Some(at) = list.first() {
        if list.left() != count && cx.m.preempt_pending() {
            return Err(rest(args, &list));
        }
        one(&list, at)?;
        list.advance();
    }
    Ok(0)
}

/// Reads an operation: the one time that its bytes are read.
#[inline(always)]
fn fetch<M: Machine, const WORDS: usize>(cx: &Cx<'_, M>, at: Record<WORDS>) -> Result<[u64; WORDS], Errno> {
    cx.m.read_words(at.part::<0, WORDS>()).map_err(|_| Errno::Fault)
}

/// Writes the last word of an operation back, the one with the status.
#[inline(always)]
fn tell_last<M: Machine, const WORDS: usize>(
    cx: &Cx<'_, M>,
    at: Checked<1>,
    words: [u64; WORDS],
) -> Result<(), Errno> {
    cx.m.write_words(at, &[words[WORDS - 1]]).map_err(|_| Errno::Fault)
}

#[inline(always)]
fn map_record<M: Machine>(
    cx: &Cx<'_, M>,
    granters: &mut LastGranter,
    l1: &mut impl LockL1,
    at: Record<MAP>,
) -> Result<(), Errno> {
    let mut op: GnttabMapGrantRef = transmute!(fetch(cx, at)?);
    map::map_one(cx, granters, l1, &mut op);
    tell_mapped(cx, at, op)
}

/// Writes back what a map tells.
#[inline(always)]
fn tell_mapped<M: Machine>(cx: &Cx<'_, M>, at: Record<MAP>, op: GnttabMapGrantRef) -> Result<(), Errno> {
    let words: [u64; MAP] = transmute!(op);
    // The last two have all that is told.
    let told = [words[MAP - 2], words[MAP - 1]];
    cx.m.write_words(at.part::<{ MAP - 2 }, 2>(), &told).map_err(|_| Errno::Fault)
}

/// [`grant_table_op`] with a map alone.
///
/// # Errors
/// `EFAULT`.
#[inline(always)]
pub(crate) fn one_map<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let at = Record::<MAP>::alone(args.get(1))?;
    let mut op: GnttabMapGrantRef = transmute!(fetch(cx, at)?);
    if alone::map(cx, &mut op) {
        tell_mapped(cx, at, op)?;
    } else {
        unusual_map(cx, at)?;
    }
    Ok(0)
}

/// A map alone of any kind. Nothing has come of a first reading: this is the one that counts.
#[cold]
#[inline(never)]
fn unusual_map<M: Machine>(cx: &Cx<'_, M>, at: Record<MAP>) -> Result<(), Errno> {
    map_record(cx, &mut LastGranter::default(), &mut ForOne, at)
}

#[inline(never)]
fn map<M: Machine>(cx: &Cx<'_, M>, args: &Args, count: u64) -> HypercallResult {
    let (mut granters, mut l1) = (LastGranter::default(), ForMany::default());
    each::<M, MAP>(cx, args, count, |list, at| {
        if list.left().is_multiple_of(BATCH as u64) {
            l1.let_go();
        }
        map_record(cx, &mut granters, &mut l1, at)
    })
}

#[inline(always)]
fn copy_record<M: Machine>(
    cx: &Cx<'_, M>,
    last: &mut LastGranter,
    ends: Option<&mut copy::Ends>,
    at: Record<COPY>,
) -> Result<(), Errno> {
    let mut op: GnttabCopy = transmute!(fetch(cx, at)?);
    if copy::copy_at_once(cx, last, &mut op) {
        tell_last::<M, COPY>(cx, at.part::<{ COPY - 1 }, 1>(), transmute!(op))
    } else {
        unusual_copy(cx, ends, at)
    }
}

/// A copy of any kind. Nothing has come of a first reading: this is the one that counts.
#[inline(never)]
fn unusual_copy<M: Machine>(
    cx: &Cx<'_, M>,
    ends: Option<&mut copy::Ends>,
    at: Record<COPY>,
) -> Result<(), Errno> {
    let mut own = copy::Ends::default();
    let mut op: GnttabCopy = transmute!(fetch(cx, at)?);
    copy::copy_one(cx, ends.unwrap_or(&mut own), &mut op);
    tell_last::<M, COPY>(cx, at.part::<{ COPY - 1 }, 1>(), transmute!(op))
}

/// [`grant_table_op`] with a copy alone.
///
/// # Errors
/// `EFAULT`.
#[inline(always)]
pub(crate) fn one_copy<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    copy_record(cx, &mut LastGranter::default(), None, Record::alone(args.get(1))?)?;
    Ok(0)
}

#[inline(never)]
fn copy<M: Machine>(cx: &Cx<'_, M>, args: &Args, count: u64) -> HypercallResult {
    let (mut last, mut ends) = (LastGranter::default(), copy::Ends::default());
    each::<M, COPY>(cx, args, count, |_, at| copy_record(cx, &mut last, Some(&mut ends), at))
}

/// An unmap, without what waits for the flush; that is put into the slot, whatever becomes of the guest's record.
#[inline(always)]
fn unmap_record<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut impl LockL1,
    at: Record<UNMAP>,
    taken: &mut Option<map::Unmapped>,
) -> Result<(), Errno> {
    let mut op: GnttabUnmapGrantRef = transmute!(fetch(cx, at)?);
    *taken = map::unmap_one(cx, l1, &mut op);
    tell_last::<M, UNMAP>(cx, at.part::<{ UNMAP - 1 }, 1>(), transmute!(op))
}

/// [`grant_table_op`] with an unmap alone.
///
/// # Errors
/// `EFAULT`.
#[inline(always)]
pub(crate) fn one_unmap<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let at = Record::<UNMAP>::alone(args.get(1))?;
    let mut op: GnttabUnmapGrantRef = transmute!(fetch(cx, at)?);
    if alone::unmap(cx, &mut op) {
        tell_last::<M, UNMAP>(cx, at.part::<{ UNMAP - 1 }, 1>(), transmute!(op))?;
    } else {
        unusual_unmap(cx, at)?;
    }
    Ok(0)
}

/// An unmap alone of any kind. Nothing has come of a first reading: this is the one that counts.
#[cold]
#[inline(never)]
fn unusual_unmap<M: Machine>(cx: &Cx<'_, M>, at: Record<UNMAP>) -> Result<(), Errno> {
    let mut op: GnttabUnmapGrantRef = transmute!(fetch(cx, at)?);
    let taken = map::unmap_one(cx, &mut ForOne, &mut op);
    let told = tell_last::<M, UNMAP>(cx, at.part::<{ UNMAP - 1 }, 1>(), transmute!(op));
    // Whatever becomes of the guest's record.
    if let Some(unmapped) = taken {
        map::finish(cx, &unmapped);
    }
    told
}

#[inline(never)]
fn unmap<M: Machine>(cx: &Cx<'_, M>, args: &Args, count: u64) -> HypercallResult {
    let mut list = CheckedList::<UNMAP>::new(args.get(1), count)?;
    while list.left() != 0 {
        if list.left() != count && cx.m.preempt_pending() {
            return Err(rest(args, &list));
        }
        let mut batch = [const { None }; BATCH];
        let told = unmap_some(cx, &mut list, &mut batch);
        map::finish_all(cx, &batch);
        told?;
    }
    Ok(0)
}

/// As many unmaps as there is room for, without what waits for the flush.
#[inline(always)]
fn unmap_some<M: Machine>(
    cx: &Cx<'_, M>,
    list: &mut CheckedList<UNMAP>,
    batch: &mut [Option<map::Unmapped>],
) -> Result<(), Errno> {
    let mut l1 = ForMany::default();
    for taken in batch {
        let Some(at) = list.first() else { break };
        unmap_record(cx, &mut l1, at, taken)?;
        list.advance();
    }
    Ok(())
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
