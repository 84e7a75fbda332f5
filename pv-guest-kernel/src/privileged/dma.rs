//! Memory for devices: contiguous in machine addresses, copied in and out.
//!
//! A device knows machine addresses only, and what is contiguous for the kernel need not be so for the machine. Frames
//! that do not lie well are exchanged for a block that does.

#![expect(unsafe_code, reason = "exchanges frames behind addresses of our own")]

use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use pv_abi::ids::{DomId, MachAddr, Mfn, Pfn};
use pv_abi::memory::{MemoryOp, XenMemoryExchange, XenMemoryReservation};
use pv_abi::pte::Pte;

use crate::hypercall::multicall::Multicall;
use crate::hypercall::{self, Errno, Result, address_of};
use crate::memory::{Area, PAGE_SIZE, Prot, SharedPages, direct, frames, p2m};

/// Machine addresses have at most this many bits, for devices that know no more.
const ADDRESS_BITS: u32 = 32;
/// One in so many frames is left to others, who may have less use for a refusal.
const KEPT_PART: u64 = 64;

/// Zeroed memory that a device may read and write. Freed when dropped, so the device must be done with it by then.
#[derive(Debug)]
pub struct DmaBuf {
    pages: SharedPages,
    maddr: MachAddr,
}

impl DmaBuf {
    /// At least `bytes` bytes in whole pages, one after another for the device too; `None` if there are none.
    #[must_use]
    pub fn alloc(bytes: usize) -> Option<Self> {
        let count = bytes.div_ceil(PAGE_SIZE).max(1);
        if !frames::leave(count, KEPT_PART) {
            return None;
        }
        let pages = SharedPages::new(count)?;
        if let Some(maddr) = contiguous(&pages) {
            return Some(Self { pages, maddr });
        }
        drop(pages);
        Self::exchanged(count)
    }

    /// Pages whose frames were exchanged for a block: a power of two of them, contiguous for the machine.
    fn exchanged(count: usize) -> Option<Self> {
        let order = count.next_power_of_two().trailing_zeros();
        let pages = ManuallyDrop::new(SharedPages::new(1 << order)?);
        // If this fails it is not known which frames are left behind these addresses: they are not used again.
        exchange(pages.pfn(), order).ok()?;
        let pages = ManuallyDrop::into_inner(pages);
        let zeros = [0; PAGE_SIZE];
        for number in 0..pages.count() {
            pages.area().write(number * PAGE_SIZE, &zeros);
        }
        let maddr = contiguous(&pages)?;
        Some(Self { pages, maddr })
    }

    /// Where the device finds the first byte.
    #[must_use]
    pub const fn maddr(&self) -> MachAddr {
        self.maddr
    }

    /// Where the device finds the byte at `offset`.
    #[must_use]
    pub const fn maddr_at(&self, offset: usize) -> MachAddr {
        MachAddr::new(self.maddr.raw() + offset as u64)
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.pages.count() * PAGE_SIZE
    }

    /// Never: there is at least one page.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// The memory, for copying from and to granted frames.
    #[must_use]
    pub const fn area(&self) -> Area<'_> {
        self.pages.area()
    }

    /// Copies bytes out.
    ///
    /// # Panics
    /// If the range leaves the buffer.
    pub fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        self.pages.area().read(offset, into);
    }

    /// Copies bytes in.
    ///
    /// # Panics
    /// If the range leaves the buffer.
    pub fn write_bytes(&self, offset: usize, from: &[u8]) {
        self.pages.area().write(offset, from);
    }
}

macro_rules! access {
    ($($read:ident, $write:ident, $type:ty, $atomic:ty;)+) => {
        impl DmaBuf {
            $(
                /// Reads a number in one access.
                ///
                /// # Panics
                /// If it lies outside the buffer or is not aligned.
                #[must_use]
                pub fn $read(&self, offset: usize) -> $type {
                    self.pages.area().view::<$atomic>(offset).load(Ordering::Relaxed)
                }

                /// Writes a number in one access.
                ///
                /// # Panics
                /// If it lies outside the buffer or is not aligned.
                pub fn $write(&self, offset: usize, value: $type) {
                    self.pages.area().view::<$atomic>(offset).store(value, Ordering::Relaxed);
                }
            )+
        }
    };
}

access! {
    read_u8, write_u8, u8, AtomicU8;
    read_u16, write_u16, u16, AtomicU16;
    read_u32, write_u32, u32, AtomicU32;
    read_u64, write_u64, u64, AtomicU64;
}

/// The machine address of the first page, if the others follow it and a device can address them.
fn contiguous(pages: &SharedPages) -> Option<MachAddr> {
    let first = pages.mfn(0)?;
    let follows =
        |number: usize| pages.mfn(number).is_some_and(|mfn| mfn.raw() == first.raw() + number as u64);
    let end = first.raw().checked_add(pages.count() as u64)?.checked_mul(PAGE_SIZE as u64)?;
    (end <= 1 << ADDRESS_BITS && (0..pages.count()).all(follows)).then(|| first.to_maddr())
}

/// Gives the 2^order frames behind `first` for one block, and maps that in their place.
fn exchange(first: Pfn, order: u32) -> Result {
    let count = 1_u64 << order;
    let pfns = (0..count).map(|number| Pfn::new(first.raw() + number));
    let mut given: Vec<u64> =
        pfns.clone().map(|pfn| p2m::mfn_of(pfn).map(Mfn::raw).ok_or(Errno::Inval)).collect::<Result<_>>()?;
    // The hypervisor takes only frames that nothing refers to.
    remap(pfns.clone(), |_| Pte::EMPTY)?;
    let mut wanted = [first.raw()];
    let mut argument = XenMemoryExchange {
        in_: reservation(address_of(given.as_mut_ptr()), count, 0),
        out: XenMemoryReservation {
            mem_flags: ADDRESS_BITS,
            ..reservation(address_of(wanted.as_mut_ptr()), 1, order)
        },
        nr_exchanged: 0,
    };
    // SAFETY: both lists are ours; the frames given are unmapped and owned by the caller.
    let result = unsafe { hypercall::memory_op(MemoryOp::Exchange, &mut argument) };
    let start = if argument.nr_exchanged == count { Some(wanted[0]) } else { None };
    for (number, pfn) in pfns.clone().enumerate() {
        let raw = start.map_or(given[number], |start| start + number as u64);
        p2m::set(pfn, Some(Mfn::new(raw)));
    }
    remap(pfns, |pfn| p2m::mfn_of(pfn).map_or(Pte::EMPTY, |mfn| Pte::new(mfn, Prot::ReadWrite.flags())))?;
    match (result, start) {
        (Err(error), _) => Err(error),
        (Ok(_), None) => Err(Errno::NoMem),
        (Ok(_), Some(_)) => Ok(()),
    }
}

fn reservation(list: u64, extents: u64, order: u32) -> XenMemoryReservation {
    XenMemoryReservation {
        extent_start: list,
        nr_extents: extents,
        extent_order: order,
        domid: DomId::SELF.raw(),
        ..XenMemoryReservation::default()
    }
}

fn remap(pfns: impl Iterator<Item = Pfn>, entry: impl Fn(Pfn) -> Pte) -> Result {
    let mut batch = Multicall::new();
    for pfn in pfns {
        // SAFETY: the caller owns the frames behind these addresses, and nobody uses them meanwhile.
        unsafe { batch.update_va_mapping(direct(pfn), entry(pfn)) };
    }
    batch.run_all()
}
