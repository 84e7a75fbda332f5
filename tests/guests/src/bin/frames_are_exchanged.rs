//! Frames are exchanged for others: single ones for a block, as a kernel does that needs one for its devices, and back. The
//! machine-to-physical table follows, and an exchange that cannot be leaves everything as it was.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::memory::{MemoryOp, XenMemoryExchange, XenMemoryReservation};
use pv_abi::mmu::UvmFlags;
use pv_abi::pte::Pte;
use pv_guest_kernel::Context;
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::memory::{self, Pages, Prot};
use test_guests::frames::{current_reservation, memory_op};
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claim!(frames_are_exchanged);

/// Pages of the block, and its order.
const COUNT: usize = 4;
const ORDER: u32 = 2;
/// Frames below this number of address bits are asked for.
const ADDRESS_BITS: u32 = 32;
/// Where every guest reads the table from frames to page numbers.
const M2P: u64 = 0xffff_8000_0000_0000;

fn frames_are_exchanged(_: &'static Context) -> Claim {
    let before = current_reservation()?;
    let pages = Pages::new(COUNT).ok_or(Trouble::error("no memory"))?;
    let area = Block { va: pages.va(), pfn: memory::direct_to_pfn(pages.va()).map_or(0, |pfn| pfn.raw()) };
    let frames: Vec<u64> = (0..COUNT).filter_map(|n| pages.mfn(n).map(Mfn::raw)).collect();
    ensure_eq!(frames.len(), COUNT, "frames of the pages");
    what_is_mapped_stays(&area, &frames)?;
    let block = area.for_a_block(&frames)?;
    let singles = area.for_singles(block)?;
    area.for_a_block(&singles)?;
    ensure_eq!(current_reservation()?, before, "the reservation at the end");
    Ok(())
}

fn list(of: &mut [u64], extent_order: u32) -> XenMemoryReservation {
    XenMemoryReservation {
        extent_start: call::address_mut(of),
        nr_extents: of.len() as u64,
        extent_order,
        mem_flags: ADDRESS_BITS,
        domid: DomId::SELF.raw(),
        ..XenMemoryReservation::default()
    }
}

/// The answer, and how many extents were exchanged.
fn exchange(given: (&mut [u64], u32), taken: (&mut [u64], u32)) -> (i64, u64) {
    let (in_, out) = (list(given.0, given.1), list(taken.0, taken.1));
    let mut argument = XenMemoryExchange { in_, out, nr_exchanged: 0 };
    (memory_op(MemoryOp::Exchange, &mut argument), argument.nr_exchanged)
}

/// Pages side by side, whose frames change.
struct Block {
    va: u64,
    pfn: u64,
}

impl Block {
    fn address(&self, page: usize) -> u64 {
        self.va + 4096 * page as u64
    }

    fn unmap(&self) -> Claim {
        for page in 0..COUNT {
            let everywhere = UvmFlags::INVLPG | UvmFlags::ALL;
            ensure_eq!(call::update_va_mapping(self.address(page), Pte::EMPTY, everywhere), 0, "unmapping");
        }
        Ok(())
    }

    /// The frames are mapped, take what is written, and the table of the machine knows their pages.
    fn take_up(&self, frames: impl Iterator<Item = u64>) -> Claim {
        for (page, frame) in frames.enumerate() {
            let entry = Pte::new(Mfn::new(frame), Prot::ReadWrite.flags());
            ensure_eq!(call::update_va_mapping(self.address(page), entry, 0), 0, "mapping a new frame");
            call::store(self.address(page), frame);
            ensure_eq!(call::load(self.address(page)), frame, "a word of a new frame");
            ensure_eq!(call::load(M2P + frame * 8), self.pfn + page as u64, "the page of a new frame");
        }
        Ok(())
    }

    /// Gives single frames for a block: its first frame.
    fn for_a_block(&self, frames: &[u64]) -> Claim<u64> {
        self.unmap()?;
        let (mut given, mut taken) = (frames.to_vec(), [self.pfn]);
        let done = exchange((&mut given, 0), (&mut taken, ORDER));
        ensure_eq!(done, (0, COUNT as u64), "single frames for a block");
        let [first] = taken;
        ensure!(first.is_multiple_of(COUNT as u64), "a block begins at {first:#x}");
        self.take_up(first..first + COUNT as u64)?;
        Ok(first)
    }

    /// Gives the block for single frames.
    fn for_singles(&self, first: u64) -> Claim<Vec<u64>> {
        self.unmap()?;
        let mut taken: Vec<u64> = (self.pfn..self.pfn + COUNT as u64).collect();
        let done = exchange((&mut [first], ORDER), (&mut taken, 0));
        ensure_eq!(done, (0, 1), "a block for single frames");
        self.take_up(taken.iter().copied())?;
        Ok(taken)
    }
}

/// A frame that is mapped is not given away, nor any of those beside it.
fn what_is_mapped_stays(area: &Block, frames: &[u64]) -> Claim {
    area.unmap()?;
    let entry = |frame: u64| Pte::new(Mfn::new(frame), Prot::ReadWrite.flags());
    let last = COUNT - 1;
    ensure_eq!(call::update_va_mapping(area.address(last), entry(frames[last]), 0), 0, "mapping one again");
    let (mut given, mut taken) = (frames.to_vec(), [area.pfn]);
    let (answer, done) = exchange((&mut given, 0), (&mut taken, ORDER));
    call::refused("exchanging a mapped frame", answer, Errno::Inval)?;
    ensure_eq!(done, 0, "extents of an exchange that was refused");
    for (page, frame) in frames.iter().enumerate() {
        ensure_eq!(call::update_va_mapping(area.address(page), entry(*frame), 0), 0, "mapping frame {page}");
        ensure_eq!(call::load(M2P + frame * 8), area.pfn + page as u64, "the page of frame {page}");
    }
    Ok(())
}
