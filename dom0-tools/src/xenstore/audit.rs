//! Recounts everything from first principles.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use pv_abi::ids::DomId;

use super::path;
use super::store::Xenstore;

impl Xenstore {
    /// Checks all invariants named in the module's head.
    ///
    /// # Errors
    /// The first one that does not hold.
    pub fn audit(&self) -> Result<(), String> {
        self.audit_tree()?;
        self.audit_conns()
    }

    fn audit_tree(&self) -> Result<(), String> {
        let mut owned: BTreeMap<DomId, u32> = BTreeMap::new();
        let mut named_children = 0usize;
        let mut nodes = 0usize;
        for (at, node) in self.tree.iter() {
            nodes += 1;
            named_children += node.children.len();
            *owned.entry(node.perms.owner).or_default() += 1;
            path::check(at, usize::MAX).map_err(|_| format!("bad path {at}"))?;
            if let Some(parent) = path::parent(at) {
                let parent = self.tree.get(parent).ok_or_else(|| format!("orphan {at}"))?;
                if !parent.children.contains(path::name(at)) {
                    return Err(format!("{at} is not its parent's child"));
                }
            }
        }
        if named_children + 1 != nodes {
            return Err(format!("{named_children} children named, {nodes} nodes"));
        }
        if &owned != self.tree.owned_counts() {
            return Err(format!("owned: counted {owned:?}, kept {:?}", self.tree.owned_counts()));
        }
        Ok(())
    }

    fn audit_conns(&self) -> Result<(), String> {
        for (id, conn) in &self.conns {
            let watches = self.watches.count(*id);
            if u32::try_from(watches) != Ok(conn.watches) {
                return Err(format!("{id:?}: {watches} watches, {} kept", conn.watches));
            }
            if !conn.queue_is_consistent() {
                return Err(format!("{id:?}: queue"));
            }
            if !conn.who.is_privileged() && conn.watches > self.quota.watches {
                return Err(format!("{id:?}: too many watches"));
            }
            if !conn.who.is_privileged() && self.introduced.get(&conn.who.dom) != Some(id) {
                return Err(format!("{id:?}: connected, but not introduced"));
            }
        }
        let gone = self.introduced.values().find(|id| !self.conns.contains_key(id));
        gone.map_or(Ok(()), |id| Err(format!("{id:?}: introduced, but not connected")))
    }
}
