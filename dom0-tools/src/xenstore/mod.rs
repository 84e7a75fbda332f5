//! The xenstore service: a small tree of strings that domains use to find one another.
//!
//! A machine without I/O: the daemon in dom0 copies bytes from a domain's ring into
//! [`Xenstore::input`] and bytes from [`Xenstore::output`] back to it. dom0's own parts use the typed
//! calls of [`local`] instead.
//!
//! | file | holds |
//! |---|---|
//! | `wire` | message header, operations, error names |
//! | `path` | what is a path, parents, depth |
//! | `perms` | who may read, write, own |
//! | `tree` | the nodes, flat by path, and how many each domain owns |
//! | `txn` | transactions: an overlay and what was seen |
//! | `ops` | operations on either |
//! | `watch` | who wants to know |
//! | `conn` | one domain's connection: input, bounded output |
//! | `serve` | from a message to a reply |
//! | `local` | dom0's own access |
//!
//! Invariants, recounted by [`Xenstore::audit`]: every node but the root is its parent's child and has a
//! parent (no orphans); a domain owns as many nodes as are counted; no count is above its quota; a
//! domain that was released owns nothing, watches nothing, is named in no permission.
//!
//! Nothing recurses, and every loop is bounded by a quota.

mod audit;
mod conn;
pub mod local;
mod ops;
mod path;
mod perms;
mod quota;
mod serve;
mod store;
#[cfg(test)]
mod tests;
mod tree;
mod txn;
mod watch;
pub mod wire;

pub use conn::ConnId;
pub use local::Event;
pub use perms::{Access, Perms};
pub use quota::Quota;
pub use store::{Effect, Xenstore};
