//! Atomics and the turn of a spin loop by one name: `tests/races` compiles the files that use them over loom's.

pub(crate) use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, fence};
pub(crate) use hv_sync::relax;
