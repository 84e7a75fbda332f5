//! Watches: who wants to know of changes at or below a path.
//!
//! Kept by path, so that a change costs one look-up per level and not one per watch.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::io::xenstore::{ABS_PATH_MAX, PAYLOAD_MAX};

use super::conn::ConnId;
use super::path;

/// Longest token: with the longest path and two NULs it must fit an event.
pub(crate) const TOKEN_MAX: usize = PAYLOAD_MAX - ABS_PATH_MAX - 2;

/// One watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) conn: ConnId,
    pub(crate) token: String,
    /// Events of a watch that was set by a relative path carry relative paths: so many bytes less.
    pub(crate) strip: usize,
}

/// All watches.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    by_path: BTreeMap<String, Vec<Watch>>,
}

impl Watches {
    /// Adds one; a connection may watch a path several times with different tokens.
    pub(crate) fn add(&mut self, path: &str, watch: Watch) -> Result<(), Errno> {
        if watch.token.len() > TOKEN_MAX {
            return Err(Errno::TooBig);
        }
        let list = self.by_path.entry(path.to_string()).or_default();
        if list.iter().any(|w| w.conn == watch.conn && w.token == watch.token) {
            return Err(Errno::Exist);
        }
        list.push(watch);
        Ok(())
    }

    /// Removes one; false if there was none.
    pub(crate) fn remove(&mut self, path: &str, conn: ConnId, token: &str) -> bool {
        let Some(list) = self.by_path.get_mut(path) else { return false };
        let before = list.len();
        list.retain(|w| w.conn != conn || w.token != token);
        let removed = list.len() < before;
        if list.is_empty() {
            self.by_path.remove(path);
        }
        removed
    }

    /// Removes all of a connection.
    pub(crate) fn remove_all(&mut self, conn: ConnId) {
        self.by_path.retain(|_, list| {
            list.retain(|w| w.conn != conn);
            !list.is_empty()
        });
    }

    /// How many a connection has.
    pub(crate) fn count(&self, conn: ConnId) -> usize {
        self.by_path.values().flatten().filter(|w| w.conn == conn).count()
    }

    /// Watches that a change at `at` concerns.
    pub(crate) fn concerned<'a>(&'a self, at: &'a str, exact: bool) -> impl Iterator<Item = &'a Watch> {
        let levels = if exact { 1 } else { usize::MAX };
        path::upwards(at).take(levels).filter_map(|level| self.by_path.get(level)).flatten()
    }

    /// Watches on a special name such as `@introduceDomain`.
    pub(crate) fn special<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Watch> {
        self.by_path.get(name).into_iter().flatten()
    }
}
