//! The block service: finds guests' virtual disks in xenstore and keeps their back ends.
//!
//! A virtual disk is a directory `backend/vbd/DOMID/DEVID` of dom0's, made by the toolstack. Its state and the front
//! end's, in the guest's part of the store, tell when to connect and when to part ([`dom0_tools::blkback::handshake`]).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use dom0_tools::blkback::handshake::{self, Step};
use dom0_tools::blkback::queues::{self, MAX_QUEUES};
use dom0_tools::blkback::request::{Geometry, MAX_INDIRECT_SEGMENTS};
use dom0_tools::toolstack::ports::Store;
use dom0_tools::xenstore::ConnId;
use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort, GrantRef};
use pv_abi::io::blkif::VdiskFlags;
use pv_abi::io::ring::RingError;
use pv_abi::io::xenbus::XenbusState;
use pv_guest_kernel::task::{self, Notify};

use super::vbd::Vbd;
use super::xenstore::{StoreHandle, StoreService, number, text};
use crate::machine::Machine;
use crate::virtio::blk::Disk;

/// Where back ends are.
const ROOT: &str = "/local/domain/0/backend/vbd";
/// Token of the watch on [`ROOT`]; the others' tokens are paths.
const ROOT_TOKEN: &str = "vbd";

/// A virtual disk.
struct Backend {
    dom: DomId,
    path: String,
    frontend: String,
    disk: Rc<Disk>,
    read_only: bool,
    state: Cell<XenbusState>,
    /// One for each ring; none unless connected.
    vbds: RefCell<Vec<Rc<Vbd>>>,
    /// Why the ring was given up; taken by the service.
    fault: Cell<Option<RingError>>,
}

/// The service.
pub(crate) struct BlockService {
    store: Rc<StoreService>,
    machine: Rc<Machine>,
    conn: ConnId,
    news: Rc<Notify>,
    backends: RefCell<BTreeMap<String, Rc<Backend>>>,
}

/// The domain and the directory that a path below [`ROOT`] belongs to.
fn parse(path: &str) -> Option<(DomId, String)> {
    let mut parts = path.strip_prefix(ROOT)?.strip_prefix('/')?.split('/');
    let (dom, device) = (parts.next()?, parts.next()?);
    let domid = DomId::new(dom.parse().ok()?);
    Some((domid, format!("{ROOT}/{dom}/{device}")))
}

impl BlockService {
    /// Starts the service.
    pub(crate) fn start(store: Rc<StoreService>, machine: Rc<Machine>) -> Result<Rc<Self>, Errno> {
        let (conn, news) = store.watcher();
        store.handle().mkdir(ROOT)?;
        store.watch(conn, ROOT, ROOT_TOKEN)?;
        let service = Rc::new(Self { store, machine, conn, news, backends: RefCell::default() });
        task::spawn(service.clone().listen()).detach();
        Ok(service)
    }

    async fn listen(self: Rc<Self>) {
        loop {
            while let Some(event) = self.store.take_event(self.conn) {
                let directory = match event.token.as_str() {
                    ROOT_TOKEN => parse(&event.path).map(|(_, path)| path),
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

    /// Something changed at a virtual disk: brings its back end in line.
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

    /// Takes a new virtual disk on once its directory is complete.
    fn adopt(self: &Rc<Self>, path: &str) -> Option<Rc<Backend>> {
        let mut store = self.store.handle();
        let (dom, _) = parse(path)?;
        let frontend = text(&mut store, &format!("{path}/frontend"))?;
        let target = text(&mut store, &format!("{path}/physical-device"))
            .or_else(|| text(&mut store, &format!("{path}/params")))?;
        let mode = text(&mut store, &format!("{path}/mode"))?;
        let disk = self.machine.disk(&target)?;
        let read_only = disk.is_read_only() || !mode.starts_with('w');
        let state = Cell::new(XenbusState::Initialising);
        let (vbds, fault) = (RefCell::default(), Cell::new(None));
        let own_path = path.to_string();
        let backend = Rc::new(Backend { dom, path: own_path, frontend, disk, read_only, state, vbds, fault });
        // The watch comes first, so that no change of the front end is missed.
        self.store.watch(self.conn, &format!("{}/state", backend.frontend), path).ok()?;
        self.backends.borrow_mut().insert(path.to_string(), backend.clone());
        Some(backend)
    }

    fn forget(&self, backend: &Backend) {
        backend.disconnect();
        self.store.unwatch(self.conn, &format!("{}/state", backend.frontend), &backend.path);
        self.backends.borrow_mut().remove(&backend.path);
    }

    /// Whether a guest writes to this disk.
    pub(crate) fn is_written(&self, disk: &Rc<Disk>) -> bool {
        let backends = self.backends.borrow();
        backends.values().any(|backend| Rc::ptr_eq(&backend.disk, disk) && !backend.read_only)
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
        self.put(store, "feature-flush-cache", "1");
        self.put(store, "feature-barrier", "0");
        self.put(store, "feature-discard", "0");
        self.put(store, "feature-persistent", "0");
        self.put(store, "multi-queue-max-queues", &MAX_QUEUES.to_string());
        self.put(store, "feature-max-indirect-segments", &MAX_INDIRECT_SEGMENTS.to_string());
    }

    fn connect(self: &Rc<Self>, store: &mut StoreHandle, news: &Rc<Notify>) -> Result<(), String> {
        let front = &self.frontend;
        let protocol = text(store, &format!("{front}/protocol"));
        if protocol.as_deref().is_some_and(|name| name != "x86_64-abi") {
            return Err("the front end speaks another protocol".to_string());
        }
        let wanted = number(store, &format!("{front}/multi-queue-num-queues"));
        let rings = queues::directories(front, wanted).map_err(|error| error.to_string())?;
        let geometry = Geometry { sectors: self.disk.sectors(), read_only: self.read_only };
        for ring in rings {
            let vbd = self.take_up(store, &ring, geometry, news);
            // Some of several rings may be there already.
            let vbd = vbd.inspect_err(|_| self.disconnect())?;
            self.vbds.borrow_mut().push(vbd);
        }
        let flags = if self.read_only { VdiskFlags::READONLY } else { VdiskFlags::empty() };
        self.put(store, "sectors", &geometry.sectors.to_string());
        self.put(store, "info", &flags.bits().to_string());
        self.put(store, "sector-size", "512");
        self.put(store, "physical-sector-size", "512");
        Ok(())
    }

    /// Takes one ring up, of which the front end tells in `directory`.
    fn take_up(
        self: &Rc<Self>,
        store: &mut StoreHandle,
        directory: &str,
        geometry: Geometry,
        news: &Rc<Notify>,
    ) -> Result<Rc<Vbd>, String> {
        let mut need = |name: &str| {
            number(store, &format!("{directory}/{name}")).ok_or(format!("the front end gives no {name}"))
        };
        let ring = GrantRef::new(need("ring-ref")?);
        let port = EvtchnPort::new(need("event-channel")?);
        let (backend, news) = (Rc::downgrade(self), news.clone());
        // Called from within the ring's task: the service does the rest.
        let given_up = Box::new(move |error| {
            if let Some(backend) = backend.upgrade() {
                backend.fault.set(Some(error));
                news.notify();
            }
        });
        Vbd::connect(self.dom, ring, port, self.disk.clone(), geometry, given_up)
    }

    /// The front end broke its ring: it is told that this is the end.
    fn end(&self, store: &mut StoreHandle, fault: RingError) {
        self.disconnect();
        self.report(store, &fault.to_string());
        self.state.set(XenbusState::Closed);
        self.put(store, "state", &XenbusState::Closed.raw().to_string());
    }

    fn disconnect(&self) {
        for vbd in self.vbds.borrow_mut().drain(..) {
            vbd.close();
        }
    }
}
