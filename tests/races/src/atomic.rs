//! loom's atomics as the hypervisor's code knows them.
//!
//! loom treats a sequentially consistent access as one that acquires and releases only; its fences are what it should be.
//! So each `SeqCst` access stands between two fences here. On x86-64 the accesses that change memory are locked instructions,
//! which are such fences (SDM volume 3, 8.2.5).

use core::sync::atomic::Ordering::{self, SeqCst};

/// One turn of a spin loop.
pub(crate) fn relax() {
    loom::thread::yield_now();
}

fn fenced<R>(order: Ordering, access: impl FnOnce() -> R) -> R {
    let fence = || {
        if order == SeqCst {
            loom::sync::atomic::fence(SeqCst);
        }
    };
    fence();
    let result = access();
    fence();
    result
}

macro_rules! atomic {
    ($name:ident, $raw:ident) => {
        /// A word.
        #[derive(Debug, Default)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        impl $name {
            pub(crate) fn new(value: $raw) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }
            pub(crate) fn load(&self, order: Ordering) -> $raw {
                fenced(order, || self.0.load(order))
            }
            pub(crate) fn store(&self, value: $raw, order: Ordering) {
                fenced(order, || self.0.store(value, order));
            }
            pub(crate) fn swap(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, || self.0.swap(value, order))
            }
            pub(crate) fn fetch_or(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, || self.0.fetch_or(value, order))
            }
            pub(crate) fn fetch_and(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, || self.0.fetch_and(value, order))
            }
            pub(crate) fn fetch_add(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, || self.0.fetch_add(value, order))
            }
            pub(crate) fn fetch_sub(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, || self.0.fetch_sub(value, order))
            }
            pub(crate) fn fetch_max(&self, value: $raw, order: Ordering) -> $raw {
                fenced(order, || self.0.fetch_max(value, order))
            }
            pub(crate) fn compare_exchange(
                &self,
                old: $raw,
                new: $raw,
                good: Ordering,
                bad: Ordering,
            ) -> Result<$raw, $raw> {
                fenced(good, || self.0.compare_exchange(old, new, good, bad))
            }
            pub(crate) fn compare_exchange_weak(
                &self,
                old: $raw,
                new: $raw,
                good: Ordering,
                bad: Ordering,
            ) -> Result<$raw, $raw> {
                fenced(good, || self.0.compare_exchange_weak(old, new, good, bad))
            }
        }
    };
}

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);
