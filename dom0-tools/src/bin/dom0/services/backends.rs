//! The life of a guest's devices, whatever their kind: found in xenstore, offered, connected, parted from.
//!
//! A device is a directory `backend/KIND/DOMID/NUMBER` of dom0's, made by the toolstack. Its state and the front end's,
//! in the guest's part of the store, tell when to connect and when to part ([`dom0_tools::blkback::handshake`]).

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt::Display;

use dom0_tools::blkback::handshake::{self, Step};
use dom0_tools::toolstack::ports::Store;
use dom0_tools::xenstore::ConnId;
use pv_abi::errno::Errno;
use pv_abi::ids::DomId;
use pv_abi::io::xenbus::XenbusState;
use pv_guest_kernel::task::{self, Notify};

use super::xenstore::{StoreHandle, StoreService, number, text};

/// Token of the watch on a kind's directory; the others' tokens are paths.
const ROOT_TOKEN: &str = "root";
/// So many mistakes of a front end go to the console.
const MOST_TOLD: u32 = 4;

/// A kind of device.
pub(crate) trait Kind: 'static {
    /// What serves one device of it.
    type Device: Device;
    /// Its name in the store.
    const NAME: &'static str;

    /// The device that a directory tells of; `None` while the directory is not complete.
    fn adopt(&self, dom: DomId, node: &mut Node<'_>) -> Option<Self::Device>;
}

/// What serves one device.
pub(crate) trait Device: 'static {
    /// Tells the front end what there is to choose from.
    fn offer(&self, node: &mut Node<'_>);
    /// Takes up the rings that the front end tells of; nothing is left of them on an error.
    fn connect(&self, node: &mut Node<'_>, give_up: &GiveUp) -> Result<(), String>;
    /// Lets go of the rings, if there are any.
    fn disconnect(&self);
}

/// A device's two directories.
pub(crate) struct Node<'a> {
    store: &'a mut StoreHandle,
    path: &'a str,
    frontend: &'a str,
}

impl Node<'_> {
    /// The device's number.
    pub(crate) fn number(&self) -> Option<u32> {
        self.path.rsplit('/').next()?.parse().ok()
    }

    /// Text of an own node; `None` if it is not there or no text.
    pub(crate) fn own(&mut self, name: &str) -> Option<String> {
        text(self.store, &format!("{}/{name}", self.path))
    }

    /// The front end's directory.
    pub(crate) fn frontend(&self) -> &str {
        self.frontend
    }

    /// Text that the front end gives.
    pub(crate) fn theirs(&mut self, name: &str) -> Option<String> {
        text(self.store, &format!("{}/{name}", self.frontend))
    }

    /// A number that the front end gives.
    pub(crate) fn their_number(&mut self, name: &str) -> Option<u32> {
        number(self.store, &format!("{}/{name}", self.frontend))
    }

    /// A number that the front end has to give in a directory of its own.
    pub(crate) fn needed_in(&mut self, directory: &str, name: &str) -> Result<u32, String> {
        number(self.store, &format!("{directory}/{name}"))
            .ok_or_else(|| format!("the front end gives no {name}"))
    }

    /// A number that the front end has to give.
    pub(crate) fn needed(&mut self, name: &str) -> Result<u32, String> {
        self.needed_in(self.frontend, name)
    }

    /// Writes an own node.
    pub(crate) fn put(&mut self, name: &str, value: &str) {
        // The directory may be gone with its domain; then there is nobody to tell.
        if self.store.read(self.path).is_ok() {
            let _ = self.store.write(&format!("{}/{name}", self.path), value.as_bytes());
        }
    }

    fn their_state(&mut self) -> Option<XenbusState> {
        let value = self.store.read(&format!("{}/state", self.frontend)).ok()?;
        Some(handshake::parse_state(&value).unwrap_or(XenbusState::Unknown))
    }

    /// Tells of the front end's mistake; the console hears of the first ones of each device only, since it can make as many
    /// as it likes.
    fn report(&mut self, reason: &str, told: &Cell<u32>) {
        self.put("error", reason);
        let count = told.get().saturating_add(1);
        told.set(count);
        if count <= MOST_TOLD {
            let last = if count == MOST_TOLD { "; from now on only in xenstore" } else { "" };
            pv_guest_kernel::println!("dom0: {}: {reason}{last}", self.path);
        }
    }
}

/// Devices whose rings held nonsense, and what it was.
#[derive(Default)]
struct Faults(RefCell<Vec<(String, String)>>);

/// How a device's own tasks say that its rings are given up; the service does the rest.
#[derive(Clone)]
pub(crate) struct GiveUp {
    path: Rc<str>,
    faults: Weak<Faults>,
    news: Rc<Notify>,
}

impl GiveUp {
    /// Parts from the front end as soon as the service has its turn.
    pub(crate) fn because(&self, fault: impl Display) {
        if let Some(faults) = self.faults.upgrade() {
            faults.0.borrow_mut().push((self.path.to_string(), fault.to_string()));
            self.news.notify();
        }
    }
}

/// A device with the state of its back end.
struct Backend<D> {
    dom: DomId,
    path: Rc<str>,
    frontend: String,
    state: Cell<XenbusState>,
    device: D,
    /// How often the console could have been told of a mistake.
    told: Cell<u32>,
}

/// Back ends by their directories.
type ByPath<D> = BTreeMap<Rc<str>, Rc<Backend<D>>>;

/// All devices of a kind.
pub(crate) struct Backends<K: Kind> {
    kind: K,
    root: String,
    store: Rc<StoreService>,
    conn: ConnId,
    news: Rc<Notify>,
    faults: Rc<Faults>,
    backends: RefCell<ByPath<K::Device>>,
}

/// The domain and the directory that a path below the kind's own belongs to.
fn parse(root: &str, path: &str) -> Option<(DomId, String)> {
    let mut parts = path.strip_prefix(root)?.strip_prefix('/')?.split('/');
    let (dom, device) = (parts.next()?, parts.next()?);
    Some((DomId::new(dom.parse().ok()?), format!("{root}/{dom}/{device}")))
}

impl<K: Kind> Backends<K> {
    /// Serves the devices of a kind from now on.
    pub(crate) fn start(store: Rc<StoreService>, kind: K) -> Result<Rc<Self>, Errno> {
        let (conn, news) = store.watcher();
        let root = format!("/local/domain/0/backend/{}", K::NAME);
        store.handle().mkdir(&root)?;
        store.watch(conn, &root, ROOT_TOKEN)?;
        let (faults, backends) = (Rc::default(), RefCell::default());
        let service = Rc::new(Self { kind, root, store, conn, news, faults, backends });
        task::spawn(service.clone().listen()).detach();
        Ok(service)
    }

    /// Whether some device is like this.
    pub(crate) fn any(&self, mut like: impl FnMut(&K::Device) -> bool) -> bool {
        self.backends.borrow().values().any(|backend| like(&backend.device))
    }

    /// Lets go of everything that belongs to a domain.
    pub(crate) fn detach(&self, dom: DomId) {
        let of_domain: Vec<_> =
            self.backends.borrow().values().filter(|backend| backend.dom == dom).cloned().collect();
        of_domain.iter().for_each(|backend| self.forget(backend));
    }

    async fn listen(self: Rc<Self>) {
        loop {
            loop {
                if self.store.has_lost_events(self.conn) {
                    self.look_at_all();
                }
                let Some(event) = self.store.take_event(self.conn) else { break };
                let directory = match event.token.as_str() {
                    ROOT_TOKEN => parse(&self.root, &event.path).map(|(_, path)| path),
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
        for (path, fault) in self.faults.0.take() {
            let faulty = self.backends.borrow().get(&*path).cloned();
            if let Some(backend) = faulty {
                backend.end(&mut self.store.handle(), &fault);
            }
        }
    }

    /// More changed than could be told: looks at every device that is known, and at every directory.
    fn look_at_all(&self) {
        let mut store = self.store.handle();
        let known = self.backends.borrow().keys().map(|path| path.to_string()).collect::<Vec<_>>();
        let mut below = |path: &str| -> Vec<String> {
            let names = store.directory(path).unwrap_or_default();
            names.iter().map(|name| format!("{path}/{name}")).collect()
        };
        let found: Vec<String> = below(&self.root).iter().flat_map(|dom| below(dom)).collect();
        known.iter().chain(&found).for_each(|path| self.look_at(path));
    }

    /// Something changed at a device: brings its back end in line.
    fn look_at(&self, path: &str) {
        let exists = self.store.handle().read(path).is_ok();
        let known = self.backends.borrow().get(path).cloned();
        match (known, exists) {
            (Some(backend), true) => self.advance(&backend),
            (Some(backend), false) => self.forget(&backend),
            (None, true) => {
                if let Some(backend) = self.adopt(path) {
                    self.advance(&backend);
                }
            }
            (None, false) => {}
        }
    }

    /// Takes a new device on once its directory is complete.
    fn adopt(&self, path: &str) -> Option<Rc<Backend<K::Device>>> {
        let mut store = self.store.handle();
        let (dom, _) = parse(&self.root, path)?;
        let frontend = text(&mut store, &format!("{path}/frontend"))?;
        let mut node = Node { store: &mut store, path, frontend: &frontend };
        let device = self.kind.adopt(dom, &mut node)?;
        let state = Cell::new(XenbusState::Initialising);
        let backend =
            Rc::new(Backend { dom, path: path.into(), frontend, state, device, told: Cell::new(0) });
        // The watch comes first, so that no change of the front end is missed.
        self.store.watch(self.conn, &format!("{}/state", backend.frontend), path).ok()?;
        self.backends.borrow_mut().insert(backend.path.clone(), backend.clone());
        Some(backend)
    }

    fn advance(&self, backend: &Backend<K::Device>) {
        let (path, news) = (backend.path.clone(), self.news.clone());
        let give_up = GiveUp { path, faults: Rc::downgrade(&self.faults), news };
        backend.advance(&mut self.store.handle(), &give_up);
    }

    fn forget(&self, backend: &Backend<K::Device>) {
        backend.device.disconnect();
        self.store.unwatch(self.conn, &format!("{}/state", backend.frontend), &backend.path);
        self.backends.borrow_mut().remove(&backend.path);
    }
}

impl<D: Device> Backend<D> {
    /// Does what the two states ask for, until they come to rest.
    fn advance(&self, store: &mut StoreHandle, give_up: &GiveUp) {
        let mut node = Node { store, path: &self.path, frontend: &self.frontend };
        loop {
            let theirs = node.their_state();
            let next = match handshake::step(self.state.get(), theirs) {
                Step::Nothing => return,
                Step::Offer => {
                    self.device.disconnect();
                    self.device.offer(&mut node);
                    XenbusState::InitWait
                }
                Step::Connect => match self.device.connect(&mut node, give_up) {
                    Ok(()) => XenbusState::Connected,
                    Err(reason) => {
                        node.report(&reason, &self.told);
                        XenbusState::Closing
                    }
                },
                Step::Close => {
                    self.device.disconnect();
                    XenbusState::Closing
                }
                Step::Finish => {
                    self.device.disconnect();
                    XenbusState::Closed
                }
            };
            self.enter(&mut node, next);
        }
    }

    /// The front end broke its rings: it is told that this is the end.
    fn end(&self, store: &mut StoreHandle, fault: &str) {
        let mut node = Node { store, path: &self.path, frontend: &self.frontend };
        self.device.disconnect();
        node.report(fault, &self.told);
        self.enter(&mut node, XenbusState::Closed);
    }

    fn enter(&self, node: &mut Node<'_>, state: XenbusState) {
        self.state.set(state);
        node.put("state", &state.raw().to_string());
    }
}
