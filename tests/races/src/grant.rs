//! Files of hv-core, over loom's atomics.

#[path = "../../../xen-like-hv/core/src/grant/word.rs"]
pub(crate) mod word;
