//! Transactions: an overlay over the tree, with what was seen of the tree.
//!
//! A transaction remembers for every node it touched which generation it saw (0 for "absent"). It
//! commits if all of them are as they were; otherwise the client gets EAGAIN and tries again. Its
//! memory is bounded by quotas, whoever the client is.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;

use super::ops::Fired;
use super::perms::Who;
use super::quota::Quota;
use super::tree::{Node, Tree};

/// An open transaction.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    seen: BTreeMap<String, u64>,
    /// `None`: removed here.
    changes: BTreeMap<String, Option<Node>>,
    fired: Vec<Fired>,
    bytes: usize,
    /// Can no longer commit: a domain it names is gone.
    doomed: bool,
    /// Can no longer commit: a request ran out of room half-way.
    overrun: bool,
}

impl Transaction {
    /// Makes it fail if it depends on a domain that is gone.
    pub(crate) fn forget_domain(&mut self, dom: DomId) {
        let named = |change: &Option<Node>| change.as_ref().is_some_and(|node| node.perms.names(dom));
        if self.changes.values().any(named) {
            self.doomed = true;
        }
    }

    fn touch(&mut self, tree: &Tree, path: &str, quota: &Quota) -> Result<(), Errno> {
        if !self.seen.contains_key(path) {
            if self.seen.len() >= quota.txn_nodes {
                return Err(Errno::NoSpc);
            }
            self.seen.insert(path.to_string(), tree.generation_of(path));
        }
        Ok(())
    }

    /// Notes that a request failed after it had changed something.
    pub(crate) fn overrun(&mut self) {
        self.overrun = true;
    }

    /// Checks that nothing seen has changed and that `who` would not own too much, then applies all.
    /// Gives what has to be told to watchers.
    pub(crate) fn commit(self, who: Who, tree: &mut Tree, quota: &Quota) -> Result<Vec<Fired>, Errno> {
        if self.overrun {
            return Err(Errno::NoSpc);
        }
        let unchanged = self.seen.iter().all(|(path, seen)| tree.generation_of(path) == *seen);
        if self.doomed || !unchanged {
            return Err(Errno::Again);
        }
        // Another connection of the domain, or dom0, may have made nodes since the transaction looked.
        let owned = self.owned_after(tree).get(&who.dom).copied().unwrap_or(0);
        if !who.is_privileged() && owned > i64::from(quota.nodes) && owned > i64::from(tree.owned(who.dom)) {
            return Err(Errno::NoSpc);
        }
        for (path, change) in self.changes {
            match change {
                Some(node) => tree.put(&path, node),
                None => tree.take(&path),
            }
        }
        Ok(self.fired)
    }

    /// Nodes each concerned domain would own after a commit.
    fn owned_after(&self, tree: &Tree) -> BTreeMap<DomId, i64> {
        let mut owned = BTreeMap::new();
        let mut add = |dom: DomId, delta: i64| {
            *owned.entry(dom).or_insert_with(|| i64::from(tree.owned(dom))) += delta;
        };
        for (path, change) in &self.changes {
            if let Some(node) = change {
                add(node.perms.owner, 1);
            }
            if let Some(node) = tree.get(path) {
                add(node.perms.owner, -1);
            }
        }
        owned
    }
}

/// The tree as a request sees it: directly, or through a transaction.
pub(crate) struct View<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) txn: Option<&'a mut Transaction>,
    pub(crate) quota: &'a Quota,
    fired: Vec<Fired>,
    changed: bool,
}

impl<'a> View<'a> {
    pub(crate) fn new(tree: &'a mut Tree, txn: Option<&'a mut Transaction>, quota: &'a Quota) -> Self {
        Self { tree, txn, quota, fired: Vec::new(), changed: false }
    }

    /// A node. Fails only when a transaction touches too much.
    pub(crate) fn get(&mut self, path: &str) -> Result<Option<&Node>, Errno> {
        let Some(txn) = &mut self.txn else { return Ok(self.tree.get(path)) };
        txn.touch(self.tree, path, self.quota)?;
        match txn.changes.get(path) {
            Some(change) => Ok(change.as_ref()),
            None => Ok(self.tree.get(path)),
        }
    }

    /// Stores a node.
    pub(crate) fn put(&mut self, path: &str, node: Node) -> Result<(), Errno> {
        let Some(txn) = &mut self.txn else {
            self.tree.put(path, node);
            return Ok(());
        };
        txn.touch(self.tree, path, self.quota)?;
        let old = txn.changes.get(path).and_then(Option::as_ref).map_or(0, |node| node.value.len());
        let bytes = txn.bytes.saturating_sub(old).saturating_add(node.value.len());
        if bytes > self.quota.txn_bytes {
            return Err(Errno::NoSpc);
        }
        txn.bytes = bytes;
        txn.changes.insert(path.to_string(), Some(node));
        self.changed = true;
        Ok(())
    }

    /// Removes a node's record.
    pub(crate) fn take(&mut self, path: &str) -> Result<(), Errno> {
        let Some(txn) = &mut self.txn else {
            self.tree.take(path);
            return Ok(());
        };
        txn.touch(self.tree, path, self.quota)?;
        txn.changes.insert(path.to_string(), None);
        self.changed = true;
        Ok(())
    }

    /// Nodes a domain owns in this view.
    pub(crate) fn owned(&self, dom: DomId) -> i64 {
        let committed = i64::from(self.tree.owned(dom));
        self.txn
            .as_ref()
            .map_or(committed, |txn| txn.owned_after(self.tree).get(&dom).copied().unwrap_or(committed))
    }

    /// Notes a change for watchers.
    pub(crate) fn fire(&mut self, fired: Fired) {
        match &mut self.txn {
            Some(txn) if txn.fired.contains(&fired) => {}
            Some(txn) => txn.fired.push(fired),
            None => self.fired.push(fired),
        }
    }

    /// After a request failed: a transaction that it left half-changed must not be committed.
    pub(crate) fn abandon(self) {
        if let Some(txn) = self.txn.filter(|_| self.changed) {
            txn.overrun();
        }
    }

    /// What watchers are to be told now (nothing inside a transaction).
    pub(crate) fn into_fired(self) -> Vec<Fired> {
        self.fired
    }
}
