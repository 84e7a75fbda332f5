use super::*;
use crate::net::testing::Plain;
use alloc::vec;
use proptest::prelude::*;

const A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
const B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);
const ALL: Mac = Mac([0xff; 6]);

fn frame(to: Mac, from: Mac, rest: &[u8]) -> Head {
    let mut bytes = vec![];
    bytes.extend(to.0);
    bytes.extend(from.0);
    bytes.extend(rest);
    bytes.resize(bytes.len().max(60), 0);
    Head::of(&Plain::new(&bytes))
}

fn of(mac: Mac) -> Identity {
    Identity { mac: Some(mac), addresses: vec![] }
}

#[test]
fn frames_find_their_way_once_addresses_are_known() {
    let mut switch = Switch::new();
    let (up, a, b) =
        (switch.attach(Identity::default()), switch.attach(Identity::default()), switch.attach(of(B)));
    assert_eq!(switch.route(a, &frame(ALL, A, &[]), 0), Route::Flood);
    assert_eq!(switch.route(up, &frame(A, Mac([4; 6]), &[]), 0), Route::To(a));
    // An interface's own address needs no learning.
    assert_eq!(switch.route(a, &frame(B, A, &[]), 0), Route::To(b));
    assert_eq!(switch.route(a, &frame(Mac([6; 6]), A, &[]), 0), Route::Flood);
    assert_eq!(switch.route(a, &frame(A, A, &[]), 0), Route::Drop);
    // It moves, ages, and goes with its port.
    switch.route(up, &frame(ALL, A, &[]), 1);
    assert_eq!(switch.route(b, &frame(A, B, &[]), 2), Route::To(up));
    assert_eq!(switch.route(b, &frame(A, B, &[]), 2 + MAX_AGE_NS), Route::Flood);
    switch.detach(up);
    assert_eq!(switch.route(b, &frame(A, B, &[]), 2), Route::Flood);
    let counters = switch.counters(a);
    assert_eq!((counters.in_frames, counters.in_bytes, counters.in_dropped), (4, 240, 0));
}

#[test]
fn what_no_station_sends_is_dropped() {
    let mut switch = Switch::new();
    let a = switch.attach(Identity::default());
    switch.attach(Identity::default());
    assert_eq!(switch.route(a, &frame(ALL, ALL, &[]), 0), Route::Drop);
    assert_eq!(switch.route(a, &frame(ALL, Mac([0; 6]), &[]), 0), Route::Drop);
    assert_eq!(switch.route(a, &Head::of(&Plain::new(&[2; 13])), 0), Route::Drop);
    assert_eq!(switch.counters(a).in_dropped, 3);
    assert_eq!(switch.route(a, &frame(Mac([1, 0x80, 0xc2, 0, 0, 0]), A, &[]), 0), Route::Drop);
}

#[test]
fn nobody_takes_an_interfaces_address() {
    let mut switch = Switch::new();
    let (a, b) = (switch.attach(of(A)), switch.attach(of(B)));
    assert_eq!(switch.route(b, &frame(ALL, A, &[]), 0), Route::Drop);
    assert_eq!(switch.route(b, &frame(A, B, &[]), 0), Route::To(a));
    // It may have further addresses of its own.
    assert_eq!(switch.route(b, &frame(A, Mac([2; 6]), &[]), 0), Route::To(a));
}

#[test]
fn a_held_port_sends_with_its_own_addresses_alone() {
    let mut switch = Switch::new();
    let identity = Identity { mac: Some(A), addresses: vec![[10, 0, 2, 15]] };
    let (a, _) = (switch.attach(identity), switch.attach(of(B)));
    let mut ip = vec![8, 0];
    ip.extend([0; 12]);
    let packet = |ip: &[u8], address: [u8; 4]| [ip, &address[..]].concat();
    let arp = |address: [u8; 4]| [&[8, 6][..], &[0; 14], &address[..]].concat();
    assert_eq!(switch.route(a, &frame(ALL, A, &packet(&ip, [10, 0, 2, 15])), 0), Route::Flood);
    assert_eq!(switch.route(a, &frame(ALL, A, &packet(&ip, [10, 0, 2, 16])), 0), Route::Drop);
    assert_eq!(switch.route(a, &frame(ALL, A, &arp([10, 0, 2, 15])), 0), Route::Flood);
    assert_eq!(switch.route(a, &frame(ALL, A, &arp([0; 4])), 0), Route::Flood);
    assert_eq!(switch.route(a, &frame(ALL, A, &arp([10, 0, 2, 2])), 0), Route::Drop);
    assert_eq!(switch.route(a, &frame(ALL, Mac([2; 6]), &arp([10, 0, 2, 15])), 0), Route::Drop);
}

#[test]
fn one_port_cannot_fill_the_table() {
    let mut switch = Switch::new();
    let (a, b) = (switch.attach(Identity::default()), switch.attach(Identity::default()));
    for number in 0..5000_u32 {
        let [x, y, z, w] = number.to_be_bytes();
        switch.route(a, &frame(ALL, Mac([2, 1, x, y, z, w]), &[]), 0);
    }
    assert_eq!(switch.learnt(), MAX_LEARNT_OF_PORT);
    switch.route(b, &frame(ALL, B, &[]), 0);
    assert_eq!(switch.route(a, &frame(B, A, &[]), 0), Route::To(b));
    // Once they are old there is room again.
    switch.route(a, &frame(ALL, A, &[]), MAX_AGE_NS + 1);
    assert_eq!(switch.route(b, &frame(A, B, &[]), MAX_AGE_NS + 1), Route::To(a));
}

proptest! {
    /// Whatever is sent, no frame comes back to its port, and the book-keeping holds.
    #[test]
    fn walks_hold(steps in proptest::collection::vec((0..6_u8, 0..5_usize, 0..40_u8, 0..40_u8, 0..4_u64), 1..200)) {
        let mut switch = Switch::new();
        let mut now = 0;
        for (what, number, to, from, time) in steps {
            now += time * MAX_AGE_NS / 2;
            let ports: Vec<PortId> = switch.ports().collect();
            let port = ports.get(number % ports.len().max(1)).copied();
            match (what, port) {
                (0, _) | (_, None) => {
                    let mac = (to % 2 == 0).then_some(Mac([2, 0, 0, 0, 0, from]));
                    switch.attach(Identity { mac, addresses: vec![] });
                }
                (1, Some(port)) => switch.detach(port),
                (_, Some(port)) => {
                    let head = frame(Mac([2, 0, 0, 0, 0, to]), Mac([2, 0, 0, 0, 0, from]), &[]);
                    if let Route::To(other) = switch.route(port, &head, now) {
                        prop_assert_ne!(other, port);
                        prop_assert!(switch.port(other).is_some());
                    }
                }
            }
            for port in switch.ports() {
                let learnt = switch.table.values().filter(|place| place.port == port).count();
                prop_assert_eq!(switch.port(port).unwrap().learnt, learnt);
            }
        }
    }
}
