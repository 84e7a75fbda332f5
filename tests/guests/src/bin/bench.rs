//! Counts what the hot paths cost, guest side included.
//!
//! Under `-icount shift=0` the time stamp counter counts instructions, so the figures are the same from run to run. Each
//! line `BENCH name figure` is the cost of one operation; the loop around it is part of it.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::grant::{GntcopyFlags, GnttabCopy, GnttabCopyPtr, GnttabOp};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, VcpuId};
use pv_abi::mmu::MmuUpdate;
use pv_abi::pte::Pte;
use pv_guest_kernel::arch::{cpu::rdtsc_ordered, probe};
use pv_guest_kernel::grant::{Access, GrantedPages};
use pv_guest_kernel::hypercall::{mmu, raw};
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{Pages, Prot, SharedPages};
use pv_guest_kernel::{Context, event, println};
use test_guests::entries::Entries;
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claim!(hot_paths_are_measured);

const ROUNDS: u64 = 256;
/// Rounds before the count: pages are touched and counters settle.
const WARM_UP: u64 = 16;

fn hot_paths_are_measured(_: &'static Context) -> Claim {
    measure("null_hypercall", 1, || {
        raw::nothing();
        Ok(())
    })?;
    multicall()?;
    event_to_self()?;
    fault()?;
    l1_updates()?;
    grant_copy()
}

/// Runs an operation again and again and prints its cost, divided by the parts that each run has.
fn measure(name: &str, parts: u64, mut operation: impl FnMut() -> Claim) -> Claim {
    for _ in 0..WARM_UP {
        operation()?;
    }
    let start = rdtsc_ordered();
    for _ in 0..ROUNDS {
        operation()?;
    }
    let cost = (rdtsc_ordered() - start) / (ROUNDS * parts);
    println!("BENCH {name} {cost}");
    Ok(())
}

fn multicall() -> Claim {
    const CALLS: u64 = 256;
    let mut batch = Entries::new(256)?;
    for _ in 0..CALLS {
        batch.push(Hypercall::XenVersion.raw(), [0, 0]);
    }
    measure("multicall_of_256_per_call", CALLS, || {
        ensure_eq!(batch.run(), 0, "the batch");
        Ok(())
    })?;
    ensure_eq!(batch.finished(), 256, "calls with a result");
    Ok(())
}

fn event_to_self() -> Claim {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let channel = event::bind_ipi(VcpuId::new(0))?;
    channel.set_handler(|_| {
        SEEN.fetch_add(1, Ordering::Relaxed);
    });
    measure("event_to_self_with_upcall", 1, || Ok(channel.notify()?))?;
    ensure_eq!(SEEN.load(Ordering::Relaxed), ROUNDS + WARM_UP, "upcalls");
    Ok(())
}

fn fault() -> Claim {
    let place = Range::reserve(1)?;
    measure("fault_bounced_and_back", 1, || {
        ensure!(probe::read_u64(place.start()).is_none(), "an address without a page can be read");
        Ok(())
    })
}

fn l1_updates() -> Claim {
    const BATCH: usize = 128;
    let page = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let mfn = page.mfn(0).ok_or(Trouble::error("no frame"))?;
    let range = Range::reserve(BATCH)?;
    let fill = |value: Pte| -> Claim<Vec<MmuUpdate>> {
        (0..BATCH).map(|number| Ok(mmu::update(range.entry(number)?, value))).collect()
    };
    let (map, unmap) = (fill(Pte::new(mfn, Prot::ReadWrite.flags()))?, fill(Pte::EMPTY)?);
    measure("l1_update_in_batch_of_128_per_entry", 2 * BATCH as u64, || {
        ensure_eq!(call::mmu_update(&map), (0, 128), "mapping");
        ensure_eq!(call::mmu_update(&unmap), (0, 128), "unmapping");
        Ok(())
    })
}

fn grant_copy() -> Claim {
    let trouble = |_| Trouble::Failure("the page could not be granted".into());
    let pages = GrantedPages::new(DomId::DOM0, 1, Access::ReadWrite).map_err(trouble)?;
    let gref = pages.references().first().copied().ok_or(Trouble::error("no reference"))?;
    let target = SharedPages::new(1).ok_or(Trouble::error("no memory"))?;
    let mfn = target.mfn(0).ok_or(Trouble::error("no frame"))?;
    let mut copy = GnttabCopy {
        source: GnttabCopyPtr { u: gref.raw().into(), domid: DomId::DOM0.raw(), ..GnttabCopyPtr::default() },
        dest: GnttabCopyPtr { u: mfn.raw(), domid: DomId::SELF.raw(), ..GnttabCopyPtr::default() },
        len: 4096,
        flags: GntcopyFlags::SOURCE_GREF.bits(),
        ..GnttabCopy::default()
    };
    let op = u64::from(GnttabOp::Copy.raw());
    measure("grant_copy_of_4096_bytes", 1, || {
        let answer = call::call(Hypercall::GrantTableOp, [op, call::address_mut(&mut copy), 1]);
        ensure_eq!((answer, copy.status), (0, 0), "the copy");
        Ok(())
    })
}
