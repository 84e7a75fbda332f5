//! Changes of single page-table entries.
//!
//! The table is locked meanwhile, so its entry is changed by one CPU at a time; only the hardware sets accessed and
//! dirty bits beside. Order (I3, I12): the new entry's references are taken, the entry is replaced by a locked
//! instruction, the flush clock is read, the old entry's references are given up.
//!
//! No flush is needed here for safety: what the old entry led to keeps its type until its references are gone, and a
//! frame whose mapping has ended is flushed before it gets another type or owner. The guest flushes for its own needs.
//! (Xen flushes for changes above level 1 because of linear page tables, XSA-286; there are none here.)

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::pte::{Level, Pte, PteFlags};

use super::leaf::{self, Rights};
use super::pte_rules;
use super::tables::{Pt, TableError};
use super::work::{Patience, PtMachine};
use crate::access::Privilege;
use crate::frame::{FrameTable, PageInfo, PageRef, types};
use crate::port::{Cpu, Frames, Tlb};

/// How an entry is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Over whatever is there.
    Replace,
    /// Accessed and dirty bits that are set stay set.
    PreserveAd,
    /// If the entry still reads so.
    IfUnchanged(u64),
}

/// A page table in use, locked.
#[derive(Debug)]
#[must_use]
pub struct LockedTable<'t> {
    page: PageRef<'t>,
    level: Level,
}

impl<'t> LockedTable<'t> {
    /// Locks a table in use.
    ///
    /// # Errors
    /// The frame, where it is no table in use.
    #[inline(always)]
    pub fn lock(page: PageRef<'t>) -> Result<Self, PageRef<'t>> {
        match types::lock(page.info()) {
            Some(level) => Ok(Self { page, level }),
            None => Err(page),
        }
    }

    /// Its level.
    #[must_use]
    #[inline]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Its frame.
    #[must_use]
    #[inline]
    pub fn mfn(&self) -> Mfn {
        self.page.mfn()
    }
}

impl Drop for LockedTable<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        types::unlock(self.page.info());
    }
}

/// An L1 in use, locked. The lock is a use, so the frame stays what it is, and its owner's; no reference is needed beside.
#[derive(Debug)]
#[must_use]
pub struct LockedL1 {
    page: &'static PageInfo,
    mfn: Mfn,
}

impl LockedL1 {
    /// Locks an L1 of `owner`.
    ///
    /// # Errors
    /// `EINVAL` where it is none.
    #[inline(always)]
    pub fn lock(frames: &FrameTable, mfn: Mfn, owner: DomId) -> Result<Self, Errno> {
        let page = frames.info(mfn).ok_or(Errno::Inval)?;
        // Before the lock is touched: nobody waits for a table that is not his, nor has its owner wait.
        let is_own = page.count_info().is_owned_by(owner);
        if !is_own || !(types::try_lock_l1(page) || types::lock_l1_in_any_state(page)) {
            return Err(Errno::Inval);
        }
        let locked = Self { page, mfn };
        if page.count_info().is_owned_by(owner) { Ok(locked) } else { Err(Errno::Inval) }
    }

    /// As [`Self::lock`], if it is free at this moment; `None`: nothing is locked, and that tells.
    #[inline(always)]
    pub fn lock_at_once(frames: &FrameTable, mfn: Mfn, owner: DomId) -> Option<Self> {
        let page = frames.info(mfn)?;
        if !page.count_info().is_owned_by(owner) || !types::try_lock_l1(page) {
            return None;
        }
        let locked = Self { page, mfn };
        page.count_info().is_owned_by(owner).then_some(locked)
    }

    /// Its frame.
    #[must_use]
    #[inline(always)]
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// An entry of it.
    #[inline(always)]
    pub fn entry<'m>(&self, m: &'m impl Frames, index: usize) -> Result<&'m AtomicU64, Errno> {
        m.words(self.mfn).get(index).ok_or(Errno::Inval)
    }
}

impl Drop for LockedL1 {
    #[inline(always)]
    fn drop(&mut self) {
        types::unlock(self.page);
    }
}

/// Stores an entry over `old`, of which only the accessed and dirty bits may have changed meanwhile.
///
/// # Errors
/// `EAGAIN` where they have, and that matters.
#[inline]
fn store(word: &AtomicU64, old: Pte, new: Pte, how: Store) -> Result<(), Errno> {
    match how {
        Store::Replace => {
            word.swap(new.raw(), SeqCst);
            Ok(())
        }
        Store::PreserveAd => {
            store_preserving(word, old, new);
            Ok(())
        }
        Store::IfUnchanged(expected) => {
            let swapped = word.compare_exchange(expected, new.raw(), SeqCst, Relaxed);
            swapped.map(|_| ()).map_err(|_| Errno::Again)
        }
    }
}

fn store_preserving(word: &AtomicU64, old: Pte, new: Pte) {
    let keep = PteFlags::ACCESSED.union(PteFlags::DIRTY).bits();
    let mut now = old.raw();
    while let Err(seen) = word.compare_exchange_weak(now, new.raw() | now & keep, SeqCst, Relaxed) {
        now = seen;
    }
}

/// Changes an entry of a locked L1: [`update_l1_inline`] for callers that are not in a hurry.
///
/// # Errors
/// As there.
pub fn update_l1<M: Tlb + Cpu>(
    frames: &FrameTable,
    m: &M,
    word: &AtomicU64,
    new: Pte,
    rights: Rights,
    how: Store,
) -> Result<(), Errno> {
    update_l1_inline(frames, m, word, new, rights, how)
}

/// Changes an entry of a locked L1.
///
/// # Errors
/// `EINVAL`, `EPERM`, and `EAGAIN` of [`Store::IfUnchanged`]; nothing has changed then.
#[inline(always)]
pub fn update_l1_inline<M: Tlb + Cpu>(
    frames: &FrameTable,
    m: &M,
    word: &AtomicU64,
    new: Pte,
    rights: Rights,
    how: Store,
) -> Result<(), Errno> {
    let old = Pte::from_raw(word.load(Relaxed));
    if !new.is_present() {
        pte_rules::check_absent(new, Level::L1, frames.end())?;
        store(word, old, new, how)?;
        leaf::put(frames, old, m.flush_clock());
        return Ok(());
    }
    let new = pte_rules::adjust(new, Level::L1);
    if old.is_present() && pte_rules::differs_harmlessly(old, new) {
        return store(word, old, new, how);
    }
    if loses_write_only(old, new)
        && let Some(page) = leaf::referenced(frames, old)
    {
        store(word, old, new, how)?;
        page.note_unmapped(m.flush_clock());
        leaf::put_writable(old, page);
        return Ok(());
    }
    if let Err(refused) = leaf::get(frames, m, new, rights) {
        return update_l1_read_only(frames, m, word, leaf::read_only(new, refused)?, rights, how);
    }
    if store(word, old, new, how).is_err() {
        leaf::put(frames, new, m.flush_clock());
        return Err(Errno::Again);
    }
    leaf::put(frames, old, m.flush_clock());
    Ok(())
}

/// As [`update_l1_inline`], of an entry that lost its right to write.
#[cold]
#[inline(never)]
fn update_l1_read_only<M: Tlb + Cpu>(
    frames: &FrameTable,
    m: &M,
    word: &AtomicU64,
    new: Pte,
    rights: Rights,
    how: Store,
) -> Result<(), Errno> {
    update_l1(frames, m, word, new, rights, how)
}

/// Whether a mapping of RAM becomes read-only and stays otherwise harmlessly the same.
fn loses_write_only(old: Pte, new: Pte) -> bool {
    let rw = PteFlags::RW;
    let lost = old.flags().contains(rw) && !new.flags().contains(rw) && old.is_present();
    lost && pte_rules::differs_harmlessly(old, new.with_flags(new.flags() | rw))
}

impl<M: PtMachine> Pt<'_, M> {
    /// Changes an entry of a locked L2, L3 or L4 of `owner`. What takes long about it is done without the lock: a pcpu that
    /// waits for that serves nobody else.
    ///
    /// # Errors
    /// `EINVAL`; `Again`. Nothing has changed then. Work that the old entry left is in the slot. [`Store::IfUnchanged`]
    /// is for L1 entries.
    pub fn update_upper(
        &self,
        table: &LockedTable<'_>,
        index: usize,
        new: Pte,
        owner: DomId,
        devices: Privilege,
        how: Store,
    ) -> Result<(), TableError> {
        let level = table.level();
        let below = level.below().ok_or(Errno::Inval)?;
        let word = self.m.words(table.mfn()).get(index).ok_or(Errno::Inval)?;
        if !pte_rules::is_guest_slot(level, index) {
            return Err(TableError::Errno(Errno::Inval));
        }
        let old = Pte::from_raw(word.load(Relaxed));
        if new.is_present() {
            pte_rules::check_upper_flags(new)?;
        } else {
            pte_rules::check_absent(new, level, self.frames.end())?;
        }
        let new = pte_rules::adjust(new, level);
        if old.is_present() && pte_rules::differs_harmlessly(old, new) {
            return Ok(store(word, old, new, how)?);
        }
        if new.is_present() {
            self.get_table_with(new.mfn(), below, owner, devices, Patience::Brief)?.into_raw();
        }
        store(word, old, new, how)?;
        if old.is_present() {
            self.put_table_with(old.mfn(), owner, Patience::Brief);
        }
        Ok(())
    }
}
