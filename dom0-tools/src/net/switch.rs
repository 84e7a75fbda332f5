//! A learning switch: where a frame goes, and who may send what.
//!
//! Ports are numbered; what hangs on them is the caller's affair. The table of addresses is bounded as a whole and for
//! each port, so that no guest can push out what was learnt of others, and entries age.
//!
//! | address | who has it |
//! |---|---|
//! | that of a guest's interface | its port, for ever: a frame from elsewhere that claims it as its source is dropped |
//! | any other | the port where it was last seen |
//!
//! A port may be held to its own addresses: then frames with other sources, of Ethernet, IPv4 or ARP, are dropped.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::headers::Head;
use super::mac::Mac;
use super::{ETH_HEADER, MAX_FRAME};

/// Most addresses learnt.
const MAX_LEARNT: usize = 1024;
/// Most addresses learnt from one port.
const MAX_LEARNT_OF_PORT: usize = 64;
/// An address that was not seen for so long is forgotten.
const MAX_AGE_NS: u64 = 300_000_000_000;
/// Old addresses are looked for at most this often, so that frames with ever new ones cost little.
const SWEEP_NS: u64 = 1_000_000_000;
/// Frames to these addresses are between a switch and its neighbour and are not passed on: the last half byte varies.
const LINK_LOCAL: [u8; 5] = [0x01, 0x80, 0xc2, 0x00, 0x00];

/// A port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId(usize);

/// What a port is held to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The interface's own address. Nobody else may use it as a source.
    pub mac: Option<Mac>,
    /// If there are any, the port may send with its own address and these alone.
    pub addresses: Vec<[u8; 4]>,
}

/// What went through a port. "In" is from the port into the switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames in.
    pub in_frames: u64,
    /// Bytes in.
    pub in_bytes: u64,
    /// Frames in that were dropped: malformed, or with addresses that are not the port's.
    pub in_dropped: u64,
    /// Frames out.
    pub out_frames: u64,
    /// Bytes out.
    pub out_bytes: u64,
    /// Frames out that were dropped: no room, or the receiver does not take them.
    pub out_dropped: u64,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Nowhere.
    Drop,
    /// To one port.
    To(PortId),
    /// To every port but its own.
    Flood,
}

#[derive(Debug)]
struct Port {
    identity: Identity,
    counters: Counters,
    learnt: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    port: PortId,
    seen_ns: u64,
}

/// A switch.
#[derive(Debug, Default)]
pub struct Switch {
    ports: Vec<Option<Port>>,
    table: BTreeMap<Mac, Place>,
    /// When old addresses were last looked for.
    swept_ns: Option<u64>,
}

impl Switch {
    /// A switch without ports.
    #[must_use]
    pub const fn new() -> Self {
        Self { ports: Vec::new(), table: BTreeMap::new(), swept_ns: None }
    }

    /// Adds a port.
    pub fn attach(&mut self, identity: Identity) -> PortId {
        if let Some(mac) = identity.mac {
            // Whoever claimed it before has lost it.
            self.unlearn(mac);
        }
        let port = Some(Port { identity, counters: Counters::default(), learnt: 0 });
        match self.ports.iter().position(Option::is_none) {
            Some(free) => {
                if let Some(slot) = self.ports.get_mut(free) {
                    *slot = port;
                }
                PortId(free)
            }
            None => {
                self.ports.push(port);
                PortId(self.ports.len() - 1)
            }
        }
    }

    /// Takes a port away, and all that was learnt of it.
    pub fn detach(&mut self, port: PortId) {
        if let Some(slot) = self.ports.get_mut(port.0) {
            *slot = None;
        }
        self.table.retain(|_, place| place.port != port);
    }

    /// The ports.
    pub fn ports(&self) -> impl Iterator<Item = PortId> + '_ {
        self.ports.iter().enumerate().filter(|(_, port)| port.is_some()).map(|(number, _)| PortId(number))
    }

    /// What went through a port.
    #[must_use]
    pub fn counters(&self, port: PortId) -> Counters {
        self.port(port).map(|port| port.counters).unwrap_or_default()
    }

    /// How many addresses were learnt.
    #[must_use]
    pub fn learnt(&self) -> usize {
        self.table.len()
    }

    fn port(&self, port: PortId) -> Option<&Port> {
        self.ports.get(port.0)?.as_ref()
    }

    fn port_mut(&mut self, port: PortId) -> Option<&mut Port> {
        self.ports.get_mut(port.0)?.as_mut()
    }

    /// A frame comes in: where it goes.
    pub fn route(&mut self, from: PortId, head: &Head, now_ns: u64) -> Route {
        let len = head.frame_len();
        let route = self.decide(from, head, now_ns);
        if let Some(port) = self.port_mut(from) {
            port.counters.in_frames += 1;
            port.counters.in_bytes += len as u64;
            port.counters.in_dropped += u64::from(route.is_none());
        }
        route.unwrap_or(Route::Drop)
    }

    /// `None`: the frame is not as it must be.
    fn decide(&mut self, from: PortId, head: &Head, now_ns: u64) -> Option<Route> {
        let (source, destination) = (head.source()?, head.destination()?);
        let good_len = (ETH_HEADER..=MAX_FRAME).contains(&head.frame_len());
        if !good_len || !source.is_station() || !self.may_send(from, source, head) {
            return None;
        }
        self.learn(from, source, now_ns);
        if destination.0.starts_with(&LINK_LOCAL) && destination.0[5] & 0xf0 == 0 {
            return Some(Route::Drop);
        }
        if destination.is_group() {
            return Some(Route::Flood);
        }
        Some(match self.find(destination, now_ns) {
            Some(port) if port == from => Route::Drop,
            Some(port) => Route::To(port),
            None => Route::Flood,
        })
    }

    fn owner(&self, mac: Mac) -> Option<PortId> {
        let of = |port: &Option<Port>| port.as_ref().is_some_and(|port| port.identity.mac == Some(mac));
        self.ports.iter().position(of).map(PortId)
    }

    fn may_send(&self, from: PortId, source: Mac, head: &Head) -> bool {
        let Some(port) = self.port(from) else { return false };
        let own = port.identity.mac == Some(source);
        if !port.identity.addresses.is_empty() {
            // 0.0.0.0 asks for an address, or whether one is taken.
            let claimed = head.claimed_ipv4();
            let good = claimed.is_none_or(|ip| ip == [0; 4] || port.identity.addresses.contains(&ip));
            return own && good;
        }
        own || self.owner(source).is_none()
    }

    fn find(&self, mac: Mac, now_ns: u64) -> Option<PortId> {
        let fresh = |place: &&Place| now_ns.saturating_sub(place.seen_ns) <= MAX_AGE_NS;
        self.table.get(&mac).filter(fresh).map(|place| place.port).or_else(|| self.owner(mac))
    }

    fn unlearn(&mut self, mac: Mac) {
        if let Some(place) = self.table.remove(&mac)
            && let Some(port) = self.port_mut(place.port)
        {
            port.learnt -= 1;
        }
    }

    fn learn(&mut self, from: PortId, mac: Mac, now_ns: u64) {
        if let Some(place) = self.table.get_mut(&mac)
            && place.port == from
        {
            place.seen_ns = now_ns;
            return;
        }
        self.unlearn(mac);
        let full = self.table.len() >= MAX_LEARNT
            || self.port(from).is_none_or(|port| port.learnt >= MAX_LEARNT_OF_PORT);
        if full && self.swept_ns.is_none_or(|swept| now_ns.saturating_sub(swept) >= SWEEP_NS) {
            self.swept_ns = Some(now_ns);
            self.forget_old(now_ns);
        }
        let has_room = self.table.len() < MAX_LEARNT;
        if let Some(port) = self.port_mut(from)
            && has_room
            && port.learnt < MAX_LEARNT_OF_PORT
        {
            port.learnt += 1;
            self.table.insert(mac, Place { port: from, seen_ns: now_ns });
        }
    }

    fn forget_old(&mut self, now_ns: u64) {
        let old = |place: &Place| now_ns.saturating_sub(place.seen_ns) > MAX_AGE_NS;
        let gone: Vec<Mac> = self.table.iter().filter(|(_, place)| old(place)).map(|(mac, _)| *mac).collect();
        gone.into_iter().for_each(|mac| self.unlearn(mac));
    }

    /// A frame of `len` bytes went out.
    pub fn count_out(&mut self, port: PortId, len: usize) {
        if let Some(port) = self.port_mut(port) {
            port.counters.out_frames += 1;
            port.counters.out_bytes += len as u64;
        }
    }

    /// A frame could not go out.
    pub fn count_out_dropped(&mut self, port: PortId) {
        if let Some(port) = self.port_mut(port) {
            port.counters.out_dropped += 1;
        }
    }

    /// A frame was worth nothing before it could be routed.
    pub fn count_in_dropped(&mut self, port: PortId) {
        if let Some(port) = self.port_mut(port) {
            port.counters.in_dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests;
