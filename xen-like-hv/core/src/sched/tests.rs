//! Claims about the scheduler: random walks under whatever policy, and fairness of ours.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use pv_abi::ids::{DomId, PcpuId, VcpuId};
use pv_abi::vcpu::Runstate;

use super::policy::{Fair, Policy};
use super::state::flags;
use super::timers::TimerKind;
use super::{Scheduler, VcpuSched};
use crate::fake::FakeMachine;
use crate::port::CpuMask;
use crate::vcpu::Vcpu;

/// pcpus and vcpus of a simulated machine. The domain does not exist: the scheduler does not ask for it.
struct Sim {
    m: FakeMachine,
    sched: Scheduler,
    vcpus: Vec<Arc<Vcpu>>,
    /// What each pcpu runs.
    running: Vec<Option<Arc<Vcpu>>>,
    /// What each pcpu has left and not saved yet.
    unsaved: Vec<Option<Arc<Vcpu>>>,
}

impl Sim {
    fn new(pcpus: u32, vcpus: u32, policy: Box<dyn Policy>) -> Self {
        let m = FakeMachine::new(1);
        let sched = Scheduler::with_policy(pcpus, policy);
        let vcpus: Vec<_> =
            (0..vcpus).map(|n| Arc::new(Vcpu::new(&Weak::new(), DomId::new(1), VcpuId::new(n)))).collect();
        sched.reserve(vcpus.len()).unwrap();
        for v in &vcpus {
            sched.admit(&m, v);
            sched.set_period(&m, v, 0);
        }
        let mut sim = Self {
            m,
            sched,
            vcpus,
            running: (0..pcpus).map(|_| None).collect(),
            unsaved: (0..pcpus).map(|_| None).collect(),
        };
        // Every pcpu begins idle.
        (0..sim.running.len()).for_each(|cpu| sim.schedule(cpu));
        sim
    }

    fn on(&self, cpu: usize) -> PcpuId {
        self.m.current_pcpu.store(cpu as u64, Relaxed);
        PcpuId::new(u32::try_from(cpu).unwrap())
    }

    fn now(&self) -> u64 {
        self.m.now_ns.load(Relaxed)
    }

    fn schedule(&mut self, cpu: usize) {
        if self.unsaved[cpu].is_some() {
            self.save(cpu);
        }
        let pcpu = self.on(cpu);
        let next = self.sched.pick_next(&self.m, pcpu);
        if let Some(n) = &next {
            self.check_choice(cpu, n);
        }
        let former = core::mem::replace(&mut self.running[cpu], next);
        let same = match (&former, &self.running[cpu]) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        if !same {
            self.unsaved[cpu] = former;
        }
    }

    fn save(&mut self, cpu: usize) {
        if let Some(v) = self.unsaved[cpu].take() {
            self.on(cpu);
            self.sched.context_saved(&self.m, &v);
        }
    }

    fn check_choice(&self, cpu: usize, v: &Arc<Vcpu>) {
        assert!(v.sched.is_runnable(), "v{} was chosen and may not run", v.id.raw());
        let pcpu = PcpuId::new(u32::try_from(cpu).unwrap());
        assert!(v.sched.hard_affinity().contains(pcpu), "outside its affinity");
        assert_eq!(v.sched.pcpu(), Some(pcpu));
        assert_eq!(v.sched.runstate.state(), Runstate::Running);
        for (other, (r, u)) in self.running.iter().zip(&self.unsaved).enumerate() {
            let held = |x: &Option<Arc<Vcpu>>| x.as_ref().is_some_and(|x| Arc::ptr_eq(x, v));
            assert!(other == cpu || (!held(r) && !held(u)), "v{} is on pcpus {cpu} and {other}", v.id.raw());
        }
    }

    /// What is due on a pcpu at this moment.
    fn poll(&mut self, cpu: usize) {
        let pcpu = self.on(cpu);
        self.sched.check_slice(&self.m, pcpu, self.now());
        if self.sched.resched_needed(pcpu) {
            self.schedule(cpu);
            self.save(cpu);
        }
    }

    /// Runs for `ms`, a quarter of a millisecond at a time; `each` acts at every step.
    fn run(&mut self, ms: u64, mut each: impl FnMut(&mut Self, u64)) {
        for step in 0..ms * 4 {
            self.m.now_ns.fetch_add(250_000, Relaxed);
            each(self, step);
            for cpu in 0..self.running.len() {
                self.poll(cpu);
            }
        }
    }

    fn start_all(&self) {
        self.on(0);
        self.vcpus.iter().for_each(|v| self.sched.start(&self.m, v, flags::DOWN));
    }

    fn cpu_ms(&self) -> Vec<u64> {
        self.vcpus.iter().map(|v| v.sched.runstate.cpu_time(self.now()) / 1_000_000).collect()
    }

    /// Nobody is lost: who may run waits, runs, or is about to be saved by the pcpu that will requeue it.
    fn audit(&self) {
        for v in &self.vcpus {
            let held = v.sched.pcpu().is_some();
            if v.sched.is_runnable() {
                assert!(v.sched.is_queued() || held, "v{} is lost", v.id.raw());
            } else {
                assert!(!v.sched.is_queued(), "v{} waits and may not run", v.id.raw());
            }
        }
        let queued: usize = self.sched.queues.iter().map(|q| q.lock.lock().heap.len()).sum();
        assert_eq!(queued, self.vcpus.iter().filter(|v| v.sched.is_queued()).count());
    }
}

/// Answers at random: the mechanism must hold all the same.
#[derive(Debug)]
struct Erratic(core::sync::atomic::AtomicU64);

impl Erratic {
    fn next(&self) -> u64 {
        let x = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 8
    }
}

impl Policy for Erratic {
    fn name(&self) -> &'static str {
        "erratic"
    }
    fn charge(&self, _key: u64, _weight: u32, _ran_ns: u64) -> u64 {
        self.next()
    }
    fn join(&self, _key: u64, _floor: u64) -> u64 {
        self.next()
    }
    fn preempts(&self, _waiting: u64, _running: u64) -> bool {
        self.next() & 1 != 0
    }
    fn least_run_ns(&self) -> u64 {
        self.next() % 1_000_000
    }
    fn patience_ns(&self) -> u64 {
        self.next() % 1_000_000
    }
    fn succeeds(&self, _waiting: u64, _running: u64) -> bool {
        self.next() & 1 != 0
    }
    fn pulls(&self, _waiting: u64, _own: u64) -> bool {
        self.next() & 1 != 0
    }
    fn slice_ns(&self, _waiting: usize) -> u64 {
        self.next() % 1_000_000
    }
}

#[derive(Clone, Debug)]
enum Step {
    Start(usize),
    Stop(usize),
    Unblock(usize, usize),
    Block(usize),
    Yield(usize),
    Pause(usize),
    Unpause(usize),
    Affinity(usize, u64),
    Schedule(usize),
    Save(usize),
    Tick(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let v = 0..6_usize;
    let c = 0..3_usize;
    prop_oneof![
        v.clone().prop_map(Step::Start),
        v.clone().prop_map(Step::Stop),
        (v.clone(), c.clone()).prop_map(|(v, c)| Step::Unblock(v, c)),
        c.clone().prop_map(Step::Block),
        c.clone().prop_map(Step::Yield),
        v.clone().prop_map(Step::Pause),
        v.clone().prop_map(Step::Unpause),
        (v, 1..8_u64).prop_map(|(v, mask)| Step::Affinity(v, mask)),
        c.clone().prop_map(Step::Schedule),
        c.clone().prop_map(Step::Schedule),
        c.prop_map(Step::Save),
        (0..3_000_000_u64).prop_map(Step::Tick),
    ]
}

fn apply(sim: &mut Sim, step: &Step, pauses: &mut [u32; 6]) {
    match *step {
        Step::Start(v) => sim.sched.start(&sim.m, &sim.vcpus[v], flags::DOWN),
        Step::Stop(v) => sim.sched.stop(&sim.m, &sim.vcpus[v], flags::DOWN),
        Step::Unblock(v, cpu) => {
            sim.on(cpu);
            sim.sched.unblock(&sim.m, &sim.vcpus[v]);
        }
        Step::Block(cpu) => {
            sim.on(cpu);
            if let Some(v) = &sim.running[cpu] {
                sim.sched.block(&sim.m, v);
            }
        }
        Step::Yield(cpu) => {
            sim.on(cpu);
            if let Some(v) = &sim.running[cpu] {
                sim.sched.yield_now(&sim.m, v);
            }
        }
        Step::Pause(v) => {
            pauses[v] += 1;
            sim.sched.pause(&sim.m, &sim.vcpus[v]);
        }
        Step::Unpause(v) if pauses[v] != 0 => {
            pauses[v] -= 1;
            sim.sched.unpause(&sim.m, &sim.vcpus[v]);
        }
        Step::Unpause(_) => {}
        Step::Affinity(v, mask) => {
            let mask = CpuMask::from_bits(mask);
            assert!(sim.sched.set_hard_affinity(&sim.m, &sim.vcpus[v], mask).is_ok());
        }
        Step::Schedule(cpu) => sim.schedule(cpu),
        Step::Save(cpu) => sim.save(cpu),
        Step::Tick(ns) => {
            sim.m.now_ns.fetch_add(ns, Relaxed);
        }
    }
}

fn walk(policy: Box<dyn Policy>, steps: &[Step]) {
    let mut sim = Sim::new(3, 6, policy);
    let mut pauses = [0; 6];
    for s in steps {
        apply(&mut sim, s, &mut pauses);
        sim.audit();
    }
    // Once nothing stands in the way, everybody gets to run.
    for (v, n) in sim.vcpus.iter().zip(pauses) {
        (0..n).for_each(|_| sim.sched.unpause(&sim.m, v));
        sim.sched.start(&sim.m, v, flags::DOWN | flags::BLOCKED);
    }
    sim.audit();
}

proptest! {
    #[test]
    fn no_vcpu_runs_twice_whatever_the_policy_answers(
        seed in any::<u64>(), steps in proptest::collection::vec(step(), 1..200)
    ) {
        walk(Box::new(Erratic(seed.into())), &steps);
    }

    #[test]
    fn no_vcpu_runs_twice_or_gets_lost_under_the_fair_policy(
        steps in proptest::collection::vec(step(), 1..200)
    ) {
        walk(Box::new(Fair::default()), &steps);
    }
}

fn assert_near(got: u64, want: u64, percent: u64) {
    assert!(got.abs_diff(want) * 100 <= want * percent, "{got} is not within {percent}% of {want}");
}

#[test]
fn equal_vcpus_get_equal_time_on_all_pcpus() {
    for (pcpus, vcpus) in [(1, 4), (2, 2), (2, 3), (2, 5), (4, 6), (4, 9)] {
        let mut sim = Sim::new(pcpus, vcpus, Box::new(Fair::default()));
        sim.start_all();
        sim.run(4000, |_, _| {});
        let share = 4000 * u64::from(pcpus) / u64::from(vcpus);
        for ms in sim.cpu_ms() {
            assert_near(ms, share.min(4000), 5);
        }
    }
}

#[test]
fn time_follows_weight() {
    let mut sim = Sim::new(1, 2, Box::new(Fair::default()));
    sim.vcpus[0].sched.set_weight(512);
    sim.start_all();
    sim.run(3000, |_, _| {});
    let ms = sim.cpu_ms();
    assert_near(ms[0], 2000, 5);
    assert_near(ms[1], 1000, 5);
}

#[test]
fn a_sleeper_is_served_soon_and_starves_nobody() {
    let mut sim = Sim::new(1, 3, Box::new(Fair::default()));
    sim.start_all();
    let mut waited = 0;
    let mut longest = 0;
    // vcpu 0 wakes every 5 ms for a quarter of a millisecond; the others never rest.
    sim.run(2000, |sim, step| {
        let v = sim.vcpus[0].clone();
        if step % 20 == 0 {
            sim.on(0);
            sim.sched.unblock(&sim.m, &v);
        }
        match v.sched.runstate.state() {
            Runstate::Running => {
                waited = 0;
                sim.on(0);
                sim.sched.block(&sim.m, &v);
            }
            Runstate::Runnable => waited += 1,
            Runstate::Blocked | Runstate::Offline => {}
        }
        // At first all three are new and have the same claim.
        if step > 200 {
            longest = longest.max(waited);
        }
    });
    assert!(longest <= 8, "waited {longest} quarters of a millisecond");
    let ms = sim.cpu_ms();
    assert_near(ms[0], 100, 30);
    assert_near(ms[1], ms[2], 5);
    assert!(ms[1] + ms[2] > 1800);
}

/// Two vcpus that use the same: one never rests, the other works and sleeps in turns. What it works for is `work` quarters of a
/// millisecond; how long it waited each time it woke is returned.
fn waits_of_an_equal(work: u64) -> Vec<u64> {
    let mut sim = Sim::new(1, 2, Box::new(Fair::default()));
    sim.start_all();
    let (mut waits, mut waiting, mut left, mut asleep) = (vec![], 0, work, 0);
    sim.run(4000, |sim, step| {
        let v = sim.vcpus[0].clone();
        sim.on(0);
        match v.sched.runstate.state() {
            Runstate::Running if left == 0 => {
                sim.sched.block(&sim.m, &v);
                (left, asleep) = (work, work);
            }
            Runstate::Running => {
                if waiting != 0 || left == work {
                    waits.push(core::mem::take(&mut waiting));
                }
                left -= 1;
            }
            Runstate::Runnable => waiting += 1,
            Runstate::Blocked | Runstate::Offline if asleep == 0 => sim.sched.unblock(&sim.m, &v),
            Runstate::Blocked | Runstate::Offline => asleep -= 1,
        }
        if step < 400 {
            waits.clear();
        }
    });
    waits
}

#[test]
fn who_wakes_waits_for_the_least_run_and_not_for_the_slice() {
    for work in [1, 2, 4, 7] {
        let waits = waits_of_an_equal(work);
        assert!(waits.len() > 100);
        let longest = waits.iter().max().copied().unwrap_or(0);
        assert!(longest <= 5, "work of {work} quarters of a millisecond: waited {longest}: {waits:?}");
    }
}

#[test]
fn an_event_does_not_take_the_pcpu_from_who_has_just_got_it() {
    let mut sim = Sim::new(1, 2, Box::new(Fair::default()));
    let (sender, receiver) = (sim.vcpus[0].clone(), sim.vcpus[1].clone());
    sim.start_all();
    sim.run(20, |_, _| {});
    sim.on(0);
    sim.sched.block(&sim.m, &receiver);
    sim.poll(0);
    sim.run(30, |_, _| {});
    // The sender rests, gets the pcpu, and signals at once, perhaps with a lock in its hands.
    sim.on(0);
    sim.sched.block(&sim.m, &sender);
    sim.poll(0);
    sim.on(0);
    sim.sched.unblock(&sim.m, &sender);
    sim.poll(0);
    sim.on(0);
    sim.sched.unblock(&sim.m, &receiver);
    let mut quarters = 0;
    while sim.running[0].as_ref().is_some_and(|v| Arc::ptr_eq(v, &sender)) {
        sim.run(1, |_, _| {});
        quarters += 4;
        assert!(quarters <= 8, "the receiver waits for the slice");
    }
    assert!(quarters >= 4, "the sender lost the pcpu at once");
}

/// Has the sender of two vcpus rest `naps` times soon after it got the pcpu. Then it signals, with the receiver asleep: how
/// long after that the timer goes off.
fn alarm_after_naps(sim: &mut Sim, naps: u32) -> u64 {
    let (sender, receiver) = (sim.vcpus[0].clone(), sim.vcpus[1].clone());
    sim.on(0);
    sim.sched.stop(&sim.m, &receiver, flags::BLOCKED);
    sim.poll(0);
    for _ in 0..naps {
        sim.m.now_ns.fetch_add(100_000, Relaxed);
        sim.on(0);
        sim.sched.block(&sim.m, &sender);
        sim.poll(0);
        sim.on(0);
        sim.sched.unblock(&sim.m, &sender);
        sim.poll(0);
    }
    let pcpu = sim.on(0);
    sim.sched.unblock(&sim.m, &receiver);
    sim.sched.next_deadline(pcpu).unwrap_or(u64::MAX).saturating_sub(sim.now())
}

#[test]
fn the_timer_is_set_later_for_who_always_ends_its_slice_itself() {
    let mut sim = Sim::new(1, 2, Box::new(Fair::default()));
    sim.start_all();
    sim.run(20, |_, _| {});
    assert_eq!(alarm_after_naps(&mut sim, 1), Fair::LEAST_RUN_NS);
    assert_eq!(alarm_after_naps(&mut sim, 10), Fair::LEAST_RUN_NS + Fair::PATIENCE_NS);
    // It goes on until the timer goes off: it is not trusted again.
    sim.m.now_ns.fetch_add(Fair::LEAST_RUN_NS + Fair::PATIENCE_NS, Relaxed);
    sim.poll(0);
    assert!(sim.running[0].as_ref().is_some_and(|v| Arc::ptr_eq(v, &sim.vcpus[1])));
    assert_eq!(alarm_after_naps(&mut sim, 1), Fair::LEAST_RUN_NS);
}

/// What a cunning vcpu does for one quarter of a millisecond.
#[derive(Clone, Copy, Debug)]
enum Trick {
    Work,
    Sleep,
    SleepAndWake,
    Yield,
}

fn trick() -> impl Strategy<Value = Trick> {
    prop_oneof![
        3 => Just(Trick::Work),
        1 => Just(Trick::Sleep),
        2 => Just(Trick::SleepAndWake),
        1 => Just(Trick::Yield),
    ]
}

/// Whatever a vcpu does with sleeping, waking and yielding: beside `others` that never rest it gets no more than its share,
/// in any window, but for a constant.
fn cunning_gains_nothing(tricks: &[Trick], others: u32) {
    let mut sim = Sim::new(1, others + 1, Box::new(Fair::default()));
    sim.start_all();
    sim.run(100, |_, _| {});
    let mut history: Vec<Vec<u64>> = vec![sim.cpu_ms()];
    for round in 0..40 {
        sim.run(10, |sim, step| {
            let v = sim.vcpus[0].clone();
            sim.on(0);
            let index = (round * 40 + usize::try_from(step).unwrap()) % tricks.len();
            match (tricks[index], v.sched.runstate.state()) {
                (Trick::Sleep, Runstate::Running) => sim.sched.block(&sim.m, &v),
                (Trick::SleepAndWake, Runstate::Running) => {
                    sim.sched.block(&sim.m, &v);
                    sim.poll(0);
                    sim.on(0);
                    sim.sched.unblock(&sim.m, &v);
                }
                (Trick::Yield, Runstate::Running) => sim.sched.yield_now(&sim.m, &v),
                (_, Runstate::Blocked) => sim.sched.unblock(&sim.m, &v),
                _ => {}
            }
        });
        history.push(sim.cpu_ms());
    }
    for (n, from) in history.iter().enumerate() {
        for (k, to) in history.iter().enumerate().skip(n + 1) {
            let window = u64::try_from(k - n).unwrap() * 10;
            let share = window / u64::from(others + 1);
            let got = to[0] - from[0];
            assert!(got <= share + 16, "{got} ms of {window} beside {others} others");
            // Nobody else pays for it either: what the others get is evenly shared.
            let theirs: Vec<u64> = (1..to.len()).map(|i| to[i] - from[i]).collect();
            let least = theirs.iter().min().copied().unwrap_or(0);
            assert!(least + 24 >= (window - got) / u64::from(others), "{theirs:?} ms of {window}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_cunning_sleeper_gains_nothing(tricks in prop::collection::vec(trick(), 1..50), others in 1_u32..4) {
        cunning_gains_nothing(&tricks, others);
    }
}

#[test]
fn a_long_sleep_gives_no_claim_to_the_whole_past() {
    let mut sim = Sim::new(1, 2, Box::new(Fair::default()));
    sim.on(0);
    sim.sched.start(&sim.m, &sim.vcpus[1].clone(), flags::DOWN);
    sim.run(1000, |_, _| {});
    sim.on(0);
    sim.sched.start(&sim.m, &sim.vcpus[0].clone(), flags::DOWN);
    let before = sim.cpu_ms()[1];
    sim.run(100, |_, _| {});
    assert!(sim.cpu_ms()[1] - before >= 40, "the newcomer took it all");
}

#[test]
fn a_yield_lets_the_other_run() {
    let mut sim = Sim::new(1, 2, Box::new(Fair::default()));
    sim.start_all();
    sim.run(1, |_, _| {});
    let first = sim.running[0].clone().unwrap();
    sim.on(0);
    sim.sched.yield_now(&sim.m, &first);
    sim.poll(0);
    let second = sim.running[0].clone().unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
}

#[test]
fn a_yield_with_nobody_to_yield_to_asks_for_nothing() {
    let mut sim = Sim::new(1, 1, Box::new(Fair::default()));
    sim.start_all();
    sim.run(1, |_, _| {});
    let only = sim.running[0].clone().unwrap();
    sim.on(0);
    let asked = sim.m.resched_requests.load(Relaxed);
    sim.sched.yield_now(&sim.m, &only);
    assert_eq!(sim.m.resched_requests.load(Relaxed), asked);
    assert!(!sim.sched.resched_needed(PcpuId::new(0)));
}

#[test]
fn an_idle_pcpu_takes_who_waits_elsewhere() {
    let mut sim = Sim::new(2, 3, Box::new(Fair::default()));
    sim.on(0);
    for v in &sim.vcpus.clone() {
        sim.sched.set_hard_affinity(&sim.m, v, CpuMask::of(PcpuId::new(0))).unwrap();
        sim.sched.start(&sim.m, v, flags::DOWN);
    }
    sim.run(20, |_, _| {});
    assert!(sim.running[1].is_none());
    for v in &sim.vcpus.clone() {
        sim.on(0);
        sim.sched.set_hard_affinity(&sim.m, v, CpuMask::from_bits(3)).unwrap();
    }
    sim.run(40, |_, _| {});
    assert!(sim.running[1].is_some());
}

#[test]
fn a_pinned_vcpu_stays_where_it_is_pinned() {
    let mut sim = Sim::new(2, 4, Box::new(Fair::default()));
    let pinned = sim.vcpus[0].clone();
    sim.sched.set_hard_affinity(&sim.m, &pinned, CpuMask::of(PcpuId::new(1))).unwrap();
    sim.start_all();
    sim.run(200, |sim, _| {
        assert!(!sim.running[0].as_ref().is_some_and(|v| Arc::ptr_eq(v, &sim.vcpus[0])));
    });
    assert!(sim.cpu_ms()[0] > 50);
    assert!(sim.sched.set_hard_affinity(&sim.m, &pinned, CpuMask::from_bits(0xf0)).is_err());
}

#[test]
fn an_event_before_the_block_is_not_lost() {
    let mut sim = Sim::new(1, 1, Box::new(Fair::default()));
    sim.start_all();
    sim.run(1, |_, _| {});
    let v = sim.vcpus[0].clone();
    sim.on(0);
    sim.sched.block(&sim.m, &v);
    sim.sched.unblock(&sim.m, &v);
    sim.schedule(0);
    assert!(sim.running[0].is_some());
}

#[test]
fn timers_go_off_in_order_and_once() {
    let sim = Sim::new(2, 2, Box::new(Fair::default()));
    let (a, b) = (&sim.vcpus[0], &sim.vcpus[1]);
    let cpu0 = sim.on(0);
    sim.sched.set_timer(&sim.m, a, TimerKind::Singleshot, 300);
    sim.sched.set_timer(&sim.m, b, TimerKind::Singleshot, 100);
    sim.sched.set_timer(&sim.m, a, TimerKind::Poll, 200);
    assert_eq!(sim.sched.next_deadline(cpu0), Some(100));
    assert!(sim.sched.take_due(cpu0, 99).is_none());
    let fired: Vec<_> =
        core::iter::from_fn(|| sim.sched.take_due(cpu0, 250)).map(|(v, kind)| (v.id.raw(), kind)).collect();
    assert_eq!(fired, [(1, TimerKind::Singleshot), (0, TimerKind::Poll)]);
    assert_eq!(a.sched.timers.deadline(TimerKind::Poll), None);
    assert_eq!(sim.sched.next_deadline(cpu0), Some(300));
}

#[test]
fn a_timer_that_is_set_again_moves_to_the_pcpu_that_sets_it() {
    let sim = Sim::new(2, 1, Box::new(Fair::default()));
    let v = &sim.vcpus[0];
    let cpu0 = sim.on(0);
    sim.sched.set_timer(&sim.m, v, TimerKind::Singleshot, 100);
    let cpu1 = sim.on(1);
    sim.sched.set_timer(&sim.m, v, TimerKind::Singleshot, 500);
    assert!(sim.sched.take_due(cpu0, 1000).is_none());
    assert_eq!(v.sched.timers.deadline(TimerKind::Singleshot), Some(500));
    sim.sched.stop_timer(v, TimerKind::Singleshot);
    assert!(sim.sched.take_due(cpu1, 1000).is_none());
}

#[test]
fn the_periodic_timer_runs_only_with_its_vcpu() {
    let mut sim = Sim::new(1, 1, Box::new(Fair::default()));
    let v = sim.vcpus[0].clone();
    sim.sched.set_period(&sim.m, &v, 1_000_000);
    assert_eq!(v.sched.timers.deadline(TimerKind::Periodic), None);
    sim.start_all();
    sim.run(1, |_, _| {});
    assert!(v.sched.timers.deadline(TimerKind::Periodic).is_some());
    let cpu0 = sim.on(0);
    let now = sim.now() + 5_000_000;
    assert!(sim.sched.take_due(cpu0, now).is_some());
    sim.sched.next_period(cpu0, &v, now);
    assert_eq!(v.sched.timers.deadline(TimerKind::Periodic), Some(now + 1_000_000));
    sim.sched.block(&sim.m, &v);
    sim.poll(0);
    assert_eq!(v.sched.timers.deadline(TimerKind::Periodic), None);
}

#[test]
fn idle_time_is_what_nobody_used() {
    let mut sim = Sim::new(2, 1, Box::new(Fair::default()));
    sim.start_all();
    sim.run(100, |_, _| {});
    let idle: u64 = (0..2).map(|n| sim.sched.idle_ns(PcpuId::new(n), sim.now()) / 1_000_000).sum();
    assert_near(idle, 100, 2);
}

#[test]
fn a_new_vcpu_is_down() {
    assert_eq!(VcpuSched::default().flags(), flags::DOWN);
    assert!(!VcpuSched::default().is_runnable());
}
