//! Tests of the frame table.

use super::*;
use crate::fake::FakeMachine;
use crate::port::FlushScope;
use alloc::boxed::Box;
use pv_abi::pte::Level;

const D1: DomId = DomId::new(1);
const D2: DomId = DomId::new(2);

pub(crate) fn leaked_pages(n: usize) -> &'static [PageInfo] {
    Box::leak((0..n).map(|_| PageInfo::new()).collect::<Vec<_>>().into_boxed_slice())
}

fn table(n: usize) -> (FrameTable, FakeMachine) {
    let t = FrameTable::new(leaked_pages(n));
    t.add_free_range(Mfn::new(0), Mfn::new(u64::try_from(n).unwrap()));
    (t, FakeMachine::new(n))
}

fn recount(t: &FrameTable) -> u64 {
    t.heap.lock().recount(t.pages).expect("heads tell their order")
}

#[test]
fn frame_zero_is_never_given_out() {
    let (t, m) = table(64);
    assert_eq!(t.free_frames(), 63);
    while let Some(mfn) = t.alloc_hypervisor(&m) {
        assert_ne!(mfn, Mfn::new(0));
    }
    assert_eq!(t.free_frames(), 0);
}

/// The teardown has looked at all frames between the count and the hand-over.
#[test]
fn a_domain_that_has_died_meanwhile_gets_no_frames() {
    let (t, m) = table(64);
    let mem = t.create_memory(D1, 8).unwrap();
    let before = t.free_frames();
    mem.account.reserve(4).unwrap();
    let block = t.take(2, 0, Some(&mem.account)).unwrap();
    mem.set_dying();
    assert_eq!(mem.next_for_teardown(), None);
    assert_eq!(t.hand_over(&mem, block.first, 4), Err(FrameError::Dying));
    assert_eq!((mem.tot_pages(), t.free_frames()), (0, before));
    assert!(t.close_memory(&mem).is_ok());
    assert_eq!(t.alloc_for(&m, &mem, 0, 0), Err(FrameError::Dying));
}

#[test]
fn blocks_are_split_and_joined_again() {
    let (t, m) = table(4096);
    let mem = t.create_memory(D1, 4096).unwrap();
    let before = t.free_frames();
    let mut got = Vec::new();
    for order in [0, 3, 9, 1, 0, 5] {
        let mfn = t.alloc_for(&m, &mem, order, 0).unwrap();
        assert_eq!(mfn.raw() % (1 << order), 0, "aligned");
        got.extend((0..1_u64 << order).map(|i| Mfn::new(mfn.raw() + i)));
        assert_eq!(recount(&t), t.free_frames());
    }
    assert_eq!(mem.tot_pages(), u64::try_from(got.len()).unwrap());
    for mfn in got {
        assert!(t.release(&t.get_page(mfn, D1).unwrap()));
    }
    assert_eq!((t.free_frames(), mem.tot_pages()), (before, 0));
    assert_eq!(recount(&t), before);
    assert!(t.alloc_for(&m, &mem, 9, 0).is_ok(), "a block of order 9 is whole again");
}

#[test]
fn new_frames_are_zero_and_unnamed() {
    let (t, m) = table(16);
    let mem = t.create_memory(D1, 16).unwrap();
    for i in 1..16 {
        m.words(Mfn::new(i))[7].store(0xdead, Relaxed);
        m.set_m2p(Mfn::new(i), 5);
    }
    let mfn = t.alloc_for(&m, &mem, 0, 0).unwrap();
    assert!(m.words(mfn).iter().all(|w| w.load(Relaxed) == 0));
    assert_eq!(m.m2p(mfn), u64::MAX);
}

#[test]
fn xsa_511_a_mapped_frame_is_flushed_before_it_is_given_out_again() {
    let (t, m) = table(4);
    let mem = t.create_memory(D1, 16).unwrap();
    let mfn = t.alloc_for(&m, &mem, 0, 0).unwrap();
    let page = t.get_page(mfn, D1).unwrap();
    page.info().note_unmapped(m.flush_clock());
    t.release(&page);
    drop(page);
    m.effects.lock().flushes.clear();
    while t.alloc_hypervisor(&m).is_some() {}
    assert!(!m.effects.lock().flushes.is_empty());
}

#[test]
fn a_frame_is_found_under_its_owner_only() {
    let (t, m) = table(16);
    let mem = t.create_memory(D1, 16).unwrap();
    let mfn = t.alloc_for(&m, &mem, 0, 0).unwrap();
    assert!(t.get_page(mfn, D1).is_ok());
    assert_eq!(t.get_page(mfn, D2).unwrap_err(), FrameError::NotOwned);
    assert_eq!(t.get_page(Mfn::new(99), D1).unwrap_err(), FrameError::NotOwned);
    assert_eq!(t.get_page(Mfn::INVALID, D1).unwrap_err(), FrameError::NotOwned);
    let own = t.alloc_hypervisor(&m).unwrap();
    for id in [D1, DomId::DOM0, DomId::XEN, DomId::IO] {
        assert_eq!(t.get_page(own, id).unwrap_err(), FrameError::NotOwned);
    }
}

#[test]
fn xsa_385_the_limit_holds_near_its_end() {
    let (t, m) = table(64);
    let mem = t.create_memory(D1, 5).unwrap();
    assert!(t.alloc_for(&m, &mem, 2, 0).is_ok());
    assert_eq!(t.alloc_for(&m, &mem, 1, 0), Err(FrameError::OverQuota));
    assert!(t.alloc_for(&m, &mem, 0, 0).is_ok());
    assert_eq!(t.alloc_for(&m, &mem, 0, 0), Err(FrameError::OverQuota));
    assert_eq!(mem.tot_pages(), 5);
}

#[test]
fn a_dying_domain_gets_nothing() {
    let (t, m) = table(64);
    let mem = t.create_memory(D1, 5).unwrap();
    mem.set_dying();
    assert_eq!(t.alloc_for(&m, &mem, 0, 0), Err(FrameError::Dying));
}

#[test]
fn address_limits_choose_the_zone() {
    let t = FrameTable::new(leaked_pages(0x4000));
    t.add_free_range(Mfn::new(1), Mfn::new(0x4000));
    let m = FakeMachine::new(0x4000);
    let mem = t.create_memory(D1, 0x4000).unwrap();
    assert!(t.alloc_for(&m, &mem, 0, 0).unwrap().raw() >= 0x2000, "high memory first");
    assert!(t.alloc_for(&m, &mem, 0, 24).unwrap().raw() < 0x1000);
    assert_eq!(t.alloc_for(&m, &mem, 0, 12), Err(FrameError::NoMemory));
}

#[test]
fn xsa_31_orders_past_the_largest_are_refused() {
    let (t, m) = table(64);
    let mem = t.create_memory(D1, u64::MAX).unwrap();
    for order in [MAX_ORDER + 1, 31, 32, 63, u32::MAX] {
        assert_eq!(t.alloc_for(&m, &mem, order, 0), Err(FrameError::NoMemory), "order {order}");
    }
    assert_eq!(mem.tot_pages(), 0);
}

#[test]
fn a_reference_keeps_a_released_frame_on_the_account() {
    let (t, m) = table(16);
    let mem = t.create_memory(D1, 16).unwrap();
    let mfn = t.alloc_for(&m, &mem, 0, 0).unwrap();
    let held = t.get_page(mfn, D1).unwrap();
    assert!(t.release(&held));
    assert!(!t.release(&held), "the allocator's reference is given up once");
    assert_eq!(mem.tot_pages(), 1);
    assert_eq!(t.close_memory(&mem), Err(FrameError::InUse));
    assert!(t.create_memory(D1, 1).is_err(), "the number is not given again meanwhile");
    drop(held);
    assert_eq!(mem.tot_pages(), 0);
    assert_eq!(t.close_memory(&mem), Ok(()));
}

#[test]
fn a_frame_that_nobody_else_uses_is_freed_in_one_step() {
    let (t, m) = table(16);
    let mem = t.create_memory(D1, 16).unwrap();
    let free = t.free_frames();
    let mfn = t.alloc_for(&m, &mem, 0, 0).unwrap();
    let other = t.get_page(mfn, D1).unwrap();
    // Somebody else has a reference: nothing happens.
    assert!(!t.release_unused(&mem, mfn));
    drop(other);
    let stranger = t.create_memory(D2, 16).unwrap();
    assert!(!t.release_unused(&stranger, mfn), "another's");
    assert!(t.release_unused(&mem, mfn));
    assert!(t.get_page(mfn, D1).is_err());
    assert!(!t.release_unused(&mem, mfn), "once");
    assert!(!t.release_unused(&mem, Mfn::new(1 << 40)), "no such frame");
    assert_eq!((mem.tot_pages(), t.free_frames()), (0, free));
    // Without the allocator's reference it is not this way that it goes.
    let mfn = t.alloc_for(&m, &mem, 0, 0).unwrap();
    let page = t.get_page(mfn, D1).unwrap();
    assert!(t.release(&page));
    assert!(!t.release_unused(&mem, mfn));
    drop(page);
    assert_eq!((mem.tot_pages(), t.free_frames()), (0, free));
    // One of the hypervisor's stays.
    let mfn = t.alloc_hypervisor(&m).unwrap();
    t.share_with(mfn, &mem, ShareAccess::ReadWrite);
    assert!(!t.release_unused(&mem, mfn));
}

#[test]
fn xsa_248_a_shared_frame_is_writable_but_never_a_table() {
    let (t, m) = table(16);
    let mem = t.create_memory(D1, 16).unwrap();
    let mfn = t.alloc_hypervisor(&m).unwrap();
    t.share_with(mfn, &mem, ShareAccess::ReadWrite);
    drop(t.get_page_writable(&m, mfn, D1).unwrap());
    let page = t.get_page(mfn, D1).unwrap();
    assert_eq!(types::get(page.info(), PageType::Table(Level::L1)), Err(types::TypeRefused::Mismatch));
    assert!(!t.release(&page), "the guest cannot free it");
    drop(page);
    let before = t.free_frames();
    t.free_hypervisor(mfn);
    assert_eq!(t.free_frames(), before + 1);
    assert_eq!(mem.special_pages(), 0);
}

#[test]
fn a_frame_shared_read_only_is_not_writable() {
    let (t, m) = table(16);
    let mem = t.create_memory(D1, 16).unwrap();
    let mfn = t.alloc_hypervisor(&m).unwrap();
    t.share_with(mfn, &mem, ShareAccess::ReadOnly);
    assert_eq!(t.get_page_writable(&m, mfn, D1).unwrap_err(), FrameError::WrongType);
}

#[test]
fn a_mapped_shared_frame_outlives_its_hypervisor() {
    let (t, m) = table(16);
    let mem = t.create_memory(D1, 16).unwrap();
    let mfn = t.alloc_hypervisor(&m).unwrap();
    t.share_with(mfn, &mem, ShareAccess::ReadWrite);
    let mapped = t.get_page_writable(&m, mfn, D1).unwrap();
    let before = t.free_frames();
    t.free_hypervisor(mfn);
    assert_eq!(t.free_frames(), before);
    drop(mapped);
    assert_eq!(t.free_frames(), before + 1);
}

#[test]
fn one_type_at_a_time() {
    let (t, m) = table(16);
    let mem = t.create_memory(D1, 16).unwrap();
    let mfn = t.alloc_for(&m, &mem, 0, 0).unwrap();
    let w = t.get_page_writable(&m, mfn, D1).unwrap();
    let page = t.get_page(mfn, D1).unwrap();
    for level in Level::ALL {
        assert_eq!(types::get(page.info(), PageType::Table(level)), Err(types::TypeRefused::Mismatch));
    }
    drop(w);
    assert_eq!(types::get(page.info(), PageType::Table(Level::L1)), Ok(types::TypeGot::Claimed));
    assert_eq!(types::get(page.info(), PageType::Table(Level::L1)), Err(types::TypeRefused::Busy));
    assert_eq!(t.get_page_writable(&m, mfn, D1).unwrap_err(), FrameError::WrongType);
    types::publish(page.info(), flush::before_reuse(&m, page.info().stamp()));
    assert_eq!(types::lock(page.info()), Some(Level::L1));
    types::unlock(page.info());
    assert_eq!(types::put(page.info()), types::TypePut::Last);
    types::retire(page.info());
    assert!(t.get_page_writable(&m, mfn, D1).is_ok());
}

#[test]
fn devices_are_what_is_neither_ram_nor_denied() {
    let t = FrameTable::new(leaked_pages(32));
    t.add_device_range(Mfn::new(8), Mfn::new(16));
    t.deny_device_range(Mfn::new(10), Mfn::new(11));
    assert!(t.is_device(Mfn::new(8)) && t.is_device(Mfn::new(0xf_0000)));
    assert!(!t.is_device(Mfn::new(10)), "denied");
    assert!(!t.is_device(Mfn::new(3)), "reserved RAM of the hypervisor");
    assert!(!t.is_device(Mfn::new(1 << 40)), "no such address");
}

#[test]
fn xsa_242_a_put_waits_for_the_lock() {
    let (t, m) = table(16);
    let mem = t.create_memory(D1, 16).unwrap();
    let mfn = t.alloc_for(&m, &mem, 0, 0).unwrap();
    let page = t.get_page(mfn, D1).unwrap();
    assert_eq!(types::get(page.info(), PageType::Table(Level::L1)), Ok(types::TypeGot::Claimed));
    types::publish(page.info(), flush::before_reuse(&m, 0));
    assert_eq!(types::lock(page.info()), Some(Level::L1));
    let info = page.info();
    std::thread::scope(|scope| {
        let put = scope.spawn(|| types::put(info));
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(!put.is_finished(), "the lock's release would drop the last reference");
        types::unlock(info);
        assert_eq!(put.join().unwrap(), types::TypePut::Last);
    });
    types::retire(info);
}

#[test]
fn xsa_401_one_of_many_makes_the_first_use() {
    let (t, m) = table(16);
    let mem = t.create_memory(D1, 16).unwrap();
    let mfn = t.alloc_for(&m, &mem, 0, 0).unwrap();
    let page = t.get_page(mfn, D1).unwrap();
    let info = page.info();
    for _ in 0..50 {
        let claims: usize = std::thread::scope(|scope| {
            let tries: Vec<_> = [Level::L1, Level::L2, Level::L1]
                .map(|level| scope.spawn(move || types::get(info, PageType::Table(level))))
                .into_iter()
                .collect();
            tries.into_iter().map(|t| usize::from(t.join().unwrap().is_ok())).sum()
        });
        assert_eq!(claims, 1);
        types::retire(info);
    }
}

#[test]
fn xsa_241_the_latest_stamp_stays() {
    let page = PageInfo::new();
    page.note_unmapped(7);
    page.note_unmapped(5);
    assert_eq!(page.stamp(), 7);
}

/// A table whose frames hold something, and the domain that had `had` of them.
fn used_table(n: usize, had: &[u64]) -> (FrameTable, FakeMachine, DomainMemory) {
    let (t, m) = table(n);
    let mem = t.create_memory(D1, 1 << 20).unwrap();
    while t.alloc_for(&m, &mem, 0, 0).is_ok() {}
    for mfn in had.iter().copied().map(Mfn::new) {
        m.words(mfn)[511].store(0xdead, Relaxed);
        m.set_m2p(mfn, 7);
        assert!(t.release_unused(&mem, mfn));
    }
    (t, m, mem)
}

fn is_clean(t: &FrameTable, m: &FakeMachine, mfn: u64) -> bool {
    let mfn = Mfn::new(mfn);
    let marked = t.info(mfn).unwrap().count_info() == CountInfo::clean();
    let zero = m.words(mfn)[511].load(Relaxed) == 0 && m.m2p(mfn) == u64::MAX;
    assert_eq!(marked, zero, "{mfn}");
    marked
}

#[test]
fn what_is_freed_is_zeroed_where_a_pcpu_has_time() {
    let had = [3, 4, 5, 9, 40, 41];
    let (t, m, mem) = used_table(64, &had);
    assert!(had.iter().all(|&n| !is_clean(&t, &m, n)));
    while t.scrub_ahead(&m) {}
    assert!(had.iter().all(|&n| is_clean(&t, &m, n)));
    assert!(!t.scrub_ahead(&m), "once");
    assert!(had.iter().all(|&n| m.words(Mfn::new(n)).iter().all(|w| w.load(Relaxed) == 0)));
    // Handed out as they are: what is written behind the allocator's back is still there.
    had.iter().for_each(|&n| m.words(Mfn::new(n))[0].store(n, Relaxed));
    let got: Vec<_> = core::iter::from_fn(|| t.alloc_for(&m, &mem, 0, 0).ok()).collect();
    assert_eq!(got.len(), had.len());
    assert!(got.iter().all(|&mfn| m.words(mfn)[0].load(Relaxed) == mfn.raw()));
    // Whoever has had them leaves something behind again.
    assert!(t.release_unused(&mem, got[0]));
    assert!(t.info(got[0]).unwrap().count_info() == CountInfo::of(FrameState::Free));
}

#[test]
fn what_nobody_had_is_not_touched_ahead() {
    let (t, m) = table(64);
    assert!(!t.scrub_ahead(&m));
    assert!((1..64).all(|n| t.info(Mfn::new(n)).unwrap().count_info() == CountInfo::of(FrameState::Free)));
}

/// A block that was taken is in state `Free` until it is on an account.
#[test]
fn a_frame_that_is_about_to_be_handed_over_is_left_alone() {
    let (t, m, mem) = used_table(64, &[8, 9, 10, 11]);
    mem.account.reserve(2).unwrap();
    let block = t.take(1, 0, Some(&mem.account)).unwrap();
    while t.scrub_ahead(&m) {}
    let taken = u64::from(block.first);
    assert!((taken..taken + 2).all(|n| !is_clean(&t, &m, n)));
    assert!((8..12).filter(|n| !(taken..taken + 2).contains(n)).all(|n| is_clean(&t, &m, n)));
}

#[test]
fn xsa_511_a_frame_that_a_pcpu_may_still_reach_is_not_zeroed_ahead() {
    let (t, m, mem) = used_table(16, &[]);
    let page = t.get_page(Mfn::new(5), D1).unwrap();
    m.words(Mfn::new(5))[511].store(0xdead, Relaxed);
    m.set_m2p(Mfn::new(5), 7);
    page.info().note_unmapped(m.flush_clock());
    assert!(t.release(&page));
    drop((page, mem));
    m.effects.lock().flushes.clear();
    while t.scrub_ahead(&m) {}
    assert!(!is_clean(&t, &m, 5) && !t.scrub_ahead(&m));
    assert!(m.effects.lock().flushes.is_empty(), "no pcpu is disturbed");
    m.flush(m.online(), FlushScope::All);
    while t.scrub_ahead(&m) {}
    assert!(is_clean(&t, &m, 5));
}

#[test]
fn one_pcpu_zeroes_ahead_at_a_time() {
    let (t, m, _mem) = used_table(16, &[5]);
    t.scrubber.busy.store(true, Relaxed);
    assert!(!t.scrub_ahead(&m));
    t.scrubber.busy.store(false, Relaxed);
    assert!(!is_clean(&t, &m, 5));
    while t.scrub_ahead(&m) {}
    assert!(is_clean(&t, &m, 5));
}
