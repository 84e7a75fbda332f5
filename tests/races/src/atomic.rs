//! loom's atomics as the hypervisor's code knows them.
//!
//! loom treats a sequentially consistent access as one that acquires and releases only; its fences are what it should be.
//! So each `SeqCst` access stands between two fences here. On x86-64 the accesses that change memory are locked instructions,
//! which are such fences (SDM volume 3, 8.2.5).

//!
//! loom looks for another order only where an access depends on the last one of another thread, and takes a load that a
//! thread makes before its store for the last one. So each access counts a [`STEP`], which makes all of them depend on
//! one another and orders nothing.
//!
//! [`without`] takes something away from all of them: a claim that still holds then claims nothing of it.

use core::cell::Cell;
use core::sync::atomic::Ordering::{self, Relaxed, SeqCst};

/// What can be taken away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Acquire and release: accesses of one thread reach others in any order.
    Order,
    /// Fences that all agree on, those of sequentially consistent accesses too.
    Fences,
}

std::thread_local! {
    static MISSING: Cell<Option<Part>> = const { Cell::new(None) };
}

/// Does `f` without a part of the memory model's promises.
pub(crate) fn without<R>(part: Part, f: impl FnOnce() -> R) -> R {
    MISSING.set(Some(part));
    let result = f();
    MISSING.set(None);
    result
}

loom::lazy_static! {
    /// Accesses so far.
    static ref STEP: loom::sync::atomic::AtomicUsize = loom::sync::atomic::AtomicUsize::new(0);
}

/// To be called at the beginning of an exploration's order.
pub(crate) fn begin() {
    STEP.fetch_add(1, Relaxed);
}

/// One turn of a spin loop.
pub(crate) fn relax() {
    loom::thread::yield_now();
}

/// A fence.
pub(crate) fn fence(order: Ordering) {
    let missing = match MISSING.get() {
        Some(Part::Order) => true,
        Some(Part::Fences) => order == SeqCst,
        None => false,
    };
    if !missing {
        loom::sync::atomic::fence(order);
    }
}

fn fenced<R>(order: Ordering, access: impl FnOnce(fn(Ordering) -> Ordering) -> R) -> R {
    let around = || {
        if order == SeqCst {
            fence(SeqCst);
        }
    };
    STEP.fetch_add(1, Relaxed);
    around();
    let result = access(if MISSING.get() == Some(Part::Order) { |_| Relaxed } else { |order| order });
    around();
    result
}

macro_rules! word {
    ($name:ident, $raw:ident) => {
        /// A word.
        #[derive(Debug, Default)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        impl $name {
            pub(crate) fn new(value: $raw) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }
            pub(crate) fn load(&self, order: Ordering) -> $raw {
                fenced(order, |as_is| self.0.load(as_is(order)))
            }
            pub(crate) fn store(&self, value: $raw, order: Ordering) {
                fenced(order, |as_is| self.0.store(value, as_is(order)));
            }
            pub(crate) fn swap(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, |as_is| self.0.swap(value, as_is(order)))
            }
            pub(crate) fn compare_exchange(
                &self,
                old: $raw,
                new: $raw,
                good: Ordering,
                bad: Ordering,
            ) -> Result<$raw, $raw> {
                fenced(good, |as_is| self.0.compare_exchange(old, new, as_is(good), as_is(bad)))
            }
        }
    };
}

macro_rules! number {
    ($name:ident, $raw:ident) => {
        word!($name, $raw);

        impl $name {
            pub(crate) fn fetch_or(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, |as_is| self.0.fetch_or(value, as_is(order)))
            }
            pub(crate) fn fetch_and(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, |as_is| self.0.fetch_and(value, as_is(order)))
            }
            pub(crate) fn fetch_add(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, |as_is| self.0.fetch_add(value, as_is(order)))
            }
            pub(crate) fn fetch_sub(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, |as_is| self.0.fetch_sub(value, as_is(order)))
            }
            pub(crate) fn fetch_max(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, |as_is| self.0.fetch_max(value, as_is(order)))
            }
            pub(crate) fn fetch_min(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, |as_is| self.0.fetch_min(value, as_is(order)))
            }
            pub(crate) fn fetch_update(
                &self,
                good: Ordering,
                bad: Ordering,
                f: impl FnMut($raw) -> Option<$raw>,
            ) -> Result<$raw, $raw> {
                fenced(good, |as_is| self.0.fetch_update(as_is(good), as_is(bad), f))
            }
            pub(crate) fn compare_exchange_weak(
                &self,
                old: $raw,
                new: $raw,
                good: Ordering,
                bad: Ordering,
            ) -> Result<$raw, $raw> {
                fenced(good, |as_is| self.0.compare_exchange_weak(old, new, as_is(good), as_is(bad)))
            }
        }
    };
}

word!(AtomicBool, bool);
number!(AtomicU8, u8);
number!(AtomicU32, u32);
number!(AtomicU64, u64);
number!(AtomicUsize, usize);
number!(AtomicI64, i64);
