//! Frames go back to the hypervisor and come again, and the books are right at every step.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::memory::{MemoryOp, XenMemoryReservation};
use pv_abi::mmu::UvmFlags;
use pv_abi::pte::Pte;
use pv_guest_kernel::Context;
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{Pages, Prot};
use test_guests::{Claim, Trouble, call, ensure_eq};

test_guests::claim!(memory_can_be_returned_and_taken_back);

const COUNT: usize = 8;

fn reservation(op: MemoryOp, frames: &mut [u64]) -> i64 {
    let mut argument = XenMemoryReservation {
        extent_start: call::address_mut(frames),
        nr_extents: frames.len() as u64,
        domid: DomId::SELF.raw(),
        ..XenMemoryReservation::default()
    };
    call::call(Hypercall::MemoryOp, [u64::from(op.raw()), call::address_mut(&mut argument)])
}

fn current() -> Claim<u64> {
    let mut domain = DomId::SELF.raw();
    let op = u64::from(MemoryOp::CurrentReservation.raw());
    call::granted(
        "current_reservation",
        call::call(Hypercall::MemoryOp, [op, call::address_mut(&mut domain)]),
    )
}

fn memory_can_be_returned_and_taken_back(_: &'static Context) -> Claim {
    let before = current()?;
    let pages = Pages::new(COUNT).ok_or(Trouble::error("no memory"))?;
    let va = |number: usize| pages.va() + 4096 * number as u64;
    let mut frames: Vec<u64> = (0..COUNT).filter_map(|number| pages.mfn(number).map(Mfn::raw)).collect();
    ensure_eq!(frames.len(), COUNT, "frames of the pages");
    // A frame that is still mapped stays ours whatever is asked: its references keep it.
    for number in 0..COUNT {
        let gone = call::update_va_mapping(va(number), Pte::EMPTY, UvmFlags::INVLPG | UvmFlags::ALL);
        ensure_eq!(gone, 0, "unmapping page {number}");
    }
    ensure_eq!(reservation(MemoryOp::DecreaseReservation, &mut frames), 8, "frames given back");
    ensure_eq!(current()?, before - 8, "the reservation afterwards");
    let place = Range::reserve(1)?;
    place.entry(0)?;
    for frame in &frames {
        let value = Pte::new(Mfn::new(*frame), Prot::ReadWrite.flags());
        call::refused_somehow(
            "mapping a frame given back",
            call::update_va_mapping(place.start(), value, 0),
        )?;
    }
    ensure_eq!(reservation(MemoryOp::DecreaseReservation, &mut frames), 0, "frames given back twice");
    let mut taken = [0; COUNT];
    ensure_eq!(reservation(MemoryOp::IncreaseReservation, &mut taken), 8, "frames taken");
    ensure_eq!(current()?, before, "the reservation at the end");
    for (number, frame) in taken.iter().enumerate() {
        let value = Pte::new(Mfn::new(*frame), Prot::ReadWrite.flags());
        ensure_eq!(call::update_va_mapping(va(number), value, 0), 0, "mapping new frame {number}");
        call::store(va(number), *frame);
        ensure_eq!(call::load(va(number)), *frame, "a word in new frame {number}");
    }
    wrong_calls()
}

fn wrong_calls() -> Claim {
    let op = u64::from(MemoryOp::CurrentReservation.raw());
    let mut nobody = 0x7123_u16;
    let answer = call::call(Hypercall::MemoryOp, [op, call::address_mut(&mut nobody)]);
    call::refused("the reservation of no domain", answer, Errno::Srch)?;
    call::refused("an argument nowhere", call::call(Hypercall::MemoryOp, [op, 0x1000]), Errno::Fault)?;
    let mut nonsense = [u64::MAX, 1 << 51];
    ensure_eq!(reservation(MemoryOp::DecreaseReservation, &mut nonsense), 0, "nonsense given back");
    Ok(())
}
