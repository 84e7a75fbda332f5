//! References of L1 entries.
//!
//! Invariant I3: a present entry that names a frame of RAM owns one general reference to it, and a writable one owns
//! one writable type reference besides. Entries that name devices own nothing.

use core::fmt::Display;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::pte::{Pte, PteFlags};

use super::pte_rules;
use crate::access::Privilege;
use crate::frame::page_info::CountInfo;
use crate::frame::{self, FrameState, FrameTable, PageInfo, counts, types};
use crate::port::{Cpu, Tlb};

/// On whose behalf an entry is written, and whose frames it may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Owner of the frames that may be named.
    pub frames_of: DomId,
    /// Whether devices may be named: the tables belong to a domain that controls them.
    pub devices: Privilege,
}

/// Takes what a present L1 entry owns. Its flags have not been looked at yet.
///
/// # Errors
/// `EINVAL`: flags, no such frame, another's, or in use as something else. `EPERM`: a device; `EROFS`: a device that may be
/// named in an entry without the right to write ([`read_only`]).
#[inline(always)]
pub(crate) fn get(frames: &FrameTable, m: &(impl Tlb + Cpu), pte: Pte, rights: Rights) -> Result<(), Errno> {
    if pte_rules::has_unusual_flags(pte) {
        return get_unusual(frames, pte, rights);
    }
    get_usual(frames, m, pte, rights)
}

/// As [`get`], of an entry without unusual flags.
///
/// # Errors
/// As there.
#[inline(always)]
pub(crate) fn get_usual(
    frames: &FrameTable,
    m: &(impl Tlb + Cpu),
    pte: Pte,
    rights: Rights,
) -> Result<(), Errno> {
    let page = match frames.get_page(pte.mfn(), rights.frames_of) {
        Ok(page) => page,
        Err(_) => return get_device(frames, pte, rights),
    };
    if pte.flags().contains(PteFlags::RW) {
        frames.get_writable_type(m, page.info())?;
    }
    page.into_raw();
    Ok(())
}

/// Takes what the entries at the front of a list own, as long as they are plain and all that is to be done is counting;
/// tells how many those are. For the next one, [`get`] tells.
///
/// Apart from what is seldom needed, so that the loop has the registers to itself; [`put_run`] too.
#[inline(never)]
pub(crate) fn get_run(frames: &FrameTable, entries: &[AtomicU64], least: CountInfo) -> usize {
    let pages = frames.pages();
    for (n, word) in entries.iter().enumerate() {
        let pte = Pte::from_raw(word.load(Relaxed));
        if !pte_rules::is_plain_l1(pte) {
            return n;
        }
        let Some(page) = frame::page_of(pages, pte.mfn()) else { return n };
        if !counts::get_at_once(page, least) {
            return n;
        }
        if pte.flags().contains(PteFlags::RW) && !types::get_writable_again(page) {
            give_back(frames, pte, page);
            return n;
        }
    }
    entries.len()
}

/// Gives up what the entries at the end of a list owned, as long as they are present and of frames of RAM; tells how many
/// are left. For the last of those, [`put`] does it.
#[inline(never)]
pub(crate) fn put_run(frames: &FrameTable, entries: &[AtomicU64], clock: u64) -> usize {
    let pages = frames.pages();
    for (n, word) in entries.iter().enumerate().rev() {
        let pte = Pte::from_raw(word.load(Relaxed));
        if !pte.is_present() {
            return n + 1;
        }
        let Some(page) = frame::page_of(pages, pte.mfn()) else { return n + 1 };
        if !page.count_info().is_guests() {
            return n + 1;
        }
        put_references(frames, pte, page, clock);
    }
    0
}

/// Gives up the general reference of an entry that does not come to be.
#[cold]
#[inline(never)]
fn give_back(frames: &FrameTable, pte: Pte, page: &PageInfo) {
    frames.put_raw(pte.mfn(), page);
}

/// An entry with cache attributes, or with flags that no entry may have.
#[cold]
pub(crate) fn get_unusual(frames: &FrameTable, pte: Pte, rights: Rights) -> Result<(), Errno> {
    pte_rules::check_l1_flags(pte)?;
    match frames.get_page(pte.mfn(), rights.frames_of) {
        // What is unusual and allowed are cache attributes: RAM is cached one way only (I10, XSA-154, XSA-402).
        Ok(_) => Err(Errno::Inval),
        Err(_) => get_device(frames, pte, rights),
    }
}

#[cold]
fn get_device(frames: &FrameTable, pte: Pte, rights: Rights) -> Result<(), Errno> {
    if !frames.is_device(pte.mfn()) {
        return Err(Errno::Inval);
    }
    match rights.devices {
        Privilege::Control if pte.flags().contains(PteFlags::RW) => {
            if frames.read_only_devices().contains(pte.mfn()) { Err(Errno::RoFs) } else { Ok(()) }
        }
        Privilege::Control => Ok(()),
        Privilege::Unprivileged => Err(Errno::Perm),
    }
}

/// What is written instead of an entry that [`get`] has refused: where the frame is a device's that may only be read, the
/// same without the right to write.
///
/// # Errors
/// What [`get`] said, for all others.
#[cold]
pub(crate) fn read_only(pte: Pte, refused: Errno) -> Result<Pte, Errno> {
    if refused == Errno::RoFs { Ok(pte.with_flags(pte.flags() - PteFlags::RW)) } else { Err(refused) }
}

/// The frame to which a present entry owns references; `None` for a device.
#[inline(always)]
pub(crate) fn referenced(frames: &FrameTable, pte: Pte) -> Option<&'static PageInfo> {
    let page = frames.info(pte.mfn())?;
    if page.count_info().is_guests() { Some(page) } else { referenced_device(pte, page) }
}

#[cold]
fn referenced_device(pte: Pte, page: &PageInfo) -> Option<&'static PageInfo> {
    assert!(page.count_info().state() == FrameState::Device, "{pte}: an entry for a frame that nobody has");
    None
}

/// Gives up what a former L1 entry owned. `clock` was read after the entry could no longer be used for a new
/// translation.
#[inline(always)]
pub(crate) fn put(frames: &FrameTable, pte: Pte, clock: u64) {
    if !pte.is_present() {
        return;
    }
    if let Some(page) = referenced(frames, pte) {
        put_references(frames, pte, page, clock);
    }
}

/// Gives up the references of a former entry for a frame of RAM.
#[inline(always)]
fn put_references(frames: &FrameTable, pte: Pte, page: &PageInfo, clock: u64) {
    page.note_unmapped(clock);
    if pte.flags().contains(PteFlags::RW) {
        put_writable(pte, page);
    }
    let before = page.take_one_off();
    if before.count() <= 1 {
        free(frames, pte, page, before);
    }
}

/// Frees the frame of a former entry that had the last reference, that of the count word `before`.
#[cold]
#[inline(never)]
fn free(frames: &FrameTable, pte: Pte, page: &PageInfo, before: CountInfo) {
    frames.free_domain_frame(pte.mfn(), page, before);
}

/// As [`put`], of an entry for a frame of RAM that is known.
#[inline(always)]
pub(super) fn put_ram(frames: &FrameTable, mfn: Mfn, page: &PageInfo, writable: bool, clock: u64) {
    page.note_unmapped(clock);
    if writable {
        put_writable(mfn, page);
    }
    frames.put_raw(mfn, page);
}

/// Gives up the writable type reference of an entry that stays, read-only; `what` names it or its frame.
#[inline(always)]
pub(crate) fn put_writable(what: impl Display, page: &PageInfo) {
    if !types::put_writable_at_once(page) {
        put_last_writable(what, page);
    }
}

#[cold]
#[inline(never)]
fn put_last_writable(what: impl Display, page: &PageInfo) {
    match types::put_writable(page) {
        types::TypePut::Done => {}
        // A writable reference cannot be the last one of an audited type: broken accounting.
        types::TypePut::Last => panic!("{what}: a writable mapping held a table's reference"),
    }
}
