//! The committed tree: nodes by path. Flat, so that nothing needs to recurse.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::ids::DomId;

use super::perms::{Access, Perms};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) value: Vec<u8>,
    pub(crate) perms: Perms,
    pub(crate) children: BTreeSet<String>,
    /// Changes with the node; 0 is "no such node".
    pub(crate) generation: u64,
}

impl Node {
    pub(crate) fn new(value: Vec<u8>, perms: Perms) -> Self {
        Self { value, perms, children: BTreeSet::new(), generation: 0 }
    }

    /// Bytes that it takes besides its path, so far as a client decides about them.
    pub(crate) fn bytes(&self) -> usize {
        self.value.len() + self.children.iter().map(String::len).sum::<usize>()
    }
}

/// All nodes.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
    owned: BTreeMap<DomId, u32>,
    generation: u64,
}

impl Tree {
    /// A tree with a root that all may read.
    pub(crate) fn new() -> Self {
        let mut tree = Self { nodes: BTreeMap::new(), owned: BTreeMap::new(), generation: 0 };
        let mut perms = Perms::closed();
        perms.others = Access::Read;
        tree.put("/", Node::new(Vec::new(), perms));
        tree
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Generation of a node, 0 if there is none.
    pub(crate) fn generation_of(&self, path: &str) -> u64 {
        self.get(path).map_or(0, |node| node.generation)
    }

    /// Nodes a domain owns.
    pub(crate) fn owned(&self, dom: DomId) -> u32 {
        self.owned.get(&dom).copied().unwrap_or(0)
    }

    /// Stores a node under a new generation.
    pub(crate) fn put(&mut self, path: &str, mut node: Node) {
        self.generation += 1;
        node.generation = self.generation;
        *self.owned.entry(node.perms.owner).or_default() += 1;
        if let Some(old) = self.nodes.insert(path.to_string(), node) {
            self.disown(old.perms.owner);
        }
    }

    /// Changes a node in its place, under a new generation; false if there is none.
    pub(crate) fn change(&mut self, path: &str, change: impl FnOnce(&mut Node)) -> bool {
        let Some(node) = self.nodes.get_mut(path) else { return false };
        let before = node.perms.owner;
        change(node);
        self.generation += 1;
        node.generation = self.generation;
        *self.owned.entry(node.perms.owner).or_default() += 1;
        self.disown(before);
        true
    }

    /// Takes a node away; its place in its parent is the caller's business.
    pub(crate) fn take(&mut self, path: &str) {
        if let Some(old) = self.nodes.remove(path) {
            self.disown(old.perms.owner);
        }
    }

    fn disown(&mut self, dom: DomId) {
        if let Some(count) = self.owned.get_mut(&dom) {
            *count -= 1;
            if *count == 0 {
                self.owned.remove(&dom);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The counts as kept, for the audit.
    pub(crate) fn owned_counts(&self) -> &BTreeMap<DomId, u32> {
        &self.owned
    }
}
