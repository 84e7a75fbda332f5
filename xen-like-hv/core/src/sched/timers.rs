//! Timers of vcpus: one heap of deadlines per pcpu.
//!
//! | timer | set by | fires |
//! |---|---|---|
//! | one-shot | `VCPUOP_set_singleshot_timer`, `set_timer_op` | `VIRQ_TIMER` |
//! | periodic | `VCPUOP_set_periodic_timer`; 10 ms from the start | `VIRQ_TIMER`, while the vcpu runs |
//! | poll | `SCHEDOP_poll` with a time-out | the vcpu goes on |
//! | watchdog (vcpu 0 only) | `SCHEDOP_watchdog` | the domain is shut down |
//!
//! A timer lies in the heap of the pcpu that set it, wherever its vcpu goes meanwhile. The pcpu's own timer is armed
//! for the earlier of the heap's first deadline and the end of the running vcpu's slice.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use pv_abi::ids::PcpuId;

use super::heap::{Heap, Item, NOWHERE};
use super::queue::{NEVER, Queue};
use super::{SchedPorts, Scheduler};
use crate::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use crate::vcpu::Vcpu;

/// The period with which a vcpu's periodic timer starts.
pub const DEFAULT_PERIOD_NS: u64 = 10_000_000;

/// Which timer of a vcpu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// One event at one time.
    Singleshot,
    /// One event per period.
    Periodic,
    /// End of a poll.
    Poll,
    /// A domain's watchdog, by number (0 or 1).
    Watchdog(u8),
}

const KINDS: usize = 5;

impl TimerKind {
    fn index(self) -> usize {
        match self {
            Self::Singleshot => 0,
            Self::Periodic => 1,
            Self::Poll => 2,
            Self::Watchdog(0) => 3,
            Self::Watchdog(_) => 4,
        }
    }
}

const NO_QUEUE: u32 = u32::MAX;

/// One timer: its deadline and where it lies. Written under the lock of the queue it lies in.
#[derive(Debug)]
struct Timer {
    deadline: AtomicU64,
    slot: AtomicUsize,
    queue: AtomicU32,
}

impl Default for Timer {
    fn default() -> Self {
        Self { deadline: AtomicU64::new(0), slot: AtomicUsize::new(NOWHERE), queue: AtomicU32::new(NO_QUEUE) }
    }
}

/// The timers of a vcpu.
#[derive(Debug)]
pub struct VcpuTimers {
    each: [Timer; KINDS],
    period_ns: AtomicU64,
    last_period_ns: AtomicU64,
}

impl Default for VcpuTimers {
    fn default() -> Self {
        Self {
            each: core::array::from_fn(|_| Timer::default()),
            period_ns: AtomicU64::new(DEFAULT_PERIOD_NS),
            last_period_ns: AtomicU64::new(0),
        }
    }
}

impl VcpuTimers {
    fn of(&self, kind: TimerKind) -> &Timer {
        &self.each[kind.index()]
    }

    /// When the timer goes off, if it is set.
    #[must_use]
    pub fn deadline(&self, kind: TimerKind) -> Option<u64> {
        let t = self.of(kind);
        (t.queue.load(SeqCst) != NO_QUEUE).then(|| t.deadline.load(Relaxed))
    }

    /// The period of the periodic timer; 0 is none.
    #[must_use]
    pub fn period_ns(&self) -> u64 {
        self.period_ns.load(Relaxed)
    }
}

/// A timer in a heap.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    vcpu: Arc<Vcpu>,
    kind: TimerKind,
}

impl Item for Entry {
    fn key(&self) -> u64 {
        self.vcpu.sched.timers.of(self.kind).deadline.load(Relaxed)
    }
    fn set_slot(&self, slot: usize) {
        self.vcpu.sched.timers.of(self.kind).slot.store(slot, Relaxed);
    }
}

/// The timers of a pcpu.
#[derive(Debug, Default)]
pub(super) struct TimerQueue {
    heap: Heap<Entry>,
}

impl TimerQueue {
    #[inline]
    fn first_deadline(&self) -> u64 {
        self.heap.first_key().unwrap_or(NEVER)
    }
}

impl Queue {
    /// Makes room for the timers of `vcpus` vcpus. `false` where there is no memory.
    pub(super) fn reserve_timers(&self, vcpus: usize) -> bool {
        let want = vcpus.saturating_mul(KINDS);
        if self.timers.lock().heap.capacity() >= want {
            return true;
        }
        let mut bigger = Vec::new();
        if memory_is_short!() || bigger.try_reserve_exact(want).is_err() {
            return false;
        }
        let old = self.timers.lock().heap.adopt(bigger);
        drop(old);
        true
    }

    fn first_deadline(&self) -> u64 {
        self.timers.lock().first_deadline()
    }

    /// What [`Scheduler::rearm`] does, where `first` is the first deadline of the heap.
    #[inline]
    fn arm(&self, m: &impl SchedPorts, first: u64) {
        let want = first.min(self.slice_alarm.load(Relaxed));
        // Only this pcpu arms its timer, with interrupts off.
        if want < self.armed.load(Relaxed) {
            self.armed.store(want, Relaxed);
            m.set_deadline(Some(want));
        }
    }
}

impl Scheduler {
    /// Sets a timer of `v` to go off at `deadline_ns`, instead of whatever it was set to. It may be in the past.
    #[inline]
    pub fn set_timer(&self, m: &impl SchedPorts, v: &Arc<Vcpu>, kind: TimerKind, deadline_ns: u64) {
        let own = m.pcpu();
        let q = self.queue(own);
        let first = self.insert_timer(q, own, v, kind, deadline_ns);
        q.arm(m, first);
    }

    /// Puts a timer into the heap of this pcpu; returns the first deadline there.
    #[inline]
    fn insert_timer(&self, q: &Queue, own: PcpuId, v: &Arc<Vcpu>, kind: TimerKind, deadline_ns: u64) -> u64 {
        let t = v.sched.timers.of(kind);
        // Set anew where it lies already: one lock, and the entry stays.
        if t.queue.load(SeqCst) == own.raw() {
            let mut timers = q.timers.lock();
            let change = |_: &Entry| t.deadline.store(deadline_ns, Relaxed);
            if t.queue.load(SeqCst) == own.raw()
                && timers.heap.rekey(t.slot.load(Relaxed), deadline_ns, change)
            {
                return timers.first_deadline();
            }
        }
        self.insert_from_elsewhere(own, v, kind, deadline_ns)
    }

    #[inline(never)]
    fn insert_from_elsewhere(&self, own: PcpuId, v: &Arc<Vcpu>, kind: TimerKind, deadline_ns: u64) -> u64 {
        let t = v.sched.timers.of(kind);
        loop {
            self.stop_timer(v, kind);
            let mut q = self.queue(own).timers.lock();
            // Another pcpu may have set it meanwhile; its setting is replaced too.
            if t.queue.load(SeqCst) == NO_QUEUE {
                t.deadline.store(deadline_ns, Relaxed);
                t.queue.store(own.raw(), SeqCst);
                q.heap.push(Entry { vcpu: v.clone(), kind });
                return q.first_deadline();
            }
        }
    }

    /// Stops a timer. If it is going off at this moment on another pcpu, it has gone off.
    pub fn stop_timer(&self, v: &Arc<Vcpu>, kind: TimerKind) {
        let t = v.sched.timers.of(kind);
        let at = t.queue.load(SeqCst);
        if at == NO_QUEUE {
            return;
        }
        let mut q = self.queue(PcpuId::new(at)).timers.lock();
        if t.queue.load(SeqCst) == at {
            let gone = q.heap.remove(t.slot.load(Relaxed));
            t.queue.store(NO_QUEUE, SeqCst);
            drop(q);
            drop(gone);
        }
    }

    /// Stops all timers of a vcpu that will not run again.
    pub fn stop_all_timers(&self, v: &Arc<Vcpu>) {
        v.sched.timers.period_ns.store(0, Relaxed);
        for kind in [
            TimerKind::Singleshot,
            TimerKind::Periodic,
            TimerKind::Poll,
            TimerKind::Watchdog(0),
            TimerKind::Watchdog(1),
        ] {
            self.stop_timer(v, kind);
        }
    }

    /// Takes one timer that is due out of this pcpu's heap. The caller acts on it with no lock held.
    pub(crate) fn take_due(&self, pcpu: PcpuId, now_ns: u64) -> Option<(Arc<Vcpu>, TimerKind)> {
        let mut q = self.queue(pcpu).timers.lock();
        if q.first_deadline() > now_ns {
            return None;
        }
        let entry = q.heap.pop()?;
        entry.vcpu.sched.timers.of(entry.kind).queue.store(NO_QUEUE, SeqCst);
        Some((entry.vcpu, entry.kind))
    }

    /// Sets the period of `v`'s periodic timer; 0 stops it.
    pub fn set_period(&self, m: &impl SchedPorts, v: &Arc<Vcpu>, period_ns: u64) {
        v.sched.timers.period_ns.store(period_ns, Relaxed);
        self.stop_timer(v, TimerKind::Periodic);
        if period_ns == 0 {
            return;
        }
        match v.sched.pcpu() {
            Some(cpu) if cpu == m.pcpu() => {
                self.periodic_on(cpu, v);
                self.rearm(m, cpu);
            }
            // Where it runs elsewhere, its own pcpu sets the timer when it enters the scheduler.
            Some(cpu) => self.tickle(m, cpu),
            None => {}
        }
    }

    /// Sets the periodic timer of a vcpu that begins to run.
    pub(super) fn periodic_on(&self, pcpu: PcpuId, v: &Arc<Vcpu>) {
        let timers = &v.sched.timers;
        let period = timers.period_ns();
        if period != 0 && timers.of(TimerKind::Periodic).queue.load(SeqCst) == NO_QUEUE {
            let due = timers.last_period_ns.load(Relaxed).saturating_add(period);
            self.insert_timer(self.queue(pcpu), pcpu, v, TimerKind::Periodic, due);
        }
    }

    /// Stops the periodic timer of a vcpu that no longer runs: it is not woken for it.
    pub(super) fn periodic_off(&self, v: &Arc<Vcpu>) {
        if v.sched.timers.period_ns() != 0 {
            self.stop_timer(v, TimerKind::Periodic);
        }
    }

    /// A period is over: the next one begins, where the vcpu still runs here.
    pub(crate) fn next_period(&self, pcpu: PcpuId, v: &Arc<Vcpu>, now_ns: u64) {
        v.sched.timers.last_period_ns.store(now_ns, Relaxed);
        if v.sched.pcpu() == Some(pcpu) {
            self.periodic_on(pcpu, v);
        }
    }

    /// Notes that the slice of the running vcpu is over, if it is.
    pub(crate) fn check_slice(&self, m: &impl SchedPorts, pcpu: PcpuId, now_ns: u64) {
        if self.queue(pcpu).slice_end.load(Relaxed) <= now_ns {
            self.tickle(m, pcpu);
        }
    }

    /// The next time at which this pcpu has to act.
    #[must_use]
    pub fn next_deadline(&self, pcpu: PcpuId) -> Option<u64> {
        let q = self.queue(pcpu);
        let due = q.first_deadline().min(q.slice_alarm.load(Relaxed));
        (due != NEVER).then_some(due)
    }

    /// Arms this pcpu's timer for its next deadline, unless it goes off before that anyway: then it is armed anew. Most
    /// deadlines are put off or given up before they come (a slice ends early, a guest's timer is set again), and setting the
    /// timer each time would cost more than an interrupt now and then that finds nothing to do.
    pub(crate) fn rearm(&self, m: &impl SchedPorts, pcpu: PcpuId) {
        let q = self.queue(pcpu);
        q.arm(m, q.first_deadline());
    }

    /// Forgets what the pcpu's timer is armed for: it has gone off.
    pub(crate) fn timer_went_off(&self, pcpu: PcpuId) {
        self.queue(pcpu).armed.store(NEVER, Relaxed);
    }
}
