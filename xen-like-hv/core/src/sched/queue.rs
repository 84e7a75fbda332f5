//! The runqueue of one pcpu.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use hv_sync::{Guard, SpinLock, rank};

use super::heap::{Heap, Item};
use super::timers::TimerQueue;
use crate::atomic::{AtomicBool, AtomicU64};
use crate::port::CpuMask;
use crate::vcpu::Vcpu;

/// No deadline, no key.
pub(super) const NEVER: u64 = u64::MAX;

impl Item for Arc<Vcpu> {
    fn key(&self) -> u64 {
        self.sched.key.load(Relaxed)
    }
    fn set_slot(&self, slot: usize) {
        self.sched.slot.store(slot, Relaxed);
    }
}

/// What the lock of a runqueue protects, together with the scheduling state of the vcpus whose home it is.
#[derive(Debug, Default)]
pub(super) struct RunQueue {
    /// Those that wait.
    pub(super) heap: Heap<Arc<Vcpu>>,
    /// The one that runs.
    pub(super) current: Option<Arc<Vcpu>>,
    /// Since when, as far as it has not been charged.
    pub(super) since_ns: u64,
    /// When it got the pcpu.
    pub(super) chosen_ns: u64,
    /// The least key, never going back: what a newcomer is measured by.
    pub(super) floor: u64,
    /// Since when it is idle, if it is.
    pub(super) idle_since_ns: Option<u64>,
}

impl RunQueue {
    /// Whether `v` runs here.
    pub(super) fn is_current(&self, v: &Arc<Vcpu>) -> bool {
        self.current.as_ref().is_some_and(|c| Arc::ptr_eq(c, v))
    }

    /// Moves the floor up to the least key there is.
    pub(super) fn raise_floor(&mut self) {
        let waiting = self.heap.first_key();
        let running = self.current.as_ref().map(Item::key);
        let least = match (waiting, running) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => return,
        };
        self.floor = self.floor.max(least);
    }

    /// The waiting vcpu with the least key that may move to a pcpu of `to`.
    pub(super) fn best_movable(&self, to: CpuMask) -> Option<Arc<Vcpu>> {
        self.heap
            .iter()
            .filter(|v| v.sched.pcpu().is_none())
            .filter(|v| !v.sched.hard_affinity().intersection(to).is_empty())
            .min_by_key(|v| v.key())
            .cloned()
    }
}

/// A pcpu's part of the scheduler.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) lock: SpinLock<RunQueue>,
    /// Least key of those that wait here; a hint for others.
    pub(super) best_waiting: AtomicU64,
    /// How many wait here; a hint for others.
    pub(super) waiting: AtomicU64,
    /// The scheduler must be entered.
    pub(super) resched: AtomicBool,
    /// When the present slice ends.
    pub(super) slice_end: AtomicU64,
    /// When the timer is to end it at the latest: the same, or later where it will most likely end by itself.
    pub(super) slice_alarm: AtomicU64,
    /// The deadline that the pcpu's timer was armed with.
    pub(super) armed: AtomicU64,
    /// Time spent idle, up to the last change.
    pub(super) idle_ns: AtomicU64,
    pub(super) timers: SpinLock<TimerQueue>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            lock: SpinLock::new(rank::RUNQUEUE, RunQueue::default()),
            best_waiting: AtomicU64::new(NEVER),
            waiting: AtomicU64::new(0),
            resched: AtomicBool::new(false),
            slice_end: AtomicU64::new(NEVER),
            slice_alarm: AtomicU64::new(NEVER),
            armed: AtomicU64::new(NEVER),
            idle_ns: AtomicU64::new(0),
            timers: SpinLock::new(rank::TIMER, TimerQueue::default()),
        }
    }
}

impl Queue {
    /// Publishes what others look at without the lock.
    pub(super) fn publish(&self, rq: &Guard<'_, RunQueue>) {
        self.best_waiting.store(rq.heap.first_key().unwrap_or(NEVER), SeqCst);
        self.waiting.store(u64::try_from(rq.heap.len()).unwrap_or(NEVER), Relaxed);
    }

    /// Makes room for `capacity` waiting vcpus. `false` where there is no memory.
    pub(super) fn reserve(&self, capacity: usize) -> bool {
        if self.lock.lock().heap.capacity() >= capacity {
            return true;
        }
        let mut bigger = Vec::new();
        if memory_is_short!() || bigger.try_reserve_exact(capacity).is_err() {
            return false;
        }
        // The old vector is released when the guard, a temporary of this statement, is gone.
        let old = self.lock.lock().heap.adopt(bigger);
        drop(old);
        true
    }
}
