//! What broke other stores, tried here. Names give the advisory.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use pv_abi::ids::DomId;
use zerocopy::IntoBytes;

use super::super::wire::{Header, Op, message};
use super::super::{Access, Quota};
use super::{World, begin, err, ok};
use crate::toolstack::Store;

#[test]
fn xsa_38_an_oversized_message_breaks_only_its_sender() {
    let (mut w, c) = World::new(&[1, 2]);
    let header = Header { kind: Op::Write.raw(), req_id: 1, tx_id: 0, len: 4097 };
    w.xs.input(c[1], header.as_bytes());
    assert!(w.xs.is_broken(c[1]));
    assert_eq!(w.xs.input(c[1], b"more"), 0);
    assert_eq!(w.ask(c[2], Op::Write, b"x\0v"), ok(b"OK\0"));
    let header = Header { len: u32::MAX, ..header };
    w.xs.input(c[2], header.as_bytes());
    assert!(w.xs.is_broken(c[2]));
    w.xs.audit().unwrap();
}

#[test]
fn xsa_115_a_watch_tells_nothing_of_what_may_not_be_read() {
    let (mut w, c) = World::new(&[1, 2]);
    assert_eq!(w.ask(c[2], Op::Watch, b"/\0spy\0"), ok(b"OK\0"));
    w.events(c[2]);
    w.ask(c[1], Op::Write, b"secret\0v").unwrap();
    w.ask(c[1], Op::Rm, b"secret\0").unwrap();
    assert!(w.events(c[2]).is_empty());
    w.ask(c[1], Op::Write, b"open\0v").unwrap();
    w.ask(c[1], Op::SetPerms, b"open\0r1\0").unwrap();
    assert_eq!(w.events(c[2]), ["/local/domain/1/open\0spy"]);
}

#[test]
fn xsa_322_and_417_a_new_domain_inherits_nothing_from_its_number() {
    let (mut w, c) = World::new(&[1, 2]);
    w.ask(c[1], Op::Write, b"for-3\0v").unwrap();
    w.ask(c[1], Op::SetPerms, b"for-3\0n1\0b3\0").unwrap();
    w.xs.write("/tool/given", b"v").unwrap();
    w.xs.set_perms("/tool/given", (DomId::new(2), Access::None), &[]).unwrap();
    w.xs.forget_domain(DomId::new(3));
    let three = w.xs.introduce(DomId::new(3)).unwrap();
    assert_eq!(w.ask(three, Op::Read, b"/local/domain/1/for-3\0"), err("EACCES"));
    w.xs.release(DomId::new(2));
    w.xs.audit().unwrap();
    let two = w.xs.introduce(DomId::new(2)).unwrap();
    assert_eq!(w.ask(two, Op::Read, b"/tool/given\0"), err("ENOENT"));
}

#[test]
fn a_root_that_was_given_away_comes_back() {
    let (mut w, c) = World::new(&[1]);
    w.ask(c[0], Op::SetPerms, b"/\0b1\0").unwrap();
    w.xs.release(DomId::new(1));
    assert_eq!(w.ask(c[0], Op::GetPerms, b"/\0"), ok(b"b0\0"));
}

#[test]
fn xsa_323_paths_are_measured_as_made_absolute() {
    let (mut w, c) = World::new(&[1]);
    let long = format!("{}\0v", "a".repeat(2049));
    assert_eq!(w.ask(c[1], Op::Write, long.as_bytes()), err("EINVAL"));
    let long = format!("/local/domain/1/{}\0v", "a".repeat(3072));
    assert_eq!(w.ask(c[1], Op::Write, long.as_bytes()), err("EINVAL"));
}

#[test]
fn xsa_324_no_watch_can_make_an_event_too_long() {
    let (mut w, c) = World::new(&[1]);
    let long = format!("x\0{}\0", "t".repeat(2000));
    assert_eq!(w.ask(c[1], Op::Watch, long.as_bytes()), err("E2BIG"));
    let most = format!("/\0{}\0", "t".repeat(1022));
    assert_eq!(w.ask(c[1], Op::Watch, most.as_bytes()), ok(b"OK\0"));
}

#[test]
fn xsa_326_a_client_that_takes_nothing_fills_nothing() {
    let (mut w, c) = World::new(&[1]);
    w.ask(c[1], Op::Write, format!("x\0{}", "v".repeat(2000)).as_bytes()).unwrap();
    let read = message(Op::Read.raw(), 1, 0, b"x\0").unwrap();
    let mut accepted = 0;
    for _ in 0..1000 {
        let taken = w.xs.input(c[1], &read);
        accepted += usize::from(taken == read.len());
    }
    assert!(accepted < 10, "{accepted}");
    w.xs.audit().unwrap();
    // Events too: many different ones, none taken.
    w.xs.watch_local(c[0], "/local/domain/1", "t").unwrap();
    for i in 0..5000 {
        w.xs.write(&format!("/local/domain/1/n{i}"), b"").unwrap();
    }
    assert_eq!(w.events(c[0]).len(), Quota::default().events);
}

#[test]
fn a_flood_of_events_cannot_hide_that_others_were_lost() {
    let (mut w, c) = World::new(&[1, 2]);
    w.xs.watch_local(c[0], "/local/domain/1/state", "one").unwrap();
    w.xs.watch_local(c[0], "/local/domain/2/state", "two").unwrap();
    assert!(!w.xs.has_lost_events(c[0]));
    for i in 0..Quota::default().events {
        w.ask(c[1], Op::Mkdir, format!("state/{i}\0").as_bytes()).unwrap();
    }
    w.ask(c[2], Op::Write, b"state\x004").unwrap();
    assert!(w.xs.has_lost_events(c[0]), "the other guest's event had no room");
    assert_eq!(w.xs.take_event(c[0]), None);
    assert!(!w.xs.has_lost_events(c[0]));
    w.ask(c[2], Op::Write, b"state\x005").unwrap();
    assert_eq!(w.xs.take_event(c[0]).unwrap().token, "two");
}

#[test]
fn xsa_330_and_512_watches_are_counted_and_reset() {
    let (mut w, c) = World::new(&[1]);
    for round in 0..3 {
        for i in 0..Quota::default().watches {
            assert_eq!(w.ask(c[1], Op::Watch, format!("w{i}\0t\0").as_bytes()), ok(b"OK\0"), "{round}");
            w.events(c[1]);
        }
        assert_eq!(w.ask(c[1], Op::Watch, b"more\0t\0"), err("ENOSPC"));
        assert_eq!(w.ask(c[1], Op::ResetWatches, b""), ok(b"OK\0"));
    }
}

#[test]
fn xsa_352_a_guest_gives_no_node_away() {
    let (mut w, c) = World::new(&[1, 2]);
    w.ask(c[1], Op::Write, b"x\0v").unwrap();
    assert_eq!(w.ask(c[1], Op::SetPerms, b"x\0b2\0"), err("EPERM"));
    assert_eq!(w.ask(c[1], Op::SetPerms, b"/local/domain/2\0b1\0"), err("EACCES"));
}

#[test]
fn xsa_353_the_root_is_guarded() {
    let (mut w, c) = World::new(&[1]);
    for payload in [&b"/x\0v"[..], b"/\0v"] {
        assert_eq!(w.ask(c[1], Op::Write, payload), err("EACCES"));
    }
    assert_eq!(w.ask(c[1], Op::SetPerms, b"/\0b0\0"), err("EACCES"));
    assert_eq!(w.ask(c[1], Op::Rm, b"/\0"), err("EINVAL"));
}

#[test]
fn xsa_418_deep_trees_are_refused_and_big_ones_removed_without_recursion() {
    let (mut w, c) = World::new(&[1]);
    let deep = format!("{}\0v", vec!["a"; 40].join("/"));
    assert_eq!(w.ask(c[1], Op::Write, deep.as_bytes()), err("ENOSPC"));
    let most = format!("{}\0v", vec!["a"; 29].join("/"));
    assert_eq!(w.ask(c[1], Op::Write, most.as_bytes()), ok(b"OK\0"));
    assert_eq!(w.ask(c[1], Op::Rm, b"a\0"), ok(b"OK\0"));
}

#[test]
fn xsa_419_quota_is_free_again_after_release() {
    let (mut w, c) = World::new(&[1]);
    let mut made = 0;
    while w.ask(c[1], Op::Write, format!("n{made}\0v").as_bytes()).is_ok() {
        made += 1;
    }
    // Its home counts.
    assert_eq!(made + 1, Quota::default().nodes);
    w.xs.release(DomId::new(1));
    w.xs.audit().unwrap();
    assert!(w.xs.directory("/local/domain").unwrap().is_empty());
}

#[test]
fn xsa_421_quotas_hold_inside_transactions_and_across_them() {
    let (mut w, c) = World::new(&[1]);
    let half = Quota::default().nodes * 2 / 3;
    let mut open = vec![];
    for t in 0..2 {
        let tx = begin(&mut w, c[1]);
        let mut count = 0;
        while count < half && w.tx(c[1], tx, Op::Write, format!("t{t}-{count}\0v").as_bytes()).is_ok() {
            count += 1;
        }
        // The transaction's own bound comes first.
        assert!(count < u32::try_from(Quota::default().txn_nodes).unwrap());
        open.push(tx);
    }
    let ends =
        open.iter().map(|tx| w.tx(c[1], *tx, Op::TransactionEnd, b"T\0")).filter(Result::is_ok).count();
    assert!(ends <= 1);
    for _ in 0..Quota::default().transactions {
        begin(&mut w, c[1]);
    }
    assert_eq!(w.ask(c[1], Op::TransactionStart, b"\0"), err("ENOSPC"));
    w.xs.audit().unwrap();
}

#[test]
fn xsa_415_a_transaction_that_overran_leaves_no_orphan() {
    let (mut w, c) = World::new(&[1]);
    let tx = begin(&mut w, c[1]);
    let big = "v".repeat(2048);
    let mut wrote = 0;
    while w.tx(c[1], tx, Op::Write, format!("d{wrote}/e\0{big}").as_bytes()).is_ok() {
        wrote += 1;
    }
    assert!(wrote > 10);
    assert_eq!(w.tx(c[1], tx, Op::TransactionEnd, b"T\0"), err("ENOSPC"));
    w.xs.audit().unwrap();
}

#[test]
fn a_transaction_remembers_no_more_than_it_may() {
    let (mut w, c) = World::new(&[1, 2]);
    w.ask(c[1], Op::Write, b"x\0v").unwrap();
    // Each of these changes differs from all before, but they are changes of one node.
    let tx = begin(&mut w, c[1]);
    for dom in 2..200 {
        w.tx(c[1], tx, Op::SetPerms, format!("x\0n1\0r{dom}\0").as_bytes()).unwrap();
    }
    let conn = w.xs.conns.get_mut(&c[1]).unwrap();
    let txn = conn.transactions.remove(&tx).unwrap();
    let fired = txn.commit(conn.who, &mut w.xs.tree, &Quota::default()).unwrap();
    assert_eq!(fired.len(), 1);
    let acls: Vec<_> = fired[0].perms.iter().map(|perms| perms.acl.clone()).collect();
    assert_eq!(acls, [vec![], vec![(DomId::new(199), Access::Read)]]);
    // Long paths count, be they only looked at.
    let tx = begin(&mut w, c[1]);
    let long = |number: u32| format!("{}{number}\0", "p".repeat(2000));
    let looked =
        (0..500).take_while(|n| w.tx(c[1], tx, Op::Read, long(*n).as_bytes()) == err("ENOENT")).count();
    assert!((10..70).contains(&looked), "{looked}");
    // So do the names of children in a directory that is copied.
    for number in 0..100 {
        w.ask(c[1], Op::Mkdir, format!("list/{}", long(number)).as_bytes()).unwrap();
    }
    let tx = begin(&mut w, c[1]);
    assert_eq!(w.tx(c[1], tx, Op::Mkdir, b"list/new\0"), err("ENOSPC"));
}

#[test]
fn xsa_440_conflicting_transactions_of_two_domains() {
    let (mut w, c) = World::new(&[1, 2]);
    w.xs.write("/shared", b"").unwrap();
    let both = [(DomId::new(1), Access::Both), (DomId::new(2), Access::Both)];
    w.xs.set_perms("/shared", (DomId::new(0), Access::None), &both).unwrap();
    let (a, b) = (begin(&mut w, c[1]), begin(&mut w, c[2]));
    w.tx(c[1], a, Op::Write, b"/shared/x\x001").unwrap();
    w.tx(c[2], b, Op::Rm, b"/shared\0").unwrap();
    assert_eq!(w.tx(c[2], b, Op::TransactionEnd, b"T\0"), ok(b"OK\0"));
    assert_eq!(w.tx(c[1], a, Op::TransactionEnd, b"T\0"), err("EAGAIN"));
}

#[test]
fn a_transaction_cannot_bring_a_dead_domain_back() {
    let (mut w, c) = World::new(&[1, 2]);
    let tx = begin(&mut w, c[1]);
    w.tx(c[1], tx, Op::Write, b"x\0v").unwrap();
    w.tx(c[1], tx, Op::SetPerms, b"x\0n1\0b2\0").unwrap();
    w.xs.release(DomId::new(2));
    assert_eq!(w.tx(c[1], tx, Op::TransactionEnd, b"T\0"), err("EAGAIN"));
}

#[test]
fn values_and_permissions_are_limited() {
    let (mut w, c) = World::new(&[1]);
    let big = format!("x\0{}", "v".repeat(2049));
    assert_eq!(w.ask(c[1], Op::Write, big.as_bytes()), err("ENOSPC"));
    w.ask(c[1], Op::Write, b"x\0v").unwrap();
    let many = format!("x\0n1\0{}", "r2\0".repeat(8));
    assert_eq!(w.ask(c[1], Op::SetPerms, many.as_bytes()), err("ENOSPC"));
    assert_eq!(w.ask(c[1], Op::GetPerms, b"x\0"), Ok(b"n1\0".to_vec()));
}

/// How many of its transactions a domain gets through in a second, a step in each millisecond, while another writes what
/// they read as often as it is let.
fn transactions_beside_a_writer(quota: Quota) -> u32 {
    let (mut w, c) = World::new(&[1, 2]);
    w.xs.write("/shared", b"").unwrap();
    w.xs.set_perms("/shared", (DomId::DOM0, Access::Both), &[]).unwrap();
    w.xs.quota = quota;
    let write = message(Op::Write.raw(), 1, 0, b"/shared\0x").unwrap();
    let mut through = 0;
    let mut tx = 0;
    for ms in 0..1000_u64 {
        w.xs.set_time(ms * 1_000_000);
        for _ in 0..20 {
            w.xs.input(c[1], &write);
            while w.take(c[1]).is_some() {}
        }
        match ms % 4 {
            0 => tx = begin(&mut w, c[2]),
            1 => assert_eq!(w.tx(c[2], tx, Op::Read, b"/shared\0").map(|_| ()), Ok(())),
            2 => assert_eq!(w.tx(c[2], tx, Op::Write, b"own\0v"), ok(b"OK\0")),
            _ => through += u32::from(w.tx(c[2], tx, Op::TransactionEnd, b"T\0").is_ok()),
        }
    }
    through
}

#[test]
fn xsa_206_a_busy_writer_lets_others_get_on() {
    let usual = Quota::default();
    let through = transactions_beside_a_writer(usual);
    assert!(through > 50, "{through} of 250");
    let unlimited = Quota { changes: u32::MAX, ..usual };
    assert_eq!(transactions_beside_a_writer(unlimited), 0, "without a limit none gets through");
}

#[test]
fn xsa_206_who_is_paused_goes_on_where_it_stopped() {
    let (mut w, c) = World::new(&[1]);
    w.xs.quota = Quota { changes: 3, change_interval_ns: 10, ..Quota::default() };
    let one = message(Op::Mkdir.raw(), 1, 0, b"d\0").unwrap();
    let all = one.repeat(6);
    // One more than the burst is looked at: the debt is paid before the next.
    let used = w.xs.input(c[1], &all);
    assert_eq!((used, w.xs.paused_until(c[1])), (4 * one.len(), Some(10)));
    w.xs.set_time(9);
    assert_eq!(w.xs.input(c[1], &all[used..]), 0);
    w.xs.set_time(10);
    assert_eq!((w.xs.input(c[1], &all[used..]), w.xs.paused_until(c[1])), (one.len(), Some(20)));
    w.xs.set_time(100);
    assert_eq!((w.xs.input(c[1], &all[used + one.len()..]), w.xs.paused_until(c[1])), (one.len(), None));
    w.xs.audit().unwrap();
}
