//! The service as clients see it.

mod attacks;
mod random;

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;

use super::wire::{self, HEADER_LEN, Header, Op, message};
use super::{Access, ConnId, Effect, Quota, Xenstore};
use crate::toolstack::Store;

/// A store with some connected domains, and the means to talk as they do.
pub(super) struct World {
    pub(super) xs: Xenstore,
    pub(super) req: u32,
}

/// A reply: its type and body.
pub(super) type Answer = Result<Vec<u8>, String>;

impl World {
    pub(super) fn new(doms: &[u16]) -> (Self, Vec<ConnId>) {
        let mut xs = Xenstore::new(Quota::default());
        let mut conns = vec![xs.connect_local()];
        for dom in doms {
            let dom = DomId::new(*dom);
            let home = super::path::home(dom);
            xs.write(&home, b"").unwrap();
            xs.set_perms(&home, (dom, Access::None), &[]).unwrap();
            conns.push(xs.introduce(dom).unwrap());
        }
        (Self { xs, req: 0 }, conns)
    }

    pub(super) fn take(&mut self, conn: ConnId) -> Option<(Header, Vec<u8>)> {
        let front = self.xs.output(conn).to_vec();
        let header = wire::decode(front.get(..HEADER_LEN)?.try_into().unwrap());
        self.xs.consume(conn, front.len());
        Some((header, front[HEADER_LEN..].to_vec()))
    }

    pub(super) fn tx(&mut self, conn: ConnId, tx: u32, op: Op, payload: &[u8]) -> Answer {
        self.req += 1;
        let bytes = message(op.raw(), self.req, tx, payload).unwrap();
        assert_eq!(self.xs.input(conn, &bytes), bytes.len());
        self.xs.audit().unwrap();
        let mut later = Vec::new();
        loop {
            let (header, body) = self.take(conn).expect("a reply");
            if header.kind == Op::WatchEvent.raw() {
                later.push((header, body));
                continue;
            }
            assert_eq!((header.req_id, header.tx_id), (self.req, tx));
            for (_, event) in later {
                self.requeue(conn, &event);
            }
            if header.kind == Op::Error.raw() {
                return Err(String::from_utf8(body[..body.len() - 1].to_vec()).unwrap());
            }
            assert_eq!(header.kind, op.raw());
            return Ok(body);
        }
    }

    /// Puts an event back that came before a reply.
    fn requeue(&mut self, conn: ConnId, event: &[u8]) {
        let bytes = message(Op::WatchEvent.raw(), 0, 0, event).unwrap();
        self.xs.conns.get_mut(&conn).unwrap().queue_reply(bytes);
    }

    pub(super) fn ask(&mut self, conn: ConnId, op: Op, payload: &[u8]) -> Answer {
        self.tx(conn, 0, op, payload)
    }

    pub(super) fn events(&mut self, conn: ConnId) -> Vec<String> {
        let mut events = Vec::new();
        while let Some((header, body)) = self.take(conn) {
            assert_eq!(header.kind, Op::WatchEvent.raw());
            events.push(String::from_utf8(body).unwrap().trim_end_matches('\0').to_string());
        }
        events
    }
}

fn err(name: &str) -> Answer {
    Err(name.to_string())
}

fn ok(body: &[u8]) -> Answer {
    Ok(body.to_vec())
}

#[test]
fn a_domain_lives_in_its_home() {
    let (mut w, c) = World::new(&[1, 2]);
    assert_eq!(w.ask(c[1], Op::Write, b"data/x\0hello"), ok(b"OK\0"));
    assert_eq!(w.ask(c[1], Op::Read, b"data/x\0"), ok(b"hello"));
    assert_eq!(w.ask(c[1], Op::Read, b"/local/domain/1/data/x\0"), ok(b"hello"));
    assert_eq!(w.ask(c[1], Op::Directory, b"data\0"), ok(b"x\0"));
    assert_eq!(w.ask(c[1], Op::GetPerms, b"data/x\0"), ok(b"n1\0"));
    assert_eq!(w.ask(c[0], Op::Read, b"/local/domain/1/data/x\0"), ok(b"hello"));
    assert_eq!(w.ask(c[2], Op::Read, b"/local/domain/1/data/x\0"), err("EACCES"));
    assert_eq!(w.ask(c[2], Op::Read, b"/local/domain/1/nothing\0"), err("EACCES"));
    assert_eq!(w.ask(c[1], Op::Read, b"nothing\0"), err("ENOENT"));
    assert_eq!(w.ask(c[1], Op::Write, b"/tool/x\0hello"), err("EACCES"));
    assert_eq!(w.ask(c[1], Op::Rm, b"data\0"), ok(b"OK\0"));
    assert_eq!(w.ask(c[1], Op::Rm, b"data\0"), ok(b"OK\0"));
    assert_eq!(w.ask(c[1], Op::Rm, b"no/such\0"), err("ENOENT"));
    assert_eq!(w.ask(c[0], Op::Rm, b"/\0"), err("EINVAL"));
}

#[test]
fn simple_questions() {
    let (mut w, c) = World::new(&[1]);
    assert_eq!(w.ask(c[1], Op::GetDomainPath, b"7\0"), ok(b"/local/domain/7\0"));
    assert_eq!(w.ask(c[1], Op::IsDomainIntroduced, b"1\0"), ok(b"T\0"));
    assert_eq!(w.ask(c[1], Op::IsDomainIntroduced, b"9\0"), ok(b"F\0"));
    assert_eq!(w.ask(c[1], Op::Control, b"help\0"), err("EACCES"));
    assert_eq!(w.ask(c[1], Op::Introduce, b"2\x001\x001\0"), err("EACCES"));
    assert_eq!(w.ask(c[0], Op::Introduce, b"2\x0077\x003\0"), ok(b"OK\0"));
    let effect = w.xs.take_effect().unwrap();
    assert!(matches!(effect, Effect::Introduce { dom, .. } if dom == DomId::new(2)));
    assert_eq!(w.ask(c[0], Op::Release, b"9\0"), err("ENOENT"));
    assert_eq!(w.ask(c[0], Op::Release, b"1\0"), ok(b"OK\0"));
    assert_eq!(w.xs.take_effect(), Some(Effect::Release(DomId::new(1))));
}

#[test]
fn unknown_and_malformed_requests_get_errors() {
    let (mut w, c) = World::new(&[1]);
    assert_eq!(w.ask(c[1], Op::Read, b"no terminator"), err("EINVAL"));
    assert_eq!(w.ask(c[1], Op::Read, b"a\0b\0"), err("EINVAL"));
    assert_eq!(w.ask(c[1], Op::Read, b""), err("EINVAL"));
    assert_eq!(w.ask(c[1], Op::WatchEvent, b""), err("ENOSYS"));
    let bytes = message(9999, 5, 0, b"").unwrap();
    w.xs.input(c[1], &bytes);
    let (header, body) = w.take(c[1]).unwrap();
    assert_eq!((header.kind, header.req_id, &body[..]), (Op::Error.raw(), 5, &b"ENOSYS\0"[..]));
}

#[test]
fn permissions_open_and_close_a_node() {
    let (mut w, c) = World::new(&[1, 2]);
    w.ask(c[1], Op::Write, b"x\0v").unwrap();
    assert_eq!(w.ask(c[1], Op::SetPerms, b"x\0n1\0r2\0"), ok(b"OK\0"));
    assert_eq!(w.ask(c[2], Op::Read, b"/local/domain/1/x\0"), ok(b"v"));
    assert_eq!(w.ask(c[2], Op::Write, b"/local/domain/1/x\0w"), err("EACCES"));
    assert_eq!(w.ask(c[2], Op::SetPerms, b"/local/domain/1/x\0b2\0"), err("EACCES"));
    assert_eq!(w.ask(c[1], Op::SetPerms, b"x\0b1\0"), ok(b"OK\0"));
    assert_eq!(w.ask(c[2], Op::Write, b"/local/domain/1/x\0w"), ok(b"OK\0"));
    assert_eq!(w.ask(c[1], Op::Read, b"x\0"), ok(b"w"));
}

#[test]
fn watches_tell_of_changes_at_and_below() {
    let (mut w, c) = World::new(&[1]);
    assert_eq!(w.ask(c[1], Op::Watch, b"dev\0tok\0"), ok(b"OK\0"));
    assert_eq!(w.events(c[1]), ["dev\0tok"]);
    assert_eq!(w.ask(c[1], Op::Watch, b"dev\0tok\0"), err("EEXIST"));
    w.xs.write("/local/domain/1/dev/a/state", b"1").unwrap();
    assert_eq!(w.events(c[1]), ["dev/a/state\0tok"]);
    w.xs.write("/local/domain/1/other", b"1").unwrap();
    assert!(w.events(c[1]).is_empty());
    w.xs.remove("/local/domain/1/dev").unwrap();
    assert_eq!(w.events(c[1]), ["dev\0tok"]);
    assert_eq!(w.ask(c[1], Op::Unwatch, b"dev\0tok\0"), ok(b"OK\0"));
    assert_eq!(w.ask(c[1], Op::Unwatch, b"dev\0tok\0"), err("ENOENT"));
    w.xs.write("/local/domain/1/dev", b"1").unwrap();
    assert!(w.events(c[1]).is_empty());
}

#[test]
fn a_watch_inside_a_removed_subtree_fires() {
    let (mut w, c) = World::new(&[1]);
    w.xs.write("/local/domain/1/a/b/c", b"1").unwrap();
    w.ask(c[1], Op::Watch, b"/local/domain/1/a/b\0t\0").unwrap();
    w.events(c[1]);
    w.xs.remove("/local/domain/1/a").unwrap();
    assert_eq!(w.events(c[1]), ["/local/domain/1/a/b\0t"]);
}

#[test]
fn identical_events_are_merged_until_taken() {
    let (mut w, c) = World::new(&[1]);
    w.ask(c[1], Op::Watch, b"x\0t\0").unwrap();
    w.events(c[1]);
    for i in 0..100u8 {
        w.xs.write("/local/domain/1/x", &[i]).unwrap();
    }
    assert_eq!(w.events(c[1]), ["x\0t"]);
}

#[test]
fn domains_coming_and_going_are_told_to_dom0_alone() {
    let (mut w, c) = World::new(&[1]);
    assert_eq!(w.ask(c[1], Op::Watch, b"@releaseDomain\0t\0"), err("EACCES"));
    assert_eq!(w.ask(c[0], Op::Watch, b"@nothing\0t\0"), err("EINVAL"));
    w.xs.watch_local(c[0], "@introduceDomain", "in").unwrap();
    w.xs.watch_local(c[0], "@releaseDomain", "out").unwrap();
    w.events(c[0]);
    w.xs.introduce(DomId::new(5)).unwrap();
    assert_eq!(w.xs.introduce(DomId::new(5)), Err(Errno::Exist));
    assert_eq!(w.events(c[0]), ["@introduceDomain\0in"]);
    w.xs.release(DomId::new(5));
    w.xs.release(DomId::new(5));
    let event = w.xs.take_event(c[0]).unwrap();
    assert_eq!((event.path.as_str(), event.token.as_str()), ("@releaseDomain", "out"));
    assert_eq!(w.xs.take_event(c[0]), None);
}

fn begin(w: &mut World, conn: ConnId) -> u32 {
    let body = w.ask(conn, Op::TransactionStart, b"\0").unwrap();
    String::from_utf8(body).unwrap().trim_end_matches('\0').parse().unwrap()
}

#[test]
fn a_transaction_is_seen_whole_or_not_at_all() {
    let (mut w, c) = World::new(&[1]);
    w.ask(c[1], Op::Watch, b"a\0t\0").unwrap();
    w.events(c[1]);
    let tx = begin(&mut w, c[1]);
    w.tx(c[1], tx, Op::Write, b"a/x\x001").unwrap();
    w.tx(c[1], tx, Op::Write, b"a/y\x002").unwrap();
    assert_eq!(w.tx(c[1], tx, Op::Directory, b"a\0"), ok(b"x\0y\0"));
    assert_eq!(w.ask(c[1], Op::Read, b"a/x\0"), err("ENOENT"));
    assert!(w.events(c[1]).is_empty());
    assert_eq!(w.tx(c[1], tx, Op::TransactionEnd, b"T\0"), ok(b"OK\0"));
    assert_eq!(w.events(c[1]), ["a/x\0t", "a/y\0t"]);
    assert_eq!(w.ask(c[1], Op::Read, b"a/y\0"), ok(b"2"));
    let tx = begin(&mut w, c[1]);
    w.tx(c[1], tx, Op::Rm, b"a\0").unwrap();
    w.tx(c[1], tx, Op::TransactionEnd, b"F\0").unwrap();
    assert_eq!(w.ask(c[1], Op::Read, b"a/y\0"), ok(b"2"));
    assert_eq!(w.tx(c[1], tx, Op::Read, b"a/y\0"), err("ENOENT"));
}

#[test]
fn a_conflict_is_told_and_changes_nothing() {
    let (mut w, c) = World::new(&[1]);
    w.ask(c[1], Op::Write, b"n\x001").unwrap();
    let tx = begin(&mut w, c[1]);
    assert_eq!(w.tx(c[1], tx, Op::Read, b"n\0"), ok(b"1"));
    w.xs.write("/local/domain/1/n", b"2").unwrap();
    w.tx(c[1], tx, Op::Write, b"m\0x").unwrap();
    assert_eq!(w.tx(c[1], tx, Op::TransactionEnd, b"T\0"), err("EAGAIN"));
    assert_eq!(w.ask(c[1], Op::Read, b"m\0"), err("ENOENT"));
    // What was not looked at may change meanwhile.
    let tx = begin(&mut w, c[1]);
    w.tx(c[1], tx, Op::Write, b"n\x003").unwrap();
    w.xs.write("/tool/unrelated", b"2").unwrap();
    assert_eq!(w.tx(c[1], tx, Op::TransactionEnd, b"T\0"), ok(b"OK\0"));
}

#[test]
fn long_directories_come_in_parts() {
    let (mut w, c) = World::new(&[1]);
    for i in 0..900 {
        let name = alloc::format!("list/entry-{i:03}\0v");
        w.ask(c[1], Op::Write, name.as_bytes()).unwrap();
    }
    assert_eq!(w.ask(c[1], Op::Directory, b"list\0"), err("E2BIG"));
    let mut names = Vec::new();
    let mut offset = 0;
    loop {
        let ask = alloc::format!("list\0{offset}\0");
        let body = w.ask(c[1], Op::DirectoryPart, ask.as_bytes()).unwrap();
        let start = body.iter().position(|&b| b == 0).unwrap() + 1;
        let part = &body[start..];
        names.extend_from_slice(part);
        offset += part.len();
        if part.ends_with(b"\0\0") || part == b"\0" {
            break;
        }
    }
    assert_eq!(names.iter().filter(|&&b| b == 0).count(), 901);
}

#[test]
fn requests_may_come_byte_by_byte() {
    let (mut w, c) = World::new(&[1]);
    let bytes = message(Op::Write.raw(), 3, 0, b"x\0abc").unwrap();
    for byte in &bytes {
        assert_eq!(w.xs.input(c[1], &[*byte]), 1);
    }
    assert_eq!(w.take(c[1]).unwrap().0.req_id, 3);
    assert_eq!(w.ask(c[1], Op::Read, b"x\0"), ok(b"abc"));
}
