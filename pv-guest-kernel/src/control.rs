//! Requests of the toolstack to this domain: power off, reboot.
//!
//! The toolstack writes the request to `control/shutdown`; the domain removes it and does what it says.

use alloc::string::String;

use crate::hypercall::Result;
use crate::sched::{self, ShutdownReason};
use crate::xenstore::Client;

const NODE: &str = "control/shutdown";

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Power off.
    Poweroff,
    /// Start again.
    Reboot,
    /// Power off at once.
    Halt,
}

impl Request {
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "poweroff" => Some(Self::Poweroff),
            "reboot" => Some(Self::Reboot),
            "halt" => Some(Self::Halt),
            _ => None,
        }
    }

    /// The shutdown reason that answers the request.
    #[must_use]
    pub const fn reason(self) -> ShutdownReason {
        match self {
            Self::Poweroff | Self::Halt => ShutdownReason::Poweroff,
            Self::Reboot => ShutdownReason::Reboot,
        }
    }
}

/// Waits for the next request and acknowledges it. Requests that are not known are acknowledged and passed over.
pub async fn next_request(store: &Client) -> Result<Request> {
    // The toolstack looks here for what the domain can do.
    for feature in ["control/feature-poweroff", "control/feature-reboot"] {
        store.write(feature, "1").await?;
    }
    let mut watch = store.watch(NODE).await?;
    loop {
        watch.next().await;
        let text: String = store.read_text(NODE).await.unwrap_or_default();
        if text.is_empty() {
            continue;
        }
        store.write(NODE, "").await?;
        match Request::from_text(&text) {
            Some(request) => return Ok(request),
            None => log::warn!("control: a request that is not known: {text:?}"),
        }
    }
}

/// Does what the next request says.
pub async fn obey(store: &Client) -> Result {
    let request = next_request(store).await?;
    log::info!("control: {request:?}");
    crate::console::flush();
    sched::shutdown(request.reason())
}
