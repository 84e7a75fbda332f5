//! What pcpus share without a lock: requests for flushes, what a TLB may still have, what was typed, what may be logged.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use loom::sync::Arc;
use loom::thread;

use crate::atomic::{AtomicU32, AtomicU64, Part, without};
use crate::machine::Machine;
use crate::port::{CpuMask, Tlb as _};
use crate::sync::budget::{Budget, Rate};
use crate::sync::byte_queue::ByteQueue;
use crate::sync::tickets::Tickets;
use crate::{explore, explore_up_to};

/// A pcpu that is asked to flush: whether an entry is there, and whether it still has its translation.
#[derive(Default)]
struct Asked {
    tickets: Tickets,
    entry: AtomicU32,
    cached: AtomicU32,
}

impl Asked {
    fn serve(&self) {
        self.tickets.serve(|| self.cached.store(self.entry.load(Relaxed), Relaxed));
    }
}

/// Somebody asks while the pcpu serves; when the ticket is served, the translation is gone.
fn a_flush_that_is_asked_for(askers: usize) {
    let p = Arc::new(Asked::default());
    p.entry.store(1, SeqCst);
    p.cached.store(1, SeqCst);
    let others: Vec<_> = (0..askers)
        .map(|_| {
            let p = p.clone();
            thread::spawn(move || {
                p.entry.store(0, Relaxed);
                let ticket = p.tickets.draw();
                if p.tickets.is_served(ticket) {
                    assert_eq!(p.cached.load(Relaxed), 0, "served, and the translation is still there");
                }
            })
        })
        .collect();
    p.serve();
    p.serve();
    others.into_iter().for_each(|t| t.join().unwrap());
    p.serve();
    assert_eq!(p.tickets.served(), askers as u64, "all are served");
}

#[test]
fn a_ticket_is_served_after_it_was_drawn() {
    explore("flush tickets: one asks", || a_flush_that_is_asked_for(1));
}

#[test]
fn tickets_of_two_are_served() {
    explore_up_to(2, "flush tickets: two ask", || a_flush_that_is_asked_for(2));
}

#[test]
#[should_panic(expected = "the translation is still there")]
fn without_order_a_ticket_is_served_too_early() {
    without(Part::Order, || explore("flush tickets without order", || a_flush_that_is_asked_for(1)));
}

/// The entry goes and is stamped, and its frame is wanted for something else, while the pcpu changes its root.
fn an_entry_goes(before: fn(&Machine), change: fn(&Machine), unmap: fn(&Machine) -> u64) {
    let m = Arc::new(Machine::default());
    m.entry.store(1, SeqCst);
    before(&m);
    let other = m.clone();
    let t = thread::spawn(move || change(&other));
    let stamp = unmap(&m);
    if m.stale_since(CpuMask::from_bits(1), stamp).is_empty() {
        assert_eq!(m.cached.load(SeqCst), 0, "taken for flushed, and it is not");
    }
    t.join().unwrap();
}

fn clear_and_stamp(m: &Machine) -> u64 {
    m.entry.swap(0, SeqCst);
    m.flush_clock()
}

/// A pcpu without a guest is not asked to flush; where it loads a guest's root meanwhile, it finds the entry gone.
#[test]
fn a_pcpu_that_takes_up_a_guest_has_no_stale_translation() {
    explore("flush note: a root is loaded", || {
        an_entry_goes(Machine::leave_guest, Machine::load_guest_root, clear_and_stamp);
    });
}

/// The same where a guest's root is there already, as at each change between a guest's kernel and its user mode.
#[test]
fn a_pcpu_that_changes_roots_has_no_stale_translation() {
    explore("flush note: root after root", || {
        an_entry_goes(Machine::load_guest_root, Machine::load_guest_root, clear_and_stamp);
    });
}

/// Or while it goes from one guest to none and to another.
#[test]
fn a_pcpu_that_changes_guests_has_no_stale_translation() {
    explore("flush note: a root goes", || {
        let change = |m: &Machine| {
            m.leave_guest();
            m.load_guest_root();
        };
        an_entry_goes(Machine::load_guest_root, change, clear_and_stamp);
    });
}

#[test]
#[should_panic(expected = "taken for flushed, and it is not")]
fn who_stamps_an_entry_before_it_goes_is_deceived() {
    explore("flush note: stamped too early", || {
        let unmap = |m: &Machine| {
            let stamp = m.flush_clock();
            m.entry.swap(0, SeqCst);
            stamp
        };
        an_entry_goes(Machine::load_guest_root, Machine::load_guest_root, unmap);
    });
}

fn typed() {
    let q = Arc::new(ByteQueue::<2>::new());
    let other = q.clone();
    let writer =
        thread::spawn(move || b"abc".iter().filter(|&&b| other.push(b)).copied().collect::<Vec<_>>());
    let mut got: Vec<_> = (0..3).filter_map(|_| q.pop()).collect();
    let put = writer.join().unwrap();
    got.extend(core::iter::from_fn(|| q.pop()));
    assert_eq!(got, put, "what was typed");
}

#[test]
fn typed_bytes_come_in_order() {
    explore("byte queue", typed);
}

#[test]
#[should_panic(expected = "what was typed")]
fn without_order_typed_bytes_are_others() {
    without(Part::Order, || explore("byte queue without order", typed));
}

/// Two vcpus of dom0 read at once: every byte goes to one of them.
#[test]
fn two_readers_share_what_was_typed() {
    explore("byte queue: two readers", || {
        let q = Arc::new(ByteQueue::<2>::new());
        assert!(q.push(b'a') && q.push(b'b') && !q.push(b'c'), "room for two");
        let other = q.clone();
        let t = thread::spawn(move || other.pop());
        let mine = q.pop();
        let mut all: Vec<_> = t.join().unwrap().into_iter().chain(mine).collect();
        all.extend(core::iter::from_fn(|| q.pop()));
        all.sort_unstable();
        assert_eq!(all, b"ab", "each byte once");
    });
}

/// A budget for two is asked three times at one moment: two are granted, and one refusal is told of or waits to be.
#[test]
fn a_budget_is_not_exceeded() {
    const RATE: Rate = Rate { burst: 2, refill_ns: 10 };
    explore("log budget", || {
        let all = Arc::new((Budget::default(), AtomicU64::new(0)));
        let ask = |(budget, told): &(Budget, AtomicU64)| {
            let granted = budget.take(RATE, 1000);
            told.fetch_add(granted.unwrap_or(0), SeqCst);
            u32::from(granted.is_some())
        };
        let others: Vec<_> = (0..2)
            .map(|_| {
                let all = all.clone();
                thread::spawn(move || ask(&all))
            })
            .collect();
        let granted: u32 = ask(&all) + others.into_iter().map(|t| t.join().unwrap()).sum::<u32>();
        assert_eq!(granted, 2);
        let later = all.0.take(RATE, 2000);
        assert_eq!(later.unwrap() + all.1.load(SeqCst), 1, "refusals told of");
    });
}
