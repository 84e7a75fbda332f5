//! The granter's side: its shared entries, and what is in use of each.
//!
//! A *shared entry* is an 8-byte word in a frame that the granter may write at any time; the hypervisor changes it by
//! compare-and-exchange on the whole word, so flags, domain and frame are always seen together. The *active entry* is the
//! hypervisor's own record: while it is pinned, it alone says which frame and whom the grant serves.
//!
//! | active entry | shared flags | by | then |
//! |---|---|---|---|
//! | unpinned | permit access | first claim | pinned; `reading`, for a writer `writing` too |
//! | pinned, readers only | `reading` | a writer's claim | `writing` too; the shared entry must allow it |
//! | pinned | any | further claims of the same domain | counted |
//! | pinned | any | the last writer goes | `writing` cleared |
//! | pinned | any | the last claim goes | unpinned; `reading` cleared |
//!
//! Invariants: I3 (what is in use is referenced), I4 (all of it under the granter's lock).

use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

use hv_sync::{SpinLock, rank};
use pv_abi::grant::{GrantEntryV1, GrantFlags, GrantStatus, V1_ENTRIES_PER_FRAME};
use pv_abi::ids::{DomId, GrantRef, Mfn};

pub(super) use super::word::Access;
use super::word::{clear_flags, mark_used};
use crate::domain::Domain;
use crate::frame::{FrameTable, PageRef, WritableRef};
use crate::port::{Cpu, Frames, Tlb};

/// What a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The CPU: a mapping, or a copy.
    Host,
    /// A device.
    Device,
}

/// What one use of an entry is for: the CPU, a device, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Purposes {
    pub(super) host: bool,
    pub(super) device: bool,
}

impl Purposes {
    /// The CPU alone.
    pub(super) const HOST: Self = Self { host: true, device: false };

    /// Whether it is for nothing.
    pub(super) const fn is_empty(self) -> bool {
        !self.host && !self.device
    }

    /// One after the other.
    pub(super) fn iter(self) -> impl Iterator<Item = Purpose> {
        let host = self.host.then_some(Purpose::Host);
        host.into_iter().chain(self.device.then_some(Purpose::Device))
    }
}

/// Bits of the count of one kind of use; its largest value is how often an entry may be pinned so.
const PIN_BITS: u32 = 16;
const PIN_MASK: u64 = (1 << PIN_BITS) - 1;
/// Entries of a frame, as an index.
const PER_FRAME: usize = V1_ENTRIES_PER_FRAME as usize;

/// Claims of one entry: how many readers and writers on CPUs, and how many of devices, in one word.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pins(u64);

impl Pins {
    const WRITERS: u64 = PIN_MASK << Self::shift(Purpose::Host, Access::Write)
        | PIN_MASK << Self::shift(Purpose::Device, Access::Write);

    const fn shift(purpose: Purpose, access: Access) -> u32 {
        let purpose = match purpose {
            Purpose::Host => 0,
            Purpose::Device => 2,
        };
        let access = match access {
            Access::Read => 0,
            Access::Write => 1,
        };
        (purpose + access) * PIN_BITS
    }

    /// One of each of these uses.
    #[inline(always)]
    const fn one_of_each(purposes: Purposes, access: Access) -> u64 {
        let host = (purposes.host as u64) << Self::shift(Purpose::Host, access);
        host | (purposes.device as u64) << Self::shift(Purpose::Device, access)
    }

    /// With one use more; `None` where there are as many as can be counted: then a count's highest bit falls.
    #[inline(always)]
    const fn plus(self, purposes: Purposes, access: Access) -> Option<Self> {
        let one = Self::one_of_each(purposes, access);
        let sum = self.0.wrapping_add(one);
        if self.0 & !sum & one << (PIN_BITS - 1) == 0 { Some(Self(sum)) } else { None }
    }

    /// With one use less; `None` where there is none: then a count's highest bit rises.
    #[inline(always)]
    const fn minus(self, purposes: Purposes, access: Access) -> Option<Self> {
        let one = Self::one_of_each(purposes, access);
        let rest = self.0.wrapping_sub(one);
        if !self.0 & rest & one << (PIN_BITS - 1) == 0 { Some(Self(rest)) } else { None }
    }

    /// Whether nobody uses the entry.
    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    const fn has_writers(self) -> bool {
        self.0 & Self::WRITERS != 0
    }

    /// Adds a use, for the audit, which counts what was counted before.
    pub(super) fn add(&mut self, purpose: Purpose, access: Access) {
        self.0 += 1 << Self::shift(purpose, access);
    }
}

impl core::fmt::Debug for Pins {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let count = |purpose, access| self.0 >> Self::shift(purpose, access) & PIN_MASK;
        f.debug_struct("Pins")
            .field("host_read", &count(Purpose::Host, Access::Read))
            .field("host_write", &count(Purpose::Host, Access::Write))
            .field("device_read", &count(Purpose::Device, Access::Read))
            .field("device_write", &count(Purpose::Device, Access::Write))
            .finish()
    }
}

/// The hypervisor's record of an entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Active {
    pub(super) pins: Pins,
    /// Whom it serves, while pinned.
    pub(super) domid: DomId,
    /// Which frame, while pinned.
    pub(super) frame: Mfn,
}

/// A granter's table.
#[derive(Default)]
pub(super) struct GrantTable {
    /// Frames of shared entries: the hypervisor's, shared with the granter.
    frames: Vec<Mfn>,
    /// One group of records for each frame.
    active: Vec<Vec<Active>>,
    /// The granter is being destroyed: nothing new is claimed.
    dying: bool,
}

impl GrantTable {
    #[inline(always)]
    fn split(gref: GrantRef) -> Option<(usize, usize)> {
        let index = usize::try_from(gref.raw()).ok()?;
        Some((index / PER_FRAME, index % PER_FRAME))
    }

    #[inline(always)]
    fn active_mut(&mut self, gref: GrantRef) -> Option<&mut Active> {
        let (group, index) = Self::split(gref)?;
        self.active.get_mut(group)?.get_mut(index)
    }

    /// The shared entry; none once the frames have been given up.
    #[inline(always)]
    fn shared<'m>(&self, m: &'m impl Frames, gref: GrantRef) -> Option<&'m AtomicU64> {
        let (frame, index) = Self::split(gref)?;
        m.words(*self.frames.get(frame)?).get(index)
    }

    /// All records with their references; for the audit.
    pub(super) fn records(&self) -> impl Iterator<Item = (GrantRef, &Active)> {
        (0_u32..).map(GrantRef::new).zip(self.active.iter().flatten())
    }

    /// What the shared entry says; for the audit.
    pub(super) fn shared_entry(&self, m: &impl Frames, gref: GrantRef) -> Option<GrantEntryV1> {
        Some(GrantEntryV1::from_word(self.shared(m, gref)?.load(SeqCst)))
    }
}

/// The granter's side of a domain.
pub(super) struct Granter {
    table: SpinLock<GrantTable>,
}

impl Default for Granter {
    fn default() -> Self {
        Self { table: SpinLock::new(rank::GRANT, GrantTable::default()) }
    }
}

/// A reference to a granted frame.
#[derive(Debug)]
pub(super) enum Held<'t> {
    /// For reading.
    Read(PageRef<'t>),
    /// For writing: the frame is no page table meanwhile.
    Write(WritableRef<'t>),
}

impl Held<'_> {
    /// The frame.
    pub(super) fn mfn(&self) -> Mfn {
        match self {
            Self::Read(page) => page.mfn(),
            Self::Write(page) => page.mfn(),
        }
    }

    /// Hands the reference to a record.
    pub(super) fn into_raw(self) -> Mfn {
        match self {
            Self::Read(page) => page.into_raw(),
            Self::Write(page) => page.into_raw(),
        }
    }
}

/// Takes a reference to a frame of `owner`.
#[inline(always)]
pub(super) fn hold<'t>(
    frames: &'t FrameTable,
    m: &(impl Tlb + Cpu),
    mfn: Mfn,
    owner: DomId,
    access: Access,
) -> Result<Held<'t>, GrantStatus> {
    let bad = |_| GrantStatus::BadPage;
    match access {
        Access::Read => frames.get_page(mfn, owner).map(Held::Read).map_err(bad),
        Access::Write => frames.get_page_writable(m, mfn, owner).map(Held::Write).map_err(bad),
    }
}

/// Brings a recorded reference back.
#[inline(always)]
pub(super) fn adopt(frames: &FrameTable, mfn: Mfn, access: Access) -> Option<Held<'_>> {
    match access {
        Access::Read => frames.adopt(mfn).map(Held::Read),
        Access::Write => frames.adopt_writable(mfn).map(Held::Write),
    }
}

/// The flags that a change of the pins makes wrong.
#[inline(always)]
fn stale_flags(pins: Pins) -> GrantFlags {
    let mut stale = GrantFlags::empty();
    stale.set(GrantFlags::WRITING, !pins.has_writers());
    stale.set(GrantFlags::READING, pins.is_empty());
    stale
}

/// Claims an entry of `granter` for `grantee`: pins it and references its frame.
///
/// # Errors
/// `bad_domain` for a dying granter; `bad_gntref` past the table; `general_error` where the entry does not serve the
/// grantee that way, or is pinned for another, or too often; `bad_page` where the granter does not have the frame or
/// it is in use as something else.
#[inline(always)]
pub(super) fn claim<'t>(
    frames: &'t FrameTable,
    m: &(impl Frames + Tlb + Cpu),
    granter: &Domain,
    gref: GrantRef,
    grantee: DomId,
    purposes: Purposes,
    access: Access,
) -> Result<Held<'t>, GrantStatus> {
    let mut table = granter.grants.granter.table.lock();
    if table.dying || granter.is_dying() {
        return Err(GrantStatus::BadDomain);
    }
    let shared = table.shared(m, gref).ok_or(GrantStatus::BadGntref)?;
    let active = table.active_mut(gref).ok_or(GrantStatus::BadGntref)?;
    let pinned = !active.pins.is_empty();
    if pinned && active.domid != grantee {
        return Err(GrantStatus::GeneralError);
    }
    let pins = active.pins.plus(purposes, access).ok_or(GrantStatus::GeneralError)?;
    let first_writer = access == Access::Write && !active.pins.has_writers();
    let mut frame = active.frame;
    if !pinned || first_writer {
        let named = mark_used(shared, grantee, access)?;
        // A pinned entry keeps its frame, whatever the shared entry says by now (XSA-500). What the entry says of
        // writing is about the frame that it names: a reader's frame is not written because another one may be.
        if pinned && named != frame && !seeded!(PinnedFollowsEntry) {
            clear_flags(Some(shared), stale_flags(active.pins));
            return Err(GrantStatus::GeneralError);
        }
        frame = named;
    }
    match hold(frames, m, frame, granter.id, access) {
        Ok(held) => {
            *active = Active { pins, domid: grantee, frame };
            Ok(held)
        }
        Err(status) => {
            clear_flags(Some(shared), stale_flags(active.pins));
            Err(status)
        }
    }
}

/// Gives a claim back: unpins, gives up the reference if there is one, then tells the granter.
///
/// In this order: when the granter sees the flags cleared it may use the frame for anything, a page table even.
#[inline(always)]
pub(super) fn release(
    m: &impl Frames,
    granter: &Domain,
    gref: GrantRef,
    purposes: Purposes,
    access: Access,
    held: Option<Held<'_>>,
) {
    let mut table = granter.grants.granter.table.lock();
    let Some(active) = table.active_mut(gref) else { return };
    let Some(rest) = active.pins.minus(purposes, access) else {
        panic!("grant {gref} of {} unpinned too often", granter.id)
    };
    if !seeded!(ReleaseKeepsPin) {
        active.pins = rest;
    }
    let stale = stale_flags(active.pins);
    drop(held);
    clear_flags(table.shared(m, gref), stale);
}

impl Granter {
    /// Frames that the table has.
    pub(super) fn nr_frames(&self) -> usize {
        self.table.lock().frames.len()
    }

    /// A frame of the table.
    pub(super) fn frame(&self, index: usize) -> Option<Mfn> {
        self.table.lock().frames.get(index).copied()
    }

    /// Runs `f` on the table; for the audit.
    pub(super) fn with<R>(&self, f: impl FnOnce(&GrantTable) -> R) -> R {
        f(&self.table.lock())
    }

    /// Adds a frame with its records; `Err` gives the frame back where the table has `max` already or the domain dies.
    pub(super) fn add_frame(&self, mfn: Mfn, room: Room, max: usize) -> Result<(), Mfn> {
        let mut table = self.table.lock();
        let Room { mut frames, mut groups, group } = room;
        let fits = table.frames.len() < max
            && frames.capacity() > table.frames.len()
            && groups.capacity() > table.active.len();
        if table.dying || !fits {
            return Err(mfn);
        }
        frames.append(&mut table.frames);
        groups.append(&mut table.active);
        frames.push(mfn);
        groups.push(group);
        let old =
            (core::mem::replace(&mut table.frames, frames), core::mem::replace(&mut table.active, groups));
        drop(table);
        drop(old);
        Ok(())
    }

    /// Nothing new is claimed from here on.
    pub(super) fn set_dying(&self) {
        self.table.lock().dying = true;
    }

    /// Takes the last frame away from the table; records stay for what others still use.
    pub(super) fn take_frame(&self) -> Option<Mfn> {
        self.table.lock().frames.pop()
    }
}

/// Memory for one more frame of entries, allocated outside the lock.
pub(super) struct Room {
    frames: Vec<Mfn>,
    groups: Vec<Vec<Active>>,
    group: Vec<Active>,
}

impl Room {
    /// Room beside `had` frames; `None` where there is no memory.
    pub(super) fn beside(had: usize) -> Option<Self> {
        let mut room = Self { frames: Vec::new(), groups: Vec::new(), group: Vec::new() };
        if memory_is_short!() {
            return None;
        }
        room.frames.try_reserve_exact(had + 1).ok()?;
        room.groups.try_reserve_exact(had + 1).ok()?;
        room.group.try_reserve_exact(PER_FRAME).ok()?;
        room.group.resize(PER_FRAME, Active::default());
        Some(room)
    }
}
