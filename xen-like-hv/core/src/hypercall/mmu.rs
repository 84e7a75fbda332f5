//! `HYPERVISOR_mmu_update`, `HYPERVISOR_update_va_mapping` and its variant for another domain.
//!
//! Restart: the list's address and the count in the arguments go on from the first entry that is not done; bit 31 of
//! the count says that what is done so far stands in `*done`. A call that has done all its entries, but not given
//! everything back, goes on with no list, that bit alone, and its result in place of the domain.

use alloc::sync::Arc;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, GuestVa, MachAddr, Mfn, VcpuId};
use pv_abi::mmu::{MMU_UPDATE_CMD_MASK, MMU_UPDATE_PREEMPTED, MmuUpdate, MmuUpdateCmd, UvmFlags};
use pv_abi::pte::{Level, Pte};

use super::GuestPtr;
use crate::access::{self, Privilege};
use crate::cx::Cx;
use crate::domain::Domain;
use crate::entry;
use crate::error::{Args, Exit, HypercallResult};
use crate::frame::{FrameTable, PageRef};
use crate::mm::grant_map::entry_index;
use crate::mm::update::{LockedL1, LockedTable, Store, update_l1_inline};
use crate::mm::{Pt, Rights, TableError, walk};
use crate::port::{Cpu, CpuMask, FlushScope, Frames, Machine, Tlb};

/// Entries that are read from the guest at once.
const BATCH: usize = 16;

/// The domain whose frames a call names.
#[derive(Debug)]
pub(super) enum PgOwner {
    /// The caller.
    Current,
    /// Devices.
    Io,
    /// Another domain; the caller may act on it.
    Other(Arc<Domain>),
}

impl PgOwner {
    /// The owner that a `domid` argument names.
    ///
    /// # Errors
    /// `ESRCH`: none, or the caller by its number. `EPERM`.
    #[inline(always)]
    pub(super) fn of<M: Machine>(cx: &Cx<'_, M>, id: DomId) -> Result<Self, Errno> {
        if id == DomId::SELF { Ok(Self::Current) } else { Self::of_other(cx, id) }
    }

    #[cold]
    fn of_other<M: Machine>(cx: &Cx<'_, M>, id: DomId) -> Result<Self, Errno> {
        if id == DomId::IO {
            return Ok(Self::Io);
        }
        if id == cx.dom.id {
            return Err(Errno::Srch);
        }
        let dom = cx.hv.domains.get(id).ok_or(Errno::Srch)?;
        access::act_on(cx.dom, id)?;
        Ok(Self::Other(dom))
    }

    /// Its number as the owner of frames.
    pub(super) fn id<M: Machine>(&self, cx: &Cx<'_, M>) -> DomId {
        match self {
            // Devices have no frames that are anybody's: a device's frame is told by what it is.
            Self::Current => cx.dom.id,
            Self::Io => DomId::IO,
            Self::Other(dom) => dom.id,
        }
    }

    /// The domain itself.
    pub(super) fn domain<'s, M: Machine>(&'s self, cx: &'s Cx<'_, M>) -> Option<&'s Arc<Domain>> {
        match self {
            Self::Current => Some(cx.dom),
            Self::Io => None,
            Self::Other(dom) => Some(dom),
        }
    }
}

/// Progress of a call with a list.
#[derive(Debug)]
pub(super) struct ListCall {
    /// The list.
    pub(super) list: u64,
    /// Entries in it.
    pub(super) count: u32,
    done_before: u32,
    done_ptr: u64,
}

impl ListCall {
    /// Reads the arguments. `Err(Ok(value))`: all entries were done before, with that result.
    pub(super) fn new<M: Machine>(cx: &Cx<'_, M>, args: &Args) -> Result<Self, Exit> {
        let count = args.low32(1);
        let done_ptr = args.get(2);
        let mut call =
            Self { list: args.get(0), count: count & !MMU_UPDATE_PREEMPTED, done_before: 0, done_ptr };
        if count & MMU_UPDATE_PREEMPTED != 0 && done_ptr != 0 {
            call.done_before = GuestPtr::<u32>::new(done_ptr)?.read(cx.m)?;
        }
        Ok(call)
    }

    /// The arguments of a call whose count is 1, so that nothing was done before.
    #[inline(always)]
    pub(super) fn single(args: &Args) -> Self {
        Self { list: args.get(0), count: 1, done_before: 0, done_ptr: args.get(2) }
    }

    /// Whether the arguments are those of [`Self::end`] with things left to give back; then the result.
    pub(super) fn finished(args: &Args) -> Option<HypercallResult> {
        if args.get(0) != 0 || args.low32(1) != MMU_UPDATE_PREEMPTED || args.get(2) != 0 {
            return None;
        }
        let code = i64::from(args.low32(3)).checked_neg().and_then(Errno::from_ret);
        Some(code.map_or(Ok(0), |e| Err(Exit::Err(e))))
    }

    #[inline(always)]
    fn note_done<M: Machine>(&self, cx: &Cx<'_, M>, done: u32) {
        if self.done_ptr != 0 {
            let sum = self.done_before.wrapping_add(done);
            // A place that cannot be written is the caller's loss.
            let _ = GuestPtr::<u32>::new(self.done_ptr).and_then(|p| p.write(cx.m, &sum));
        }
    }

    /// The call goes on at entry `done`.
    #[inline(always)]
    pub(super) fn restart<M: Machine>(
        &self,
        cx: &Cx<'_, M>,
        args: &Args,
        done: u32,
        entry_bytes: u64,
    ) -> Exit {
        self.note_done(cx, done);
        let mut next = *args;
        next.0[0] = self.list.wrapping_add(u64::from(done).wrapping_mul(entry_bytes));
        next.0[1] = u64::from((self.count - done) | MMU_UPDATE_PREEMPTED);
        Exit::Restart(next)
    }

    /// The call ends with `result` after `done` entries.
    #[inline(always)]
    pub(super) fn end<M: Machine>(
        &self,
        cx: &Cx<'_, M>,
        result: Result<(), Errno>,
        done: u32,
    ) -> HypercallResult {
        self.note_done(cx, done);
        if Pt::of(cx).settle().is_err() {
            return Err(Self::end_later(result));
        }
        result.map(|()| 0).map_err(Exit::Err)
    }

    /// The call comes again for what is left to give back; its result comes with it.
    #[cold]
    fn end_later(result: Result<(), Errno>) -> Exit {
        let code = result.map_or_else(|e| u64::from(e.raw()), |()| 0);
        Exit::Restart(Args([0, u64::from(MMU_UPDATE_PREEMPTED), 0, code, 0, 0]))
    }
}

/// Whose tables `mmu_update` changes, and whose frames the entries name.
struct Update {
    tables_of: DomId,
    rights: Rights,
}

impl Update {
    fn new<M: Machine>(cx: &Cx<'_, M>, foreign: u32) -> Result<Self, Errno> {
        let pt_part = u16::try_from(foreign >> 16).map_err(|_| Errno::Inval)?;
        let pg_part = u16::try_from(foreign & 0xffff).map_err(|_| Errno::Inval)?;
        let pt_owner = match pt_part.checked_sub(1) {
            None => PgOwner::Current,
            Some(id) => PgOwner::of(cx, DomId::new(id))?,
        };
        let pg_owner = PgOwner::of(cx, DomId::new(pg_part))?;
        let tables = pt_owner.domain(cx).ok_or(Errno::Srch)?;
        let tables_of = tables.id;
        let rights = Rights { frames_of: pg_owner.id(cx), devices: tables.privilege };
        Ok(Self { tables_of, rights })
    }

    /// Whether the frames named are those of the tables' owner, as entries above level 1 demand.
    fn is_own(&self) -> bool {
        self.rights.frames_of == self.tables_of
    }
}

/// `HYPERVISOR_mmu_update(list, count, *done, domain)`.
///
/// # Errors
/// `ESRCH`, `EPERM`: the domain. `EFAULT`: the list. `EINVAL`: an entry. `ENOSYS`: an unknown command.
#[inline(always)]
pub fn mmu_update<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    Pt::of(cx).finish().map_err(|e| e.exit(args))?;
    if let Some(result) = ListCall::finished(args) {
        return Pt::of(cx).settle().map_err(|e| e.exit(args)).and(result);
    }
    let call = ListCall::new(cx, args)?;
    let update = Update::new(cx, args.low32(3))?;
    let list = GuestPtr::<MmuUpdate>::array(call.list, u64::from(call.count))?;
    let mut batch = [MmuUpdate::default(); BATCH];
    let mut done = 0_u32;
    while done < call.count {
        let n = match read_batch(cx, &list, done, &mut batch) {
            Ok(n) => n,
            Err(e) => return call.end(cx, Err(e), done),
        };
        match run_batch(cx, &update, batch.get(..n).unwrap_or(&batch), &mut done) {
            Ok(()) => {}
            Err(TableError::Again) => return Err(call.restart(cx, args, done, 16)),
            Err(TableError::Errno(e)) => return call.end(cx, Err(e), done),
        }
        if done < call.count && cx.m.preempt_pending() {
            return Err(call.restart(cx, args, done, 16));
        }
    }
    call.end(cx, Ok(()), done)
}

/// Whether the arguments are a list of one entry for oneself: what a kernel asks for that sets one entry.
#[inline(always)]
pub(super) fn is_single(args: &Args) -> bool {
    args.low32(1) == 1 && args.low32(3) == u32::from(DomId::SELF.raw())
}

/// [`mmu_update`] where [`is_single`] holds: no list to go through, no domain to look up.
///
/// # Errors
/// As there.
#[inline(always)]
pub(super) fn single<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    Pt::of(cx).finish().map_err(|e| e.exit(args))?;
    let call = ListCall::single(args);
    let request = match GuestPtr::<MmuUpdate>::new(call.list)?.read(cx.m) {
        Ok(request) => request,
        Err(e) => return call.end(cx, Err(e), 0),
    };
    match update_own_l1(cx, &request) {
        Some(Ok(())) => call.end(cx, Ok(()), 1),
        Some(Err(e)) => call.end(cx, Err(e), 0),
        None => single_apart(cx, args, &call, &request),
    }
}

/// Changes an entry of an L1 of the caller; `None` where the request is another one.
#[inline(always)]
fn update_own_l1<M: Machine>(cx: &Cx<'_, M>, request: &MmuUpdate) -> Option<Result<(), Errno>> {
    const NORMAL: u64 = MmuUpdateCmd::NormalPtUpdate as u64;
    let (frames, address) = (&cx.hv.frames, MachAddr::new(request.ptr));
    if request.ptr & MMU_UPDATE_CMD_MASK != NORMAL {
        return None;
    }
    let index = entry_index(address).ok()?;
    let table = LockedL1::lock(frames, address.mfn(), cx.dom.id).ok()?;
    let word = table.entry(cx.m, index).ok()?;
    let rights = Rights { frames_of: cx.dom.id, devices: cx.dom.privilege };
    Some(update_l1_inline(frames, cx.m, word, Pte::from_raw(request.val), rights, Store::Replace))
}

/// A list of one entry that is not for an L1 of the caller.
#[inline(never)]
fn single_apart<M: Machine>(
    cx: &Cx<'_, M>,
    args: &Args,
    call: &ListCall,
    request: &MmuUpdate,
) -> HypercallResult {
    let rights = Rights { frames_of: cx.dom.id, devices: cx.dom.privilege };
    let update = Update { tables_of: cx.dom.id, rights };
    let mut done = 0;
    match run_batch(cx, &update, core::slice::from_ref(request), &mut done) {
        Ok(()) => call.end(cx, Ok(()), done),
        Err(TableError::Again) => Err(call.restart(cx, args, done, 16)),
        Err(TableError::Errno(e)) => call.end(cx, Err(e), done),
    }
}

/// Carries out the entries of a batch and counts those done. Consecutive entries of one table lock it once.
fn run_batch<M: Machine>(
    cx: &Cx<'_, M>,
    update: &Update,
    batch: &[MmuUpdate],
    done: &mut u32,
) -> Result<(), TableError> {
    let mut table = None;
    for request in batch {
        one_update(cx, update, request, &mut table)?;
        *done += 1;
        if !cx.vcpu.mm.pending.is_empty() {
            // Giving a table back may wait for its lock: not while it is held here.
            table = None;
            Pt::of(cx).settle()?;
        }
    }
    Ok(())
}

/// Reads the next entries, fewer where a page of the list is missing.
fn read_batch<M: Machine>(
    cx: &Cx<'_, M>,
    list: &GuestPtr<MmuUpdate>,
    from: u32,
    batch: &mut [MmuUpdate; BATCH],
) -> Result<usize, Errno> {
    let left = list.count().saturating_sub(u64::from(from));
    let n = usize::try_from(left).unwrap_or(BATCH).min(BATCH);
    if list.read_slice(cx.m, u64::from(from), &mut batch[..n]).is_ok() {
        return Ok(n);
    }
    batch[0] = list.read_at(cx.m, u64::from(from))?;
    Ok(1)
}

#[inline]
fn one_update<'a, M: Machine>(
    cx: &Cx<'a, M>,
    update: &Update,
    request: &MmuUpdate,
    table: &mut Option<LockedTable<'a>>,
) -> Result<(), TableError> {
    let command = u32::try_from(request.ptr & MMU_UPDATE_CMD_MASK).ok().and_then(MmuUpdateCmd::from_raw);
    let address = MachAddr::new(request.ptr & !MMU_UPDATE_CMD_MASK);
    let how = match command.ok_or(Errno::NoSys)? {
        MmuUpdateCmd::NormalPtUpdate | MmuUpdateCmd::PtUpdateNoTranslate => Store::Replace,
        MmuUpdateCmd::PtUpdatePreserveAd => Store::PreserveAd,
        MmuUpdateCmd::MachphysUpdate => return Ok(machphys_update(cx, update, address.mfn(), request.val)?),
    };
    pt_update(cx, update, address, request.val, how, table)
}

/// Changes the machine-to-physical entry of a frame of the named domain.
fn machphys_update<M: Machine>(cx: &Cx<'_, M>, update: &Update, mfn: Mfn, pfn: u64) -> Result<(), Errno> {
    let _held = cx.hv.frames.get_page(mfn, update.rights.frames_of)?;
    cx.m.set_m2p(mfn, pfn);
    Ok(())
}

#[inline]
fn pt_update<'a, M: Machine>(
    cx: &Cx<'a, M>,
    update: &Update,
    address: MachAddr,
    value: u64,
    how: Store,
    cached: &mut Option<LockedTable<'a>>,
) -> Result<(), TableError> {
    let frames = &cx.hv.frames;
    let index = entry_index(address)?;
    let mfn = address.mfn();
    if cached.as_ref().is_none_or(|t| t.mfn() != mfn) {
        // One lock at a time: two CPUs could want two tables in opposite order.
        *cached = None;
        let page = frames.get_page(mfn, update.tables_of).map_err(Errno::from)?;
        match LockedTable::lock(page) {
            Ok(table) => *cached = Some(table),
            Err(page) => return Ok(plain_write(frames, cx.m, page, index, value)?),
        }
    }
    let table = cached.as_ref().ok_or(Errno::Inval)?;
    let new = Pte::from_raw(value);
    if table.level() == Level::L1 {
        let word = cx.m.words(mfn).get(index).ok_or(Errno::Inval)?;
        return Ok(update_l1_inline(frames, cx.m, word, new, update.rights, how)?);
    }
    if !update.is_own() {
        return Err(TableError::Errno(Errno::Inval));
    }
    let (owner, devices) = (update.tables_of, update.rights.devices);
    Pt::of(cx).update_upper(table, index, new, owner, devices, how)
}

/// A write to a frame that is no table in use: allowed where a writable mapping would be.
fn plain_write(
    frames: &FrameTable,
    m: &(impl Frames + Tlb + Cpu),
    page: PageRef<'_>,
    index: usize,
    value: u64,
) -> Result<(), Errno> {
    let page = frames.make_writable(m, page)?;
    let word = m.words(page.mfn()).get(index).ok_or(Errno::Inval)?;
    word.store(value, core::sync::atomic::Ordering::Relaxed);
    Ok(())
}

/// `HYPERVISOR_update_va_mapping(va, value, flags)`.
///
/// # Errors
/// `EINVAL`: no L1 for the address, or the entry is refused.
#[inline(always)]
pub fn update_va_mapping<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let rights = Rights { frames_of: cx.dom.id, devices: cx.dom.privilege };
    update_va(cx, args, rights)
}

/// `HYPERVISOR_update_va_mapping_otherdomain(va, value, flags, domain)`.
///
/// # Errors
/// `ESRCH`, `EPERM`: the domain; else as [`update_va_mapping`].
#[inline(never)]
pub fn update_va_mapping_otherdomain<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let owner = PgOwner::of(cx, DomId::new(args.low16(3)))?;
    let rights = Rights { frames_of: owner.id(cx), devices: cx.dom.privilege };
    update_va(cx, args, rights)
}

#[inline(always)]
fn update_va<M: Machine>(cx: &Cx<'_, M>, args: &Args, rights: Rights) -> HypercallResult {
    let (va, value) = (GuestVa::new(args.get(0)), Pte::from_raw(args.get(1)));
    let flags = UvmFlags::new(args.get(2));
    let frames = &cx.hv.frames;
    let root = cx.vcpu.mm.kernel_root().ok_or(Errno::Inval)?;
    let (table, index) = walk::find_l1_entry(frames, cx.m, root, va).ok_or(Errno::Inval)?;
    {
        let table = LockedL1::lock(frames, table, cx.dom.id)?;
        let word = table.entry(cx.m, index)?;
        update_l1_inline(frames, cx.m, word, value, rights, Store::Replace)?;
    }
    flush_as_asked(cx, va, flags)?;
    Ok(0)
}

/// The flush that `update_va_mapping`'s flags ask for, after an update that succeeded (XSA-279).
fn flush_as_asked<M: Machine>(cx: &Cx<'_, M>, va: GuestVa, flags: UvmFlags) -> Result<(), Errno> {
    let scope = match flags.flush_type() {
        UvmFlags::TLB_FLUSH => FlushScope::All,
        UvmFlags::INVLPG => FlushScope::Page(va),
        _ => return Ok(()),
    };
    match flags.target() {
        UvmFlags::LOCAL => cx.m.flush_local(scope),
        UvmFlags::ALL => cx.m.flush(cpus_of_domain(cx.dom), scope),
        bitmap => cx.m.flush(cpus_of_vcpus(cx, bitmap)?, scope),
    }
    Ok(())
}

/// The pcpus on which a vcpu of the domain runs or ran last.
#[inline]
pub(crate) fn cpus_of_domain(dom: &Domain) -> CpuMask {
    dom.vcpus.read().iter().fold(CpuMask::EMPTY, |mask, v| mask.union(entry::running_on(v)))
}

/// The pcpus of the vcpus of the caller whose bits are set in a bitmap at `handle`.
pub(super) fn cpus_of_vcpus<M: Machine>(cx: &Cx<'_, M>, handle: u64) -> Result<CpuMask, Errno> {
    let nr = u64::try_from(cx.dom.vcpus.read().len()).map_err(|_| Errno::Inval)?;
    let bytes = GuestPtr::<u8>::array(handle, nr.div_ceil(8))?;
    let mut mask = CpuMask::EMPTY;
    for base in 0..bytes.count() {
        let bits = bytes.read_at(cx.m, base)?;
        for bit in (0..8_u64).filter(|b| bits >> b & 1 != 0) {
            let id = u32::try_from(base * 8 + bit).map_err(|_| Errno::Inval)?;
            if let Some(v) = cx.dom.vcpu(VcpuId::new(id)) {
                mask = mask.union(entry::running_on(&v));
            }
        }
    }
    Ok(mask)
}

/// Whether the caller may bypass the cache for what it maps: it controls devices.
pub(super) fn controls_devices(dom: &Domain) -> bool {
    dom.privilege == Privilege::Control
}
