//! Entries of granted frames: made and removed by the grant calls, at an address or at an entry that the guest names.
//!
//! An entry that is made here owns references like any other (I3): those that came with the claim of the grant. A guest
//! may therefore overwrite it: the references are given up then, and the unmap finds another entry and fails.

use core::borrow::Borrow;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use pv_abi::errno::Errno;
use pv_abi::ids::{GuestVa, MachAddr, Mfn};
use pv_abi::pte::{Level, Pte, PteFlags};

use super::update::LockedL1;
use super::{leaf, pte_rules, walk};
use crate::cx::Cx;
use crate::frame::{LeafRef, PageInfo};
use crate::port::Machine;

/// Where the caller wants, or has, a granted frame mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAddress {
    /// At an address of its kernel (`GNTMAP_host_map`).
    Va(GuestVa),
    /// In the entry at that machine address (`GNTMAP_contains_pte`).
    Pte(MachAddr),
}

/// Who may use the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapFor {
    /// The guest's kernel.
    Kernel,
    /// Its processes too (`GNTMAP_application_map`).
    Application,
}

/// Bits that every grant entry has: guests run at ring 3, so it is a user's.
const GRANT_ENTRY: PteFlags = PteFlags::PRESENT
    .union(PteFlags::USER)
    .union(PteFlags::ACCESSED)
    .union(PteFlags::DIRTY)
    .union(PteFlags::NX);

/// Maps a granted frame for the calling domain; the entry owns `frame` from now on. `avail` are the entry's software bits
/// 9 to 11, as the caller gave them. Former contents of the entry are given up.
///
/// # Errors
/// `EINVAL`: no L1 there, or a PTE address that is not aligned (XSA-227). Nothing is mapped, and `frame` is given up.
#[inline(always)]
pub fn install_host_mapping<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut impl LockL1,
    at: HostAddress,
    frame: LeafRef<'_>,
    user: MapFor,
    avail: PteFlags,
) -> Result<(), Errno> {
    let (table, index) = l1.lock(cx, at)?;
    let word = table.borrow().entry(cx.m, index)?;
    put_in(cx, word, frame, user, avail);
    Ok(())
}

/// Puts a granted frame into an entry of a locked L1.
#[inline(always)]
fn put_in<M: Machine>(cx: &Cx<'_, M>, word: &AtomicU64, frame: LeafRef<'_>, user: MapFor, avail: PteFlags) {
    let mut flags = GRANT_ENTRY | avail & PteFlags::AVAIL;
    flags.set(PteFlags::RW, frame.is_writable());
    flags.set(PteFlags::GUEST_KERNEL, user == MapFor::Kernel);
    let new = Pte::new(frame.into_raw(), flags);
    debug_assert!(pte_rules::adjust(new, Level::L1) == new && !pte_rules::has_unusual_flags(new));
    let old = Pte::from_raw(word.swap(new.raw(), SeqCst));
    if old.is_present() {
        put_former(cx, old);
    }
}

/// Gives up what an entry owned that a grant's has replaced.
#[cold]
fn put_former<M: Machine>(cx: &Cx<'_, M>, old: Pte) {
    leaf::put(&cx.hv.frames, old, cx.m.flush_clock());
}

/// Takes a mapping of a granted frame away, if the entry is still that mapping: present, the frame, and writable
/// exactly if it was made so (XSA-234). The caller flushes before it tells anyone.
///
/// # Errors
/// `EINVAL`: the entry is something else by now.
#[inline(always)]
pub fn remove_host_mapping<M: Machine>(
    cx: &Cx<'_, M>,
    l1: &mut impl LockL1,
    at: HostAddress,
    mfn: Mfn,
    writable: bool,
) -> Result<(), Errno> {
    let page = cx.hv.frames.info(mfn).ok_or(Errno::Inval)?;
    let (table, index) = l1.lock(cx, at)?;
    let word = table.borrow().entry(cx.m, index)?;
    if !is_mapping(word, mfn, writable) {
        return Err(Errno::Inval);
    }
    word.swap(0, SeqCst);
    leaf::put_ram(&cx.hv.frames, mfn, page, writable, cx.m.flush_clock());
    Ok(())
}

/// Whether an entry is still the mapping of a granted frame, made so.
#[inline(always)]
fn is_mapping(word: &AtomicU64, mfn: Mfn, writable: bool) -> bool {
    let now = Pte::from_raw(word.load(Relaxed));
    let looked_at = PteFlags::PRESENT | PteFlags::RW;
    let mut wanted = PteFlags::PRESENT;
    wanted.set(PteFlags::RW, writable);
    now.with_flags(now.flags() & looked_at) == Pte::new(mfn, wanted)
}

/// The entry of an address of the caller's kernel, in a table that stays locked for it.
#[derive(Debug)]
#[must_use]
pub struct LockedEntry<'m> {
    word: &'m AtomicU64,
    _table: LockedL1,
}

/// What is known of a frame that an entry maps.
#[derive(Clone, Copy, Debug)]
pub struct Mapped {
    page: &'static PageInfo,
    mfn: Mfn,
}

impl<'m> LockedEntry<'m> {
    /// The entry of `va`, if its table is found and is free at this moment; `None`: nothing is locked.
    #[inline(always)]
    pub fn at_once<M: Machine>(cx: &Cx<'m, M>, va: GuestVa) -> Option<Self> {
        let (frames, m) = (&cx.hv.frames, cx.m);
        let root = cx.vcpu.mm.kernel_root()?;
        let (mfn, index) = walk::find_l1_entry(frames, m, root, va)?;
        let table = LockedL1::lock_at_once(frames, mfn, cx.dom.id)?;
        Some(Self { word: m.words(mfn).get(index)?, _table: table })
    }

    /// What [`install_host_mapping`] does.
    #[inline(always)]
    pub fn fill<M: Machine>(self, cx: &Cx<'_, M>, frame: LeafRef<'_>, user: MapFor, avail: PteFlags) {
        put_in(cx, self.word, frame, user, avail);
    }

    /// The frame, if this is still its mapping, as [`remove_host_mapping`] asks.
    #[inline(always)]
    pub fn mapped<M: Machine>(&self, cx: &Cx<'_, M>, mfn: Mfn, writable: bool) -> Option<Mapped> {
        let page = cx.hv.frames.info(mfn)?;
        is_mapping(self.word, mfn, writable).then_some(Mapped { page, mfn })
    }

    /// Takes the mapping away that [`Self::mapped`] has found.
    #[inline(always)]
    pub fn clear<M: Machine>(self, cx: &Cx<'_, M>, was: Mapped, writable: bool) {
        self.word.swap(0, SeqCst);
        leaf::put_ram(&cx.hv.frames, was.mfn, was.page, writable, cx.m.flush_clock());
    }
}

/// How long the L1 of an entry stays locked.
pub trait LockL1 {
    /// What unlocks it.
    type Locked<'s>: Borrow<LockedL1>
    where
        Self: 's;

    /// Locks the L1 of the calling domain in which the entry is that is named so; with the entry's index.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    fn lock<M: Machine>(
        &mut self,
        cx: &Cx<'_, M>,
        at: HostAddress,
    ) -> Result<(Self::Locked<'_>, usize), Errno>;

    /// Unlocks what is still locked.
    fn let_go(&mut self);
}

/// For one entry.
#[derive(Debug)]
pub struct ForOne;

impl LockL1 for ForOne {
    type Locked<'s> = LockedL1;

    #[inline(always)]
    fn lock<M: Machine>(&mut self, cx: &Cx<'_, M>, at: HostAddress) -> Result<(LockedL1, usize), Errno> {
        let (mfn, index) = match at {
            HostAddress::Va(va) => (l1_of(cx, va)?, Level::L1.index(va)),
            HostAddress::Pte(maddr) => (maddr.mfn(), entry_index(maddr)?),
        };
        Ok((LockedL1::lock(&cx.hv.frames, mfn, cx.dom.id)?, index))
    }

    #[inline(always)]
    fn let_go(&mut self) {}
}

/// For those of a list: the next one is nearly always in the same table.
///
/// One table at a time: two pcpus could want two of them in opposite order. Whoever holds this may take the locks of
/// grants, and must let go of it before long.
#[derive(Debug, Default)]
pub struct ForMany {
    /// The table, and the part of the address space that it was found for: none for an entry that was named itself.
    held: Option<(LockedL1, Option<u64>)>,
}

impl ForMany {
    /// Bits of an address within what one L1 maps.
    const SHIFT: u32 = 21;
}

impl LockL1 for ForMany {
    type Locked<'s> = &'s LockedL1;

    #[inline(always)]
    fn lock<M: Machine>(&mut self, cx: &Cx<'_, M>, at: HostAddress) -> Result<(&LockedL1, usize), Errno> {
        let (index, part) = match at {
            HostAddress::Va(va) => (Level::L1.index(va), Some(va.raw() >> Self::SHIFT)),
            HostAddress::Pte(maddr) => (entry_index(maddr)?, None),
        };
        let same = matches!((&self.held, part), (Some((_, Some(held))), Some(part)) if *held == part);
        if !same {
            self.lock_other(cx, at, part)?;
        }
        let (table, _) = self.held.as_ref().ok_or(Errno::Inval)?;
        Ok((table, index))
    }

    #[inline(always)]
    fn let_go(&mut self) {
        self.held = None;
    }
}

impl ForMany {
    /// Locks another table, or the same one.
    #[inline(never)]
    fn lock_other<M: Machine>(
        &mut self,
        cx: &Cx<'_, M>,
        at: HostAddress,
        part: Option<u64>,
    ) -> Result<(), Errno> {
        self.held = None;
        self.held = Some((ForOne.lock(cx, at)?.0, part));
        Ok(())
    }
}

/// The L1 for an address of the caller's kernel. Which one that is may change at any time: what counts is that it is one of
/// the caller's.
#[inline(always)]
fn l1_of<M: Machine>(cx: &Cx<'_, M>, va: GuestVa) -> Result<Mfn, Errno> {
    let root = cx.vcpu.mm.kernel_root().ok_or(Errno::Inval)?;
    let found = walk::find_l1_entry(&cx.hv.frames, cx.m, root, va);
    found.map(|(table, _)| table).ok_or(Errno::Inval)
}

/// The index of the entry at a machine address, which must be that of a whole entry.
#[inline]
pub(crate) fn entry_index(maddr: MachAddr) -> Result<usize, Errno> {
    if !maddr.offset().is_multiple_of(8) {
        return Err(Errno::Inval);
    }
    usize::try_from(maddr.offset() / 8).map_err(|_| Errno::Inval)
}
