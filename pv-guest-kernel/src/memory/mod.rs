//! Memory: frame numbers, frames, page tables, the heap, and mappings of what belongs to others.
//!
//! ```text
//! 0 .. 0x0000_8000_0000_0000            user address spaces (their own page tables)
//! 0xffff_8000_0000_0000 .. 8800…        the hypervisor's; the M2P at its start is readable
//! 0xffff_8800_0000_0000  direct map     pfn n at + n * 4096; grows in steps of 2 MiB as frames are needed
//! 0xffff_8880_0000_0000  mapping area   foreign, granted and device frames
//! 0xffff_ffff_8000_0000  first region   image, ramdisk, p2m list, start_info, as the builder mapped them
//! ```
//!
//! A frame that is used as a page table is mapped read-only everywhere; the hypervisor insists on it. A frame from the
//! allocator has one mapping, in the direct map, so that making it read-only takes one hypercall.

#![expect(unsafe_code, reason = "page tables and raw memory")]

mod bootstrap;
pub mod frames;
pub mod heap;
pub mod p2m;
pub mod pages;
mod quick;
pub mod table;
pub mod user;
pub mod vmap;

pub use p2m::{maddr_of, mfn_of, pfn_of, va_to_maddr, va_to_mfn};
pub use pages::{Area, Live, Pages, SharedPages};
pub use vmap::{Mapping, map_mfn, map_mfns};

use pv_abi::ids::Pfn;
use pv_abi::pte::PteFlags;
use pv_abi::start_info::{StartInfo, StartInfoFlags};

use crate::hypercall;

/// Bytes of a page.
pub const PAGE_SIZE: usize = pv_abi::frame::PAGE_SIZE;

/// Where the builder's first region starts: pfn n lies at this address + n * 4096, as far as the region goes.
pub const FIRST_REGION: u64 = 0xffff_ffff_8000_0000;
/// Where the direct map starts.
pub const DIRECT_MAP: u64 = 0xffff_8800_0000_0000;
/// Where the area for other mappings starts.
pub const MAPPING_AREA: u64 = 0xffff_8880_0000_0000;

/// What may be done with mapped memory. Nothing the SDK maps can be both written and executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prot {
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

impl Prot {
    /// The page-table bits of a kernel mapping.
    #[must_use]
    pub const fn flags(self) -> PteFlags {
        let base = PteFlags::PRESENT.union(PteFlags::ACCESSED);
        match self {
            Self::Read => base.union(PteFlags::NX),
            Self::ReadWrite => base.union(PteFlags::NX).union(PteFlags::RW).union(PteFlags::DIRTY),
            Self::ReadExecute => base,
        }
    }

    /// The page-table bits of a user mapping.
    #[must_use]
    pub const fn user_flags(self) -> PteFlags {
        self.flags().union(PteFlags::USER)
    }
}

/// The bits of an entry that leads to another table.
pub(crate) const TABLE_FLAGS: PteFlags = PteFlags::PRESENT
    .union(PteFlags::RW)
    .union(PteFlags::USER)
    .union(PteFlags::ACCESSED)
    .union(PteFlags::DIRTY);

/// Bytes of a page, for address arithmetic.
pub(crate) const PAGE: u64 = pv_abi::frame::PAGE_SIZE_U64;

/// A number that fits: on this architecture `usize` has 64 bits.
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits here")]
pub(crate) const fn index(value: u64) -> usize {
    value as usize
}

/// The address of a frame in the direct map. Frames from the allocator are always mapped there.
#[must_use]
pub const fn direct(pfn: Pfn) -> u64 {
    DIRECT_MAP + pfn.raw() * PAGE
}

/// The frame at an address of the direct map.
#[must_use]
pub fn direct_to_pfn(va: u64) -> Option<Pfn> {
    let offset = va.checked_sub(DIRECT_MAP)?;
    (offset < frames::limit() * PAGE).then(|| Pfn::new(offset / PAGE))
}

/// Sets memory up: the direct map, the allocator and with it the heap.
pub(crate) fn init(context: &crate::Context) -> hypercall::Result {
    bootstrap::init(context.start_info())
}

/// The module that the builder put into the first region.
pub(crate) fn module(info: &StartInfo) -> Option<&'static [u8]> {
    let by_number = StartInfoFlags::from_bits_retain(info.flags).contains(StartInfoFlags::MOD_START_PFN);
    if info.mod_start == 0 || info.mod_len == 0 || by_number {
        return None;
    }
    let start = core::ptr::with_exposed_provenance::<u8>(index(info.mod_start));
    // SAFETY: the builder mapped these bytes, and the allocator never gets them.
    Some(unsafe { core::slice::from_raw_parts(start, index(info.mod_len)) })
}
