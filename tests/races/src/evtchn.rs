//! Files of hv-core, over loom's atomics.

#[path = "../../../xen-like-hv/core/src/evtchn/words.rs"]
pub(crate) mod words;
