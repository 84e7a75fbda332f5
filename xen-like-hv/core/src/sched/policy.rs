//! Policy: who deserves the pcpu next. It orders, it never runs anything.
//!
//! A vcpu's claim is one number, its *key*: the processor time it has had, scaled by its weight. The smallest key runs
//! first. Keys of all pcpus are compared with one another, which is what makes equal vcpus get equal time although
//! there are more of them than pcpus: whoever lags behind is pulled to the pcpu whose own vcpus are ahead.
//!
//! Whatever a policy answers, [the mechanism](super) runs no vcpu on two pcpus and none that may not run.

use core::fmt;

/// The weight of a vcpu that nobody has given another.
pub const DEFAULT_WEIGHT: u32 = 256;

/// What the mechanism asks.
pub trait Policy: Send + Sync + fmt::Debug {
    /// Name, for logs and tools.
    fn name(&self) -> &'static str;
    /// The key of a vcpu after it ran for `ran_ns`.
    fn charge(&self, key: u64, weight: u32, ran_ns: u64) -> u64;
    /// The key of a vcpu that joins a queue (woken or moved) whose least key is `floor`.
    fn join(&self, key: u64, floor: u64) -> u64;
    /// Whether a waiting vcpu should take the pcpu from the running one before its slice ends.
    fn preempts(&self, waiting: u64, running: u64) -> bool;
    /// How long a vcpu that has got the pcpu keeps it at least, whoever wakes.
    fn least_run_ns(&self) -> u64;
    /// How much longer it may keep it where it has always waited for events within that time of late.
    fn patience_ns(&self) -> u64;
    /// Whether a waiting vcpu is next when the running one's time is over. A vcpu that wakes and would be next ends the
    /// slice of the running one as soon as that has run for its least time.
    fn succeeds(&self, waiting: u64, running: u64) -> bool;
    /// Whether a vcpu that waits elsewhere should be pulled to a pcpu whose own best key is `own`.
    fn pulls(&self, waiting: u64, own: u64) -> bool;
    /// How long the chosen vcpu may run before the choice is made anew, with `waiting` others in its queue.
    fn slice_ns(&self, waiting: usize) -> u64;
}

/// Fair by weighted processor time.
#[derive(Clone, Copy, Debug)]
pub struct Fair {
    slice_ns: u64,
}

impl Default for Fair {
    fn default() -> Self {
        Self { slice_ns: Self::SLICE_NS }
    }
}

impl Fair {
    /// The same with another longest slice (`sched_slice_ms=`), of a millisecond at least.
    #[must_use]
    pub fn with_slice_ms(ms: u32) -> Self {
        Self { slice_ns: u64::from(ms.max(1)) * 1_000_000 }
    }

    /// The longest slice where nobody has chosen one.
    pub const SLICE_NS: u64 = 10_000_000;
    /// The shortest slice, however many wait.
    pub const MIN_SLICE_NS: u64 = 2_000_000;
    /// How much of its unused claim a sleeper keeps: enough to be served at once, too little to starve others.
    pub const SLEEPER_CREDIT_NS: u64 = 5_000_000;
    /// How far ahead of its new queue a moved vcpu may be.
    pub const MOVED_DEBT_NS: u64 = 20_000_000;
    /// Differences below this do not cause a switch: a switch costs too.
    pub const GRANULARITY_NS: u64 = 500_000;
    /// What a vcpu that has got the pcpu has time for. A kernel that signals an event while it holds a lock gives the lock
    /// back within it: taking the pcpu at the event would let the one that is woken spin for the lock.
    pub const LEAST_RUN_NS: u64 = 1_000_000;
    /// What that costs a waiting vcpu where it turns out otherwise, once.
    pub const PATIENCE_NS: u64 = 4_000_000;
    /// How far ahead of the running vcpu a waiting one may be and still be next. It makes wake-ups quick between vcpus
    /// that use the same; nobody gains by it, since keys are charged for every nanosecond.
    pub const TURN_NS: u64 = 2_000_000;
    /// Differences below this do not move a vcpu to another pcpu.
    pub const PULL_NS: u64 = 2_000_000;
}

impl Policy for Fair {
    fn name(&self) -> &'static str {
        "fair"
    }

    fn charge(&self, key: u64, weight: u32, ran_ns: u64) -> u64 {
        let weight = u64::from(weight.max(1));
        let scaled = u128::from(ran_ns) * u128::from(DEFAULT_WEIGHT) / u128::from(weight);
        key.saturating_add(u64::try_from(scaled).unwrap_or(u64::MAX))
    }

    fn join(&self, key: u64, floor: u64) -> u64 {
        key.clamp(floor.saturating_sub(Self::SLEEPER_CREDIT_NS), floor.saturating_add(Self::MOVED_DEBT_NS))
    }

    fn preempts(&self, waiting: u64, running: u64) -> bool {
        waiting.saturating_add(Self::GRANULARITY_NS) < running
    }

    fn least_run_ns(&self) -> u64 {
        Self::LEAST_RUN_NS.min(self.slice_ns)
    }

    fn patience_ns(&self) -> u64 {
        Self::PATIENCE_NS.min(self.slice_ns)
    }

    fn succeeds(&self, waiting: u64, running: u64) -> bool {
        waiting <= running.saturating_add(Self::TURN_NS)
    }

    fn pulls(&self, waiting: u64, own: u64) -> bool {
        waiting.saturating_add(Self::PULL_NS) < own
    }

    fn slice_ns(&self, waiting: usize) -> u64 {
        let share = u64::try_from(waiting).unwrap_or(u64::MAX).saturating_add(1);
        (self.slice_ns * 2 / share).clamp(Self::MIN_SLICE_NS.min(self.slice_ns), self.slice_ns)
    }
}
