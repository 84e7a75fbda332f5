//! When a mapping changes, no vcpu goes on using the old one: after each `update_va_mapping` that flushes everywhere, and
//! after each restriction to read-only, all vcpus see the new page (C.5).
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::ids::VcpuId;
use pv_abi::mmu::UvmFlags;
use pv_abi::pte::Pte;
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{Pages, Prot};
use pv_guest_kernel::{Context, sched, smp, time};
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claim!(smp_page_tables_change_on_all_vcpus);

const ROUNDS: u64 = 300;
const PATIENCE_NS: u64 = 60_000_000_000;

/// The round that readers may look at; odd while the page is being changed.
static ROUND: AtomicU64 = AtomicU64::new(1);
static PLACE: AtomicU64 = AtomicU64::new(0);
static STALE: AtomicU64 = AtomicU64::new(0);
static READS: AtomicU64 = AtomicU64::new(0);

fn smp_page_tables_change_on_all_vcpus(_: &'static Context) -> Claim {
    let count = smp::vcpu_count();
    if count < 2 {
        return Err(Trouble::Skip("there is one vcpu only".into()));
    }
    let pages = Pages::new(2).ok_or(Trouble::error("no memory"))?;
    for number in 0..2 {
        call::store(pages.va() + 4096 * number, number);
    }
    let range = Range::reserve(1)?;
    let show = |number: u64| -> Claim {
        let index = usize::try_from(number).unwrap_or(0);
        let mfn = pages.mfn(index).ok_or(Trouble::error("no frame"))?;
        let value = Pte::new(mfn, Prot::Read.flags());
        ensure_eq!(
            call::update_va_mapping(range.start(), value, UvmFlags::INVLPG | UvmFlags::ALL),
            0,
            "mapping page {number}"
        );
        Ok(())
    };
    show(0)?;
    PLACE.store(range.start(), Ordering::Release);
    for number in 1..count {
        smp::start(VcpuId::new(number), reader)?;
    }
    let end = time::now_ns() + PATIENCE_NS;
    for round in 1..=ROUNDS {
        show(round % 2)?;
        let before = READS.load(Ordering::Relaxed);
        ROUND.store(round * 2, Ordering::SeqCst);
        while READS.load(Ordering::Relaxed) < before + 20 {
            ensure!(time::now_ns() < end, "the readers have stopped in round {round}");
            sched::yield_now();
        }
        ROUND.store(round * 2 + 1, Ordering::SeqCst);
        ensure_eq!(
            STALE.load(Ordering::SeqCst),
            0,
            "reads of a page that was no longer mapped, round {round}"
        );
    }
    Ok(())
}

/// Reads the page again and again; what it shows must belong to the round.
fn reader() {
    let place = PLACE.load(Ordering::Acquire);
    loop {
        let before = ROUND.load(Ordering::SeqCst);
        let seen = call::load(place);
        let after = ROUND.load(Ordering::SeqCst);
        if before != after || before % 2 == 1 {
            core::hint::spin_loop();
            continue;
        }
        if seen != before / 2 % 2 {
            STALE.fetch_add(1, Ordering::SeqCst);
        }
        READS.fetch_add(1, Ordering::Relaxed);
    }
}
