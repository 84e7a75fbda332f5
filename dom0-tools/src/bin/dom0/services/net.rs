//! The network service: guests' interfaces (`backend/vif`), and the switches that they hang on.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use dom0_tools::cfg::DEFAULT_BRIDGE;
use dom0_tools::net::Mac;
use dom0_tools::net::switch::Identity;
use dom0_tools::netback::credit::Rate;
use dom0_tools::netback::features;
use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort, GrantRef};

use super::backends::{Backends, Device, GiveUp, Kind, Node};
use super::vif::{Vif, Wiring};
use super::xenstore::StoreService;
use crate::machine::Machine;
use crate::net::bridge::Bridge;
use crate::net::uplink;

/// The switches by name; one that was made for guests alone goes with the last of them.
#[derive(Default)]
struct Bridges(RefCell<BTreeMap<String, Weak<Bridge>>>);

impl Bridges {
    /// The switch of this name; a new one leads nowhere but to its guests.
    fn get(&self, name: &str) -> Rc<Bridge> {
        let mut bridges = self.0.borrow_mut();
        if let Some(bridge) = bridges.get(name).and_then(Weak::upgrade) {
            return bridge;
        }
        let bridge = Bridge::new(name);
        bridges.retain(|_, other| other.strong_count() > 0);
        bridges.insert(name.to_string(), Rc::downgrade(&bridge));
        bridge
    }
}

/// The name of the switch that a network card hangs on.
fn uplink_bridge(number: usize) -> String {
    if number == 0 { DEFAULT_BRIDGE.to_string() } else { format!("xenbr{number}") }
}

/// Interfaces as a kind of device.
struct Interfaces {
    bridges: Rc<Bridges>,
}

/// An interface.
struct Interface {
    dom: DomId,
    number: u32,
    mac: Mac,
    bridge: Rc<Bridge>,
    vif: RefCell<Option<Rc<Vif>>>,
}

/// The service.
pub(crate) struct NetService {
    bridges: Rc<Bridges>,
    interfaces: Rc<Backends<Interfaces>>,
}

impl NetService {
    /// Starts the service. Each network card has a switch of its own: `xenbr0` the first, and so on.
    pub(crate) fn start(store: Rc<StoreService>, machine: &Machine) -> Result<Self, Errno> {
        let bridges: Rc<Bridges> = Rc::default();
        for (number, nic) in machine.nics.iter().enumerate() {
            uplink::attach(bridges.get(&uplink_bridge(number)), nic.clone());
        }
        let interfaces = Backends::start(store, Interfaces { bridges: bridges.clone() })?;
        Ok(Self { bridges, interfaces })
    }

    /// The switches.
    pub(crate) fn bridges(&self) -> Vec<Rc<Bridge>> {
        self.bridges.0.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// Lets go of everything that belongs to a domain.
    pub(crate) fn detach(&self, dom: DomId) {
        self.interfaces.detach(dom);
    }
}

impl Kind for Interfaces {
    type Device = Interface;
    const NAME: &'static str = "vif";

    fn adopt(&self, dom: DomId, node: &mut Node<'_>) -> Option<Interface> {
        let mac = Mac::parse(&node.own("mac")?)?;
        let bridge = node.own("bridge")?;
        // The last that the toolstack writes.
        node.own("state")?;
        let (number, bridge) = (node.number()?, self.bridges.get(&bridge));
        Some(Interface { dom, number, mac, bridge, vif: RefCell::default() })
    }
}

impl Interface {
    fn wiring(&self, node: &mut Node<'_>) -> Result<Wiring, String> {
        let (tx, rx) = (node.needed("tx-ring-ref")?, node.needed("rx-ring-ref")?);
        let ports = match node.needed("event-channel-tx") {
            Ok(tx) => (tx, Some(node.needed("event-channel-rx")?)),
            Err(_) => (node.needed("event-channel")?, None),
        };
        let takes = features::front_end(&mut |name: &str| node.theirs(name)).map_err(ToString::to_string)?;
        let addresses = node.own("ip").unwrap_or_default();
        let addresses = addresses.split_whitespace().filter_map(dom0_tools::cfg::ipv4).collect();
        Ok(Wiring {
            dom: self.dom,
            number: self.number,
            tx: GrantRef::new(tx),
            rx: GrantRef::new(rx),
            ports: (EvtchnPort::new(ports.0), ports.1.map(EvtchnPort::new)),
            takes,
            rate: node.own("rate").as_deref().and_then(Rate::parse),
            identity: Identity { mac: Some(self.mac), addresses },
        })
    }
}

impl Device for Interface {
    fn offer(&self, node: &mut Node<'_>) {
        for (name, value) in features::OFFERED {
            node.put(name, value);
        }
        // There are no scripts to wait for.
        node.put("hotplug-status", "connected");
    }

    fn connect(&self, node: &mut Node<'_>, give_up: &GiveUp) -> Result<(), String> {
        let wiring = self.wiring(node)?;
        let give_up = give_up.clone();
        let given_up = Box::new(move |fault| give_up.because(fault));
        *self.vif.borrow_mut() = Some(Vif::connect(wiring, self.bridge.clone(), given_up)?);
        Ok(())
    }

    fn disconnect(&self) {
        if let Some(vif) = self.vif.take() {
            vif.close();
        }
    }
}
