//! An interface as a device of smoltcp.

use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use super::half::Sender;
use super::{Interface, MAX_FRAME};
use crate::event::EventChannel;
use crate::time;

/// A frame that came in.
pub struct RxToken<'a>(&'a [u8]);

/// Room for a frame.
pub struct TxToken<'a> {
    sender: &'a mut Sender,
    channel: &'a EventChannel,
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.sender.send(len, f, self.channel)
    }
}

impl phy::Device for Interface {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        if !self.tx.has_room() {
            return None;
        }
        let Self { rx, tx, channel, .. } = self;
        let frame = rx.next(channel)?;
        Some((RxToken(frame), TxToken { sender: tx, channel }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<TxToken<'_>> {
        let has_room = self.tx.has_room();
        has_room.then_some(TxToken { sender: &mut self.tx, channel: &self.channel })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MAX_FRAME;
        capabilities
    }
}

/// The time as smoltcp has it.
#[must_use]
pub fn now() -> Instant {
    Instant::from_micros(i64::try_from(time::now_ns() / 1000).unwrap_or(i64::MAX))
}
