//! Event words: whatever a sender and a guest do at once, no event is lost.

use core::sync::atomic::Ordering::SeqCst;
use loom::sync::Arc;
use loom::thread;

use hv_core::evtchn::fifo::word::{self, Appended, LINK, LINKED, MASKED, PENDING, WordIo};

use crate::atomic::{AtomicU32, AtomicU64, Part, without};
use crate::evtchn::words;
use crate::explore;

/// What a domain with one vcpu shares, as far as one port goes.
#[derive(Default)]
struct Shared {
    pending: AtomicU64,
    mask: AtomicU64,
    select: AtomicU64,
    upcall: AtomicU64,
}

const PORT: u64 = 1 << 5;

impl Shared {
    /// The hypervisor sends.
    fn send(&self) {
        if words::pend(&self.pending, &self.mask, PORT) == words::Pended::Notify {
            words::raise(&self.select, &self.upcall, 1);
        }
    }

    /// The hypervisor unmasks for the guest.
    fn unmask(&self) {
        if words::unmask(&self.pending, &self.mask, PORT) {
            words::raise(&self.select, &self.upcall, 1);
        }
    }

    /// The guest's upcall: from the top down.
    fn drain(&self) -> bool {
        self.upcall.swap(0, SeqCst);
        if self.select.swap(0, SeqCst) == 0 {
            return false;
        }
        let open = self.pending.load(SeqCst) & !self.mask.load(SeqCst) & PORT;
        self.pending.fetch_and(!open, SeqCst);
        open != 0
    }

    fn assert_nothing_lost(&self) {
        let open = self.pending.load(SeqCst) & !self.mask.load(SeqCst) & PORT;
        assert!(open == 0 || self.upcall.load(SeqCst) != 0, "pending, and nobody is told");
    }
}

#[test]
fn a_sender_and_a_guest_that_drains() {
    explore("send and drain", || {
        let s = Arc::new(Shared::default());
        let other = s.clone();
        let t = thread::spawn(move || {
            other.send();
            other.send();
        });
        s.drain();
        t.join().unwrap();
        s.assert_nothing_lost();
    });
}

fn send_and_unmask() {
    let s = Arc::new(Shared::default());
    s.mask.store(PORT, SeqCst);
    let other = s.clone();
    let t = thread::spawn(move || other.send());
    s.unmask();
    t.join().unwrap();
    s.assert_nothing_lost();
    assert!(s.drain(), "the event comes");
}

#[test]
fn a_sender_and_a_guest_that_unmasks() {
    explore("send and unmask", send_and_unmask);
}

#[test]
#[should_panic(expected = "pending, and nobody is told")]
fn without_fences_an_event_behind_a_mask_is_lost() {
    without(Part::Fences, || explore("send and unmask without fences", send_and_unmask));
}

#[test]
fn two_senders_tell_at_least_once() {
    explore("two senders", || {
        let s = Arc::new(Shared::default());
        let other = s.clone();
        let t = thread::spawn(move || other.send());
        s.send();
        t.join().unwrap();
        s.assert_nothing_lost();
        assert!(s.drain());
    });
}

/// loom's word under the FIFO protocol.
struct Word(AtomicU32);

impl WordIo for Word {
    fn load(&self) -> u32 {
        self.0.load(SeqCst)
    }
    fn store(&self, value: u32) {
        self.0.store(value, SeqCst);
    }
    fn set(&self, bits: u32) -> u32 {
        self.0.fetch_or(bits, SeqCst)
    }
    fn clear(&self, bits: u32) -> u32 {
        self.0.fetch_and(!bits, SeqCst)
    }
    fn exchange(&self, old: u32, new: u32) -> Result<(), u32> {
        self.0.compare_exchange(old, new, SeqCst, SeqCst).map(|_| ())
    }
}

/// One port that is its queue alone: the word, and whether the queue's head names it.
struct Queue {
    word: Word,
    head: AtomicU32,
}

impl Queue {
    fn new(word: u32) -> Arc<Self> {
        Arc::new(Self { word: Word(AtomicU32::new(word)), head: AtomicU32::new(0) })
    }

    fn send(&self) {
        if word::raise(&self.word).to_link {
            // An exchange, not a store: loom may put a plain store before an exchange that it follows.
            self.head.swap(1, SeqCst);
        }
    }

    /// The guest takes the port off and handles it where it is not masked.
    fn consume(&self) {
        if self.head.swap(0, SeqCst) == 0 {
            return;
        }
        self.word.clear(LINKED | LINK);
        let now = self.word.load();
        if now & MASKED == 0 && now & PENDING != 0 {
            self.word.clear(PENDING);
        }
    }

    fn assert_nothing_lost(&self) {
        let now = self.word.load();
        let open = now & PENDING != 0 && now & MASKED == 0;
        assert!(!open || self.head.load(SeqCst) != 0, "pending, and in no queue: {now:#x}");
    }
}

#[test]
fn a_fifo_word_raised_while_the_guest_consumes() {
    explore("fifo: raise and consume", || {
        let q = Queue::new(0);
        let other = q.clone();
        let t = thread::spawn(move || {
            other.send();
            other.send();
        });
        q.consume();
        t.join().unwrap();
        q.assert_nothing_lost();
    });
}

#[test]
fn a_fifo_word_raised_while_it_is_unmasked() {
    explore("fifo: raise and unmask", || {
        let q = Queue::new(MASKED);
        let other = q.clone();
        let t = thread::spawn(move || other.send());
        // As EVTCHNOP_unmask does: what waits is raised again.
        if word::unmask(&q.word) {
            q.send();
        }
        t.join().unwrap();
        q.assert_nothing_lost();
    });
}

/// A port is appended while the guest takes the tail off: the guest finds it behind the tail, or the head is set.
#[test]
fn xsa_107_a_link_behind_a_tail_that_goes() {
    explore("fifo: append and take off", || {
        let tail = Arc::new(Word(AtomicU32::new(PENDING | LINKED)));
        let other = tail.clone();
        let guest = thread::spawn(move || {
            let mut seen = other.load();
            while let Err(now) = other.exchange(seen, seen & !(LINKED | LINK)) {
                seen = now;
            }
            seen & LINK
        });
        let appended = word::append(&*tail, 7);
        let found = guest.join().unwrap();
        assert_eq!(found == 7, appended == Appended::Behind, "{appended:?}, the guest found {found}");
    });
}
