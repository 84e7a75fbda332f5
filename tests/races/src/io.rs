//! Files of pv-abi, over loom's atomics.

#[path = "../../../pv-abi/src/io/byte_ring.rs"]
pub(crate) mod byte_ring;
#[path = "../../../pv-abi/src/io/ring.rs"]
pub(crate) mod ring;
