//! The whole service: tree, watches, connections.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort, Mfn};

use super::conn::{Conn, ConnId};
use super::ops::{self, Fired};
use super::path;
use super::perms::Who;
use super::quota::Quota;
use super::tree::Tree;
use super::txn::View;
use super::watch::Watches;
use super::wire::{self, Op};

/// What a privileged client asked for that needs the daemon's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Map this ring and bind this port, then call [`Xenstore::introduce`].
    Introduce {
        /// Which domain.
        dom: DomId,
        /// Its ring.
        ring: Mfn,
        /// Its port.
        port: EvtchnPort,
    },
    /// Unmap and unbind, then call [`Xenstore::release`].
    Release(DomId),
}

/// The service.
#[derive(Debug)]
pub struct Xenstore {
    pub(crate) tree: Tree,
    pub(crate) watches: Watches,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    pub(crate) introduced: BTreeMap<DomId, ConnId>,
    pub(crate) quota: Quota,
    pub(crate) effects: VecDeque<Effect>,
    next_conn: u64,
    /// The time, as far as the daemon has told it.
    pub(crate) now_ns: u64,
}

impl Xenstore {
    /// An empty store.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self {
            tree: Tree::new(),
            watches: Watches::default(),
            conns: BTreeMap::new(),
            introduced: BTreeMap::new(),
            quota,
            effects: VecDeque::new(),
            next_conn: 0,
            now_ns: 0,
        }
    }

    /// A connection for one of dom0's own parts.
    pub fn connect_local(&mut self) -> ConnId {
        self.connect(DomId::DOM0)
    }

    /// Ends a connection with all its watches and transactions.
    pub fn disconnect(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
        self.watches.remove_all(conn);
    }

    /// Connects a domain whose ring has been mapped, and tells `@introduceDomain`.
    ///
    /// # Errors
    /// EEXIST if it is connected already, EINVAL for a domid that no guest has.
    pub fn introduce(&mut self, dom: DomId) -> Result<ConnId, Errno> {
        if !dom.is_ordinary() {
            return Err(Errno::Inval);
        }
        if self.introduced.contains_key(&dom) {
            return Err(Errno::Exist);
        }
        let conn = self.connect(dom);
        self.introduced.insert(dom, conn);
        self.fire_special("@introduceDomain");
        Ok(conn)
    }

    /// Disconnects a domain, forgets it, and tells `@releaseDomain`. No error if it was not connected.
    pub fn release(&mut self, dom: DomId) {
        if let Some(conn) = self.introduced.remove(&dom) {
            self.disconnect(conn);
            self.forget(dom);
            self.fire_special("@releaseDomain");
        }
    }

    /// Tells `@releaseDomain`: a domain has shut down or died, though it is still connected.
    pub fn domain_died(&mut self) {
        self.fire_special("@releaseDomain");
    }

    /// Whether a domain is connected.
    #[must_use]
    pub fn is_introduced(&self, dom: DomId) -> bool {
        dom == DomId::DOM0 || self.introduced.contains_key(&dom)
    }

    /// The next thing the daemon has to do.
    pub fn take_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Tells the time, by which domains may make changes again. It never goes back.
    pub fn set_time(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
    }

    /// When a domain that has changed too much is listened to again; `None` where it is listened to now.
    #[must_use]
    pub fn paused_until(&self, conn: ConnId) -> Option<u64> {
        self.conns.get(&conn)?.paused_until(&self.quota, self.now_ns)
    }

    /// Gives bytes from a domain's ring. Says how many were taken: fewer than given when the domain does
    /// not take its replies, or makes changes too quickly; the rest has to be given again once [`Xenstore::consume`] made
    /// room or [`Xenstore::paused_until`] has come.
    pub fn input(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            let Some(state) = self.conns.get_mut(&conn) else { return bytes.len() };
            if !state.accepts_input(&self.quota) || state.paused_until(&self.quota, self.now_ns).is_some() {
                break;
            }
            let (taken, message) = state.assemble(rest);
            used += taken;
            if let Some((header, payload)) = message {
                self.serve(conn, header, &payload);
            } else if taken == 0 {
                break;
            }
        }
        used
    }

    /// Bytes that wait to be sent to a connection (a part of them; ask again after [`Xenstore::consume`]).
    #[must_use]
    pub fn output(&self, conn: ConnId) -> &[u8] {
        self.conns.get(&conn).map(Conn::front).unwrap_or_default()
    }

    /// Says that `count` bytes of [`Xenstore::output`] were sent.
    pub fn consume(&mut self, conn: ConnId, count: usize) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.consume(count);
        }
    }

    /// Whether the client broke the protocol: nothing more is taken from it, the ring's error field
    /// should say so.
    #[must_use]
    pub fn is_broken(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_none_or(|conn| conn.broken)
    }

    /// Connections that have something to send.
    pub fn ready(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.conns.iter().filter(|(_, conn)| !conn.front().is_empty()).map(|(id, _)| *id)
    }

    /// Forgets a domain: nodes it owned go away, permissions that name it lose the entry, transactions
    /// that would bring it back can no longer commit. Done when a number is let go and again before it
    /// is used anew, so that a new domain inherits nothing.
    pub(crate) fn forget(&mut self, dom: DomId) {
        if dom == DomId::DOM0 {
            return;
        }
        let all = self.conns.values_mut().flat_map(|conn| conn.transactions.values_mut());
        all.for_each(|txn| txn.forget_domain(dom));
        let mut named: Vec<(String, bool)> = Vec::new();
        for (path, node) in self.tree.iter().filter(|(_, node)| node.perms.names(dom)) {
            named.push((path.to_string(), node.perms.owner == dom));
        }
        let mut view = View::new(&mut self.tree, None, &self.quota);
        for (at, owns) in named {
            // Outside of transactions nothing here can fail for lack of room.
            match path::parent(&at) {
                Some(parent) if owns => {
                    let removed = ops::remove_subtree(&mut view, parent, &at);
                    debug_assert!(removed.is_ok());
                }
                _ => unname(&mut view, &at, dom),
            }
        }
        let fired = view.into_fired();
        self.tell(&fired);
    }

    fn connect(&mut self, dom: DomId) -> ConnId {
        self.next_conn += 1;
        let id = ConnId(self.next_conn);
        self.conns.insert(id, Conn::new(Who::new(dom)));
        id
    }

    /// Queues the events of some changes.
    pub(crate) fn tell(&mut self, fired: &[Fired]) {
        for change in fired {
            for watch in self.watches.concerned(&change.path, change.exact) {
                let Some(conn) = self.conns.get_mut(&watch.conn) else { continue };
                let may = change.perms.iter().any(|perms| perms.access(conn.who).reads());
                let seen = change.path.get(watch.strip..).filter(|_| may);
                if let Some(message) = seen.and_then(|path| event(path, &watch.token)) {
                    conn.queue_event(message, &self.quota);
                }
            }
        }
    }

    fn fire_special(&mut self, name: &str) {
        for watch in self.watches.special(name) {
            if let (Some(conn), Some(message)) = (self.conns.get_mut(&watch.conn), event(name, &watch.token))
            {
                conn.queue_event(message, &self.quota);
            }
        }
    }
}

/// Takes a domain out of a node's permissions. Only the root, which cannot be removed, is still owned then:
/// it goes back to dom0.
fn unname(view: &mut View<'_>, at: &str, dom: DomId) {
    let changed = view.change(at, |node| {
        node.perms.acl.retain(|(named, _)| *named != dom);
        if node.perms.owner == dom {
            node.perms.owner = DomId::DOM0;
        }
    });
    debug_assert!(changed.is_ok());
}

/// A watch event as a message.
pub(crate) fn event(path: &str, token: &str) -> Option<Vec<u8>> {
    let mut payload = Vec::with_capacity(path.len() + token.len() + 2);
    payload.extend_from_slice(path.as_bytes());
    payload.push(0);
    payload.extend_from_slice(token.as_bytes());
    payload.push(0);
    wire::message(Op::WatchEvent.raw(), 0, 0, &payload)
}
