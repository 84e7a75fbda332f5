//! smoltcp's TCP/IP stack on an interface, with the waiting done.

use alloc::vec::Vec;

use smoltcp::iface::{Config, Interface as IpInterface, PollResult, SocketSet};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};

use super::{Interface, now};
use crate::arch;
use crate::hypercall::{Errno, Result};
use crate::{task, time};

/// An interface with an address, and the sockets on it.
pub struct Stack {
    device: Interface,
    ip: IpInterface,
    /// The sockets.
    pub sockets: SocketSet<'static>,
}

impl Stack {
    /// A stack with one address, such as `10.0.2.15/24`, and the router to everywhere else, if there is one. EINVAL: this
    /// is no address.
    pub fn new(mut device: Interface, address: &str, router: Option<&str>) -> Result<Self> {
        let address: Ipv4Cidr = address.parse().map_err(|()| Errno::Inval)?;
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(device.mac())));
        // So that connections of one boot are not taken for those of the one before.
        config.random_seed = arch::cpu::rdtsc_ordered();
        let mut ip = IpInterface::new(config, &mut device, now());
        let mut added = Ok(());
        ip.update_ip_addrs(|all| added = all.push(IpCidr::Ipv4(address)));
        added.map_err(|_| Errno::Inval)?;
        if let Some(router) = router {
            let router: Ipv4Address = router.parse().map_err(|_| Errno::Inval)?;
            ip.routes_mut().add_default_ipv4_route(router).map_err(|_| Errno::Inval)?;
        }
        Ok(Self { device, ip, sockets: SocketSet::new(Vec::new()) })
    }

    /// What sockets need to connect.
    pub fn context(&mut self) -> &mut smoltcp::iface::Context {
        self.ip.context()
    }

    /// The sockets, and what they need to connect.
    pub fn parts(&mut self) -> (&mut SocketSet<'static>, &mut smoltcp::iface::Context) {
        (&mut self.sockets, self.ip.context())
    }

    /// Sends what waits and takes what came in. If that changed nothing, waits until it might, or until `deadline_ns`.
    /// EIO: the back end broke the rings.
    pub async fn turn(&mut self, deadline_ns: Option<u64>) -> Result {
        if self.ip.poll(now(), &mut self.device, &mut self.sockets) == PollResult::SocketStateChanged {
            // Other tasks have their turn even if frames never end.
            task::yield_now().await;
            return Ok(());
        }
        if self.device.is_broken() {
            return Err(Errno::Io);
        }
        let own = self.ip.poll_delay(now(), &self.sockets);
        let own = own.map(|delay| time::now_ns().saturating_add(delay.total_micros().saturating_mul(1000)));
        let deadline = match (own, deadline_ns) {
            (Some(own), Some(given)) => Some(own.min(given)),
            (own, given) => own.or(given),
        };
        self.device.wait(deadline).await;
        self.ip.poll(now(), &mut self.device, &mut self.sockets);
        Ok(())
    }

    /// Gives the interface back, to be closed.
    #[must_use]
    pub fn into_device(self) -> Interface {
        self.device
    }
}
