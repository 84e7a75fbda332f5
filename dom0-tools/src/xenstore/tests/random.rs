//! Random requests of two domains, with the audit after each.

use alloc::string::String;
use alloc::vec::Vec;

use proptest::prelude::*;

use pv_abi::ids::DomId;

use super::super::wire::{Op, message};
use super::super::{Quota, Xenstore};
use super::World;

#[derive(Clone, Debug)]
enum Step {
    Request { who: usize, op: u32, tx: u32, payload: Vec<u8> },
    Reintroduce(u16),
    Drain(usize),
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::collection::vec(prop::sample::select(&["a", "b", "c", "data"][..]), 1..5)
            .prop_map(|p| p.join("/")),
        prop::sample::select(
            &["/", "/local/domain/1", "/local/domain/2/a", "/tool", "@releaseDomain", "", "a//b"][..]
        )
        .prop_map(String::from),
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop_oneof![
        Just(Vec::new()),
        Just(b"tok\0".to_vec()),
        Just(b"n1\0b2\0".to_vec()),
        Just(b"b2\0".to_vec()),
        Just(b"0\0".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop_oneof![
        9 => (path(), tail).prop_map(|(p, t)| [p.as_bytes(), b"\0", &t].concat()),
        1 => Just(b"T\0".to_vec()),
        1 => Just(b"F\0".to_vec()),
        1 => Just(b"\0".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0usize..3, 0u32..24, 0u32..4, payload())
            .prop_map(|(who, op, tx, payload)| Step::Request { who, op, tx, payload }),
        1 => (1u16..3).prop_map(Step::Reintroduce),
        3 => (0usize..3).prop_map(Step::Drain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_audit_holds_after_every_request(steps in prop::collection::vec(step(), 1..120)) {
        let (mut w, mut conns) = World::new(&[1, 2]);
        for step in steps {
            match step {
                Step::Request { who, op, tx, payload } => {
                    let bytes = message(op, 1, tx, &payload).unwrap();
                    w.xs.input(conns[who], &bytes);
                }
                Step::Reintroduce(dom) => {
                    w.xs.release(DomId::new(dom));
                    prop_assert_eq!(w.xs.tree.iter().filter(|(_, n)| n.perms.names(DomId::new(dom))).count(), 0);
                    conns[usize::from(dom)] = w.xs.introduce(DomId::new(dom)).unwrap();
                }
                Step::Drain(who) => while w.take(conns[who]).is_some() {},
            }
            prop_assert_eq!(w.xs.audit(), Ok(()));
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), chunk in 1usize..50) {
        let mut xs = Xenstore::new(Quota::default());
        let conn = xs.introduce(DomId::new(1)).unwrap();
        for part in bytes.chunks(chunk) {
            xs.input(conn, part);
        }
        prop_assert_eq!(xs.audit(), Ok(()));
    }

    /// With op and length made plausible, so that the bytes get past the header.
    #[test]
    fn any_payload_is_survived(op in 0u32..24, payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut xs = Xenstore::new(Quota::default());
        let conn = xs.introduce(DomId::new(1)).unwrap();
        let bytes = message(op, 1, 0, &payload).unwrap();
        prop_assert_eq!(xs.input(conn, &bytes), bytes.len());
        prop_assert!(!xs.output(conn).is_empty(), "{:?}", Op::from_raw(op));
        prop_assert_eq!(xs.audit(), Ok(()));
    }
}
