//! From a request to its reply.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort, Mfn};

use super::conn::{Conn, ConnId};
use super::ops;
use super::path;
use super::perms::{Perms, Who, domid};
use super::store::{Effect, Xenstore, event};
use super::tree::Node;
use super::txn::{Transaction, View};
use super::watch::Watch;
use super::wire::{self, Header, Op, PAYLOAD_MAX};

/// What most requests answer.
const OK: &[u8] = b"OK\0";

type Reply = Result<Vec<u8>, Errno>;

impl Xenstore {
    /// Carries one request out and queues its reply. A watch's first event comes after its reply.
    pub(crate) fn serve(&mut self, id: ConnId, header: Header, payload: &[u8]) {
        let op = Op::from_raw(header.kind);
        // Refused ones too: they keep the store as busy.
        let changes = matches!(
            op,
            Some(
                Op::Write | Op::Mkdir | Op::Rm | Op::SetPerms | Op::TransactionEnd | Op::Watch | Op::Unwatch
            )
        );
        if let Some(conn) = self.conns.get_mut(&id).filter(|_| changes) {
            conn.count_change(&self.quota, self.now_ns);
        }
        let reply = op.ok_or(Errno::NoSys).and_then(|op| self.dispatch(id, op, header.tx_id, payload));
        let first_event = match (op, &reply) {
            (Some(Op::Watch), Ok(_)) => {
                wire::strings::<2>(payload).and_then(|[path, token]| event(path, token))
            }
            _ => None,
        };
        let message = match reply {
            Ok(body) => wire::message(header.kind, header.req_id, header.tx_id, &body),
            Err(error) => error_message(header, error),
        };
        let message = message.or_else(|| error_message(header, Errno::TooBig));
        if let (Some(conn), Some(message)) = (self.conns.get_mut(&id), message) {
            conn.queue_reply(message);
            if let Some(event) = first_event {
                conn.queue_event(event, &self.quota);
            }
        }
    }

    fn dispatch(&mut self, id: ConnId, op: Op, tx: u32, payload: &[u8]) -> Reply {
        let who = self.conns.get(&id).ok_or(Errno::IsConn)?.who;
        match op {
            Op::Read | Op::Directory | Op::DirectoryPart | Op::GetPerms => self.on_nodes(id, op, tx, payload),
            Op::Write | Op::Mkdir | Op::Rm | Op::SetPerms => self.on_nodes(id, op, tx, payload),
            Op::Watch => self.watch(id, payload),
            Op::Unwatch => self.unwatch(id, payload),
            Op::ResetWatches => self.reset_watches(id),
            Op::TransactionStart => self.start_transaction(id, tx),
            Op::TransactionEnd => self.end_transaction(id, tx, payload),
            Op::GetDomainPath => {
                let [dom] = wire::strings(payload).ok_or(Errno::Inval)?;
                Ok(format!("{}\0", path::home(domid(dom)?)).into_bytes())
            }
            Op::IsDomainIntroduced => {
                let [dom] = wire::strings(payload).ok_or(Errno::Inval)?;
                let known = self.is_introduced(domid(dom)?);
                Ok(if known { b"T\0".to_vec() } else { b"F\0".to_vec() })
            }
            Op::Introduce | Op::Release | Op::Resume | Op::SetTarget | Op::Control => {
                if !who.is_privileged() {
                    return Err(Errno::Acces);
                }
                self.privileged(op, payload)
            }
            Op::WatchEvent | Op::Error => Err(Errno::NoSys),
        }
    }

    /// Requests about nodes, inside a transaction or not.
    fn on_nodes(&mut self, id: ConnId, op: Op, tx: u32, payload: &[u8]) -> Reply {
        let conn = self.conns.get_mut(&id).ok_or(Errno::IsConn)?;
        let who = conn.who;
        let txn = open_transaction(conn, tx)?;
        let mut view = View::new(&mut self.tree, txn, &self.quota);
        match node_request(&mut view, who, op, payload) {
            Ok(reply) => {
                let fired = view.into_fired();
                self.tell(&fired);
                Ok(reply)
            }
            Err(error) => {
                view.abandon();
                Err(error)
            }
        }
    }

    fn watch(&mut self, id: ConnId, payload: &[u8]) -> Reply {
        let [given, token] = wire::strings(payload).ok_or(Errno::Inval)?;
        self.add_watch(id, given, token)?;
        Ok(OK.to_vec())
    }

    /// Adds a watch; paths are as the client gives them.
    pub(crate) fn add_watch(&mut self, id: ConnId, given: &str, token: &str) -> Result<(), Errno> {
        let conn = self.conns.get_mut(&id).ok_or(Errno::IsConn)?;
        let (at, strip) = watch_path(conn.who, given, self.quota.depth)?;
        if !conn.who.is_privileged() && conn.watches >= self.quota.watches {
            return Err(Errno::NoSpc);
        }
        self.watches.add(&at, Watch { conn: id, token: token.to_string(), strip })?;
        conn.watches += 1;
        Ok(())
    }

    fn unwatch(&mut self, id: ConnId, payload: &[u8]) -> Reply {
        let [given, token] = wire::strings(payload).ok_or(Errno::Inval)?;
        let conn = self.conns.get_mut(&id).ok_or(Errno::IsConn)?;
        let (at, _) = watch_path(conn.who, given, self.quota.depth)?;
        if !self.watches.remove(&at, id, token) {
            return Err(Errno::NoEnt);
        }
        conn.watches -= 1;
        Ok(OK.to_vec())
    }

    fn reset_watches(&mut self, id: ConnId) -> Reply {
        let conn = self.conns.get_mut(&id).ok_or(Errno::IsConn)?;
        conn.watches = 0;
        conn.transactions.clear();
        self.watches.remove_all(id);
        Ok(OK.to_vec())
    }

    fn start_transaction(&mut self, id: ConnId, tx: u32) -> Reply {
        let conn = self.conns.get_mut(&id).ok_or(Errno::IsConn)?;
        if tx != 0 {
            return Err(Errno::Busy);
        }
        let open = u32::try_from(conn.transactions.len()).unwrap_or(u32::MAX);
        if !conn.who.is_privileged() && open >= self.quota.transactions {
            return Err(Errno::NoSpc);
        }
        // Numbers come round after 2^32 transactions; the few still open are stepped over, and 0 means none.
        loop {
            conn.next_tx = conn.next_tx.wrapping_add(1).max(1);
            if !conn.transactions.contains_key(&conn.next_tx) {
                break;
            }
        }
        conn.transactions.insert(conn.next_tx, Transaction::default());
        Ok(format!("{}\0", conn.next_tx).into_bytes())
    }

    fn end_transaction(&mut self, id: ConnId, tx: u32, payload: &[u8]) -> Reply {
        let commit = match payload {
            b"T\0" => true,
            b"F\0" => false,
            _ => return Err(Errno::Inval),
        };
        let conn = self.conns.get_mut(&id).ok_or(Errno::IsConn)?;
        let txn = conn.transactions.remove(&tx).ok_or(Errno::NoEnt)?;
        if commit {
            let fired = txn.commit(conn.who, &mut self.tree, &self.quota)?;
            self.tell(&fired);
        }
        Ok(OK.to_vec())
    }

    fn privileged(&mut self, op: Op, payload: &[u8]) -> Reply {
        match op {
            Op::Introduce => {
                let [dom, frame, port] = wire::strings(payload).ok_or(Errno::Inval)?;
                let ring = Mfn::new(frame.parse().map_err(|_| Errno::Inval)?);
                let port = EvtchnPort::new(port.parse().map_err(|_| Errno::Inval)?);
                self.effects.push_back(Effect::Introduce { dom: domid(dom)?, ring, port });
            }
            Op::Release => {
                let [dom] = wire::strings(payload).ok_or(Errno::Inval)?;
                let dom = domid(dom)?;
                if !self.introduced.contains_key(&dom) {
                    return Err(Errno::NoEnt);
                }
                self.effects.push_back(Effect::Release(dom));
            }
            Op::SetTarget => {
                let [dom, target] = wire::strings(payload).ok_or(Errno::Inval)?;
                let id = self.introduced.get(&domid(dom)?).ok_or(Errno::NoEnt)?;
                let target = domid(target)?;
                let conn = self.conns.get_mut(id).ok_or(Errno::NoEnt)?;
                conn.who.target = (target != DomId::DOM0).then_some(target);
            }
            Op::Resume => {
                let [dom] = wire::strings(payload).ok_or(Errno::Inval)?;
                self.introduced.get(&domid(dom)?).ok_or(Errno::NoEnt)?;
            }
            // The daemon offers no commands of its own.
            _ => return Err(Errno::NoSys),
        }
        Ok(OK.to_vec())
    }
}

fn error_message(header: Header, error: Errno) -> Option<Vec<u8>> {
    let body = format!("{}\0", wire::error_name(error));
    wire::message(Op::Error.raw(), header.req_id, header.tx_id, body.as_bytes())
}

fn open_transaction(conn: &mut Conn, tx: u32) -> Result<Option<&mut Transaction>, Errno> {
    match tx {
        0 => Ok(None),
        tx => conn.transactions.get_mut(&tx).map(Some).ok_or(Errno::NoEnt),
    }
}

/// Absolute path of a watch and how much of it the client does not want to see.
fn watch_path(who: Who, given: &str, depth: usize) -> Result<(alloc::string::String, usize), Errno> {
    if given.starts_with('@') {
        let known = matches!(given, "@introduceDomain" | "@releaseDomain");
        return match (known, who.is_privileged()) {
            (false, _) => Err(Errno::Inval),
            (true, false) => Err(Errno::Acces),
            (true, true) => Ok((given.to_string(), 0)),
        };
    }
    let at = path::canonical(who.dom, given, depth)?;
    let strip = if given.starts_with('/') { 0 } else { path::home(who.dom).len() + 1 };
    Ok((at, strip))
}

fn node_request(view: &mut View<'_>, who: Who, op: Op, payload: &[u8]) -> Reply {
    let (given, rest) = wire::split_string(payload).ok_or(Errno::Inval)?;
    let at = path::canonical(who.dom, given, view.quota.depth)?;
    let takes_more = matches!(op, Op::Write | Op::SetPerms | Op::DirectoryPart);
    if !rest.is_empty() && !takes_more {
        return Err(Errno::Inval);
    }
    match op {
        Op::Read => return ops::read(view, who, &at),
        Op::GetPerms => return Ok(ops::get_perms(view, who, &at)?.encode()),
        Op::Directory => return names(ops::listed(view, who, &at)?),
        Op::DirectoryPart => return directory_part(view, who, &at, rest),
        Op::Write => ops::write(view, who, &at, rest)?,
        Op::Mkdir => ops::mkdir(view, who, &at)?,
        Op::Rm => ops::remove(view, who, &at)?,
        Op::SetPerms => ops::set_perms(view, who, &at, Perms::decode(rest)?)?,
        _ => return Err(Errno::NoSys),
    }
    Ok(OK.to_vec())
}

fn names(node: &Node) -> Reply {
    let bytes: usize = node.children.iter().map(|child| child.len() + 1).sum();
    if bytes > PAYLOAD_MAX {
        return Err(Errno::TooBig);
    }
    Ok(node.children.iter().flat_map(|child| child.bytes().chain([0])).collect())
}

/// The list from a byte offset on: generation, names, and an empty name after the last.
fn directory_part(view: &mut View<'_>, who: Who, at: &str, rest: &[u8]) -> Reply {
    let [offset] = wire::strings(rest).ok_or(Errno::Inval)?;
    let offset: usize = offset.parse().map_err(|_| Errno::Inval)?;
    let node = ops::listed(view, who, at)?;
    let mut reply = format!("{}\0", node.generation).into_bytes();
    let mut start = 0_usize;
    for child in &node.children {
        let skipped = offset.saturating_sub(start);
        start += child.len() + 1;
        if start <= offset {
            continue;
        }
        // Only whole names, and room for the end mark.
        let name = child.as_bytes().get(skipped..).unwrap_or_default();
        if reply.len() + name.len() + 2 > PAYLOAD_MAX {
            return Ok(reply);
        }
        reply.extend_from_slice(name);
        reply.push(0);
    }
    reply.push(0);
    Ok(reply)
}
