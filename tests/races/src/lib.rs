//! The lock-free parts of the hypervisor, explored by loom: every order of their steps, and every value that a load may
//! see, up to a bound on preemptions.
//!
//! What is explored is the real code. Its files are compiled here a second time, with `crate::atomic` standing for loom's
//! atomics; the FIFO event word is generic over its atomics anyway.
//!
//! | path | real code | tests |
//! |---|---|---|
//! | type word | `frame/types.rs`, `frame/page_info.rs` | [`type_word`] |
//! | count word: references, steal, release | `frame/counts.rs` | [`count_word`] |
//! | stamp against flush | `frame/flush.rs`, `frame/page_info.rs` | [`type_word`] |
//! | two-level event words | `evtchn/words.rs` | [`events`] |
//! | FIFO event word and links | `evtchn/fifo/word.rs` | [`events`] |
//! | shared grant entry | `grant/word.rs` | [`grants`] |
//! | rings of requests and of bytes | pv-abi: `io/ring.rs`, `io/byte_ring.rs` | [`rings`] |
//! | requests for flushes, flush notes, typed bytes, log budget | hv-sync | [`words`] |
//! | hand-over of vcpus, events for them, their times | `sched`, whole | [`scheduler`] |
#![cfg(test)]
#![forbid(unsafe_code)]
#![expect(dead_code, reason = "the files have parts that no race is about")]
#![expect(unreachable_pub, reason = "what is public there is private here")]

extern crate alloc;
// The files know these by the names of their crates.
extern crate self as hv_sync;

macro_rules! seeded {
    ($fault:ident) => {
        false
    };
}

macro_rules! memory_is_short {
    () => {
        false
    };
}

mod evtchn;
mod frame;
mod grant;
mod io;
mod sched;
mod sync;

mod atomic;
mod count_word;
mod domain;
mod events;
mod grants;
mod machine;
mod port;
mod rings;
mod scheduler;
mod type_word;
mod vcpu;
mod words;

pub use sync::{Guard, SpinLock, lock_pair, rank};

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Explores `f` with up to three preemptions and prints how many orders there were.
fn explore(name: &str, f: impl Fn() + Send + Sync + 'static) {
    explore_up_to(3, name, f);
}

/// The same with a bound of its own.
fn explore_up_to(preemptions: usize, name: &str, f: impl Fn() + Send + Sync + 'static) {
    let orders = Arc::new(AtomicUsize::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    let count = orders.clone();
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        atomic::begin();
        f();
    });
    println!("races {name}: {} orders", orders.load(Ordering::Relaxed));
}
