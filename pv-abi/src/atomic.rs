//! Atomics by one name: `tests/races` compiles the rings over loom's.

pub(crate) use core::sync::atomic::{AtomicU8, AtomicU32, fence};
