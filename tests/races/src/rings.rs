//! Rings between a front end and a back end: what is taken is what was put, and nobody sleeps over something that waits.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use loom::sync::Arc;
use loom::thread;

use crate::atomic::{AtomicU8, AtomicU32, Part, without};
use crate::explore;
use crate::io::byte_ring::ByteRing;
use crate::io::ring::{BackRing, FrontRing, HEADER_WORDS, Protocol};

/// Messages of a word.
struct Words;

impl Protocol for Words {
    type Request = u32;
    type Response = u32;
}

/// A ring of two slots, and what an event channel is to either end: a note that it was notified.
struct Shared {
    ring: Vec<AtomicU32>,
    to_back: AtomicU32,
    to_front: AtomicU32,
}

/// A ring on which one request has been answered. Neither end has asked to be woken since: both are awake.
fn ring() -> (Arc<Shared>, FrontRing<Words>, BackRing<Words>) {
    let ring: Vec<_> = (0..HEADER_WORDS + 2).map(|_| AtomicU32::new(0)).collect();
    let mut front = FrontRing::init(&ring).unwrap();
    let mut back = BackRing::attach(&ring).unwrap();
    front.put_request(&ring, &1).unwrap();
    assert!(front.push(&ring).unwrap(), "the first is told of");
    let request = back.take_request(&ring).unwrap().unwrap();
    back.put_response(&ring, &request).unwrap();
    assert!(back.push(&ring).unwrap(), "so is its answer");
    assert_eq!(front.take_response(&ring), Ok(Some(1)));
    (Arc::new(Shared { ring, to_back: AtomicU32::new(0), to_front: AtomicU32::new(0) }), front, back)
}

/// Puts the numbers from `first` on as requests, each published by itself.
fn ask(s: &Shared, front: &mut FrontRing<Words>, first: u32, count: u32) {
    for n in first..first + count {
        front.put_request(&s.ring, &n).unwrap();
        if front.push(&s.ring).unwrap() {
            s.to_back.store(1, Relaxed);
        }
    }
}

/// Takes what waits until it may sleep; returns what it took.
fn serve(s: &Shared, back: &mut BackRing<Words>) -> Vec<u32> {
    let mut taken = Vec::new();
    loop {
        while let Some(request) = back.take_request(&s.ring).unwrap() {
            taken.push(request);
        }
        if !back.final_check(&s.ring).unwrap() {
            return taken;
        }
    }
}

fn a_sleeping_back_end() {
    let (s, mut front, mut back) = ring();
    let other = s.clone();
    let t = thread::spawn(move || {
        let taken = serve(&other, &mut back);
        (back, taken)
    });
    ask(&s, &mut front, 7, 2);
    let (mut back, mut taken) = t.join().unwrap();
    assert!(
        back.waiting_requests(&s.ring).unwrap() == 0 || s.to_back.load(SeqCst) != 0,
        "it sleeps over a request"
    );
    taken.extend(serve(&s, &mut back));
    assert_eq!(taken, [7, 8], "taken is what was put");
}

#[test]
fn a_back_end_sleeps_over_no_request() {
    explore("ring: ask and serve", a_sleeping_back_end);
}

#[test]
#[should_panic(expected = "it sleeps over a request")]
fn without_fences_a_back_end_sleeps_over_a_request() {
    without(Part::Fences, || explore("ring without fences", a_sleeping_back_end));
}

#[test]
#[should_panic(expected = "taken is what was put")]
fn without_order_a_back_end_takes_what_was_not_put() {
    without(Part::Order, || {
        explore("ring without order", || {
            let (s, mut front, mut back) = ring();
            let other = s.clone();
            let t = thread::spawn(move || back.take_request(&other.ring).unwrap());
            ask(&s, &mut front, 7, 1);
            assert!(t.join().unwrap().is_none_or(|n| n == 7), "taken is what was put");
        });
    });
}

/// Both directions at once: requests are answered in slots that the front end then uses again.
#[test]
fn slots_are_used_again_only_when_they_were_taken() {
    explore("ring: ask, answer, take", || {
        let (s, mut front, mut back) = ring();
        ask(&s, &mut front, 7, 2);
        let other = s.clone();
        let t = thread::spawn(move || {
            for n in serve(&other, &mut back) {
                back.put_response(&other.ring, &(n + 100)).unwrap();
                if back.push(&other.ring).unwrap() {
                    other.to_front.store(1, Relaxed);
                }
            }
            (serve(&other, &mut back), back)
        });
        let mut answers = Vec::new();
        while let Some(answer) = front.take_response(&s.ring).unwrap() {
            answers.push(answer);
            ask(&s, &mut front, 9, 1);
        }
        let asleep = !front.final_check(&s.ring).unwrap();
        let (late, _) = t.join().unwrap();
        let left = front.waiting_responses(&s.ring).unwrap();
        assert!(!asleep || left == 0 || s.to_front.load(SeqCst) != 0, "it sleeps over an answer");
        while let Some(answer) = front.take_response(&s.ring).unwrap() {
            answers.push(answer);
        }
        assert!(answers == [107, 108] || answers[..2] == [107, 108], "{answers:?}");
        assert!(late.iter().all(|&n| n == 9), "{late:?}");
    });
}

/// A back end that waits for two requests at once is told of the second.
#[test]
fn a_back_end_that_waits_for_several_is_told() {
    explore("ring: await two", || {
        let (s, mut front, mut back) = ring();
        let other = s.clone();
        let t = thread::spawn(move || {
            let there = back.await_requests(&other.ring, 2).unwrap();
            (back, there)
        });
        ask(&s, &mut front, 7, 2);
        let (back, there) = t.join().unwrap();
        assert_eq!(back.waiting_requests(&s.ring).unwrap(), 2);
        assert!(there || s.to_back.load(SeqCst) != 0, "nobody told it");
    });
}

/// A stream of bytes through a buffer of two.
struct Stream {
    data: Vec<AtomicU8>,
    cons: AtomicU32,
    prod: AtomicU32,
}

fn a_stream() {
    let data = (0..2).map(|_| AtomicU8::new(0)).collect();
    let s = Arc::new(Stream { data, cons: AtomicU32::new(0), prod: AtomicU32::new(0) });
    let other = s.clone();
    let t = thread::spawn(move || {
        let ring = ByteRing::new(&other.data, &other.cons, &other.prod);
        ring.write(b"ab").unwrap() + ring.write(b"c").unwrap()
    });
    let ring = ByteRing::new(&s.data, &s.cons, &s.prod);
    let mut got = [0; 4];
    let mut used = ring.read(&mut got[..1]).unwrap();
    used += ring.read(&mut got[used..]).unwrap();
    let written = t.join().unwrap();
    used += ring.read(&mut got[used..]).unwrap();
    assert_eq!(used, written, "every byte");
    assert_eq!(got[..used], b"abc"[..used], "the bytes that were written");
}

#[test]
fn bytes_come_out_as_they_went_in() {
    explore("byte ring", a_stream);
}

#[test]
#[should_panic(expected = "the bytes that were written")]
fn without_order_bytes_come_out_that_were_not_written() {
    without(Part::Order, || explore("byte ring without order", a_stream));
}
