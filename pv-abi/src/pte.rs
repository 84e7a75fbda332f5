//! Page-table entries of four-level paging, as data.
//!
//! Bit meanings: Intel SDM volume 3, section 4.5; what a guest may set is for the hypervisor to decide.

use crate::frame::PAGE_SHIFT;
use crate::ids::{GuestVa, MachAddr, Mfn};

/// Entries of a page table.
pub const ENTRIES_PER_TABLE: usize = 512;
/// The bits of an entry that hold a frame's address (52-bit machine addresses).
pub const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;

bitflags::bitflags! {
    /// The bits of an entry that are not address.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct PteFlags: u64 {
        /// The entry maps something.
        #[doc(alias = "_PAGE_PRESENT")]
        const PRESENT = 1 << 0;
        /// Writes are allowed.
        #[doc(alias = "_PAGE_RW")]
        const RW = 1 << 1;
        /// Ring 3 may use it.
        #[doc(alias = "_PAGE_USER")]
        const USER = 1 << 2;
        /// Page write-through.
        #[doc(alias = "_PAGE_PWT")]
        const PWT = 1 << 3;
        /// Page cache disable.
        #[doc(alias = "_PAGE_PCD")]
        const PCD = 1 << 4;
        /// The CPU has used it.
        #[doc(alias = "_PAGE_ACCESSED")]
        const ACCESSED = 1 << 5;
        /// The CPU has written through it.
        #[doc(alias = "_PAGE_DIRTY")]
        const DIRTY = 1 << 6;
        /// In an L2 or L3: the entry maps a large page. In an L1 the same bit is [`PteFlags::PAT`].
        #[doc(alias = "_PAGE_PSE")]
        const PSE = 1 << 7;
        /// In an L1: memory-type index bit.
        #[doc(alias = "_PAGE_PAT")]
        const PAT = 1 << 7;
        /// Survives a CR3 load.
        #[doc(alias = "_PAGE_GLOBAL")]
        const GLOBAL = 1 << 8;
        /// Software bit 9.
        #[doc(alias = "_PAGE_AVAIL0")]
        const AVAIL0 = 1 << 9;
        /// Software bit 10.
        #[doc(alias = "_PAGE_AVAIL1")]
        const AVAIL1 = 1 << 10;
        /// Software bit 11.
        #[doc(alias = "_PAGE_AVAIL2")]
        const AVAIL2 = 1 << 11;
        /// The software bits 9 to 11, the guest's own.
        #[doc(alias = "_PAGE_AVAIL")]
        const AVAIL = 7 << 9;
        /// Software bit 52: a mapping of the guest's kernel, kept by the hypervisor.
        #[doc(alias = "_PAGE_GUEST_KERNEL")]
        const GUEST_KERNEL = 1 << 52;
        /// The software bits 52 to 58.
        #[doc(alias = "_PAGE_AVAIL_HIGH")]
        const AVAIL_HIGH = 0x7f << 52;
        /// The protection-key bits 59 to 62 (software bits where keys are off).
        #[doc(alias = "_PAGE_PKEY_BITS")]
        const PKEY = 0xf << 59;
        /// No instruction fetch.
        #[doc(alias = "_PAGE_NX")]
        const NX = 1 << 63;
    }
}

/// A page-table entry of any level.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Pte(u64);

impl Pte {
    /// The entry that maps nothing.
    pub const EMPTY: Self = Self(0);

    /// An entry for `mfn` with `flags`. Bits of the frame number above 40 are dropped: no machine has them.
    #[must_use]
    pub const fn new(mfn: Mfn, flags: PteFlags) -> Self {
        Self(((mfn.raw() << PAGE_SHIFT) & ADDRESS_MASK) | (flags.bits() & !ADDRESS_MASK))
    }

    /// An entry as it lies in memory.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The entry as it lies in memory.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The frame it names; meaningful only when present.
    #[must_use]
    pub const fn mfn(self) -> Mfn {
        Mfn::new((self.0 & ADDRESS_MASK) >> PAGE_SHIFT)
    }

    /// The machine address it names.
    #[must_use]
    pub const fn maddr(self) -> MachAddr {
        MachAddr::new(self.0 & ADDRESS_MASK)
    }

    /// All bits that are not address.
    #[must_use]
    pub const fn flags(self) -> PteFlags {
        PteFlags::from_bits_retain(self.0 & !ADDRESS_MASK)
    }

    /// Whether the entry maps something.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.flags().contains(PteFlags::PRESENT)
    }

    /// The same frame with other flags.
    #[must_use]
    pub const fn with_flags(self, flags: PteFlags) -> Self {
        Self((self.0 & ADDRESS_MASK) | (flags.bits() & !ADDRESS_MASK))
    }
}

impl core::fmt::Debug for Pte {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Pte({:#018x})", self.0)
    }
}

impl core::fmt::Display for Pte {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A level of the page tables; the order is that of the distance from the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Maps 4 KiB pages.
    L1,
    /// Maps L1 tables.
    L2,
    /// Maps L2 tables.
    L3,
    /// The root.
    L4,
}

impl Level {
    /// All levels, from the data up.
    pub const ALL: [Self; 4] = [Self::L1, Self::L2, Self::L3, Self::L4];

    /// The level as a number, 1 to 4.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::L1 => 1,
            Self::L2 => 2,
            Self::L3 => 3,
            Self::L4 => 4,
        }
    }

    /// The level of a number 1 to 4.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::L1),
            2 => Some(Self::L2),
            3 => Some(Self::L3),
            4 => Some(Self::L4),
            _ => None,
        }
    }

    /// The next level towards the data.
    #[must_use]
    pub const fn below(self) -> Option<Self> {
        Self::from_number(self.number() - 1)
    }

    /// The next level towards the root.
    #[must_use]
    pub const fn above(self) -> Option<Self> {
        Self::from_number(self.number() + 1)
    }

    /// Binary logarithm of what one entry of this level covers, in bytes.
    #[must_use]
    pub const fn entry_shift(self) -> u32 {
        PAGE_SHIFT + 9 * (self.number() - 1)
    }

    /// Bytes that one entry of this level covers.
    #[must_use]
    pub const fn entry_span(self) -> u64 {
        1 << self.entry_shift()
    }

    /// The index into a table of this level on the way to `va`.
    #[must_use]
    pub const fn index(self, va: GuestVa) -> usize {
        // Lossless: nine bits.
        ((va.raw() >> self.entry_shift()) & 511) as usize
    }
}
