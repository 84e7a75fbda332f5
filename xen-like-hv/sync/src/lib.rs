//! What pcpus share: locks with a rank, over `spin`, and a few words that need no lock.
//!
//! | without a lock | for |
//! |---|---|
//! | [`Tickets`] | requests to a pcpu, such as a TLB flush |
//! | [`FlushClock`], [`FlushNote`] | which translations a pcpu may still have |
//! | [`ByteQueue`] | what was typed |
//! | [`Budget`] | what guests may have logged |
//!
//! `tests/races` explores these in every order.
//!
//! Every lock has a [`Rank`], declared in [`rank`] with what it protects. A CPU takes locks in ascending rank; two
//! locks of one rank are taken with [`lock_pair`] in an order that both sides agree on. Debug builds check this per
//! CPU once [`install`] has named the CPU-number hook.
//!
//! The hypervisor spins with interrupts disabled. While it does, the relax hook services requests of other CPUs
//! (TLB flushes), so that a CPU that waits for an acknowledgement and one that waits for a lock cannot block each
//! other.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod atomic;
mod budget;
mod byte_queue;
mod flush_note;
pub mod rank;
mod tickets;

use core::fmt;
use core::ops::{Deref, DerefMut};
#[cfg(debug_assertions)]
use core::sync::atomic::AtomicU64;
#[cfg(debug_assertions)]
use core::sync::atomic::Ordering::Relaxed;

pub use budget::{Budget, Rate};
pub use byte_queue::ByteQueue;
pub use flush_note::{FlushClock, FlushNote};
pub use rank::Rank;
pub use tickets::Tickets;

/// Most CPUs whose held ranks are tracked in debug builds.
pub const MAX_CPUS: usize = 64;

/// What the image does for code that is free of hardware.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Called on each turn of a spin loop.
    pub relax: fn(),
    /// Number of the calling CPU, below [`MAX_CPUS`].
    pub cpu: fn() -> usize,
    /// How full the hypervisor's heap is.
    pub heap: fn() -> HeapRoom,
}

/// How much the hypervisor's heap holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapRoom {
    /// Bytes in all.
    pub size: usize,
    /// Bytes in use.
    pub used: usize,
}

impl HeapRoom {
    /// Whether nothing more may be allocated because a guest asks for it. Some allocations cannot fail: short ones of the
    /// hypervisor's own. What is kept for them covers the largest of the others too, so that a guest never exhausts the
    /// heap, whatever it is allowed to have.
    #[must_use]
    pub const fn is_short(self) -> bool {
        self.size.saturating_sub(self.used) < self.size / 8 * 3
    }

    /// The most that one kind of record of one domain may take.
    #[must_use]
    pub const fn share(self) -> usize {
        self.size / 8
    }
}

/// How full the heap is; before there is one, it is as large as can be.
#[must_use]
pub fn heap() -> HeapRoom {
    HOOKS.get().map_or(HeapRoom { size: usize::MAX, used: 0 }, |h| (h.heap)())
}

static HOOKS: spin::Once<Hooks> = spin::Once::new();

/// Names the hooks. The first call wins; before it, spinning is a plain pause and ranks are not checked.
pub fn install(hooks: Hooks) {
    HOOKS.call_once(|| hooks);
}

/// One turn of a spin loop: services what other CPUs ask of this one.
pub fn relax() {
    if let Some(h) = HOOKS.get() {
        (h.relax)();
    }
    core::hint::spin_loop();
}

/// The strategy that makes `spin` call [`relax`].
#[derive(Debug)]
pub struct RelaxHook;

impl spin::RelaxStrategy for RelaxHook {
    fn relax() {
        relax();
    }
}

#[cfg(debug_assertions)]
static HELD: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Notes that this CPU takes a lock of `rank`; panics where that breaks the order.
#[cfg(debug_assertions)]
fn note_taken(rank: Rank, same_rank_allowed: SameRank) -> bool {
    let Some(h) = HOOKS.get() else { return false };
    let held = &HELD[(h.cpu)() % MAX_CPUS];
    let now = held.load(Relaxed);
    let above = match same_rank_allowed {
        SameRank::Refused => now >> rank.bit(),
        SameRank::Allowed => (now >> rank.bit()) >> 1,
    };
    assert!(above == 0, "lock rank order broken: {rank:?} taken while holding {now:#x}");
    if now & (1 << rank.bit()) != 0 {
        return false;
    }
    held.store(now | 1 << rank.bit(), Relaxed);
    true
}

#[cfg(debug_assertions)]
fn note_released(rank: Rank) {
    if let Some(h) = HOOKS.get() {
        let held = &HELD[(h.cpu)() % MAX_CPUS];
        held.store(held.load(Relaxed) & !(1 << rank.bit()), Relaxed);
    }
}

/// Whether a second lock of a rank that is already held is in order here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SameRank {
    Refused,
    Allowed,
}

/// A fair spin lock with a rank.
pub struct SpinLock<T> {
    #[cfg_attr(not(debug_assertions), expect(dead_code, reason = "ranks are checked in debug builds only"))]
    rank: Rank,
    inner: spin::mutex::TicketMutex<T, RelaxHook>,
}

impl<T> SpinLock<T> {
    /// A free lock of `rank` around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: spin::mutex::TicketMutex::new(value) }
    }

    /// Takes the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        self.lock_as(SameRank::Refused)
    }

    fn lock_as(&self, same: SameRank) -> Guard<'_, T> {
        let _ = same;
        #[cfg(debug_assertions)]
        let noted = note_taken(self.rank, same);
        let inner = self.inner.lock();
        Guard {
            inner,
            #[cfg(debug_assertions)]
            noted: noted.then_some(self.rank),
        }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let inner = self.inner.try_lock()?;
        Some(Guard {
            inner,
            #[cfg(debug_assertions)]
            noted: None,
        })
    }

    /// The value, where the borrow proves that nobody else can hold the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T: fmt::Debug> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.inner, f)
    }
}

/// Takes two locks of one rank. The caller's order is the order: ascending domid.
pub fn lock_pair<'a, A, B>(first: &'a SpinLock<A>, second: &'a SpinLock<B>) -> (Guard<'a, A>, Guard<'a, B>) {
    let a = first.lock();
    let b = second.lock_as(SameRank::Allowed);
    (a, b)
}

/// A held [`SpinLock`].
#[must_use]
pub struct Guard<'a, T> {
    inner: spin::mutex::ticket::TicketMutexGuard<'a, T, RelaxHook>,
    #[cfg(debug_assertions)]
    noted: Option<Rank>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(debug_assertions)]
impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        if let Some(rank) = self.noted {
            note_released(rank);
        }
    }
}

/// A reader-writer spin lock; not ranked: readers hold it for a look-up only and take no other lock meanwhile.
pub type RwLock<T> = spin::rwlock::RwLock<T, RelaxHook>;

/// A value that is set once.
pub type Once<T> = spin::once::Once<T, RelaxHook>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn with_hooks(f: impl FnOnce() + std::panic::UnwindSafe) -> std::thread::Result<()> {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        install(Hooks { relax: || {}, cpu: || 0, heap: || HeapRoom { size: 0, used: 0 } });
        let r = std::panic::catch_unwind(f);
        #[cfg(debug_assertions)]
        HELD[0].store(0, Relaxed);
        r
    }

    #[test]
    fn what_guests_ask_for_leaves_room_for_what_cannot_fail() {
        for size in [8 << 20, 192 << 20] {
            for piece in [64, 16 << 10, size / 8] {
                let mut heap = HeapRoom { size, used: 0 };
                while !heap.is_short() {
                    heap.used += piece;
                }
                // The old and the new of a list that grew by the piece were there at once.
                assert!(size - heap.used > size / 8, "{size} {piece}");
            }
        }
    }

    #[test]
    fn ascending_ranks_are_taken() {
        let ok = with_hooks(|| {
            let a = SpinLock::new(rank::DOMAIN, 1);
            let b = SpinLock::new(rank::HEAP, 2);
            let ga = a.lock();
            let gb = b.lock();
            assert_eq!(*ga + *gb, 3);
        });
        assert!(ok.is_ok());
    }

    #[test]
    #[cfg(debug_assertions)]
    fn descending_ranks_are_refused() {
        let r = with_hooks(|| {
            let a = SpinLock::new(rank::DOMAIN, 1);
            let b = SpinLock::new(rank::HEAP, 2);
            let _gb = b.lock();
            let _ga = a.lock();
        });
        assert!(r.is_err());
    }

    #[test]
    fn a_pair_of_one_rank_is_taken_and_given_back() {
        let ok = with_hooks(|| {
            let a = SpinLock::new(rank::EVTCHN, 1);
            let b = SpinLock::new(rank::EVTCHN, 2);
            for _ in 0..2 {
                let (ga, gb) = lock_pair(&a, &b);
                assert_eq!(*ga + *gb, 3);
            }
            drop(a.lock());
        });
        assert!(ok.is_ok());
    }
}
