//! dom0's own access to its store: typed, without messages.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;

use super::conn::ConnId;
use super::ops;
use super::path;
use super::perms::{Access, Perms, Who};
use super::store::Xenstore;
use super::txn::View;
use super::wire::{HEADER_LEN, strings};

/// A watch event, taken by one of dom0's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What changed.
    pub path: String,
    /// The watch's token.
    pub token: String,
}

/// dom0 itself.
const DOM0: Who = Who::new(DomId::DOM0);

impl Xenstore {
    /// Watches a path or a special name; the first event comes at once.
    ///
    /// # Errors
    /// EINVAL for a bad path, EEXIST for the same watch twice.
    pub fn watch_local(&mut self, conn: ConnId, path: &str, token: &str) -> Result<(), Errno> {
        self.add_watch(conn, path, token)?;
        let first = super::store::event(path, token);
        if let (Some(conn), Some(first)) = (self.conns.get_mut(&conn), first) {
            conn.queue_event(first, &self.quota);
        }
        Ok(())
    }

    /// Ends a watch; false if there was none.
    pub fn unwatch_local(&mut self, conn: ConnId, path: &str, token: &str) -> bool {
        let removed = self.watches.remove(path, conn, token);
        if let Some(conn) = self.conns.get_mut(&conn).filter(|_| removed) {
            conn.watches -= 1;
        }
        removed
    }

    /// The next event of a local connection.
    pub fn take_event(&mut self, conn: ConnId) -> Option<Event> {
        let message = self.conns.get_mut(&conn)?.pop()?;
        let [path, token] = strings(message.get(HEADER_LEN..)?)?;
        Some(Event { path: path.to_string(), token: token.to_string() })
    }

    /// Whether events of a local connection were dropped since this was asked last. Then all that wait are forgotten
    /// too: their reader has to look at everything.
    pub fn has_lost_events(&mut self, conn: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(&conn) else { return false };
        let lost = core::mem::take(&mut conn.lost_events);
        while lost && conn.pop().is_some() {}
        lost
    }

    /// Runs an operation as dom0, outside of transactions, and tells the watchers.
    fn as_dom0<T>(
        &mut self,
        at: &str,
        operation: impl FnOnce(&mut View<'_>, &str) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let at = path::canonical(DomId::DOM0, at, self.quota.depth)?;
        let mut view = View::new(&mut self.tree, None, &self.quota);
        let result = operation(&mut view, &at);
        let fired = view.into_fired();
        self.tell(&fired);
        result
    }
}

impl crate::toolstack::Store for Xenstore {
    fn read(&mut self, path: &str) -> Result<Vec<u8>, Errno> {
        self.as_dom0(path, |view, at| ops::read(view, DOM0, at))
    }

    fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Errno> {
        self.as_dom0(path, |view, at| ops::write(view, DOM0, at, value))
    }

    fn mkdir(&mut self, path: &str) -> Result<(), Errno> {
        self.as_dom0(path, |view, at| ops::mkdir(view, DOM0, at))
    }

    fn remove(&mut self, path: &str) -> Result<(), Errno> {
        match self.as_dom0(path, |view, at| ops::remove(view, DOM0, at)) {
            Err(Errno::NoEnt) => Ok(()),
            other => other,
        }
    }

    fn directory(&mut self, path: &str) -> Result<Vec<String>, Errno> {
        self.as_dom0(path, |view, at| Ok(ops::listed(view, DOM0, at)?.children.iter().cloned().collect()))
    }

    fn set_perms(
        &mut self,
        path: &str,
        owner: (DomId, Access),
        others: &[(DomId, Access)],
    ) -> Result<(), Errno> {
        let perms = Perms { owner: owner.0, others: owner.1, acl: others.to_vec() };
        self.as_dom0(path, |view, at| ops::set_perms(view, DOM0, at, perms))
    }

    fn forget_domain(&mut self, dom: DomId) {
        self.forget(dom);
    }
}
