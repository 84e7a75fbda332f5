//! Files of hv-core, over loom's atomics.

#[path = "../../../xen-like-hv/core/src/frame/counts.rs"]
pub(crate) mod counts;
#[path = "../../../xen-like-hv/core/src/frame/flush.rs"]
pub(crate) mod flush;
#[path = "../../../xen-like-hv/core/src/frame/page_info.rs"]
pub(crate) mod page_info;
#[path = "../../../xen-like-hv/core/src/frame/types.rs"]
pub(crate) mod types;
