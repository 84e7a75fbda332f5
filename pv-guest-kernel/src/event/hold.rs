//! Ports of peers that are not trusted: each is held, that is masked, from a delivery until the task that serves it waits again.
//!
//! So a peer that only sends costs one upcall for each turn of that task, and other tasks have theirs in between. Turns in
//! which nothing was found to do are counted too: a peer whose events bring no work for many turns on end is looked after
//! ever more rarely, by the clock. The first turn that finds work ends that.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use core::time::Duration;

/// Turns on end without work that cost nothing. A peer in good faith has some: its event for what was taken already.
const FREE: u32 = 16;
/// The first delay after that; each further turn doubles it.
const FIRST: Duration = Duration::from_millis(1);
/// Doublings of the delay: at most 64 ms.
const DOUBLINGS: u32 = 6;

/// What is known of a port's peer.
pub(super) struct Hold {
    /// Whether the port is held at all.
    on: AtomicBool,
    /// Whether the last wait ended with an event.
    came: AtomicBool,
    /// Turns on end that an event began and that found nothing to do.
    idle: AtomicU32,
    /// Events that were taken.
    taken: AtomicU64,
}

impl Hold {
    pub(super) const fn new() -> Self {
        Self {
            on: AtomicBool::new(false),
            came: AtomicBool::new(false),
            idle: AtomicU32::new(0),
            taken: AtomicU64::new(0),
        }
    }

    /// The port has a new owner.
    pub(super) fn reset(&self) {
        self.on.store(false, Relaxed);
        self.came.store(false, Relaxed);
        self.idle.store(0, Relaxed);
        self.taken.store(0, Relaxed);
    }

    pub(super) fn begin(&self) {
        self.on.store(true, Relaxed);
    }

    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// An event was taken off the port.
    #[inline]
    pub(super) fn count(&self) {
        self.taken.fetch_add(1, Relaxed);
    }

    /// Events that were taken since the port has its owner.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// Turns without work on end.
    pub(super) fn idle(&self) -> u32 {
        self.idle.load(Relaxed)
    }

    /// A wait has ended with an event.
    #[inline]
    pub(super) fn wait_ended(&self) {
        self.came.store(true, Relaxed);
    }

    /// The task waits again after turns that found work, or not: how long the port stays closed from now on.
    #[inline]
    pub(super) fn turn_ended(&self, worked: bool) -> Option<Duration> {
        let came = self.came.load(Relaxed);
        self.came.store(false, Relaxed);
        let before = self.idle.load(Relaxed);
        let idle = match (worked, came) {
            (true, _) => 0,
            (false, true) => before.saturating_add(1),
            (false, false) => before,
        };
        self.idle.store(idle, Relaxed);
        let beyond = idle.checked_sub(FREE + 1)?;
        Some(FIRST.saturating_mul(1 << beyond.min(DOUBLINGS)))
    }
}

/// The bits of a port, which the sender changes too.
pub(super) trait Bits {
    /// Whether an event is pending.
    fn is_pending(&self) -> bool;
    /// Masks the port, or opens it.
    fn set_mask(&self, masked: bool);
    /// Clears the pending bit; whether it was set.
    fn clear_pending(&self) -> bool;
}

/// Opens a port, unless an event waits behind the mask: that is taken then, without an upcall, and the port stays closed.
///
/// False: the port is open, or an upcall came in between and has set the flag that the task looks at next.
#[inline]
pub(super) fn open_or_take(port: &impl Bits) -> bool {
    if !port.is_pending() {
        port.set_mask(false);
        // The sender sets the event and looks at the mask then; here it is the other way round: one sees the other.
        if !port.is_pending() {
            return false;
        }
    }
    port.set_mask(true);
    port.clear_pending()
}

#[cfg(test)]
mod tests {
    use core::cell::{Cell, RefCell};

    use super::{Bits, DOUBLINGS, Duration, FIRST, FREE, Hold, open_or_take};

    /// A turn that an event began.
    fn turn(hold: &Hold, worked: bool) -> Option<Duration> {
        hold.wait_ended();
        hold.turn_ended(worked)
    }

    #[test]
    fn a_peer_whose_events_bring_nothing_is_looked_after_ever_more_rarely() {
        let hold = Hold::new();
        for _ in 0..FREE {
            assert_eq!(turn(&hold, false), None);
        }
        let mut wanted = FIRST;
        for _ in 0..=DOUBLINGS {
            assert_eq!(turn(&hold, false), Some(wanted));
            wanted *= 2;
        }
        assert_eq!(turn(&hold, false), Some(FIRST * (1 << DOUBLINGS)));
    }

    #[test]
    fn work_ends_the_delay_and_a_wake_from_elsewhere_does_not_count() {
        let hold = Hold::new();
        for _ in 0..=FREE {
            turn(&hold, false);
        }
        assert_eq!(hold.turn_ended(false), Some(FIRST), "nothing came, nothing changes");
        assert_eq!(hold.turn_ended(true), None);
        assert_eq!(hold.idle(), 0);
        assert_eq!(turn(&hold, false), None);
    }

    /// A port with a sender on another pcpu and upcalls, each of whose steps may come between any two of the task's.
    #[derive(Default)]
    struct Model {
        /// FIFO events: an event of a port that is pending already links it too.
        queues: bool,
        pending: Cell<bool>,
        masked: Cell<bool>,
        /// Selector or queue lead to the port, and an upcall is due.
        raised: Cell<bool>,
        /// What the upcall tells the task.
        flag: Cell<bool>,
        /// The sender has set the pending bit, which was as told, and looks at the mask next.
        sending: Cell<Option<bool>>,
        sends: Cell<u32>,
        /// What happens next, in digits of base 3.
        script: RefCell<u32>,
    }

    impl Model {
        /// Two steps of others.
        fn others(&self) {
            for _ in 0..2 {
                let step = *self.script.borrow() % 3;
                *self.script.borrow_mut() /= 3;
                match step {
                    1 => self.send(),
                    2 => self.upcall(),
                    _ => {}
                }
            }
        }

        fn send(&self) {
            match self.sending.take() {
                None if self.sends.get() < 2 => {
                    self.sends.set(self.sends.get() + 1);
                    self.sending.set(Some(self.pending.replace(true)));
                }
                Some(was_pending) if (self.queues || !was_pending) && !self.masked.get() => {
                    self.raised.set(true)
                }
                _ => {}
            }
        }

        fn upcall(&self) {
            if self.raised.replace(false) && self.pending.get() && !self.masked.get() {
                self.pending.set(false);
                self.masked.set(true);
                self.flag.set(true);
            }
        }

        /// What `wait` does up to where it sleeps; whether it returns.
        fn wait(&self) -> bool {
            self.others();
            if self.flag.take() || open_or_take(self) {
                return true;
            }
            self.others();
            self.flag.take()
        }

        /// The sender finishes, and what is due happens.
        fn settle(&self) {
            if self.sending.get().is_some() {
                self.send();
            }
            self.upcall();
        }
    }

    impl Bits for Model {
        fn is_pending(&self) -> bool {
            self.others();
            self.pending.get()
        }
        fn set_mask(&self, masked: bool) {
            self.others();
            self.masked.set(masked);
        }
        fn clear_pending(&self) -> bool {
            self.others();
            self.pending.replace(false)
        }
    }

    /// Whether a task that sleeps now would never be told of an event.
    fn is_lost(script: u32, queues: bool, pending: bool) -> bool {
        let model =
            Model { queues, masked: Cell::new(true), pending: Cell::new(pending), ..Model::default() };
        *model.script.borrow_mut() = script;
        if model.wait() {
            return false;
        }
        model.settle();
        // Asleep, and neither told nor to be told.
        (pending || model.sends.get() != 0) && !model.flag.get()
    }

    #[test]
    fn no_event_is_lost_however_sends_and_upcalls_fall() {
        const STEPS: u32 = 12;
        for script in 0..3_u32.pow(STEPS) {
            for (queues, pending) in [(false, false), (false, true), (true, false), (true, true)] {
                assert!(!is_lost(script, queues, pending), "script {script}, {queues}, {pending}");
            }
        }
    }
}
