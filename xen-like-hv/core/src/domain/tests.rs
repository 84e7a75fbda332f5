//! Claims about making and destroying domains.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, Mfn, VcpuId};
use pv_abi::vm_assist::VmAssist;

use super::create::{self, Config};
use super::{Domain, lifecycle, teardown};
use crate::access::Privilege;
use crate::evtchn;
use crate::fake::FakeWorld;
use crate::port::Frames;
use crate::sched::state::flags;
use crate::seeded;

fn config(max_vcpus: u32) -> Config {
    Config { max_vcpus, max_pages: 64, ..Config::unprivileged() }
}

fn id(n: u16) -> DomId {
    DomId::new(n)
}

/// Destroys a domain, let in by `patience` preemption checks each time.
fn destroy(w: &FakeWorld, dom: &Arc<Domain>, patience: u64) {
    for _ in 0..10_000 {
        w.m.preempt_after.store(patience, Relaxed);
        if teardown::destroy(&w.hv, &w.m, dom).is_ok() {
            w.m.preempt_after.store(u64::MAX, Relaxed);
            return;
        }
    }
    panic!("the destruction does not end");
}

#[test]
fn a_new_domain_is_paused_and_masked_and_has_no_vcpu() {
    let w = FakeWorld::new(64);
    let dom = create::create(&w.hv, &w.m, id(5), &config(3)).unwrap();
    assert_eq!(dom.slow.lock().controller_pauses, 1);
    assert_eq!(dom.each_vcpu().count(), 0);
    assert!((0..32).all(|n| w.m.words(dom.shared_info)[n * 8].load(Relaxed) == 1 << 8));
    create::add_vcpus(&w.hv, &w.m, &dom).unwrap();
    assert_eq!(dom.each_vcpu().count(), 3);
    assert!(dom.each_vcpu().all(|v| v.sched.flags() == flags::DOWN | flags::DOMAIN_PAUSED));
    create::add_vcpus(&w.hv, &w.m, &dom).unwrap();
    assert_eq!(dom.each_vcpu().count(), 3);
}

#[test]
fn a_creation_that_fails_anywhere_leaves_nothing() {
    let needs = {
        let w = FakeWorld::new(64);
        let before = w.hv.frames.free_frames();
        create::create(&w.hv, &w.m, id(1), &config(1)).unwrap();
        before - w.hv.frames.free_frames()
    };
    assert!(needs >= 2);
    for have in 0..needs {
        let w = FakeWorld::new(usize::try_from(have).unwrap() + 1);
        assert_eq!(w.hv.frames.free_frames(), have);
        let failed = create::create(&w.hv, &w.m, id(1), &config(1)).map(|_| ());
        assert_eq!(failed, Err(Errno::NoMem), "with {have} frames");
        assert_eq!(w.hv.frames.free_frames(), have);
        assert_eq!(w.hv.domains.count(), 0);
        assert_eq!(w.hv.frames.leaks(), 0);
        assert!(w.hv.frames.create_memory(id(1), 0).is_ok(), "the number is still taken");
    }
}

#[test]
fn no_domain_comes_out_of_the_last_memory() {
    let w = FakeWorld::new(64);
    let free = w.hv.frames.free_frames();
    seeded::fail_allocation(Some(0));
    assert_eq!(create::create(&w.hv, &w.m, id(1), &config(2)).map(|_| ()), Err(Errno::NoMem));
    assert_eq!((w.hv.frames.free_frames(), w.hv.domains.count()), (free, 0));
    let dom = create::create(&w.hv, &w.m, id(1), &config(2)).unwrap();
    seeded::fail_allocation(Some(0));
    assert_eq!(create::add_vcpus(&w.hv, &w.m, &dom), Err(Errno::NoMem));
    assert_eq!(create::add_vcpus(&w.hv, &w.m, &dom), Ok(()));
}

#[test]
fn a_configuration_without_vcpus_or_with_too_many_is_refused() {
    let w = FakeWorld::new(64);
    for n in [0, create::MAX_VCPUS + 1, u32::MAX] {
        assert_eq!(create::create(&w.hv, &w.m, id(1), &config(n)).map(|_| ()), Err(Errno::Inval));
    }
    assert_eq!(w.hv.frames.free_frames(), 63);
}

#[test]
fn a_number_in_use_is_refused_and_nothing_is_lost() {
    let w = FakeWorld::new(64);
    create::create(&w.hv, &w.m, id(1), &config(1)).unwrap();
    let free = w.hv.frames.free_frames();
    assert!(create::create(&w.hv, &w.m, id(1), &config(1)).is_err());
    assert_eq!(w.hv.frames.free_frames(), free);
}

#[test]
fn numbers_are_not_used_again_soon() {
    let w = FakeWorld::new(64);
    let first = w.hv.domains.free_id().unwrap();
    let dom = create::create(&w.hv, &w.m, first, &config(1)).unwrap();
    destroy(&w, &dom, u64::MAX);
    let second = w.hv.domains.free_id().unwrap();
    assert_eq!((first, second), (id(1), id(2)));
    for _ in 0..u32::from(DomId::FIRST_RESERVED.raw()) {
        let id = w.hv.domains.free_id().unwrap();
        assert!(id.is_ordinary() && id != DomId::DOM0);
    }
}

/// A domain with everything that has to go: frames, vcpus, timers, ports, grants.
fn furnished(w: &FakeWorld, number: u16) -> Arc<Domain> {
    let dom = create::create(&w.hv, &w.m, id(number), &config(2)).unwrap();
    create::add_vcpus(&w.hv, &w.m, &dom).unwrap();
    for _ in 0..9 {
        w.hv.frames.alloc_for(&w.m, &dom.mem, 0, 0).unwrap();
    }
    for _ in 0..70 {
        evtchn::alloc_unbound(&w.m, &dom, DomId::DOM0).unwrap();
    }
    let v = dom.vcpu(VcpuId::new(1)).unwrap();
    w.hv.sched.set_timer(&w.m, &v, crate::sched::timers::TimerKind::Singleshot, 1_000_000);
    lifecycle::unpause_by_controller(&w.hv, &w.m, &dom).unwrap();
    w.hv.sched.start(&w.m, &v, flags::DOWN);
    dom
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_preempts_it_a_destruction_gives_every_frame_back(patience in prop_oneof![Just(u64::MAX), 0..30_u64]) {
        let w = FakeWorld::new(128);
        let _dom0 = w.add_domain(DomId::DOM0, Privilege::Control, 8);
        let before = (w.hv.frames.free_frames(), w.hv.domains.count());
        for round in 0..3 {
            let dom = furnished(&w, 7 + round);
            destroy(&w, &dom, patience);
            prop_assert_eq!((w.hv.frames.free_frames(), w.hv.domains.count()), before);
            prop_assert_eq!(w.hv.frames.leaks(), 0);
            prop_assert!(w.hv.sched.next_deadline(pv_abi::ids::PcpuId::new(0)).is_none());
        }
    }
}

#[test]
fn a_frame_that_somebody_holds_keeps_a_zombie_and_its_number() {
    let w = FakeWorld::new(128);
    let dom = furnished(&w, 3);
    let mut mfns = [0];
    assert_eq!(dom.mem.copy_list(0, &mut mfns), 1);
    let mfn = Mfn::new(mfns[0]);
    let held = w.hv.frames.get_page(mfn, dom.id).unwrap();
    destroy(&w, &dom, u64::MAX);
    assert!(w.hv.domains.get(id(3)).is_some_and(|d| d.is_dead()));
    assert!(create::create(&w.hv, &w.m, id(3), &config(1)).is_err());
    drop(held);
    teardown::reap(&w.hv);
    assert!(w.hv.domains.get(id(3)).is_none());
    assert!(create::create(&w.hv, &w.m, id(3), &config(1)).is_ok());
}

#[test]
fn pauses_are_counted() {
    let w = FakeWorld::new(64);
    let dom = create::create(&w.hv, &w.m, id(1), &config(1)).unwrap();
    create::add_vcpus(&w.hv, &w.m, &dom).unwrap();
    let v = dom.vcpu(VcpuId::new(0)).unwrap();
    let paused = || v.sched.flags() & flags::DOMAIN_PAUSED != 0;
    lifecycle::pause_by_controller(&w.hv, &w.m, &dom).unwrap();
    lifecycle::unpause_by_controller(&w.hv, &w.m, &dom).unwrap();
    assert!(paused());
    lifecycle::unpause_by_controller(&w.hv, &w.m, &dom).unwrap();
    assert!(!paused());
    assert_eq!(lifecycle::unpause_by_controller(&w.hv, &w.m, &dom), Err(Errno::Inval));
    let inside = lifecycle::with_domain_held(&w.hv, &w.m, &dom, paused);
    assert!(inside && !paused());
}

#[test]
fn a_shutdown_stops_a_domain_once_and_can_be_undone() {
    let w = FakeWorld::new(64);
    let dom = create::create(&w.hv, &w.m, id(1), &config(1)).unwrap();
    create::add_vcpus(&w.hv, &w.m, &dom).unwrap();
    lifecycle::unpause_by_controller(&w.hv, &w.m, &dom).unwrap();
    lifecycle::shutdown(&w.hv, &w.m, &dom, 1);
    lifecycle::shutdown(&w.hv, &w.m, &dom, 3);
    assert_eq!(dom.slow.lock().shutdown, Some(1));
    let v = dom.vcpu(VcpuId::new(0)).unwrap();
    assert_ne!(v.sched.flags() & flags::DOMAIN_PAUSED, 0);
    assert!(w.m.effects.lock().shutdowns.is_empty());
    lifecycle::resume(&w.hv, &w.m, &dom);
    assert_eq!(v.sched.flags() & flags::DOMAIN_PAUSED, 0);
    assert_eq!(dom.slow.lock().shutdown, None);
}

#[test]
fn the_shutdown_of_dom0_is_the_machines() {
    let w = FakeWorld::new(64);
    let (dom0, _) = w.add_domain(DomId::DOM0, Privilege::Control, 8);
    lifecycle::shutdown(&w.hv, &w.m, &dom0, 1);
    assert_eq!(w.m.effects.lock().shutdowns, [1]);
}

#[test]
fn an_assist_is_for_all_vcpus_also_later_ones() {
    let w = FakeWorld::new(64);
    let dom = create::create(&w.hv, &w.m, id(1), &config(1)).unwrap();
    assert!(!dom.has_assist(VmAssist::RunstateUpdateFlag));
    dom.set_assist(VmAssist::RunstateUpdateFlag, true);
    dom.set_assist(VmAssist::WritablePagetables, true);
    assert_eq!(dom.assists(), 1 << 5 | 1 << 2);
    dom.set_assist(VmAssist::WritablePagetables, false);
    assert_eq!(dom.assists(), 1 << 5);
}

#[test]
fn all_domains_are_listed_in_order() {
    let w = FakeWorld::new(64);
    for n in [9, 2, 30] {
        create::create(&w.hv, &w.m, id(n), &config(1)).unwrap();
    }
    let all: Vec<_> = w.hv.domains.all().map(|d| d.id.raw()).collect();
    assert_eq!(all, [2, 9, 30]);
    assert_eq!(w.hv.domains.next_from(id(3)).map(|d| d.id), Some(id(9)));
}

#[test]
fn the_wall_clock_follows_dom0_and_the_domains_own_offset() {
    let w = FakeWorld::new(64);
    let dom = create::create(&w.hv, &w.m, id(1), &config(1)).unwrap();
    let words = w.m.words(dom.shared_info);
    let read = || {
        let (first, second) = (words[0xc00 / 8].load(Relaxed), words[0xc08 / 8].load(Relaxed));
        (first & 0xffff_ffff, first >> 32, second & 0xffff_ffff)
    };
    let (version, seconds, rest) = read();
    assert_eq!((version % 2, seconds, rest), (0, 1_700_000_000, 0));
    super::wallclock::set(&w.hv, &w.m, 1_800_000_000_500_000_000, 0);
    assert_eq!(read(), (version + 2, 1_800_000_000, 500_000_000));
    dom.slow.lock().time_offset_s = -1000;
    super::wallclock::publish(&w.hv, &w.m, &dom);
    assert_eq!(read(), (version + 4, 1_799_999_000, 500_000_000));
}
