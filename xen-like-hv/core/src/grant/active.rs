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

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

use hv_sync::{SpinLock, rank};
use pv_abi::grant::{GntmapFlags, GrantEntryV1, GrantFlags, GrantStatus, V1_ENTRIES_PER_FRAME};
use pv_abi::ids::{DomId, GrantRef, Mfn};

use super::word::{Access, clear_flags, mark_at_once, mark_used};
use crate::domain::Domain;
use crate::frame::{FrameTable, LeafRef};
use crate::port::{Cpu, Frames, Tlb};

/// What an entry is used for, and how: the flags of a map that say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Uses(GntmapFlags);

impl Uses {
    /// By a CPU, to read.
    pub(super) const READ: Self = Self(GntmapFlags::HOST_MAP.union(GntmapFlags::READONLY));
    /// By a CPU, to read and write.
    pub(super) const WRITE: Self = Self(GntmapFlags::HOST_MAP);
    /// Who uses it.
    const WHO: GntmapFlags = GntmapFlags::HOST_MAP.union(GntmapFlags::DEVICE_MAP);
    /// What matters of a map's flags.
    const ALL: GntmapFlags = Self::WHO.union(GntmapFlags::READONLY).union(GntmapFlags::CONTAINS_PTE);

    /// What a map asks for; `None` where nobody is to use it.
    #[inline(always)]
    pub(super) fn of_map(flags: GntmapFlags) -> Option<Self> {
        flags.intersects(Self::WHO).then_some(Self(flags & Self::ALL))
    }

    /// By a CPU.
    #[inline(always)]
    pub(super) const fn by_host(self) -> bool {
        self.0.contains(GntmapFlags::HOST_MAP)
    }

    /// By a device.
    #[inline(always)]
    pub(super) const fn by_device(self) -> bool {
        self.0.contains(GntmapFlags::DEVICE_MAP)
    }

    /// By a CPU alone, whose mapping was named by its address.
    #[inline(always)]
    pub(super) fn are_plain(self) -> bool {
        self.0 & Self::WHO.union(GntmapFlags::CONTAINS_PTE) == GntmapFlags::HOST_MAP
    }

    /// By nobody.
    #[inline(always)]
    pub(super) const fn is_empty(self) -> bool {
        !self.0.intersects(Self::WHO)
    }

    /// Whether the CPU's mapping was named by its entry's address.
    #[inline(always)]
    pub(super) const fn names_pte(self) -> bool {
        self.0.contains(GntmapFlags::CONTAINS_PTE)
    }

    /// To write, too.
    #[inline(always)]
    pub(super) const fn writes(self) -> bool {
        !self.0.contains(GntmapFlags::READONLY)
    }

    /// Read or write.
    #[inline(always)]
    pub(super) const fn access(self) -> Access {
        if self.writes() { Access::Write } else { Access::Read }
    }

    /// Of these uses, in the same way, those by a CPU or by a device.
    #[inline(always)]
    pub(super) fn only(self, host: bool, device: bool) -> Self {
        let mut some = self.0;
        some.set(GntmapFlags::HOST_MAP, host && self.by_host());
        some.set(GntmapFlags::DEVICE_MAP, device && self.by_device());
        Self(some)
    }

    /// Of these uses those that are not among others.
    #[inline(always)]
    pub(super) fn without(self, gone: Self) -> Self {
        Self(self.0.difference(gone.0 & Self::WHO))
    }

    /// One pin for each of the uses.
    #[inline(always)]
    fn pins(self) -> u64 {
        const PINS: [u64; 8] = Pins::of_each();
        // Lossless: three bits.
        PINS[(self.0.bits() & 7) as usize]
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
    const HOST_READ: u32 = 0;
    const HOST_WRITE: u32 = PIN_BITS;
    const DEVICE_READ: u32 = 2 * PIN_BITS;
    const DEVICE_WRITE: u32 = 3 * PIN_BITS;
    const WRITERS: u64 = PIN_MASK << Self::HOST_WRITE | PIN_MASK << Self::DEVICE_WRITE;

    /// One of each use that three flags of a map name: by a device, by a CPU, only to read.
    const fn of_each() -> [u64; 8] {
        const { assert!(Uses::WHO.union(GntmapFlags::READONLY).bits() == 7) };
        let mut pins = [0; 8];
        let mut flags = 0;
        while flags < 8 {
            let uses = Uses(GntmapFlags::from_bits_retain(flags));
            let (host, device) = if uses.writes() {
                (Self::HOST_WRITE, Self::DEVICE_WRITE)
            } else {
                (Self::HOST_READ, Self::DEVICE_READ)
            };
            pins[flags as usize] = (uses.by_host() as u64) << host | (uses.by_device() as u64) << device;
            flags += 1;
        }
        pins
    }

    /// One of each of these uses.
    #[inline(always)]
    fn of(uses: Uses) -> Self {
        Self(uses.pins())
    }

    /// With one more of these uses; `None` where there are as many as can be counted: then a count's highest bit falls.
    #[inline(always)]
    fn plus(self, uses: Uses) -> Option<Self> {
        let one = uses.pins();
        let sum = self.0.wrapping_add(one);
        if self.0 & !sum & one << (PIN_BITS - 1) == 0 { Some(Self(sum)) } else { None }
    }

    /// With one less of these uses; `None` where there is none: then a count's highest bit rises.
    #[inline(always)]
    fn minus(self, uses: Uses) -> Option<Self> {
        let one = uses.pins();
        // Nearly always nobody else uses the entry.
        if self.0 == one {
            return Some(Self(0));
        }
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

    /// Adds uses, for the audit, which counts what was counted before.
    pub(super) fn add(&mut self, uses: Uses) {
        self.0 += uses.pins();
    }
}

impl core::fmt::Debug for Pins {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let count = |shift| self.0 >> shift & PIN_MASK;
        f.debug_struct("Pins")
            .field("host_read", &count(Self::HOST_READ))
            .field("host_write", &count(Self::HOST_WRITE))
            .field("device_read", &count(Self::DEVICE_READ))
            .field("device_write", &count(Self::DEVICE_WRITE))
            .finish()
    }
}

/// The hypervisor's record of an entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Active {
    pub(super) pins: Pins,
    /// Whom it serves, while pinned.
    pub(super) domid: DomId,
    /// Which frame, while pinned: its number is as long as the shared entry has it.
    frame: u32,
}

impl Active {
    /// Which frame, while pinned.
    #[inline(always)]
    pub(super) fn frame(&self) -> Mfn {
        Mfn::new(u64::from(self.frame))
    }
}

/// The entries of one frame.
struct Group {
    /// The frame of shared entries: the hypervisor's, shared with the granter. None once it has been given up.
    shared: Option<Mfn>,
    active: Box<[Active; PER_FRAME]>,
}

/// A granter's table.
#[derive(Default)]
pub(super) struct GrantTable {
    groups: Vec<Group>,
    /// Groups that have their frame: the first so many.
    frames: usize,
    /// The granter is being destroyed: nothing new is claimed.
    dying: bool,
}

impl GrantTable {
    /// The frame of entries in which an entry is, and its place there.
    #[inline(always)]
    fn group(&mut self, gref: GrantRef) -> Option<(&mut Group, usize)> {
        let index = usize::try_from(gref.raw()).ok()?;
        Some((self.groups.get_mut(index / PER_FRAME)?, index % PER_FRAME))
    }

    /// All records with their references, and what their shared entries say; for the audit.
    pub(super) fn records<'s>(
        &'s self,
        m: &'s impl Frames,
    ) -> impl Iterator<Item = (GrantRef, &'s Active, Option<GrantEntryV1>)> {
        let entries = self.groups.iter().flat_map(move |group| {
            let said = move |at: usize| {
                let words = group.shared.map(|mfn| m.words(mfn))?;
                Some(GrantEntryV1::from_word(words[at].load(SeqCst)))
            };
            group.active.iter().enumerate().map(move |(at, active)| (active, said(at)))
        });
        (0_u32..).map(GrantRef::new).zip(entries).map(|(gref, (active, said))| (gref, active, said))
    }

    /// The records of entries in use.
    #[cfg(test)]
    pub(super) fn used(&self) -> impl Iterator<Item = (GrantRef, &Active)> {
        let all = self.groups.iter().flat_map(|group| group.active.iter());
        (0_u32..).map(GrantRef::new).zip(all).filter(|(_, active)| !active.pins.is_empty())
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

/// Clears the flags of a shared entry that are wrong now that it has these pins.
#[inline(always)]
fn clear_stale(shared: &AtomicU64, pins: Pins) {
    if pins.is_empty() {
        clear_flags(shared, GrantFlags::READING | GrantFlags::WRITING);
    } else if !pins.has_writers() {
        clear_flags(shared, GrantFlags::WRITING);
    }
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
    uses: Uses,
) -> Result<LeafRef<'t>, GrantStatus> {
    let mut table = granter.grants.granter.table.lock();
    if table.dying || granter.is_dying() {
        return Err(GrantStatus::BadDomain);
    }
    let Some((Group { shared: Some(mfn), active }, at)) = table.group(gref) else {
        return Err(GrantStatus::BadGntref);
    };
    let (shared, active) = (&m.words(*mfn)[at], &mut active[at]);
    let (pins, frame) = if active.pins.is_empty() {
        (Pins::of(uses), mark_used(shared, grantee, uses.access())?)
    } else {
        let pins = active.pins.plus(uses).ok_or(GrantStatus::GeneralError)?;
        let frame = frame_in_use(shared, active, grantee, uses.access()).ok_or(GrantStatus::GeneralError)?;
        (pins, frame)
    };
    match frames.get_leaf(m, Mfn::new(u64::from(frame)), granter.id, uses.writes()) {
        Ok(held) => {
            *active = Active { pins, domid: grantee, frame };
            Ok(held)
        }
        Err(_) => {
            clear_stale(shared, active.pins);
            Err(GrantStatus::BadPage)
        }
    }
}

/// As [`claim`] of an entry that nobody uses yet, where nothing is in the way; `None`: nothing is claimed, and that tells.
#[inline(always)]
pub(super) fn claim_at_once<'t>(
    frames: &'t FrameTable,
    m: &impl Frames,
    granter: &Domain,
    gref: GrantRef,
    grantee: DomId,
    uses: Uses,
) -> Option<LeafRef<'t>> {
    let mut table = granter.grants.granter.table.lock();
    if table.dying || granter.is_dying() {
        return None;
    }
    let Some((Group { shared: Some(mfn), active }, at)) = table.group(gref) else { return None };
    let (shared, active) = (&m.words(*mfn)[at], &mut active[at]);
    if !active.pins.is_empty() {
        return None;
    }
    let frame = mark_at_once(shared, grantee, uses.access())?;
    let held = frames.get_leaf_at_once(Mfn::new(u64::from(frame)), granter.id, uses.writes());
    if held.is_some() {
        *active = Active { pins: Pins::of(uses), domid: grantee, frame };
    } else {
        clear_stale(shared, Pins::default());
    }
    held
}

/// The frame of an entry that is pinned already, for one claim more; `None` where it does not serve that, too.
#[inline(never)]
fn frame_in_use(shared: &AtomicU64, active: &Active, grantee: DomId, access: Access) -> Option<u32> {
    if active.domid != grantee {
        return None;
    }
    if access == Access::Read || active.pins.has_writers() {
        return Some(active.frame);
    }
    let named = mark_used(shared, grantee, access).ok()?;
    // A pinned entry keeps its frame, whatever the shared entry says by now (XSA-500). What the entry says of
    // writing is about the frame that it names: a reader's frame is not written because another one may be.
    if named != active.frame && !seeded!(PinnedFollowsEntry) {
        clear_stale(shared, active.pins);
        return None;
    }
    Some(named)
}

/// The references that a record of such uses owns, out of the record, if it does: those of a device.
#[inline(always)]
pub(super) fn device_ref(frames: &FrameTable, frame: Mfn, uses: Uses) -> Option<LeafRef<'_>> {
    if uses.by_device() { frames.adopt_leaf(frame, uses.writes()) } else { None }
}

/// Gives a claim back: unpins, gives up references if they are the claim's, then tells the granter.
///
/// In this order: when the granter sees the flags cleared it may use the frame for anything, a page table even.
#[inline(always)]
pub(super) fn release(
    m: &impl Frames,
    granter: &Domain,
    gref: GrantRef,
    uses: Uses,
    held: Option<LeafRef<'_>>,
) {
    let mut table = granter.grants.granter.table.lock();
    let Some((Group { shared, active }, at)) = table.group(gref) else {
        // As below, not as `Drop` does: a token that may be dropped is kept in memory all the way.
        if let Some(held) = held {
            held.put();
        }
        return;
    };
    let active = &mut active[at];
    let Some(rest) = active.pins.minus(uses) else { unpinned_too_often(granter.id, gref) };
    if !seeded!(ReleaseKeepsPin) {
        active.pins = rest;
    }
    if let Some(held) = held {
        held.put();
    }
    // Unless the frame has been given up.
    if let Some(mfn) = shared {
        clear_stale(&m.words(*mfn)[at], active.pins);
    }
}

/// Apart, so that what is said does not cost those who unpin.
#[cold]
#[inline(never)]
fn unpinned_too_often(granter: DomId, gref: GrantRef) -> ! {
    panic!("grant {gref} of {granter} unpinned too often")
}

impl Granter {
    /// Frames that the table has.
    pub(super) fn nr_frames(&self) -> usize {
        self.table.lock().frames
    }

    /// A frame of the table.
    pub(super) fn frame(&self, index: usize) -> Option<Mfn> {
        self.table.lock().groups.get(index)?.shared
    }

    /// Runs `f` on the table; for the audit.
    pub(super) fn with<R>(&self, f: impl FnOnce(&GrantTable) -> R) -> R {
        f(&self.table.lock())
    }

    /// Adds a frame with its records; `Err` gives the frame back where the table has `max` already or the domain dies.
    pub(super) fn add_frame(&self, mfn: Mfn, room: Room, max: usize) -> Result<(), Mfn> {
        let mut table = self.table.lock();
        let Room { mut groups, active } = room;
        if table.dying || table.frames >= max || groups.capacity() <= table.groups.len() {
            return Err(mfn);
        }
        groups.append(&mut table.groups);
        groups.push(Group { shared: Some(mfn), active });
        table.frames += 1;
        let old = core::mem::replace(&mut table.groups, groups);
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
        let mut table = self.table.lock();
        let last = table.frames.checked_sub(1)?;
        table.frames = last;
        table.groups.get_mut(last)?.shared.take()
    }
}

/// Memory for one more frame of entries, allocated outside the lock.
pub(super) struct Room {
    groups: Vec<Group>,
    active: Box<[Active; PER_FRAME]>,
}

impl Room {
    /// Room beside `had` frames; `None` where there is no memory.
    pub(super) fn beside(had: usize) -> Option<Self> {
        let (mut groups, mut active) = (Vec::new(), Vec::new());
        if memory_is_short!() {
            return None;
        }
        groups.try_reserve_exact(had + 1).ok()?;
        active.try_reserve_exact(PER_FRAME).ok()?;
        active.resize(PER_FRAME, Active::default());
        Some(Self { groups, active: active.try_into().ok()? })
    }
}
