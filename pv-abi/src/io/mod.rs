//! Split-driver I/O: the shared rings and the messages on them.
//!
//! [`ring`] is the index protocol of request/response rings, [`byte_ring`] that of byte streams; both are safe code over
//! atomics, and both treat the other side's indices as allegations.

pub mod blkif;
pub mod byte_ring;
pub mod console;
pub mod netif;
pub mod ring;
pub mod xenbus;
pub mod xenstore;
