//! Network device front end.
//!
//! Frames go through pages that are granted to the back end once and then used again and again. A frame takes one slot:
//! large packets and blank checksums are not asked for, so the back end cuts and completes what others send that way.
//!
//! With the feature `smoltcp`, an [`Interface`] is a device for that crate's TCP/IP stack.
//!
//! The back end is not trusted: an answer to nothing that was asked, an offset or a length beyond its page, indices that
//! cannot be, end the connection.

mod half;
#[cfg(feature = "smoltcp")]
mod phy;
mod setup;
#[cfg(feature = "smoltcp")]
mod stack;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::event::EventChannel;
use crate::hypercall::{Errno, Result};
use crate::task;
use crate::time;
use crate::xenbus::{Device, XenbusState};
use crate::xenstore::Client;
use half::{Receiver, Sender};

#[cfg(feature = "smoltcp")]
pub use phy::{RxToken, TxToken, now};
#[cfg(feature = "smoltcp")]
pub use stack::Stack;

/// Most bytes of a frame: an MTU of 1500, with the Ethernet header.
pub const MAX_FRAME: usize = 1514;

/// A network interface.
pub struct Interface {
    device: Device,
    channel: EventChannel,
    mac: [u8; 6],
    tx: Sender,
    rx: Receiver,
}

impl Interface {
    /// Connects to the back end of the interface at `path`, such as `device/vif/0`.
    pub async fn open(store: &Client, path: &str) -> Result<Self> {
        let device = Device::open(store, path).await?;
        setup::connect(device).await
    }

    /// The names of the interfaces in this domain's part of the store, for [`Interface::open`].
    pub async fn list(store: &Client) -> Result<Vec<String>> {
        let names = match store.directory("device/vif").await {
            Err(Errno::NoEnt) => Vec::new(),
            other => other?,
        };
        Ok(names.into_iter().map(|name| format!("device/vif/{name}")).collect())
    }

    /// The interface's address.
    #[must_use]
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Whether the back end broke the rings; nothing is sent or received any more.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.tx.is_broken() || self.rx.is_broken()
    }

    /// Sends a frame. EAGAIN: there is no room now, [`Interface::wait`] tells when there may be; EMSGSIZE: it is too long;
    /// EIO: the back end broke the rings.
    pub fn send(&mut self, frame: &[u8]) -> Result {
        if frame.len() > MAX_FRAME {
            return Err(Errno::MsgSize);
        }
        if !self.tx.has_room() {
            return Err(if self.tx.is_broken() { Errno::Io } else { Errno::Again });
        }
        self.tx.send(frame.len(), |buffer| buffer.copy_from_slice(frame), &self.channel);
        Ok(())
    }

    /// The next frame that came in. It is borrowed from the interface's own buffer.
    pub fn receive(&mut self) -> Option<&[u8]> {
        self.rx.next(&self.channel)
    }

    /// Waits until frames may have come in or room may have become free, or until `deadline_ns`.
    pub async fn wait(&mut self, deadline_ns: Option<u64>) {
        if self.rx.is_waiting() {
            task::yield_now().await;
            return;
        }
        match deadline_ns {
            Some(deadline) => task::race(self.channel.wait(), time::sleep_until(deadline)).await,
            None => self.channel.wait().await,
        }
    }

    /// Has the back end let go of the interface, which it is given some time for.
    pub async fn close(self) -> Result {
        const PATIENCE: Duration = Duration::from_secs(2);
        self.device.set_state(XenbusState::Closing).await?;
        let let_go = time::timeout(PATIENCE, self.device.backend_let_go()).await;
        self.device.set_state(XenbusState::Closed).await?;
        let_go.unwrap_or(Err(Errno::TimedOut))
    }
}
