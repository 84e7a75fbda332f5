//! Operations on nodes, the same inside and outside of transactions.
//!
//! Each checks everything before it changes anything: a request that fails leaves no trace.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;

use super::path;
use super::perms::{Access, Perms, Who};
use super::tree::Node;
use super::txn::View;

/// A change that watchers may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fired {
    pub(crate) path: String,
    /// Who may know: readers under any of these.
    pub(crate) perms: Vec<Perms>,
    /// Tell only who watches exactly this path (nodes that went away below a removed one).
    pub(crate) exact: bool,
}

impl Fired {
    fn new(path: &str, perms: Perms) -> Self {
        Self { path: path.to_string(), perms: Vec::from([perms]), exact: false }
    }
}

/// Permissions of a node that `who` wants to use with a right `wanted`; errors as clients expect them:
/// who may not even look at the place does not learn whether something is there.
fn existing<'v>(
    view: &'v mut View<'_>,
    who: Who,
    at: &str,
    wanted: fn(Access) -> bool,
) -> Result<&'v Node, Errno> {
    match view.get(at)?.map(|node| wanted(node.perms.access(who))) {
        Some(true) => view.get(at)?.ok_or(Errno::NoEnt),
        Some(false) => Err(Errno::Acces),
        None => {
            let (_, perms) = nearest(view, at)?;
            Err(if perms.access(who).reads() { Errno::NoEnt } else { Errno::Acces })
        }
    }
}

/// The nearest existing ancestor and its permissions.
fn nearest(view: &mut View<'_>, at: &str) -> Result<(String, Perms), Errno> {
    for ancestor in path::upwards(at).skip(1) {
        if let Some(node) = view.get(ancestor)? {
            return Ok((ancestor.to_string(), node.perms.clone()));
        }
    }
    // The root is always there.
    Err(Errno::NoEnt)
}

pub(crate) fn read(view: &mut View<'_>, who: Who, at: &str) -> Result<Vec<u8>, Errno> {
    Ok(existing(view, who, at, Access::reads)?.value.clone())
}

/// A node whose children are asked for. They may be many: whoever asks copies no more than is wanted.
pub(crate) fn listed<'v>(view: &'v mut View<'_>, who: Who, at: &str) -> Result<&'v Node, Errno> {
    existing(view, who, at, Access::reads)
}

pub(crate) fn get_perms(view: &mut View<'_>, who: Who, at: &str) -> Result<Perms, Errno> {
    Ok(existing(view, who, at, Access::reads)?.perms.clone())
}

pub(crate) fn write(view: &mut View<'_>, who: Who, at: &str, value: &[u8]) -> Result<(), Errno> {
    if !who.is_privileged() && value.len() > view.quota.value_len {
        return Err(Errno::NoSpc);
    }
    let Some(node) = view.get(at)? else { return create(view, who, at, value) };
    if !node.perms.access(who).writes() {
        return Err(Errno::Acces);
    }
    let fired = Fired::new(at, node.perms.clone());
    view.change(at, |node| node.value = value.to_vec())?;
    view.fire(fired);
    Ok(())
}

pub(crate) fn mkdir(view: &mut View<'_>, who: Who, at: &str) -> Result<(), Errno> {
    match view.get(at)? {
        // Making what is there is no error for whoever might have made it.
        Some(node) if node.perms.access(who).writes() => Ok(()),
        Some(_) => Err(Errno::Acces),
        None => create(view, who, at, &[]),
    }
}

/// Makes a node and the missing ones above it.
fn create(view: &mut View<'_>, who: Who, at: &str, value: &[u8]) -> Result<(), Errno> {
    let (base, inherited) = nearest(view, at)?;
    if !inherited.access(who).writes() {
        return Err(Errno::Acces);
    }
    let mut perms = inherited;
    if !who.is_privileged() {
        perms.owner = who.dom;
    }
    let mut missing: Vec<&str> = path::upwards(at).take_while(|p| *p != base).collect();
    missing.reverse();
    if !who.is_privileged() {
        check_nodes(view, perms.owner, missing.len())?;
    }
    let mut parent = base;
    for new in missing {
        let value = if new == at { value.to_vec() } else { Vec::new() };
        // The child first: a transaction out of room then fails without a dangling name.
        view.put(new, Node::new(value, perms.clone()))?;
        adopt(view, &parent, path::name(new))?;
        parent = new.to_string();
    }
    view.fire(Fired::new(at, perms));
    Ok(())
}

fn check_nodes(view: &View<'_>, owner: DomId, more: usize) -> Result<(), Errno> {
    let more = i64::try_from(more).map_err(|_| Errno::NoSpc)?;
    if view.owned(owner) + more > i64::from(view.quota.nodes) { Err(Errno::NoSpc) } else { Ok(()) }
}

fn adopt(view: &mut View<'_>, parent: &str, child: &str) -> Result<(), Errno> {
    let found = view.change(parent, |node| {
        node.children.insert(child.to_string());
    })?;
    if found { Ok(()) } else { Err(Errno::NoEnt) }
}

/// Removes a node and everything below it. Removing what is not there is fine if its parent is.
pub(crate) fn remove(view: &mut View<'_>, who: Who, at: &str) -> Result<(), Errno> {
    let Some(parent) = path::parent(at) else { return Err(Errno::Inval) };
    match existing(view, who, at, Access::writes).map(drop) {
        Ok(()) => {}
        Err(Errno::NoEnt) if view.get(parent)?.is_some() => return Ok(()),
        Err(error) => return Err(error),
    }
    let parent = parent.to_string();
    remove_subtree(view, &parent, at)
}

/// Takes a subtree out, without asking for permission.
pub(crate) fn remove_subtree(view: &mut View<'_>, parent: &str, at: &str) -> Result<(), Errno> {
    let doomed = subtree(view, at)?;
    view.change(parent, |node| {
        node.children.remove(path::name(at));
    })?;
    for (gone, perms) in doomed {
        view.take(&gone)?;
        let exact = gone != at;
        view.fire(Fired { path: gone, perms: Vec::from([perms]), exact });
    }
    Ok(())
}

/// A node and all below it, top down, by a work list.
fn subtree(view: &mut View<'_>, at: &str) -> Result<Vec<(String, Perms)>, Errno> {
    let mut found = Vec::new();
    let mut queue = Vec::from([at.to_string()]);
    while let Some(next) = queue.pop() {
        if let Some(node) = view.get(&next)? {
            let perms = node.perms.clone();
            queue.extend(node.children.iter().map(|child| path::join(&next, child)));
            found.push((next, perms));
        }
    }
    Ok(found)
}

/// Sets permissions. Only the owner may, and only dom0 may give a node away.
pub(crate) fn set_perms(view: &mut View<'_>, who: Who, at: &str, perms: Perms) -> Result<(), Errno> {
    let before = existing(view, who, at, |_| true)?.perms.clone();
    if !who.is_privileged() {
        // Its target's nodes are as its own.
        if before.owner != who.dom && Some(before.owner) != who.target {
            return Err(Errno::Acces);
        }
        if perms.owner != before.owner {
            return Err(Errno::Perm);
        }
        if perms.acl.len() + 1 > view.quota.perms {
            return Err(Errno::NoSpc);
        }
    }
    let fired = Fired { path: at.to_string(), perms: Vec::from([before, perms.clone()]), exact: false };
    view.change(at, |node| node.perms = perms)?;
    view.fire(fired);
    Ok(())
}
