//! Hypercalls that do next to nothing: what is left is the way in and out.

use pv_abi::console::ConsoleIoOp;
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::DomId;
use pv_abi::memory::{MemoryOp, XenMemoryReservation};
use pv_abi::mmu::UvmFlags;
use pv_abi::pte::Pte;
use pv_guest_kernel::hypercall::raw;
use pv_guest_kernel::memory::{Pages, Prot};
use test_guests::entries::Entries;
use test_guests::meter::Meter;
use test_guests::{Claim, Trouble, call, ensure_eq};

/// Frames that come and go in one call.
const FRAMES: usize = 32;
/// What is written to the console, so often that it should not be long.
const LINE: &[u8; 32] = b"thirty-two bytes for the console";

pub(crate) fn measure(meter: &Meter) -> Claim {
    meter.row("null_hypercall", 1, || {
        raw::nothing();
        Ok(())
    })?;
    for (name, calls) in [
        ("multicall_of_1", 1),
        ("multicall_of_8_per_call", 8),
        ("multicall_of_64_per_call", 64),
        ("multicall_of_256_per_call", 256),
    ] {
        multicall(meter, name, calls)?;
    }
    reservation(meter, "reservation_populate_and_decrease", 1)?;
    reservation(meter, "reservation_populate_and_decrease_of_32_per_frame", FRAMES)?;
    let op = u64::from(ConsoleIoOp::Write.raw());
    meter.long_row("console_write_of_32_bytes", 1, || {
        let answer = call::call(Hypercall::ConsoleIo, [op, LINE.len() as u64, call::address(LINE)]);
        ensure_eq!(answer, 0, "writing to the console");
        Ok(())
    })
}

fn multicall(meter: &Meter, name: &str, calls: u64) -> Claim {
    let mut batch = Entries::new(256)?;
    for _ in 0..calls {
        batch.push(Hypercall::XenVersion.raw(), [0, 0]);
    }
    meter.row(name, calls, || {
        ensure_eq!(batch.run(), 0, "the batch");
        Ok(())
    })?;
    ensure_eq!(meter.wants(name) && batch.finished() != batch.len(), false, "calls without a result");
    Ok(())
}

/// Gives frames back and takes as many: pages leave the direct map for it.
fn reservation(meter: &Meter, name: &str, count: usize) -> Claim {
    if !meter.wants(name) {
        return Ok(());
    }
    let pages = Pages::new(count).ok_or(Trouble::error("no memory"))?;
    let va = |number: usize| pages.va() + 4096 * number as u64;
    let mut frames = [0_u64; FRAMES];
    for (number, frame) in frames.iter_mut().enumerate().take(count) {
        *frame = pages.mfn(number).ok_or(Trouble::error("no frame"))?.raw();
        let gone = call::update_va_mapping(va(number), Pte::EMPTY, UvmFlags::INVLPG | UvmFlags::ALL);
        ensure_eq!(gone, 0, "unmapping page {number}");
    }
    let first = pages.pfn().raw();
    let all = i64::try_from(count).unwrap_or(i64::MAX);
    meter.row(name, count as u64, || {
        let list = frames.get_mut(..count).unwrap_or_default();
        ensure_eq!(reserve(MemoryOp::DecreaseReservation, list), all, "frames given back");
        for (pfn, frame) in (first..).zip(list.iter_mut()) {
            *frame = pfn;
        }
        ensure_eq!(reserve(MemoryOp::PopulatePhysmap, list), all, "frames taken");
        Ok(())
    })?;
    // The pages get frames again, but the list of frames by pfn is the SDK's: they are not given back to it.
    for (number, frame) in frames.iter().enumerate().take(count) {
        let value = Pte::new(pv_abi::ids::Mfn::new(*frame), Prot::ReadWrite.flags());
        ensure_eq!(call::update_va_mapping(va(number), value, 0), 0, "mapping frame {number} again");
    }
    core::mem::forget(pages);
    Ok(())
}

fn reserve(op: MemoryOp, frames: &mut [u64]) -> i64 {
    let mut argument = XenMemoryReservation {
        extent_start: call::address_mut(frames),
        nr_extents: frames.len() as u64,
        domid: DomId::SELF.raw(),
        ..XenMemoryReservation::default()
    };
    call::call(Hypercall::MemoryOp, [u64::from(op.raw()), call::address_mut(&mut argument)])
}
