//! How much one unprivileged domain may hold.

/// Limits per domain; dom0 is not limited, except by the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Nodes owned.
    pub nodes: u32,
    /// Bytes of one value.
    pub value_len: usize,
    /// Entries of one node's permissions.
    pub perms: usize,
    /// Watches.
    pub watches: u32,
    /// Open transactions.
    pub transactions: u32,
    /// Distinct nodes touched in one transaction.
    pub txn_nodes: usize,
    /// Bytes kept in one transaction: paths, new values, names of children.
    pub txn_bytes: usize,
    /// Levels of a path.
    pub depth: usize,
    /// Watch events waiting to be taken; identical ones count once, later ones are dropped.
    pub events: usize,
    /// Bytes waiting to be taken before no further request is looked at.
    pub output_bytes: usize,
    /// Requests that change the store, in a burst.
    pub changes: u32,
    /// Nanoseconds until one more may be made.
    pub change_interval_ns: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            nodes: 1000,
            value_len: 2048,
            perms: 8,
            watches: 128,
            transactions: 10,
            txn_nodes: 512,
            txn_bytes: 128 << 10,
            depth: 32,
            events: 512,
            output_bytes: 8 << 10,
            changes: 2000,
            change_interval_ns: 5_000_000,
        }
    }
}
