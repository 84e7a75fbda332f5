//! What is known of one frame: 32 bytes of atomics.
//!
//! Invariants: I1 (one type at a time), I4 (the step from no use to a use is made by one CPU on one snapshot), I7 (a
//! reference implies an owner).
//!
//! **Count word** (`count_info`): who has the frame, and how many general references there are.
//!
//! | state | owner | count | who moves it on |
//! |---|---|---|---|
//! | `Reserved` (the zero word) | none | 0 | boot, once: the hypervisor's own RAM, never given out |
//! | `Device` | none | 0 | boot, once: not RAM; only privileged domains map it |
//! | `Free` | none | 0 | the allocator |
//! | `Hypervisor` | none | 1 | `alloc_hypervisor`, `share_with`, `free_hypervisor` |
//! | `Guest` | a domain | ≥ 1, or 0 while it is being freed | `get_page`, `put_page`, the allocator |
//!
//! `ALLOCATED` is the allocator's own reference, dropped by decrease-reservation, exchange and teardown, by whoever
//! clears the bit. `SPECIAL` marks a frame of the hypervisor that its owner may map. `CLEAN` marks a free frame that is zeroed.
//!
//! **Type word** (`type_info`): what the frame is used as, and how many such uses there are.
//!
//! | type | count | `VALIDATED` | meaning |
//! |---|---|---|---|
//! | any | 0 | no | not in use; the stamp says since when |
//! | table, descriptors | 1 | no | *busy*: one holder validates or devalidates it; others wait |
//! | table, descriptors | ≥ 1 | yes | in use; `LOCKED` while a CPU changes an entry |
//! | writable | ≥ 1 | yes | mapped writable somewhere |
//!
//! `PINNED` owns one type reference and one general reference. In a free block's head the type word holds the block's
//! order plus one, in any other free frame 0.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use pv_abi::ids::DomId;
use pv_abi::pte::Level;

use crate::atomic::{AtomicU32, AtomicU64};

/// No frame, in a link.
pub(super) const NIL: u32 = u32::MAX;

/// What a frame is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageType {
    /// Nothing that excludes anything.
    None,
    /// A page table of a level.
    Table(Level),
    /// A page of segment descriptors.
    SegDesc,
    /// Mapped writable.
    Writable,
}

impl PageType {
    const fn code(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Table(level) => level.number() as u64,
            Self::SegDesc => 5,
            Self::Writable => 7,
        }
    }

    const fn from_code(code: u64) -> Self {
        match code {
            1 => Self::Table(Level::L1),
            2 => Self::Table(Level::L2),
            3 => Self::Table(Level::L3),
            4 => Self::Table(Level::L4),
            5 => Self::SegDesc,
            7 => Self::Writable,
            _ => Self::None,
        }
    }

    /// Whether a frame must be audited before it may be used so.
    #[must_use]
    pub const fn needs_audit(self) -> bool {
        matches!(self, Self::Table(_) | Self::SegDesc)
    }
}

/// A reading of the type word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TypeInfo(u64);

impl TypeInfo {
    const LOCKED: u64 = 1 << 0;
    const PINNED: u64 = 1 << 1;
    const COUNT_SHIFT: u32 = 2;
    const VALIDATED: u64 = 1 << 58;
    const TYPE_SHIFT: u32 = 61;
    const ONE: u64 = 1 << Self::COUNT_SHIFT;
    const COUNT: u64 = 0xffff_ffff << Self::COUNT_SHIFT;
    /// Counts stop here, far from the field's end. A comparison with it fits into an instruction.
    pub(crate) const MAX_COUNT: u64 = 1 << 29;

    /// A word with no flag.
    pub(crate) const fn of(ty: PageType, count: u64) -> Self {
        Self(ty.code() << Self::TYPE_SHIFT | count << Self::COUNT_SHIFT)
    }
    /// The word itself.
    #[cfg(test)]
    pub(crate) const fn raw(self) -> u64 {
        self.0
    }
    pub(crate) const fn ty(self) -> PageType {
        PageType::from_code(self.0 >> Self::TYPE_SHIFT)
    }
    pub(crate) const fn is_type(self, ty: PageType) -> bool {
        self.0 >> Self::TYPE_SHIFT == ty.code()
    }
    /// Whether it is in use as that, checked where that is needed: type and `VALIDATED` at once.
    pub(crate) const fn is_in_use_as(self, ty: PageType) -> bool {
        (self.0 ^ Self::of(ty, 0).with_validated().0) >> (Self::COUNT_SHIFT + 32) == 0
    }
    /// Whether it is in use as that, with at least `uses` uses, and another one may be added or one taken off. The flags are
    /// below the count and the rest is above it, so one subtraction and one comparison tell all of that.
    #[inline(always)]
    pub(crate) const fn has_uses_as(self, ty: PageType, uses: u64) -> bool {
        self.0.wrapping_sub(Self::of(ty, uses).with_validated().0)
            < (Self::MAX_COUNT - 1) << Self::COUNT_SHIFT
    }
    /// Whether it is in use, not locked, and has other uses beside one: then a use less changes nothing but the count.
    #[inline(always)]
    pub(crate) const fn has_uses_to_spare(self) -> bool {
        self.0 & (Self::VALIDATED | Self::LOCKED) == Self::VALIDATED && self.count() > 1
    }
    pub(crate) const fn count(self) -> u64 {
        (self.0 & Self::COUNT) >> Self::COUNT_SHIFT
    }
    pub(crate) const fn validated(self) -> bool {
        self.0 & Self::VALIDATED != 0
    }
    pub(crate) const fn locked(self) -> bool {
        self.0 & Self::LOCKED != 0
    }
    pub(crate) const fn pinned(self) -> bool {
        self.0 & Self::PINNED != 0
    }
    pub(crate) const fn with_validated(self) -> Self {
        Self(self.0 | Self::VALIDATED)
    }
    pub(crate) const fn without_validated(self) -> Self {
        Self(self.0 & !Self::VALIDATED)
    }
    pub(crate) const fn with_locked(self) -> Self {
        Self(self.0 | Self::LOCKED)
    }
    pub(crate) const fn with_pinned(self) -> Self {
        Self(self.0 | Self::PINNED)
    }
    pub(crate) const fn without_pinned(self) -> Self {
        Self(self.0 & !Self::PINNED)
    }
    /// One use more. The caller has checked [`Self::count`] against [`Self::MAX_COUNT`].
    pub(crate) const fn plus_one(self) -> Self {
        Self(self.0 + Self::ONE)
    }
    /// One use less. The caller has checked that there is one.
    pub(crate) const fn minus_one(self) -> Self {
        Self(self.0 - Self::ONE)
    }
}

/// In whose hands a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameState {
    /// RAM of the hypervisor that is never given out.
    Reserved,
    /// Not RAM.
    Device,
    /// In the allocator.
    Free,
    /// The hypervisor's, from the allocator.
    Hypervisor,
    /// A domain's.
    Guest,
}

/// A reading of the count word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountInfo(u64);

impl CountInfo {
    const ALLOCATED: u64 = 1 << 0;
    const SPECIAL: u64 = 1 << 1;
    /// Of a free frame only, which has none of the others.
    const CLEAN: u64 = 1 << 0;
    const COUNT_SHIFT: u32 = 2;
    /// The owner's bits begin above the count's, and a bit that is always clear.
    const OWNER_SHIFT: u32 = 35;
    const STATE_SHIFT: u32 = 61;
    const ONE: u64 = 1 << Self::COUNT_SHIFT;
    const COUNT: u64 = 0xffff_ffff << Self::COUNT_SHIFT;
    /// Guests' references stop here. A comparison with it fits into an instruction.
    pub(crate) const MAX_COUNT: u64 = 1 << 29;
    /// The hypervisor's passing ones have some room above.
    pub(crate) const MAX_PASSING: u64 = 0xf000_0000;

    /// A word with a state alone.
    pub(crate) const fn of(state: FrameState) -> Self {
        let code: u64 = match state {
            FrameState::Reserved => 0,
            FrameState::Device => 1,
            FrameState::Free => 2,
            FrameState::Hypervisor => 3,
            FrameState::Guest => 4,
        };
        Self(code << Self::STATE_SHIFT)
    }
    /// A frame that a domain gets: one reference, the allocator's.
    pub(crate) const fn allocated_to(owner: DomId) -> Self {
        Self(Self::unreferenced(owner).0 | Self::ALLOCATED | Self::ONE)
    }
    /// A domain's frame that is being freed: no reference is left, and none can be had.
    pub(crate) const fn unreferenced(owner: DomId) -> Self {
        Self(Self::of(FrameState::Guest).0 | (owner.raw() as u64) << Self::OWNER_SHIFT)
    }
    /// A frame of the hypervisor that a domain may map.
    pub(crate) const fn shared_with(owner: DomId) -> Self {
        Self(Self::allocated_to(owner).0 | Self::SPECIAL)
    }
    /// A frame of the hypervisor.
    pub(crate) const fn hypervisor() -> Self {
        Self(Self::of(FrameState::Hypervisor).0 | Self::ONE)
    }
    /// A free frame that is zeroed and has no number of a guest's.
    pub(crate) const fn clean() -> Self {
        Self(Self::of(FrameState::Free).0 | Self::CLEAN)
    }
    /// The word itself.
    #[cfg(test)]
    pub(crate) const fn raw(self) -> u64 {
        self.0
    }
    pub(crate) const fn state(self) -> FrameState {
        match self.0 >> Self::STATE_SHIFT {
            1 => FrameState::Device,
            2 => FrameState::Free,
            3 => FrameState::Hypervisor,
            4 => FrameState::Guest,
            _ => FrameState::Reserved,
        }
    }
    /// The owner of a guest's frame.
    pub(crate) const fn owner(self) -> Option<DomId> {
        match self.state() {
            // Lossless: sixteen bits.
            FrameState::Guest => Some(DomId::new((self.0 >> Self::OWNER_SHIFT & 0xffff) as u16)),
            _ => None,
        }
    }
    /// State and owner at once: what a look-up compares.
    pub(crate) const fn is_owned_by(self, owner: DomId) -> bool {
        (self.0 ^ Self::unreferenced(owner).0) >> Self::OWNER_SHIFT == 0
    }
    /// The least word of a frame of `owner` that somebody has a reference to: what [`Self::is_available`] compares with.
    #[inline(always)]
    pub(crate) const fn least_of(owner: DomId) -> Self {
        Self::unreferenced(owner).plus_one()
    }
    /// Whether it is a frame of the owner whose least word this is, with references, and fewer than `max`: all that a
    /// look-up asks. The flags are below the count and the rest is above it, so one subtraction and one comparison tell it.
    #[inline(always)]
    pub(crate) const fn is_available(self, least: Self, max: u64) -> bool {
        self.0.wrapping_sub(least.0) < (max - 1) << Self::COUNT_SHIFT
    }
    /// Whether it is a domain's, whichever.
    #[inline(always)]
    pub(crate) const fn is_guests(self) -> bool {
        // The state's highest bit.
        self.0 >> 63 != 0
    }
    pub(crate) const fn count(self) -> u64 {
        (self.0 & Self::COUNT) >> Self::COUNT_SHIFT
    }
    pub(crate) const fn allocated(self) -> bool {
        self.0 & Self::ALLOCATED != 0
    }
    pub(crate) const fn special(self) -> bool {
        self.0 & Self::SPECIAL != 0
    }
    pub(crate) const fn without_allocated(self) -> Self {
        Self(self.0 & !Self::ALLOCATED)
    }
    pub(crate) const fn plus_one(self) -> Self {
        Self(self.0 + Self::ONE)
    }
}

/// What is known of one frame. All zeros is a frame that is reserved.
#[derive(Debug, Default)]
#[repr(C)]
pub struct PageInfo {
    count_info: AtomicU64,
    type_info: AtomicU64,
    /// Flush clock when the last mapping ended; 0 if there was none. A free block's head has the latest of its frames.
    stamp: AtomicU64,
    /// Neighbours on the owner's list (under its lock) or on a free list (under the allocator's).
    pub(super) next: AtomicU32,
    pub(super) prev: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<PageInfo>() == 32);

impl PageInfo {
    /// A reserved frame.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self::default()
    }

    /// A reserved frame.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            count_info: AtomicU64::new(0),
            type_info: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
            next: AtomicU32::new(0),
            prev: AtomicU32::new(0),
        }
    }

    #[inline]
    pub(crate) fn count_info(&self) -> CountInfo {
        CountInfo(self.count_info.load(Acquire))
    }

    /// Sets the count word of a frame that nobody else can reach.
    pub(crate) fn set_count_info(&self, value: CountInfo) {
        self.count_info.store(value.0, Release);
    }

    /// Replaces the count word if it still reads `old`.
    #[inline]
    pub(crate) fn swap_count_info(&self, old: CountInfo, new: CountInfo) -> Result<(), CountInfo> {
        self.count_info.compare_exchange_weak(old.0, new.0, AcqRel, Acquire).map(|_| ()).map_err(CountInfo)
    }

    /// One reference less; returns the word before. The caller checks that there was one.
    #[inline]
    pub(crate) fn take_one_off(&self) -> CountInfo {
        CountInfo(self.count_info.fetch_sub(CountInfo::ONE, AcqRel))
    }

    #[inline]
    pub(crate) fn type_info(&self) -> TypeInfo {
        TypeInfo(self.type_info.load(Acquire))
    }

    /// Sets the type word of a frame that nobody else changes now.
    pub(crate) fn set_type_info(&self, value: TypeInfo) {
        self.type_info.store(value.0, Release);
    }

    /// Replaces the type word if it still reads `old`.
    #[inline]
    pub(crate) fn swap_type_info(&self, old: TypeInfo, new: TypeInfo) -> Result<(), TypeInfo> {
        self.type_info.compare_exchange_weak(old.0, new.0, AcqRel, Acquire).map(|_| ()).map_err(TypeInfo)
    }

    /// Takes the lock and its use off; returns the word before. The caller has the lock, so both are there.
    #[inline(always)]
    pub(crate) fn take_lock_off(&self) -> TypeInfo {
        TypeInfo(self.type_info.fetch_sub(TypeInfo::LOCKED | TypeInfo::ONE, AcqRel))
    }

    /// Back to a reserved frame, for the next world of a test.
    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn forget(&self) {
        for word in [&self.count_info, &self.type_info, &self.stamp] {
            word.store(0, Relaxed);
        }
        self.next.store(0, Relaxed);
        self.prev.store(0, Relaxed);
    }

    #[inline]
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp.load(Acquire)
    }

    /// Notes that a mapping ended. The clock was read after its PTE was cleared by a locked instruction; the greatest
    /// reading stays, whoever stores last (XSA-241).
    #[inline]
    pub(crate) fn note_unmapped(&self, clock: u64) {
        let mut now = self.stamp.load(Relaxed);
        while now < clock && !seeded!(NoStamp) {
            match self.stamp.compare_exchange_weak(now, clock, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(seen) => now = seen,
            }
        }
    }
}
