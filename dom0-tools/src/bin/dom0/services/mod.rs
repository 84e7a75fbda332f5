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

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort};
use pv_guest_kernel::event::{self, EventChannel};

/// Connects to a guest's port. However often the guest sends, it costs dom0 one upcall for each turn of the task that serves it,
/// and turns that find nothing to do become rare.
fn bind_port(dom: DomId, port: EvtchnPort) -> Result<EventChannel, Errno> {
    event::bind_interdomain(dom, port).inspect(EventChannel::hold_until_waited)
}
