//! References to page tables, and the unfinished work that taking or giving them may leave behind.
//!
//! A [`PendingSlot`] belongs to a vcpu (or to a dying domain). It holds at most one piece of work. Every page-table
//! hypercall first finishes what is in its vcpu's slot, then does its own; what must be given back at the end goes
//! through the slot too. So a preempted call is simply issued again:
//!
//! | the work was | and it ended | the slot then holds | until |
//! |---|---|---|---|
//! | a validation | well | the root's references (`held`) | the call that is issued again has its own |
//! | a validation | badly | the errno (`failed`) | the call that is issued again has been told |
//! | a devalidation | | nothing | |

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

use hv_sync::{SpinLock, rank};
use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::pte::Level;

use super::work::{Patience, Progress, PtMachine, Work};
use crate::access::Privilege;
use crate::cx::Cx;
use crate::error::{Args, Exit};
use crate::frame::types::{self, Pin, TypeGot, TypePut, TypeRefused};
use crate::frame::{FrameTable, PageType};
use crate::port::Machine;

/// Why page-table work was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// The guest's mistake.
    Errno(Errno),
    /// Not finished: the same call is to be made again.
    Again,
}

impl From<Errno> for TableError {
    fn from(e: Errno) -> Self {
        Self::Errno(e)
    }
}

impl TableError {
    /// The end of a hypercall that goes on with `args` where it must be made again.
    #[inline(always)]
    #[must_use]
    pub fn exit(self, args: &Args) -> Exit {
        match self {
            Self::Errno(e) => Exit::Err(e),
            Self::Again => Exit::Restart(*args),
        }
    }
}

#[derive(Debug, Default)]
struct Pending {
    work: Option<Work>,
    held: Option<(Mfn, DomId)>,
    failed: Option<(Mfn, Level, Errno)>,
}

/// Unfinished page-table work of a vcpu or of a dying domain.
#[derive(Debug)]
pub struct PendingSlot {
    /// Whether `state` holds anything; written under its lock.
    any: AtomicBool,
    state: SpinLock<Pending>,
}

impl Default for PendingSlot {
    fn default() -> Self {
        Self { any: AtomicBool::new(false), state: SpinLock::new(rank::PAGE_TABLE, Pending::default()) }
    }
}

impl PendingSlot {
    /// Whether there is anything to finish or to give back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.any.load(Relaxed)
    }

    fn with<R>(&self, f: impl FnOnce(&mut Pending) -> R) -> R {
        let mut state = self.state.lock();
        let result = f(&mut state);
        let any = state.work.is_some() || state.held.is_some() || state.failed.is_some();
        self.any.store(any, Relaxed);
        result
    }

    fn park(&self, work: Work) {
        self.with(|p| {
            assert!(p.work.is_none(), "two pieces of page-table work at once");
            p.work = Some(work);
        });
    }

    /// What the slot holds, in words.
    #[cfg(test)]
    pub(crate) fn describe(&self) -> alloc::string::String {
        alloc::format!("{:?}", *self.state.lock())
    }

    /// Calls `f` for each table whose first `n` entries, and each frame which itself, hold references because of this
    /// slot. For audits.
    pub(crate) fn holdings(&self, mut table: impl FnMut(Mfn, Level, usize), mut held: impl FnMut(Mfn)) {
        let state = self.state.lock();
        if let Some(work) = &state.work {
            work.holdings().for_each(|(mfn, level, n)| table(mfn, level, n));
        }
        if let Some((mfn, _)) = state.held {
            held(mfn);
        }
    }
}

/// A general and a type reference to a page table. It must be put or stored; dropping one leaks it, which is counted.
#[derive(Debug)]
#[must_use]
pub struct TableRef<'t> {
    frames: &'t FrameTable,
    mfn: Mfn,
    owner: DomId,
}

impl TableRef<'_> {
    /// The frame.
    #[must_use]
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// Takes the references out of the token: an entry, a base pointer or a pin owns them now.
    pub fn into_raw(self) -> Mfn {
        core::mem::ManuallyDrop::new(self).mfn
    }
}

impl Drop for TableRef<'_> {
    fn drop(&mut self) {
        self.frames.count_leak();
    }
}

/// What page-table operations work with.
#[derive(Debug)]
pub struct Pt<'a, M> {
    /// Every frame.
    pub frames: &'a FrameTable,
    /// The machine.
    pub m: &'a M,
    /// Where unfinished work goes.
    pub slot: &'a PendingSlot,
}

impl<'a, M: Machine> Pt<'a, M> {
    /// On behalf of the calling vcpu.
    #[must_use]
    pub fn of(cx: &Cx<'a, M>) -> Self {
        Self { frames: &cx.hv.frames, m: cx.m, slot: &cx.vcpu.mm.pending }
    }
}

impl<'a, M: PtMachine> Pt<'a, M> {
    /// Finishes what a preempted call left. First in every page-table hypercall.
    ///
    /// # Errors
    /// `Again`.
    pub fn finish(&self) -> Result<(), TableError> {
        if self.slot.is_empty() { Ok(()) } else { self.finish_work() }
    }

    #[cold]
    fn finish_work(&self) -> Result<(), TableError> {
        while let Some(mut work) = self.slot.with(|p| p.work.take()) {
            let progress = work.run(self.frames, self.m, Patience::UntilPreempted);
            let (mfn, level) = work.root();
            match progress {
                Progress::Stopped => {
                    self.slot.park(work);
                    return Err(TableError::Again);
                }
                Progress::Done(Ok(())) if work.is_validation() => self.hold(mfn, work.owner()),
                Progress::Done(Ok(())) => {}
                Progress::Done(Err(_)) if seeded!(ForgetsFailure) => {}
                Progress::Done(Err(e)) => self.slot.with(|p| p.failed = Some((mfn, level, e))),
            }
        }
        Ok(())
    }

    /// Keeps a root's references for the call that is issued again. Those of a call that was given up for this one may
    /// still be there: they go, which can leave work again.
    fn hold(&self, mfn: Mfn, owner: DomId) {
        let before = self.slot.with(|p| p.held.replace((mfn, owner)));
        if let Some((mfn, owner)) = before.filter(|_| !seeded!(ForgetsHeld)) {
            self.put_table_raw(mfn, owner);
        }
    }

    /// Ends an operation: finishes its work and gives back what the slot holds. After every operation that did not end
    /// in `Again`.
    ///
    /// # Errors
    /// `Again`: the operation is done, the giving back is not.
    pub fn settle(&self) -> Result<(), TableError> {
        if self.slot.is_empty() { Ok(()) } else { self.settle_all() }
    }

    #[cold]
    fn settle_all(&self) -> Result<(), TableError> {
        self.finish_work()?;
        self.slot.with(|p| p.failed = None);
        if let Some((mfn, owner)) = self.slot.with(|p| p.held.take()) {
            self.put_table_raw(mfn, owner);
            self.finish_work()?;
            self.slot.with(|p| p.failed = None);
        }
        Ok(())
    }

    /// Turns unfinished validation into giving back, for a vcpu that will not go on.
    pub fn abandon(&self) {
        self.slot.with(|p| {
            if let Some(work) = &mut p.work {
                work.abandon();
            }
        });
    }

    /// References to a frame of `owner` as a table of `level`, validated if it was not one yet.
    ///
    /// # Errors
    /// `EINVAL` where the frame or an entry is not in order; `Again`.
    pub fn get_table(
        &self,
        mfn: Mfn,
        level: Level,
        owner: DomId,
        devices: Privilege,
    ) -> Result<TableRef<'a>, TableError> {
        self.get_table_with(mfn, level, owner, devices, Patience::UntilPreempted)
    }

    /// As [`Self::get_table`], with as much patience as the caller has.
    pub(super) fn get_table_with(
        &self,
        mfn: Mfn,
        level: Level,
        owner: DomId,
        devices: Privilege,
        patience: Patience,
    ) -> Result<TableRef<'a>, TableError> {
        if !self.slot.is_empty()
            && let Some(e) = self.take_failure(mfn, level)
        {
            return Err(TableError::Errno(e));
        }
        let page = self.frames.get_page(mfn, owner).map_err(Errno::from)?;
        if self.frames.is_special(mfn) {
            return Err(TableError::Errno(Errno::Inval));
        }
        match types::get(page.info(), PageType::Table(level)) {
            Ok(TypeGot::Held) => {}
            Ok(TypeGot::Claimed) => {
                let work = Work::validate(self.m, page.info(), (mfn, level), owner, devices);
                page.into_raw();
                self.validate(work, patience)?;
                return Ok(TableRef { frames: self.frames, mfn, owner });
            }
            Err(TypeRefused::Busy) => return Err(TableError::Again),
            Err(TypeRefused::Mismatch | TypeRefused::Overflow) => {
                return Err(TableError::Errno(Errno::Inval));
            }
        }
        Ok(TableRef { frames: self.frames, mfn: page.into_raw(), owner })
    }

    fn validate(&self, mut work: Work, patience: Patience) -> Result<(), TableError> {
        match work.run(self.frames, self.m, patience) {
            Progress::Done(result) => result.map_err(TableError::Errno),
            Progress::Stopped => {
                self.slot.park(work);
                Err(TableError::Again)
            }
        }
    }

    fn take_failure(&self, mfn: Mfn, level: Level) -> Option<Errno> {
        self.slot.with(|p| match p.failed {
            Some((m, l, e)) if m == mfn && l == level => {
                p.failed = None;
                Some(e)
            }
            _ => None,
        })
    }

    /// Gives a table's references up. Where they were the last, the table is devalidated; work that is left is in the
    /// slot, for [`Self::settle`].
    pub fn put_table(&self, table: TableRef<'_>) {
        let owner = table.owner;
        self.put_table_raw(table.into_raw(), owner);
    }

    /// As [`Self::put_table`], of references that an entry, a base pointer or a pin owned.
    pub(crate) fn put_table_raw(&self, mfn: Mfn, owner: DomId) {
        self.put_table_with(mfn, owner, Patience::UntilPreempted);
    }

    /// As [`Self::put_table_raw`], with as much patience as the caller has.
    pub(super) fn put_table_with(&self, mfn: Mfn, owner: DomId, patience: Patience) {
        let Some(page) = self.frames.info(mfn) else { return };
        page.note_unmapped(self.m.flush_clock());
        let PageType::Table(level) = page.type_info().ty() else {
            panic!("{mfn}: put as a table, but is none")
        };
        match types::put(page) {
            TypePut::Done => self.frames.put_raw(mfn, page),
            TypePut::Last => {
                let mut work = Work::devalidate((mfn, level), owner);
                if work.run(self.frames, self.m, patience) == Progress::Stopped {
                    self.slot.park(work);
                }
            }
        }
    }

    /// Pins a table (I6): the references become the pin's.
    ///
    /// # Errors
    /// `EINVAL` where it is pinned already; the references are given up then.
    pub fn pin(&self, table: TableRef<'_>) -> Result<(), TableError> {
        let Some(page) = self.frames.info(table.mfn) else { return Err(TableError::Errno(Errno::Inval)) };
        if types::set_pinned(page, Pin::Pin) {
            table.into_raw();
            return Ok(());
        }
        self.put_table(table);
        Err(TableError::Errno(Errno::Inval))
    }

    /// Unpins a table of `owner`.
    ///
    /// # Errors
    /// `EINVAL` where the frame is not `owner`'s or not pinned.
    pub fn unpin(&self, mfn: Mfn, owner: DomId) -> Result<(), TableError> {
        let page = self.frames.get_page(mfn, owner).map_err(Errno::from)?;
        if !types::set_pinned(page.info(), Pin::Unpin) {
            return Err(TableError::Errno(Errno::Inval));
        }
        self.put_table_raw(mfn, owner);
        Ok(())
    }
}
