//! The mechanism: one runqueue per pcpu, and who moves a vcpu between the states of [`state`](super::state).
//!
//! Its rules, locks and users are told in [the module above](super). `tests/races` compiles this file over loom's atomics.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use hv_sync::{Guard, lock_pair};
use pv_abi::ids::{EvtchnPort, PcpuId};
use pv_abi::vcpu::Runstate;

use super::heap::Item;
use super::policy::{Fair, Policy};
use super::queue::{NEVER, Queue, RunQueue};
use super::state::{self, flags};
use crate::atomic::{AtomicU64, AtomicUsize, relax};
use crate::domain::Domain;
use crate::port::{Clock, Cpu, CpuMask, Notify};
use crate::vcpu::Vcpu;

/// What the scheduler needs of the machine.
pub trait SchedPorts: Clock + Cpu + Notify {}
impl<T: Clock + Cpu + Notify> SchedPorts for T {}

/// The scheduler of all pcpus.
#[derive(Debug)]
pub struct Scheduler {
    pub(super) queues: Vec<Queue>,
    /// pcpus with nothing to run. A waker that takes a bit out must kick that pcpu.
    idle: AtomicU64,
    /// vcpus that the queues have room for.
    room: AtomicUsize,
    policy: Box<dyn Policy>,
}

/// There is no memory for another vcpu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Scheduler {
    /// A scheduler of `nr_pcpus` pcpus, all without work, with the fair policy.
    #[must_use]
    pub fn new(nr_pcpus: u32) -> Self {
        Self::with_policy(nr_pcpus, Box::new(Fair::default()))
    }

    /// The same with a policy of the caller's.
    #[must_use]
    pub fn with_policy(nr_pcpus: u32, policy: Box<dyn Policy>) -> Self {
        Self {
            queues: (0..nr_pcpus.clamp(1, 64)).map(|_| Queue::default()).collect(),
            idle: AtomicU64::new(0),
            room: AtomicUsize::new(0),
            policy,
        }
    }

    /// Name of the policy.
    #[must_use]
    pub fn policy_name(&self) -> &'static str {
        self.policy.name()
    }

    /// All pcpus that it schedules on.
    #[must_use]
    pub fn pcpus(&self) -> CpuMask {
        let n = u32::try_from(self.queues.len()).unwrap_or(64).min(64);
        CpuMask::from_bits(u64::MAX.checked_shr(64 - n).unwrap_or(0))
    }

    /// The queue of a pcpu; numbers past the last share the last one's, which no caller gives.
    pub(super) fn queue(&self, pcpu: PcpuId) -> &Queue {
        let index = usize::try_from(pcpu.raw()).unwrap_or(0).min(self.queues.len() - 1);
        &self.queues[index]
    }

    /// Makes room for `more` vcpus in every queue, so that nothing allocates later.
    ///
    /// # Errors
    /// There is no memory.
    pub fn reserve(&self, more: usize) -> Result<(), NoRoom> {
        let room = self.room.fetch_add(more, SeqCst).saturating_add(more);
        let got = self.queues.iter().all(|q| q.reserve(room) && q.reserve_timers(room));
        if got {
            Ok(())
        } else {
            self.room.fetch_sub(more, SeqCst);
            Err(NoRoom)
        }
    }

    /// Gives back what [`Scheduler::reserve`] took, when vcpus have gone.
    pub fn unreserve(&self, fewer: usize) {
        self.room.fetch_sub(fewer, SeqCst);
    }

    /// Starts a new vcpu's clock and gives it a first home: the allowed pcpu with the least to do.
    pub fn admit(&self, m: &impl Clock, v: &Arc<Vcpu>) {
        v.sched.runstate.start(m.now_ns());
        v.sched.set_home(self.least_loaded(v.sched.hard_affinity()));
    }

    // ---- What changes a vcpu's reasons to stand still -------------------------------------------------------------

    /// Lets `v` run if nothing keeps it from running; nothing happens if it runs or waits already.
    pub fn wake(&self, m: &impl SchedPorts, v: &Arc<Vcpu>) {
        let now = m.now_ns();
        let (mut at, mut rq) = self.lock_home(v);
        if v.sched.is_queued() || rq.is_current(v) {
            return;
        }
        if !v.sched.is_runnable() {
            let blocked = v.sched.flags() & flags::BLOCKED != 0;
            if !blocked && v.sched.runstate.state() == Runstate::Blocked {
                v.sched.runstate.change(Runstate::Offline, now);
            }
            return;
        }
        if v.sched.pcpu().is_none() {
            let target = self.place(v);
            if target != at {
                v.sched.set_home(target);
                drop(rq);
                (at, rq) = self.lock_home(v);
                if v.sched.is_queued() || rq.is_current(v) || !v.sched.is_runnable() {
                    drop(rq);
                    // It may have been claimed as idle for nothing: it looks for work again, and says so if there is none.
                    self.tickle(m, target);
                    return;
                }
            }
        }
        if !self.may_run(v, at) {
            // Its registers are still on a pcpu where it must no longer run: context_saved() wakes it again.
            return;
        }
        self.enqueue(at, &mut rq, v, now);
        let turn = self.turn(&rq, v, now);
        // A pcpu that is idle has no slice that could end.
        if let (Some(when), Some(current)) = (turn, &rq.current) {
            let q = self.queue(at);
            q.slice_end.fetch_min(when, Relaxed);
            q.slice_alarm.fetch_min(when.saturating_add(self.patience(current, when, now)), Relaxed);
        }
        drop(rq);
        match turn {
            Some(when) if when > now && at == m.pcpu() => self.rearm(m, at),
            Some(_) => self.tickle(m, at),
            None => {}
        }
    }

    /// Ends a wait for events, or a poll: what an event's arrival calls.
    #[inline]
    pub fn unblock(&self, m: &impl SchedPorts, v: &Arc<Vcpu>) {
        // The poll first: a vcpu that begins a new one after this must not lose it.
        end_poll(v);
        if v.sched.flags() & flags::BLOCKED != 0 && v.sched.clear_flags(flags::BLOCKED) {
            self.wake(m, v);
        }
    }

    /// Makes `v` look at its pending events soon: wakes it if it waits, kicks its pcpu if it runs elsewhere.
    pub fn notify(&self, m: &impl SchedPorts, v: &Arc<Vcpu>) {
        self.unblock(m, v);
        match v.sched.pcpu() {
            Some(cpu) if cpu == m.pcpu() => m.request_exit_work(),
            Some(cpu) => m.kick(cpu),
            None => {}
        }
    }

    /// The calling vcpu waits for an event. The caller looks for pending ones *after* this and takes it back with
    /// [`Scheduler::cancel_block`] where there are some; an event that comes later unblocks.
    pub fn block(&self, m: &impl SchedPorts, v: &Arc<Vcpu>) {
        v.sched.set_flags(flags::BLOCKED);
        self.tickle(m, m.pcpu());
    }

    /// The calling vcpu does not wait after all.
    pub fn cancel_block(&self, v: &Arc<Vcpu>) {
        end_poll(v);
        v.sched.clear_flags(flags::BLOCKED);
    }

    /// The calling vcpu is about to look at some ports and to wait for them: from now on an event on any port ends its
    /// wait, even before it has begun.
    pub fn begin_poll(&self, dom: &Domain, v: &Arc<Vcpu>) {
        dom.polling.fetch_add(1, SeqCst);
        v.sched.begin_poll();
        v.sched.set_flags(flags::BLOCKED);
    }

    /// The calling vcpu has found nothing pending and waits: for `port`, or for any where there are several.
    pub fn block_in_poll(&self, m: &impl SchedPorts, v: &Arc<Vcpu>, port: Option<EvtchnPort>) {
        let state = port.map_or(state::POLL_MANY, |p| i64::from(p.raw()) + 1);
        if v.sched.narrow_poll(state) {
            self.block(m, v);
        }
        if v.sched.poll_state() == state::POLL_NONE {
            // An event came while the ports were looked at.
            v.sched.clear_flags(flags::BLOCKED);
        }
    }

    /// The calling vcpu lets others of its pcpu go first, once.
    pub fn yield_now(&self, m: &impl SchedPorts, v: &Arc<Vcpu>) {
        // Where nobody waits anywhere there is nobody to let go first. Who comes later asks for the pcpu by himself.
        if self.queues.iter().all(|q| q.waiting.load(SeqCst) == 0) {
            return;
        }
        v.sched.yielding.store(true, Relaxed);
        self.tickle(m, m.pcpu());
    }

    /// Sets reasons to stand still, and takes `v` off its pcpu without waiting for it.
    pub fn stop(&self, m: &impl SchedPorts, v: &Arc<Vcpu>, reasons: u32) {
        v.sched.set_flags(reasons);
        self.sleep(m, v);
    }

    /// Takes reasons to stand still away.
    pub fn start(&self, m: &impl SchedPorts, v: &Arc<Vcpu>, reasons: u32) {
        v.sched.clear_flags(reasons);
        self.wake(m, v);
    }

    /// Pauses one vcpu, without waiting until it stands.
    pub fn pause(&self, m: &impl SchedPorts, v: &Arc<Vcpu>) {
        v.sched.add_pause();
        self.sleep(m, v);
    }

    /// Takes one pause back.
    pub fn unpause(&self, m: &impl SchedPorts, v: &Arc<Vcpu>) {
        v.sched.drop_pause();
        self.wake(m, v);
    }

    /// Waits until no pcpu has `v`'s registers. The caller has paused it and is not it.
    pub fn wait_until_saved(&self, v: &Arc<Vcpu>) {
        while v.sched.pcpu().is_some() {
            relax();
        }
    }

    /// A reason to stand still has come: out of the queue, or off the pcpu.
    fn sleep(&self, m: &impl SchedPorts, v: &Arc<Vcpu>) {
        let now = m.now_ns();
        let (at, mut rq) = self.lock_home(v);
        if v.sched.is_runnable() {
            return;
        }
        if rq.is_current(v) {
            drop(rq);
            self.tickle(m, at);
            return;
        }
        if v.sched.is_queued() {
            let gone = rq.heap.remove(v.sched.slot.load(Relaxed));
            self.queue(at).publish(&rq);
            v.sched.runstate.change(stopped_state(v), now);
            drop(rq);
            drop(gone);
        }
    }

    // ---- The choice -------------------------------------------------------------------------------------------------

    /// Whether this pcpu must enter the scheduler.
    #[must_use]
    pub fn resched_needed(&self, pcpu: PcpuId) -> bool {
        self.queue(pcpu).resched.load(SeqCst)
    }

    /// The vcpu that `pcpu`, the caller's own, runs from now on; `None` is idle. If it is not the one that ran, the
    /// caller saves that one's registers and tells [`Scheduler::context_saved`].
    pub fn pick_next(&self, m: &impl SchedPorts, pcpu: PcpuId) -> Option<Arc<Vcpu>> {
        let now = m.now_ns();
        let q = self.queue(pcpu);
        q.resched.store(false, SeqCst);
        let prev = self.put_back(q, pcpu, now);
        self.pull(pcpu);
        let next = self.choose(q, pcpu, prev.as_ref(), now);
        let same = match (&prev, &next) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        if !same && let Some(p) = &prev {
            self.periodic_off(p);
        }
        // Also where nobody changed: another vcpu may have set the period.
        if let Some(n) = &next {
            self.periodic_on(pcpu, n);
        }
        self.rearm(m, pcpu);
        next
    }

    /// The registers of `v`, which ran on this pcpu, are saved: it may run anywhere.
    pub fn context_saved(&self, m: &impl SchedPorts, v: &Arc<Vcpu>) {
        v.sched.set_pcpu(None);
        if !v.sched.is_runnable() {
            return;
        }
        // It was preempted, or woken meanwhile. Where nobody queued it (its affinity has changed), this does; where it
        // waits here and another pcpu has nothing to do, that one is told to come and take it.
        self.wake(m, v);
        let idle = CpuMask::from_bits(self.idle.load(SeqCst)).intersection(v.sched.hard_affinity());
        if v.sched.is_queued()
            && let Some(cpu) = idle.iter().find(|&c| self.claim_idle(c))
        {
            self.tickle(m, cpu);
        }
    }

    /// Charges the vcpu that ran and lets it wait, or stand.
    fn put_back(&self, q: &Queue, pcpu: PcpuId, now: u64) -> Option<Arc<Vcpu>> {
        let mut rq = q.lock.lock();
        let prev = rq.current.take()?;
        let ran = now.saturating_sub(rq.since_ns);
        let key = self.policy.charge(prev.key(), prev.sched.weight(), ran);
        prev.sched.key.store(key, Relaxed);
        let short = now.saturating_sub(rq.chosen_ns) <= self.policy.least_run_ns();
        if !prev.sched.is_runnable() {
            prev.sched.note_run(short);
            prev.sched.runstate.change(stopped_state(&prev), now);
        } else {
            // It would have gone on. A short run may yet end with a wait.
            if !short {
                prev.sched.note_run(false);
            }
            prev.sched.runstate.change(Runstate::Runnable, now);
            if self.may_run(&prev, pcpu) {
                rq.heap.push(prev.clone());
            }
        }
        q.publish(&rq);
        Some(prev)
    }

    /// Fetches a vcpu from another pcpu's queue if one has waited so much longer than ours that fairness asks for it,
    /// or if there is none here.
    fn pull(&self, pcpu: PcpuId) {
        let own = self.queue(pcpu).best_waiting.load(SeqCst);
        let fullest = self
            .pcpus()
            .without(pcpu)
            .iter()
            .map(|c| (self.queue(c).best_waiting.load(SeqCst), c))
            .min_by_key(|&(key, _)| key);
        let Some((key, victim)) = fullest else { return };
        if key == NEVER || (own != NEVER && !self.policy.pulls(key, own)) {
            return;
        }
        self.take_from(victim, pcpu);
    }

    fn take_from(&self, victim: PcpuId, to: PcpuId) {
        let (mut from, mut own) = if victim < to {
            let (a, b) = lock_pair(&self.queue(victim).lock, &self.queue(to).lock);
            (a, b)
        } else {
            let (b, a) = lock_pair(&self.queue(to).lock, &self.queue(victim).lock);
            (a, b)
        };
        let Some(v) = from.best_movable(CpuMask::of(to)) else { return };
        from.heap.remove(v.sched.slot.load(Relaxed));
        v.sched.key.store(self.policy.join(v.key(), own.floor), Relaxed);
        v.sched.set_home(to);
        own.heap.push(v);
        self.queue(victim).publish(&from);
        self.queue(to).publish(&own);
    }

    fn choose(&self, q: &Queue, pcpu: PcpuId, prev: Option<&Arc<Vcpu>>, now: u64) -> Option<Arc<Vcpu>> {
        let mut rq = q.lock.lock();
        let next = self.take_best(q, &mut rq, prev, now);
        match &next {
            Some(n) => {
                n.sched.set_pcpu(Some(pcpu));
                n.sched.runstate.change(Runstate::Running, now);
                let same = prev.is_some_and(|p| Arc::ptr_eq(p, n));
                if !same {
                    rq.chosen_ns = now;
                }
                if !same || now >= q.slice_end.load(Relaxed) {
                    let end = now.saturating_add(self.policy.slice_ns(rq.heap.len()));
                    q.slice_end.store(end, Relaxed);
                    q.slice_alarm.store(end, Relaxed);
                }
                if let Some(since) = rq.idle_since_ns.take() {
                    q.idle_ns.fetch_add(now.saturating_sub(since), Relaxed);
                }
                self.idle.fetch_and(!CpuMask::of(pcpu).bits(), SeqCst);
            }
            None => {
                q.slice_end.store(NEVER, Relaxed);
                q.slice_alarm.store(NEVER, Relaxed);
                rq.idle_since_ns.get_or_insert(now);
                self.idle.fetch_or(CpuMask::of(pcpu).bits(), SeqCst);
            }
        }
        rq.current.clone_from(&next);
        rq.since_ns = now;
        rq.raise_floor();
        q.publish(&rq);
        next
    }

    /// Takes out of the queue who shall run: the one that ran if its slice is not over and nobody waits much longer, or
    /// nobody is next; not the one that yields, if there is another.
    fn take_best(
        &self,
        q: &Queue,
        rq: &mut Guard<'_, RunQueue>,
        prev: Option<&Arc<Vcpu>>,
        now: u64,
    ) -> Option<Arc<Vcpu>> {
        let prev = prev.filter(|p| p.sched.is_queued());
        let Some(prev) = prev else { return rq.heap.pop() };
        let yielding = prev.sched.yielding.swap(false, Relaxed);
        let Some(held) = rq.heap.remove(prev.sched.slot.load(Relaxed)) else { return rq.heap.pop() };
        let Some(best) = rq.heap.first_key() else { return Some(held) };
        let least = rq.chosen_ns.saturating_add(self.policy.least_run_ns());
        let goes = if now >= q.slice_end.load(Relaxed) {
            self.policy.succeeds(best, held.key())
        } else {
            now >= least && self.policy.preempts(best, held.key())
        };
        if !goes && !yielding {
            return Some(held);
        }
        let other = rq.heap.pop();
        rq.heap.push(held);
        other
    }

    // ---- Placement --------------------------------------------------------------------------------------------------

    fn may_run(&self, v: &Vcpu, pcpu: PcpuId) -> bool {
        self.allowed(v.sched.hard_affinity()).contains(pcpu)
    }

    /// The pcpus of an affinity that exist; all where none does.
    fn allowed(&self, affinity: CpuMask) -> CpuMask {
        let some = affinity.intersection(self.pcpus());
        if some.is_empty() { self.pcpus() } else { some }
    }

    /// Takes a pcpu out of the idle set; whether it was in it. Who succeeds must kick it.
    fn claim_idle(&self, cpu: PcpuId) -> bool {
        let bit = CpuMask::of(cpu).bits();
        self.idle.fetch_and(!bit, SeqCst) & bit != 0
    }

    /// Where a vcpu that wakes shall wait: at home if nobody runs there, else where nobody runs, else at home.
    fn place(&self, v: &Vcpu) -> PcpuId {
        let allowed = self.allowed(v.sched.hard_affinity());
        let home = v.sched.home();
        let idle = CpuMask::from_bits(self.idle.load(SeqCst)).intersection(allowed);
        if idle.contains(home) && self.claim_idle(home) {
            return home;
        }
        if let Some(cpu) = idle.without(home).iter().find(|&c| self.claim_idle(c)) {
            return cpu;
        }
        if allowed.contains(home) { home } else { self.least_loaded(allowed) }
    }

    fn least_loaded(&self, affinity: CpuMask) -> PcpuId {
        let idle = CpuMask::from_bits(self.idle.load(Relaxed));
        self.allowed(affinity)
            .iter()
            .min_by_key(|&c| (self.queue(c).waiting.load(Relaxed), !idle.contains(c)))
            .unwrap_or(PcpuId::new(0))
    }

    /// Locks the runqueue that is `v`'s home now.
    fn lock_home(&self, v: &Vcpu) -> (PcpuId, Guard<'_, RunQueue>) {
        loop {
            let at = v.sched.home();
            let rq = self.queue(at).lock.lock();
            if v.sched.home() == at {
                return (at, rq);
            }
        }
    }

    fn enqueue(&self, at: PcpuId, rq: &mut Guard<'_, RunQueue>, v: &Arc<Vcpu>, now: u64) {
        rq.raise_floor();
        v.sched.key.store(self.policy.join(v.key(), rq.floor), Relaxed);
        v.sched.runstate.change(Runstate::Runnable, now);
        rq.heap.push(v.clone());
        self.queue(at).publish(rq);
    }

    /// When the pcpu should choose anew now that `v` has woken and waits there; `None` is when it would anyway.
    fn turn(&self, rq: &Guard<'_, RunQueue>, v: &Arc<Vcpu>, now: u64) -> Option<u64> {
        let Some(current) = &rq.current else { return Some(now) };
        let ran = now.saturating_sub(rq.since_ns);
        let running = self.policy.charge(current.key(), current.sched.weight(), ran);
        let least = rq.chosen_ns.saturating_add(self.policy.least_run_ns());
        self.policy.succeeds(v.key(), running).then_some(least.max(now))
    }

    /// How much later than the end of the slice of `current` the timer may go off. Who has waited for events soon after it
    /// got the pcpu each of the last times will most likely do so again, and a timer set for each of its slices would go
    /// off in vain.
    fn patience(&self, current: &Vcpu, slice_end: u64, now: u64) -> u64 {
        let trusted = slice_end > now && current.sched.short_runs.load(Relaxed) >= state::SHORT_RUNS;
        if trusted { self.policy.patience_ns() } else { 0 }
    }

    /// Makes a pcpu enter the scheduler.
    pub(super) fn tickle(&self, m: &impl SchedPorts, cpu: PcpuId) {
        self.queue(cpu).resched.store(true, SeqCst);
        if cpu == m.pcpu() {
            m.request_resched();
        } else {
            m.kick(cpu);
        }
    }

    // ---- Affinity and figures ---------------------------------------------------------------------------------------

    /// Restricts `v` to the pcpus of `mask`, and makes it leave the one where it must no longer be.
    ///
    /// # Errors
    /// None of the pcpus exists.
    pub fn set_hard_affinity(&self, m: &impl SchedPorts, v: &Arc<Vcpu>, mask: CpuMask) -> Result<(), NoRoom> {
        if mask.intersection(self.pcpus()).is_empty() {
            return Err(NoRoom);
        }
        let (at, mut rq) = self.lock_home(v);
        v.sched.store_hard_affinity(mask);
        if self.may_run(v, at) {
            return Ok(());
        }
        if rq.is_current(v) {
            drop(rq);
            self.tickle(m, at);
        } else if v.sched.is_queued() {
            rq.heap.remove(v.sched.slot.load(Relaxed));
            self.queue(at).publish(&rq);
            drop(rq);
            self.wake(m, v);
        }
        Ok(())
    }

    /// Nanoseconds that a pcpu has spent without work until `now_ns`.
    #[must_use]
    pub fn idle_ns(&self, pcpu: PcpuId, now_ns: u64) -> u64 {
        let q = self.queue(pcpu);
        let rq = q.lock.lock();
        let open = rq.idle_since_ns.map_or(0, |since| now_ns.saturating_sub(since));
        q.idle_ns.load(Relaxed).saturating_add(open)
    }

    /// The vcpu that runs on a pcpu.
    #[must_use]
    pub fn current(&self, pcpu: PcpuId) -> Option<Arc<Vcpu>> {
        self.queue(pcpu).lock.lock().current.clone()
    }
}

/// Ends a poll, if there is one, and takes it out of its domain's count.
#[inline]
fn end_poll(v: &Vcpu) {
    if v.sched.end_poll() {
        count_poll_off(v);
    }
}

#[inline(never)]
fn count_poll_off(v: &Vcpu) {
    if let Some(dom) = v.domain() {
        dom.polling.fetch_sub(1, SeqCst);
    }
}

/// The state of a vcpu that may not run.
fn stopped_state(v: &Vcpu) -> Runstate {
    if v.sched.flags() & flags::BLOCKED != 0 { Runstate::Blocked } else { Runstate::Offline }
}
