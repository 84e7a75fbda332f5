//! A batch gives what its calls give one by one, in their order, and one wrong call among many spoils only itself.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::hypercall::Hypercall as H;
use pv_abi::ids::DomId;
use pv_abi::mmu::UvmFlags;
use pv_abi::pte::Pte;
use pv_guest_kernel::Context;
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::memory::Pages;
use pv_guest_kernel::memory::Prot;
use pv_guest_kernel::memory::vmap::Range;
use test_guests::entries::Entries;
use test_guests::{Claim, Trouble, call, ensure_eq};

test_guests::claim!(multicall_equals_single_calls);

const CALLS: usize = 200;

fn multicall_equals_single_calls(_: &'static Context) -> Claim {
    results_are_equal()?;
    order_is_kept()?;
    one_error_among_many()?;
    nesting_and_bad_lists()
}

/// A mix of calls, some of which fail.
fn example(step: usize) -> (u64, [u64; 5]) {
    let step = step as u64;
    match step % 5 {
        0 => (H::XenVersion.raw(), [0; 5]),
        1 => (H::SetDebugreg.raw(), [step % 4, step << 12, 0, 0, 0]),
        2 => (H::GetDebugreg.raw(), [step % 4, 0, 0, 0, 0]),
        3 => (H::SetSegmentBase.raw(), [77, 0, 0, 0, 0]),
        _ => (63 - step % 2, [0; 5]),
    }
}

/// Both runs start from the same state.
fn clear_debug_registers() -> Claim {
    (0..4).try_for_each(|register| {
        call::granted("clearing a debug register", call::call(H::SetDebugreg, [register, 0])).map(drop)
    })
}

fn results_are_equal() -> Claim {
    let mut batch = Entries::new(CALLS)?;
    let mut alone = [0; CALLS];
    clear_debug_registers()?;
    for (step, result) in alone.iter_mut().enumerate() {
        let (number, args) = example(step);
        *result = call::number(number, args);
        batch.push(number, args);
    }
    clear_debug_registers()?;
    ensure_eq!(batch.run(), 0, "the batch");
    for (step, expected) in alone.iter().enumerate() {
        ensure_eq!(batch.result(step), *expected, "result {step}");
    }
    Ok(())
}

/// Maps page after page at one address: the last one stays.
fn order_is_kept() -> Claim {
    let pages = Pages::new(3).ok_or(Trouble::error("no memory"))?;
    for number in 0..pages.count() {
        call::store(pages.va() + 4096 * number as u64, 100 + number as u64);
    }
    let place = Range::reserve(1)?;
    let mut batch = Entries::new(pages.count() + 1)?;
    for number in 0..pages.count() {
        let mfn = pages.mfn(number).ok_or(Trouble::error("no frame"))?;
        let value = Pte::new(mfn, Prot::ReadWrite.flags());
        batch.push(H::UpdateVaMapping.raw(), [place.start(), value.raw(), UvmFlags::INVLPG]);
    }
    ensure_eq!(batch.run(), 0, "the batch of mappings");
    for step in 0..batch.len() {
        ensure_eq!(batch.result(step), 0, "mapping {step}");
    }
    ensure_eq!(call::load(place.start()), 102, "what the last mapping shows");
    let gone = call::update_va_mapping(place.start(), Pte::EMPTY, UvmFlags::INVLPG);
    ensure_eq!(gone, 0, "unmapping");
    Ok(())
}

fn one_error_among_many() -> Claim {
    let mut batch = Entries::new(CALLS)?;
    for step in 0..CALLS {
        if step == CALLS / 2 {
            batch.push(H::MmuUpdate.raw(), [8, 1, 0, u64::from(DomId::SELF.raw())]);
        } else {
            batch.push(H::XenVersion.raw(), [0, 0]);
        }
    }
    ensure_eq!(batch.run(), 0, "the batch");
    for step in 0..CALLS {
        let result = batch.result(step);
        if step == CALLS / 2 {
            call::refused("the wrong call", result, Errno::Fault)?;
        } else {
            ensure_eq!(result, (4 << 16) + 17, "result {step}");
        }
    }
    Ok(())
}

fn nesting_and_bad_lists() -> Claim {
    let mut inner = Entries::new(1)?;
    inner.push(H::XenVersion.raw(), [0, 0]);
    let mut outer = Entries::new(1)?;
    outer.push(H::Multicall.raw(), [0xffff_8000_0000_0000, 1]);
    let _ = outer.run();
    call::refused_somehow("a batch inside a batch", outer.result(0))?;
    // Slot 256 is the hypervisor's: no guest list can lie there.
    let bad = call::call(H::Multicall, [0xffff_8300_0000_0000, 1]);
    call::refused("a list in the hypervisor's memory", bad, Errno::Fault)?;
    let unmapped = call::call(H::Multicall, [0x1000, 1]);
    call::refused("a list that is not mapped", unmapped, Errno::Fault)?;
    ensure_eq!(call::call(H::Multicall, [0x1000, 0]), 0, "an empty batch");
    ensure_eq!(inner.run(), 0, "a batch after all this");
    Ok(())
}
