//! What is typed on the console.

use pv_abi::evtchn::VirqKind;
use pv_abi::ids::VcpuId;

use super::{BACKEND, Backend};
use crate::event::{self, EventChannel};
use crate::hypercall;

/// The console's input. One reader at a time.
pub struct Input {
    channel: EventChannel,
}

impl Input {
    /// Starts listening.
    pub fn open() -> hypercall::Result<Self> {
        let backend = *BACKEND.lock();
        let channel = match backend {
            Backend::Hypervisor => event::bind_virq(VirqKind::Console, VcpuId::new(0))?,
            Backend::Ring(ring) => event::adopt(ring.port())?,
        };
        Ok(Self { channel })
    }

    /// Waits for typed bytes; returns how many were put into `into`.
    pub async fn read(&mut self, into: &mut [u8]) -> usize {
        loop {
            match Self::try_read(into) {
                0 => self.channel.wait().await,
                count => return count,
            }
        }
    }

    /// Takes what has been typed so far.
    fn try_read(into: &mut [u8]) -> usize {
        let backend = *BACKEND.lock();
        match backend {
            Backend::Hypervisor => hypercall::console_read(into).unwrap_or(0),
            Backend::Ring(ring) => ring.read(into),
        }
    }
}
