//! The network service: finds guests' interfaces in xenstore and keeps their back ends; has the switches.
//!
//! An interface is a directory `backend/vif/DOMID/NUMBER` of dom0's, made by the toolstack. Its state and the front
//! end's tell when to connect and when to part, as for disks ([`dom0_tools::blkback::handshake`]).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use dom0_tools::blkback::handshake::{self, Step};
use dom0_tools::cfg::DEFAULT_BRIDGE;
use dom0_tools::net::Mac;
use dom0_tools::net::switch::Identity;
use dom0_tools::netback::credit::Rate;
use dom0_tools::netback::features;
use dom0_tools::netback::tx::TxFault;
use dom0_tools::toolstack::ports::Store;
use dom0_tools::xenstore::ConnId;
use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort, GrantRef};
use pv_abi::io::xenbus::XenbusState;
use pv_guest_kernel::task::{self, Notify};

use super::vif::{Vif, Wiring};
use super::xenstore::{StoreHandle, StoreService, number, text};
use crate::machine::Machine;
use crate::net::bridge::Bridge;
use crate::net::uplink;

/// Where back ends are.
const ROOT: &str = "/local/domain/0/backend/vif";
/// Token of the watch on [`ROOT`]; the others' tokens are paths.
const ROOT_TOKEN: &str = "vif";

/// An interface.
struct Backend {
    dom: DomId,
    number: u32,
    path: String,
    frontend: String,
    mac: Mac,
    bridge: Rc<Bridge>,
    state: Cell<XenbusState>,
    vif: RefCell<Option<Rc<Vif>>>,
    /// Why the rings were given up; taken by the service.
    fault: Cell<Option<TxFault>>,
}

/// The service.
pub(crate) struct NetService {
    store: Rc<StoreService>,
    conn: ConnId,
    news: Rc<Notify>,
    bridges: RefCell<BTreeMap<String, Rc<Bridge>>>,
    backends: RefCell<BTreeMap<String, Rc<Backend>>>,
}

/// The domain, the interface's number, and the directory that a path below [`ROOT`] belongs to.
fn parse(path: &str) -> Option<(DomId, u32, String)> {
    let mut parts = path.strip_prefix(ROOT)?.strip_prefix('/')?.split('/');
    let (dom, device) = (parts.next()?, parts.next()?);
    Some((DomId::new(dom.parse().ok()?), device.parse().ok()?, format!("{ROOT}/{dom}/{device}")))
}

/// The name of the switch that a network card hangs on.
fn uplink_bridge(number: usize) -> String {
    if number == 0 { DEFAULT_BRIDGE.to_string() } else { format!("xenbr{number}") }
}

impl NetService {
    /// Starts the service. Each network card has a switch of its own: `xenbr0` the first, and so on.
    pub(crate) fn start(store: Rc<StoreService>, machine: &Machine) -> Result<Rc<Self>, Errno> {
        let (conn, news) = store.watcher();
        store.handle().mkdir(ROOT)?;
        store.watch(conn, ROOT, ROOT_TOKEN)?;
        let (bridges, backends) = (RefCell::default(), RefCell::default());
        let service = Rc::new(Self { store, conn, news, bridges, backends });
        for (number, nic) in machine.nics.iter().enumerate() {
            uplink::attach(service.bridge(&uplink_bridge(number)), nic.clone());
        }
        task::spawn(service.clone().listen()).detach();
        Ok(service)
    }

    /// The switch of this name; a new one leads nowhere but to its guests.
    fn bridge(&self, name: &str) -> Rc<Bridge> {
        let mut bridges = self.bridges.borrow_mut();
        bridges.entry(name.to_string()).or_insert_with(|| Bridge::new(name)).clone()
    }

    /// The switches.
    pub(crate) fn bridges(&self) -> Vec<Rc<Bridge>> {
        self.bridges.borrow().values().cloned().collect()
    }

    async fn listen(self: Rc<Self>) {
        loop {
            while let Some(event) = self.store.take_event(self.conn) {
                let directory = match event.token.as_str() {
                    ROOT_TOKEN => parse(&event.path).map(|(_, _, path)| path),
                    path => Some(path.to_string()),
                };
                if let Some(path) = directory {
                    self.look_at(&path);
                }
                task::yield_now().await;
            }
            self.end_faulty();
            self.news.wait().await;
        }
    }

    /// Parts from front ends whose rings were given up.
    fn end_faulty(&self) {
        let all: Vec<Rc<Backend>> = self.backends.borrow().values().cloned().collect();
        for backend in all {
            if let Some(fault) = backend.fault.take() {
                backend.end(&mut self.store.handle(), fault);
            }
        }
    }

    /// Something changed at an interface: brings its back end in line.
    fn look_at(self: &Rc<Self>, path: &str) {
        let mut store = self.store.handle();
        let exists = store.read(path).is_ok();
        let known = self.backends.borrow().get(path).cloned();
        match (known, exists) {
            (Some(backend), true) => backend.advance(&mut store, &self.news),
            (Some(backend), false) => self.forget(&backend),
            (None, true) => {
                if let Some(backend) = self.adopt(path) {
                    backend.advance(&mut store, &self.news);
                }
            }
            (None, false) => {}
        }
    }

    /// Takes a new interface on once its directory is complete.
    fn adopt(self: &Rc<Self>, path: &str) -> Option<Rc<Backend>> {
        let mut store = self.store.handle();
        let (dom, number, _) = parse(path)?;
        let frontend = text(&mut store, &format!("{path}/frontend"))?;
        let mac = Mac::parse(&text(&mut store, &format!("{path}/mac"))?)?;
        let bridge = text(&mut store, &format!("{path}/bridge"))?;
        // The last that the toolstack writes.
        text(&mut store, &format!("{path}/state"))?;
        let backend = Rc::new(Backend {
            dom,
            number,
            path: path.to_string(),
            frontend,
            mac,
            bridge: self.bridge(&bridge),
            state: Cell::new(XenbusState::Initialising),
            vif: RefCell::new(None),
            fault: Cell::new(None),
        });
        // The watch comes first, so that no change of the front end is missed.
        self.store.watch(self.conn, &format!("{}/state", backend.frontend), path).ok()?;
        self.backends.borrow_mut().insert(path.to_string(), backend.clone());
        Some(backend)
    }

    fn forget(&self, backend: &Backend) {
        backend.disconnect();
        self.store.unwatch(self.conn, &format!("{}/state", backend.frontend), &backend.path);
        self.backends.borrow_mut().remove(&backend.path);
        self.drop_idle_bridges();
    }

    /// A switch that was made for guests alone goes with the last of them.
    fn drop_idle_bridges(&self) {
        let backends = self.backends.borrow();
        let in_use = |bridge: &Rc<Bridge>| {
            !bridge.view().is_empty() || backends.values().any(|backend| Rc::ptr_eq(&backend.bridge, bridge))
        };
        self.bridges.borrow_mut().retain(|_, bridge| in_use(bridge));
    }

    /// Lets go of everything that belongs to a domain.
    pub(crate) fn detach(&self, dom: DomId) {
        let of_domain: Vec<Rc<Backend>> =
            self.backends.borrow().values().filter(|backend| backend.dom == dom).cloned().collect();
        of_domain.iter().for_each(|backend| self.forget(backend));
    }
}

impl Backend {
    /// Does what the two states ask for, until they come to rest.
    fn advance(self: &Rc<Self>, store: &mut StoreHandle, news: &Rc<Notify>) {
        loop {
            let theirs = store.read(&format!("{}/state", self.frontend)).ok();
            let theirs = theirs.map(|value| handshake::parse_state(&value).unwrap_or(XenbusState::Unknown));
            let next = match handshake::step(self.state.get(), theirs) {
                Step::Nothing => return,
                Step::Offer => {
                    self.disconnect();
                    self.offer(store);
                    XenbusState::InitWait
                }
                Step::Connect => match self.connect(store, news) {
                    Ok(()) => XenbusState::Connected,
                    Err(reason) => {
                        self.report(store, &reason);
                        XenbusState::Closing
                    }
                },
                Step::Close => {
                    self.disconnect();
                    XenbusState::Closing
                }
                Step::Finish => {
                    self.disconnect();
                    XenbusState::Closed
                }
            };
            self.state.set(next);
            self.put(store, "state", &next.raw().to_string());
        }
    }

    fn put(&self, store: &mut StoreHandle, name: &str, value: &str) {
        // The directory may be gone with its domain; then there is nobody to tell.
        if store.read(&self.path).is_ok() {
            let _ = store.write(&format!("{}/{name}", self.path), value.as_bytes());
        }
    }

    fn report(&self, store: &mut StoreHandle, reason: &str) {
        self.put(store, "error", reason);
        pv_guest_kernel::println!("dom0: {}: {reason}", self.path);
    }

    fn offer(&self, store: &mut StoreHandle) {
        for (name, value) in features::OFFERED {
            self.put(store, name, value);
        }
        // There are no scripts to wait for.
        self.put(store, "hotplug-status", "connected");
    }

    fn wiring(&self, store: &mut StoreHandle) -> Result<Wiring, String> {
        let front = &self.frontend;
        let missing = |name: &str| format!("the front end gives no {name}");
        let need = |store: &mut StoreHandle, name: &str| {
            number(store, &format!("{front}/{name}")).ok_or_else(|| missing(name))
        };
        let (tx, rx) = (need(store, "tx-ring-ref")?, need(store, "rx-ring-ref")?);
        let ports = match need(store, "event-channel-tx") {
            Ok(tx) => (tx, Some(need(store, "event-channel-rx")?)),
            Err(_) => (need(store, "event-channel")?, None),
        };
        let mut read = |name: &str| text(store, &format!("{front}/{name}"));
        let takes = features::front_end(&mut read).map_err(ToString::to_string)?;
        let rate = text(store, &format!("{}/rate", self.path));
        let addresses = text(store, &format!("{}/ip", self.path)).unwrap_or_default();
        let addresses = addresses.split_whitespace().filter_map(dom0_tools::cfg::ipv4).collect();
        Ok(Wiring {
            dom: self.dom,
            number: self.number,
            tx: GrantRef::new(tx),
            rx: GrantRef::new(rx),
            ports: (EvtchnPort::new(ports.0), ports.1.map(EvtchnPort::new)),
            takes,
            rate: rate.as_deref().and_then(Rate::parse),
            identity: Identity { mac: Some(self.mac), addresses },
        })
    }

    fn connect(self: &Rc<Self>, store: &mut StoreHandle, news: &Rc<Notify>) -> Result<(), String> {
        let wiring = self.wiring(store)?;
        let (backend, news) = (Rc::downgrade(self), news.clone());
        // Called from within the interface's task: the service does the rest.
        let given_up = Box::new(move |fault| {
            if let Some(backend) = backend.upgrade() {
                backend.fault.set(Some(fault));
                news.notify();
            }
        });
        *self.vif.borrow_mut() = Some(Vif::connect(wiring, self.bridge.clone(), given_up)?);
        Ok(())
    }

    /// The front end broke its rings: it is told that this is the end.
    fn end(&self, store: &mut StoreHandle, fault: TxFault) {
        self.disconnect();
        self.report(store, &fault.to_string());
        self.state.set(XenbusState::Closed);
        self.put(store, "state", &XenbusState::Closed.raw().to_string());
    }

    fn disconnect(&self) {
        if let Some(vif) = self.vif.borrow_mut().take() {
            vif.close();
        }
    }
}
