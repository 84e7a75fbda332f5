//! How long a vcpu has been in which state.
//!
//! The four times always add up to the time since the vcpu was made: a change charges what has passed to the state
//! that is left. One writer at a time (the holder of the runqueue's lock); readers retry while a change is on.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use pv_abi::vcpu::{Runstate, VcpuRunstateInfo};

use crate::atomic::{AtomicU32, AtomicU64, fence, relax};

/// The clock of a vcpu's states.
#[derive(Debug)]
pub struct RunstateClock {
    version: AtomicU32,
    state: AtomicU32,
    entered: AtomicU64,
    time: [AtomicU64; 4],
}

impl Default for RunstateClock {
    fn default() -> Self {
        Self {
            version: AtomicU32::new(0),
            state: AtomicU32::new(Runstate::Offline.raw()),
            entered: AtomicU64::new(0),
            time: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

fn index(state: Runstate) -> usize {
    match state {
        Runstate::Running => 0,
        Runstate::Runnable => 1,
        Runstate::Blocked => 2,
        Runstate::Offline => 3,
    }
}

impl RunstateClock {
    /// The state now.
    #[must_use]
    pub fn state(&self) -> Runstate {
        Runstate::from_raw(self.state.load(Relaxed)).unwrap_or(Runstate::Offline)
    }

    /// Starts the clock of a new vcpu.
    pub(crate) fn start(&self, now_ns: u64) {
        self.entered.store(now_ns, Relaxed);
    }

    /// Notes that the state is `state` from `now_ns` on.
    pub(super) fn change(&self, state: Runstate, now_ns: u64) {
        let old = self.state();
        if old == state {
            return;
        }
        let version = self.version.load(Relaxed);
        self.version.store(version.wrapping_add(1), Relaxed);
        fence(Release);
        let entered = self.entered.load(Relaxed);
        let spent = now_ns.saturating_sub(entered);
        self.time[index(old)].fetch_add(spent, Relaxed);
        self.entered.store(entered.max(now_ns), Relaxed);
        self.state.store(state.raw(), Relaxed);
        self.version.store(version.wrapping_add(2), Release);
    }

    fn read(&self) -> VcpuRunstateInfo {
        loop {
            let before = self.version.load(Acquire);
            let info = VcpuRunstateInfo {
                state: self.state.load(Relaxed),
                _pad: 0,
                state_entry_time: self.entered.load(Relaxed),
                time: core::array::from_fn(|i| self.time[i].load(Relaxed)),
            };
            fence(Acquire);
            if before & 1 == 0 && self.version.load(Relaxed) == before {
                return info;
            }
            relax();
        }
    }

    /// What the guest's own area shows: times up to the last change.
    #[must_use]
    pub fn at_last_change(&self) -> VcpuRunstateInfo {
        self.read()
    }

    /// The same with the time up to `now_ns` added to the present state's.
    #[must_use]
    pub fn as_of(&self, now_ns: u64) -> VcpuRunstateInfo {
        let mut info = self.read();
        let spent = now_ns.saturating_sub(info.state_entry_time);
        if let Some(t) = usize::try_from(info.state).ok().and_then(|i| info.time.get_mut(i)) {
            *t = t.saturating_add(spent);
        }
        info
    }

    /// Nanoseconds of processor time until `now_ns`.
    #[must_use]
    pub fn cpu_time(&self, now_ns: u64) -> u64 {
        self.as_of(now_ns).time[0]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_to_the_age() {
        let clock = RunstateClock::default();
        clock.start(1000);
        clock.change(Runstate::Runnable, 1500);
        clock.change(Runstate::Running, 1700);
        clock.change(Runstate::Blocked, 2700);
        let info = clock.as_of(5000);
        assert_eq!(info.time, [1000, 200, 2300, 500]);
        assert_eq!(info.time.iter().sum::<u64>(), 4000);
        assert_eq!(info.state, Runstate::Blocked.raw());
        assert_eq!(clock.at_last_change().state_entry_time, 2700);
    }

    #[test]
    fn a_clock_that_seems_to_go_back_charges_nothing() {
        let clock = RunstateClock::default();
        clock.start(1000);
        clock.change(Runstate::Running, 900);
        clock.change(Runstate::Blocked, 1100);
        assert_eq!(clock.as_of(1100).time, [100, 0, 0, 0]);
    }
}
