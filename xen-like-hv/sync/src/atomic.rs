//! Atomics by one name: `tests/races` compiles the files that use them over loom's.

pub(crate) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
