//! Transactions: an overlay over the tree, with what was seen of the tree.
//!
//! A transaction remembers for every node it touched which generation it saw (0 for "absent"). It
//! commits if all of them are as they were; otherwise the client gets EAGAIN and tries again. Its
//! memory is bounded by quotas, whoever the client is.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;

use super::ops::Fired;
use super::perms::{Perms, Who};
use super::quota::Quota;
use super::tree::{Node, Tree};

/// An open transaction.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    seen: BTreeMap<String, u64>,
    /// `None`: removed here.
    changes: BTreeMap<String, Option<Node>>,
    /// By path, and whether exactly that path is meant: the place among the others, and who may know.
    fired: BTreeMap<(String, bool), (usize, Vec<Perms>)>,
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
            self.take_room(path.len(), 0, quota)?;
            self.seen.insert(path.to_string(), tree.generation_of(path));
        }
        Ok(())
    }

    /// Counts `more` bytes that are kept from now on instead of `less`.
    fn take_room(&mut self, more: usize, less: usize, quota: &Quota) -> Result<(), Errno> {
        let bytes = self.bytes.saturating_sub(less).saturating_add(more);
        if bytes > quota.txn_bytes {
            return Err(Errno::NoSpc);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Keeps a node, or that there is none, in the place of what was kept for the path.
    fn keep(&mut self, path: &str, node: Option<Node>, quota: &Quota) -> Result<(), Errno> {
        let bytes = |node: &Option<Node>| path.len() + node.as_ref().map_or(0, Node::bytes);
        self.take_room(bytes(&node), self.changes.get(path).map_or(0, bytes), quota)?;
        self.changes.insert(path.to_string(), node);
        Ok(())
    }

    /// Notes a change for watchers. However often a node is changed, they see what was before and what is after.
    fn note(&mut self, fired: Fired) {
        let order = self.fired.len();
        match self.fired.entry((fired.path, fired.exact)) {
            Entry::Vacant(vacant) => {
                vacant.insert((order, fired.perms));
            }
            Entry::Occupied(mut known) => {
                let (_, perms) = known.get_mut();
                perms.truncate(1);
                let last = fired.perms.into_iter().next_back();
                perms.extend(last.filter(|last| perms.first() != Some(last)));
            }
        }
    }

    /// What is to be told, in the order in which it first happened.
    fn into_fired(self) -> Vec<Fired> {
        let mut all: Vec<_> = self.fired.into_iter().collect();
        all.sort_unstable_by_key(|(_, (order, _))| *order);
        all.into_iter().map(|((path, exact), (_, perms))| Fired { path, perms, exact }).collect()
    }

    /// Notes that a request failed after it had changed something.
    pub(crate) fn overrun(&mut self) {
        self.overrun = true;
    }

    /// Checks that nothing seen has changed and that `who` would not own too much, then applies all.
    /// Gives what has to be told to watchers.
    pub(crate) fn commit(mut self, who: Who, tree: &mut Tree, quota: &Quota) -> Result<Vec<Fired>, Errno> {
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
        for (path, change) in core::mem::take(&mut self.changes) {
            match change {
                Some(node) => tree.put(&path, node),
                None => tree.take(&path),
            }
        }
        Ok(self.into_fired())
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
        txn.keep(path, Some(node), self.quota)?;
        self.changed = true;
        Ok(())
    }

    /// Changes a node that is there; false if there is none. Only a transaction has to copy it for that.
    pub(crate) fn change(&mut self, path: &str, change: impl FnOnce(&mut Node)) -> Result<bool, Errno> {
        if self.txn.is_none() {
            return Ok(self.tree.change(path, change));
        }
        let most = self.quota.txn_bytes;
        let Some(node) = self.get(path)? else { return Ok(false) };
        if node.bytes() > most {
            return Err(Errno::NoSpc);
        }
        let mut node = node.clone();
        change(&mut node);
        self.put(path, node).map(|()| true)
    }

    /// Removes a node's record.
    pub(crate) fn take(&mut self, path: &str) -> Result<(), Errno> {
        let Some(txn) = &mut self.txn else {
            self.tree.take(path);
            return Ok(());
        };
        txn.touch(self.tree, path, self.quota)?;
        txn.keep(path, None, self.quota)?;
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
            Some(txn) => txn.note(fired),
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
