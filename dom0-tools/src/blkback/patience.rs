//! Whether the answer of a disk is worth waiting for on the spot.
//!
//! A vcpu that blocks until the disk interrupts pays for the way down and up again: two switches, the interrupt, its
//! acknowledgement. Where disks answer sooner than that, looking at the ring until the answer is there is quicker, and
//! cheaper too. What the last requests took tells which disk this is.

/// The longest wait on the spot, in nanoseconds.
pub const LONGEST_NS: u64 = 200_000;
/// Of so many requests one is waited for although the last ones took too long: the disk may be quicker by now.
const RETRY: u32 = 32;
/// The share of the newest request in the mean.
const SHARE: u64 = 8;

/// What is known of a disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// What the requests took of late that were waited for.
    mean_ns: u64,
    requests: u32,
}

impl Patience {
    /// Whether the request that is about to be sent is to be waited for on the spot.
    pub fn waits(&mut self) -> bool {
        self.requests = self.requests.wrapping_add(1);
        self.mean_ns <= LONGEST_NS || self.requests.is_multiple_of(RETRY)
    }

    /// A request that was waited for was answered after `took_ns`, or the wait was given up (`None`), which counts as twice
    /// the longest.
    pub fn learn(&mut self, took_ns: Option<u64>) {
        let took = took_ns.unwrap_or(u64::MAX).min(2 * LONGEST_NS);
        self.mean_ns = (self.mean_ns * (SHARE - 1) + took) / SHARE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(patience: &mut Patience, requests: u32, took_ns: Option<u64>) {
        (0..requests).for_each(|_| patience.learn(took_ns));
    }

    #[test]
    fn a_quick_disk_is_waited_for_and_a_slow_one_is_not() {
        let mut patience = Patience::default();
        assert!(patience.waits());
        after(&mut patience, 100, Some(60_000));
        assert!(patience.waits());
        after(&mut patience, 100, None);
        assert!(!patience.waits());
    }

    #[test]
    fn one_slow_answer_changes_nothing() {
        let mut patience = Patience::default();
        after(&mut patience, 100, Some(50_000));
        patience.learn(None);
        assert!(patience.waits());
    }

    #[test]
    fn a_slow_disk_is_tried_again_now_and_then() {
        let mut patience = Patience::default();
        after(&mut patience, 100, None);
        let waits = (0..4 * RETRY).filter(|_| patience.waits()).count();
        assert_eq!(waits, 4);
        after(&mut patience, 100, Some(1_000));
        assert!(patience.waits());
    }
}
