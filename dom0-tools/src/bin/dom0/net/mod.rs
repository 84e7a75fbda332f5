//! The software switch at work: frames on their way between guests and the machine's network card.
//!
//! | module | what it is |
//! |---|---|
//! | [`frame`] | a frame in pages of ours, shared by whoever still has to pass it on |
//! | [`bridge`] | a switch with what hangs on its ports |
//! | [`uplink`] | the port that leads to the network card |
//!
//! Guests' ports are [`crate::services::vif`].

pub(crate) mod bridge;
pub(crate) mod frame;
pub(crate) mod uplink;
