//! What calls cost, in ticks of the time stamp counter: one line `COST name ticks` each. With a counter that counts
//! instructions the figures are the same from run to run.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use pv_abi::grant::{GntcopyFlags, GnttabCopy, GnttabCopyPtr, GnttabOp};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, VcpuId};
use pv_abi::mmu::{MmuUpdate, MulticallEntry};
use pv_abi::pte::{Pte, PteFlags};
use pv_guest_kernel::arch::cpu::rdtsc_ordered;
use pv_guest_kernel::arch::probe;
use pv_guest_kernel::memory::Pages;
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::{Context, event, println};
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claim!(costs_of_calls);

const ROUNDS: u32 = 20;
const BATCH: usize = 256;
const UPDATES: u32 = 128;

/// The least that `f` takes of several tries, less what the measuring itself takes, for each of `per` parts.
fn cost(name: &str, per: u64, mut f: impl FnMut() -> Claim) -> Claim {
    let mut best = u64::MAX;
    let mut nothing = u64::MAX;
    for _ in 0..ROUNDS {
        let start = rdtsc_ordered();
        nothing = nothing.min(rdtsc_ordered() - start);
        let start = rdtsc_ordered();
        f()?;
        best = best.min(rdtsc_ordered() - start);
    }
    println!("COST {name} {}", best.saturating_sub(nothing) / per);
    Ok(())
}

fn costs_of_calls(_: &'static Context) -> Claim {
    cost("null_call", 1, || {
        let _version = call::call(Hypercall::XenVersion, [0, 0]);
        Ok(())
    })?;
    batch()?;
    event_to_oneself()?;
    fault()?;
    updates()?;
    copy()
}

fn batch() -> Claim {
    let entry = MulticallEntry { op: Hypercall::XenVersion.raw(), ..MulticallEntry::default() };
    let mut list = alloc::vec![entry; BATCH];
    let at = call::address_mut(&mut list[..]);
    cost("call_of_a_batch", BATCH as u64, || {
        call::granted("multicall", call::call(Hypercall::Multicall, [at, BATCH as u64]))?;
        Ok(())
    })?;
    ensure!(list.iter().all(|e| e.result == list[0].result), "results differ");
    Ok(())
}

fn event_to_oneself() -> Claim {
    let channel = event::bind_ipi(VcpuId::new(0))?;
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    channel.set_handler(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    cost("event_to_oneself", 1, || Ok(channel.notify()?))?;
    ensure_eq!(count.load(Ordering::Relaxed), ROUNDS, "events that arrived");
    Ok(())
}

fn fault() -> Claim {
    let range = Range::reserve(1)?;
    cost("fault_and_back", 1, || {
        ensure!(probe::read_u64(range.page(0)).is_none(), "no fault");
        Ok(())
    })
}

fn updates() -> Claim {
    let range = Range::reserve(UPDATES as usize)?;
    let data = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let mfn = data.mfn(0).ok_or(Trouble::error("no frame"))?;
    let flags = PteFlags::PRESENT | PteFlags::RW | PteFlags::USER | PteFlags::ACCESSED | PteFlags::DIRTY;
    let entry = |n: usize, val: u64| Ok::<_, Trouble>(MmuUpdate { ptr: range.entry(n)?.raw(), val });
    let mut list = alloc::vec::Vec::new();
    for n in 0..UPDATES as usize {
        list.push(entry(n, Pte::new(mfn, flags).raw())?);
    }
    let clear: alloc::vec::Vec<_> = list.iter().map(|u| MmuUpdate { ptr: u.ptr, val: 0 }).collect();
    let mut best = u64::MAX;
    for _ in 0..ROUNDS {
        let start = rdtsc_ordered();
        let set = call::mmu_update(&list);
        best = best.min(rdtsc_ordered() - start);
        ensure_eq!(set, (0, UPDATES), "updates");
        ensure_eq!(call::mmu_update(&clear), (0, UPDATES), "clearing");
    }
    println!("COST l1_update_of_a_batch {}", best / u64::from(UPDATES));
    Ok(())
}

fn copy() -> Claim {
    let pages = Pages::new(2).ok_or(Trouble::error("no memory"))?;
    let mfn = |n| pages.mfn(n).ok_or(Trouble::error("no frame"));
    let gref = pv_guest_kernel::grant::GrantedPages::new(
        test_guests::own_domain()?,
        1,
        pv_guest_kernel::grant::Access::ReadWrite,
    )?;
    let own = |u| GnttabCopyPtr { u, domid: DomId::SELF.raw(), offset: 0, _pad: 0 };
    let far = GnttabCopyPtr {
        u: u64::from(gref.references()[0].raw()),
        domid: test_guests::own_domain()?.raw(),
        offset: 0,
        _pad: 0,
    };
    let mut op = [GnttabCopy {
        source: far,
        dest: own(mfn(0)?.raw()),
        len: 4096,
        flags: GntcopyFlags::SOURCE_GREF.bits(),
        ..GnttabCopy::default()
    }];
    let at = call::address_mut(&mut op[..]);
    cost("grant_copy_of_a_page", 1, || {
        call::granted("copy", call::call(Hypercall::GrantTableOp, [u64::from(GnttabOp::Copy.raw()), at, 1]))?;
        Ok(())
    })?;
    ensure_eq!(op[0].status, 0, "the copy");
    Ok(())
}
