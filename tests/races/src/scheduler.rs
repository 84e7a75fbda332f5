//! The hand-over of vcpus between pcpus: the whole scheduler, with its locks, in every order.

use std::sync::Arc;

use core::sync::atomic::Ordering::SeqCst;
use loom::thread;
use pv_abi::ids::PcpuId;
use pv_abi::vcpu::Runstate;

use crate::atomic::{AtomicU32, AtomicU64, Part, without};
use crate::evtchn::words;
use crate::explore_up_to;
use crate::port::{Clock, Cpu, CpuMask, Notify};
use crate::sched::Scheduler;
use crate::sched::state::flags;
use crate::vcpu::Vcpu;

/// Preemptions per order: the paths are long.
const BOUND: usize = 2;

/// Two pcpus, one vcpu, and what an event for it is.
struct World {
    sched: Scheduler,
    vcpu: Arc<Vcpu>,
    /// Interrupts that wait, by pcpu.
    kicks: [AtomicU32; 2],
    pending: AtomicU64,
    mask: AtomicU64,
    select: AtomicU64,
    upcall: AtomicU64,
    /// The time; no part of what is explored.
    now: std::sync::atomic::AtomicU64,
}

/// When the vcpu is made.
const START: u64 = 1000;

/// A pcpu of the world.
struct Pcpu<'a>(&'a World, u32);

impl Clock for Pcpu<'_> {
    fn now_ns(&self) -> u64 {
        self.0.now.fetch_add(10, SeqCst)
    }
}

impl Cpu for Pcpu<'_> {
    fn pcpu(&self) -> PcpuId {
        PcpuId::new(self.1)
    }
    fn request_resched(&self) {
        self.kick(self.pcpu());
    }
    fn request_exit_work(&self) {
        self.kick(self.pcpu());
    }
}

impl Notify for Pcpu<'_> {
    fn kick(&self, cpu: PcpuId) {
        self.0.kicks[usize::try_from(cpu.raw()).unwrap()].swap(1, SeqCst);
    }
}

impl World {
    /// A world whose vcpu runs on pcpu 0.
    #[expect(clippy::arc_with_non_send_sync, reason = "loom's threads are all on one")]
    fn new() -> Arc<Self> {
        let w = Self {
            sched: Scheduler::new(2),
            vcpu: Arc::default(),
            kicks: Default::default(),
            pending: AtomicU64::new(0),
            mask: AtomicU64::new(0),
            select: AtomicU64::new(0),
            upcall: AtomicU64::new(0),
            now: START.into(),
        };
        w.sched.reserve(1).unwrap();
        let m = w.pcpu(0);
        w.sched.admit(&m, &w.vcpu);
        w.sched.set_period(&m, &w.vcpu, 0);
        w.sched.start(&m, &w.vcpu, flags::DOWN);
        assert!(m.schedule(), "it runs");
        Arc::new(w)
    }

    fn pcpu(&self, number: u32) -> Pcpu<'_> {
        Pcpu(self, number)
    }

    /// An event comes in on this pcpu.
    fn send(&self, on: u32) {
        if words::pend(&self.pending, &self.mask, 1) == words::Pended::Notify
            && words::raise(&self.select, &self.upcall, 1)
        {
            self.sched.notify(&self.pcpu(on), &self.vcpu);
        }
    }

    fn has_event(&self) -> bool {
        self.upcall.load(SeqCst) != 0
    }

    /// What the interrupts that wait have done when all is quiet: whether the vcpu runs somewhere.
    fn settle(&self) -> bool {
        for _ in 0..3 {
            for n in 0..2 {
                if self.kicks[n as usize].swap(0, SeqCst) != 0 && self.sched.resched_needed(PcpuId::new(n)) {
                    self.pcpu(n).schedule();
                }
            }
        }
        (0..2).any(|n| self.sched.current(PcpuId::new(n)).is_some())
    }
}

impl Pcpu<'_> {
    /// The exit loop's choice: the vcpu that ran is saved where it does not go on, the next one is loaded. Whether one
    /// runs.
    fn schedule(&self) -> bool {
        self.schedule_saving(|m, former| {
            former.registers.touch();
            m.0.sched.context_saved(m, former);
        })
    }

    fn schedule_saving(&self, save: impl FnOnce(&Self, &Arc<Vcpu>)) -> bool {
        let before = self.0.sched.current(self.pcpu());
        let next = self.0.sched.pick_next(self, self.pcpu());
        if let Some(former) = before.filter(|_| next.is_none()) {
            save(self, &former);
        } else if let Some(next) = &next {
            next.registers.touch();
        }
        next.is_some()
    }

    /// SCHEDOP_block, and the way out of it.
    fn block(&self) {
        let w = self.0;
        w.sched.block(self, &w.vcpu);
        if w.has_event() {
            w.sched.cancel_block(&w.vcpu);
        }
        self.schedule();
    }
}

/// The vcpu blocks on pcpu 0 while an event comes in on pcpu 1, which has nothing to do and may take it.
fn block_and_event(block: fn(&Pcpu<'_>)) {
    let w = World::new();
    let other = w.clone();
    let t = thread::spawn(move || {
        other.send(1);
        if other.sched.resched_needed(PcpuId::new(1)) {
            other.pcpu(1).schedule();
        }
    });
    block(&w.pcpu(0));
    t.join().unwrap();
    assert!(w.settle(), "an event waits, and its vcpu sleeps");
    assert_eq!(w.vcpu.sched.runstate.state(), Runstate::Running);
}

#[test]
fn an_event_wakes_a_vcpu_that_blocks() {
    explore_up_to(BOUND, "scheduler: block and event", || block_and_event(|m| m.block()));
}

#[test]
#[should_panic(expected = "an event waits, and its vcpu sleeps")]
fn without_fences_an_event_wakes_nobody() {
    without(Part::Fences, || {
        explore_up_to(BOUND, "scheduler: block without fences", || block_and_event(|m| m.block()));
    });
}

#[test]
#[should_panic(expected = "an event waits, and its vcpu sleeps")]
fn who_blocks_without_a_second_look_sleeps_over_an_event() {
    explore_up_to(BOUND, "scheduler: block blindly", || {
        block_and_event(|m| {
            m.0.sched.block(m, &m.0.vcpu);
            m.schedule();
        });
    });
}

/// The vcpu is to go from pcpu 0 to pcpu 1.
fn move_over(save: fn(&Pcpu<'_>, &Arc<Vcpu>)) {
    let w = World::new();
    let other = w.clone();
    let t = thread::spawn(move || {
        let m = other.pcpu(1);
        other.sched.set_hard_affinity(&m, &other.vcpu, CpuMask::of(PcpuId::new(1))).unwrap();
        m.schedule();
    });
    w.pcpu(0).schedule_saving(save);
    t.join().unwrap();
    assert!(w.settle(), "it can run, and does not");
    assert!(w.sched.current(PcpuId::new(0)).is_none(), "it must not run there");
}

/// Another pcpu takes a vcpu up only when its registers have been saved.
#[test]
fn a_vcpu_moves_with_its_registers() {
    explore_up_to(BOUND, "scheduler: move", || {
        move_over(|m, former| {
            former.registers.touch();
            m.0.sched.context_saved(m, former);
        });
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_vcpu_that_is_saved_too_late_is_loaded_by_two() {
    explore_up_to(BOUND, "scheduler: move too early", || {
        move_over(|m, former| {
            m.0.sched.context_saved(m, former);
            former.registers.touch();
        });
    });
}

/// Who has paused a vcpu and finds it on no pcpu may touch its registers; afterwards it runs again.
#[test]
fn a_paused_vcpu_stands() {
    explore_up_to(BOUND, "scheduler: pause", || {
        let w = World::new();
        let other = w.clone();
        let t = thread::spawn(move || {
            let m = other.pcpu(1);
            other.sched.pause(&m, &other.vcpu);
            if other.vcpu.sched.pcpu().is_none() {
                other.vcpu.registers.touch();
            }
            other.sched.unpause(&m, &other.vcpu);
        });
        w.pcpu(0).schedule();
        t.join().unwrap();
        assert!(w.settle(), "nothing keeps it from running");
    });
}

/// An event for a vcpu that is being loaded: the exit path sees it, or the pcpu is interrupted.
fn load_and_event() {
    let w = World::new();
    let m = w.pcpu(0);
    w.sched.pause(&m, &w.vcpu);
    m.schedule();
    w.sched.unpause(&m, &w.vcpu);
    w.kicks[0].swap(0, SeqCst);
    let other = w.clone();
    let t = thread::spawn(move || other.send(1));
    m.schedule();
    let seen = w.has_event();
    t.join().unwrap();
    let told = w.kicks[0].swap(0, SeqCst) != 0;
    assert!(w.sched.current(PcpuId::new(0)).is_none() || seen || told, "it runs, and knows of nothing");
}

#[test]
fn an_event_reaches_a_vcpu_that_begins_to_run() {
    explore_up_to(BOUND, "scheduler: load and event", load_and_event);
}

#[test]
#[should_panic(expected = "it runs, and knows of nothing")]
fn without_fences_an_event_reaches_nobody() {
    without(Part::Fences, || explore_up_to(BOUND, "scheduler: load without fences", load_and_event));
}

/// Readers of the times find them at one moment.
#[test]
fn the_times_of_a_vcpu_are_of_one_moment() {
    explore_up_to(BOUND, "scheduler: times", || {
        let w = World::new();
        let other = w.clone();
        let t = thread::spawn(move || {
            other.sched.pause(&other.pcpu(0), &other.vcpu);
            other.pcpu(0).schedule();
        });
        let info = w.vcpu.sched.runstate.at_last_change();
        assert_eq!(info.time.iter().sum::<u64>(), info.state_entry_time - START);
        t.join().unwrap();
    });
}
