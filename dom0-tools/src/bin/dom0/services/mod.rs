//! The services that guests use.
//!
//! Each guest has its own task in each service, and what a guest writes into a shared page is an allegation: a
//! service that finds nonsense there stops listening to that guest and goes on with the others.

pub(crate) mod backends;
pub(crate) mod block;
pub(crate) mod console;
pub(crate) mod net;
mod vbd;
mod vif;
pub(crate) mod xenstore;
