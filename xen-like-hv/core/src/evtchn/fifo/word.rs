//! The protocol of one event word, over anything that behaves like an atomic 32-bit word.
//!
//! An event word lies in the guest's memory and both sides change it with locked operations. Who may do what:
//!
//! | bits | hypervisor | guest |
//! |---|---|---|
//! | `PENDING` | sets it for an event; clears it when the port is closed | clears it before the handler |
//! | `MASKED` | clears it for `EVTCHNOP_unmask` | sets it; clears it while `PENDING` and `BUSY` are clear |
//! | `LINKED` | sets it when it puts the port at the end of a queue | clears it together with the link when it takes the port off |
//! | link | sets it in the tail of a queue, under the queue's lock | clears it |
//! | `BUSY` | set while the link of a word that keeps changing is written | leaves `MASKED` alone meanwhile |
//!
//! Nothing here believes what a word says: bits decide between moves that are all harmless to others, a link is never
//! followed, and every loop is bounded. A guest that breaks the protocol loses events of its own.

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicU32, AtomicU64};

use pv_abi::evtchn::EventWord;

/// An event has arrived.
pub const PENDING: u32 = EventWord::PENDING.bits();
/// No upcall for it.
pub const MASKED: u32 = EventWord::MASKED.bits();
/// It is in a queue.
pub const LINKED: u32 = EventWord::LINKED.bits();
/// Its link is being changed.
pub const BUSY: u32 = EventWord::BUSY.bits();
/// The next port in the queue.
pub const LINK: u32 = EventWord::LINK.bits();

/// How often a link is tried to be set in a word that changes all the time.
const TRIES: u32 = 4;
/// How often a change of the neighbouring word is put up with.
const NEIGHBOUR_TRIES: u32 = 16;

/// An atomic 32-bit word: a real one, half a 64-bit one, or a model's.
pub trait WordIo {
    /// Reads it.
    fn load(&self) -> u32;
    /// Writes it.
    fn store(&self, value: u32);
    /// Sets bits; returns the word as it was.
    fn set(&self, bits: u32) -> u32;
    /// Clears bits; returns the word as it was.
    fn clear(&self, bits: u32) -> u32;
    /// Replaces `old` by `new`.
    ///
    /// # Errors
    /// What was found instead; that may be `old` after all.
    fn exchange(&self, old: u32, new: u32) -> Result<(), u32>;
}

impl WordIo for AtomicU32 {
    fn load(&self) -> u32 {
        Self::load(self, SeqCst)
    }
    fn store(&self, value: u32) {
        Self::store(self, value, SeqCst);
    }
    fn set(&self, bits: u32) -> u32 {
        self.fetch_or(bits, SeqCst)
    }
    fn clear(&self, bits: u32) -> u32 {
        self.fetch_and(!bits, SeqCst)
    }
    fn exchange(&self, old: u32, new: u32) -> Result<(), u32> {
        self.compare_exchange(old, new, SeqCst, SeqCst).map(|_| ())
    }
}

/// The lower or the upper half of a word of a frame. Changes leave the other half as it is.
pub struct Half<'a> {
    word: &'a AtomicU64,
    shift: u32,
}

impl<'a> Half<'a> {
    /// Half `index & 1` of `word`: the one that is the 32-bit word of number `index` in memory.
    #[must_use]
    pub fn new(word: &'a AtomicU64, index: usize) -> Self {
        Self { word, shift: if index & 1 == 0 { 0 } else { 32 } }
    }

    fn of(&self, whole: u64) -> u32 {
        u32::try_from(whole >> self.shift & u64::from(u32::MAX)).unwrap_or(0)
    }

    fn with(&self, whole: u64, half: u32) -> u64 {
        whole & !(u64::from(u32::MAX) << self.shift) | u64::from(half) << self.shift
    }
}

impl WordIo for Half<'_> {
    fn load(&self) -> u32 {
        self.of(self.word.load(SeqCst))
    }

    fn store(&self, value: u32) {
        for _ in 0..NEIGHBOUR_TRIES {
            if self.exchange(self.load(), value).is_ok() {
                return;
            }
        }
        // Somebody writes here all the time, against the protocol: what it reads in between is its own affair.
        self.clear(!value);
        self.set(value);
    }

    fn set(&self, bits: u32) -> u32 {
        self.of(self.word.fetch_or(u64::from(bits) << self.shift, SeqCst))
    }

    fn clear(&self, bits: u32) -> u32 {
        self.of(self.word.fetch_and(!(u64::from(bits) << self.shift), SeqCst))
    }

    fn exchange(&self, old: u32, new: u32) -> Result<(), u32> {
        let mut whole = self.word.load(SeqCst);
        for _ in 0..NEIGHBOUR_TRIES {
            if self.of(whole) != old {
                break;
            }
            match self.word.compare_exchange(whole, self.with(whole, new), SeqCst, SeqCst) {
                Ok(_) => return Ok(()),
                Err(now) => whole = now,
            }
        }
        Err(self.of(whole))
    }
}

/// What setting a port pending found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// An event was pending already.
    pub was_pending: bool,
    /// The port is now marked as linked and was not before: the caller puts it into a queue.
    pub to_link: bool,
}

/// Sets a port pending, and marks it as linked unless it is masked.
pub fn raise(word: &impl WordIo) -> Raised {
    let was_pending = word.set(PENDING) & PENDING != 0;
    Raised { was_pending, to_link: mark_linked(word) }
}

/// Marks a port as linked unless it is masked; whether it was not linked before.
fn mark_linked(word: &impl WordIo) -> bool {
    word.load() & MASKED == 0 && word.set(LINKED) & LINKED == 0
}

/// Clears the mask of a port; whether an event waits behind it.
pub fn unmask(word: &impl WordIo) -> bool {
    word.clear(MASKED);
    word.load() & PENDING != 0
}

/// What became of an attempt to add a port behind the tail of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The guest will find it behind the tail.
    Behind,
    /// The guest has taken the tail off meanwhile, or keeps changing it: the queue's head has to be set.
    QueueIsEmpty,
}

/// Links `port` behind a tail, if the guest has not taken that off its queue. The caller holds the queue's lock.
///
/// A guest that changes the tail without an end is told by `BUSY` to stop, and given up on after a few tries. Starting the
/// queue anew is safe then too: a guest that has not come to the tail yet ends there and looks at the head again.
pub fn append(tail: &impl WordIo, port: u32) -> Appended {
    let mut seen = tail.load();
    if let Some(done) = try_link(tail, &mut seen, port) {
        return done;
    }
    seen = tail.set(BUSY) | BUSY;
    for _ in 0..TRIES {
        match try_link(tail, &mut seen, port) {
            Some(Appended::Behind) => return Appended::Behind,
            Some(Appended::QueueIsEmpty) => break,
            None => {}
        }
    }
    tail.clear(BUSY);
    Appended::QueueIsEmpty
}

/// One try; `None` where the word was not as `seen`, which is brought up to date.
fn try_link(tail: &impl WordIo, seen: &mut u32, port: u32) -> Option<Appended> {
    if *seen & LINKED == 0 {
        return Some(Appended::QueueIsEmpty);
    }
    match tail.exchange(*seen, *seen & !(BUSY | LINK) | port & LINK) {
        Ok(()) => Some(Appended::Behind),
        Err(now) => {
            *seen = now;
            None
        }
    }
}
