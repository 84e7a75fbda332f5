//! The xenstore service: rings of guests on one side, the store's machine on the other.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use dom0_tools::toolstack::ports::{self, Store};
use dom0_tools::xenstore::{ConnId, Effect, Event, Quota, Xenstore};
use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort, Mfn};
use pv_abi::io::byte_ring::ByteRing;
use pv_abi::io::ring::RingError;
use pv_abi::io::xenstore::{RING_SIZE, RingFault, XenstoreDomainInterface};
use pv_guest_kernel::event::EventChannel;
use pv_guest_kernel::memory::{Area, Mapping, Prot, map_mfn};
use pv_guest_kernel::task::{self, Notify};
use pv_guest_kernel::time;

/// A guest's connection.
struct Link {
    conn: ConnId,
    /// The guest's page; gone when the guest broke its ring or was released.
    page: RefCell<Option<Mapping>>,
    channel: EventChannel,
    /// Bytes read from the ring that the store did not take yet.
    unread: RefCell<Vec<u8>>,
    /// Something was written into the ring since the guest was last waited for.
    answered: Cell<bool>,
    wake: Notify,
}

/// One of dom0's own parts that watches the store.
struct Watcher {
    conn: ConnId,
    news: Rc<Notify>,
}

/// The service.
pub(crate) struct StoreService {
    store: RefCell<Xenstore>,
    links: RefCell<BTreeMap<DomId, Rc<Link>>>,
    watchers: RefCell<Vec<Watcher>>,
}

/// The guest's page, while it is mapped.
struct Page<'a>(Area<'a>);

impl<'a> Page<'a> {
    fn index(&self, offset: usize) -> &'a AtomicU32 {
        self.0.view(offset)
    }

    fn ring(&self, data: usize, cons: usize, prod: usize) -> ByteRing<'a> {
        let data: &'a [AtomicU8; RING_SIZE] = self.0.view(data);
        ByteRing::new(data, self.index(cons), self.index(prod))
    }

    fn requests(&self) -> ByteRing<'a> {
        type Layout = XenstoreDomainInterface;
        self.ring(offset_of!(Layout, req), offset_of!(Layout, req_cons), offset_of!(Layout, req_prod))
    }

    fn answers(&self) -> ByteRing<'a> {
        type Layout = XenstoreDomainInterface;
        self.ring(offset_of!(Layout, rsp), offset_of!(Layout, rsp_cons), offset_of!(Layout, rsp_prod))
    }
}

impl Link {
    fn is_closed(&self) -> bool {
        self.page.borrow().is_none()
    }

    /// Uses the page; `None` once it is gone.
    fn with_page<T>(&self, action: impl FnOnce(&Page<'_>) -> T) -> Option<T> {
        self.page.borrow().as_ref().map(|mapping| action(&Page(mapping.area())))
    }

    /// Gives the guest up; the page says why.
    fn fail(&self, fault: RingFault) {
        let error = offset_of!(XenstoreDomainInterface, error);
        self.with_page(|page| page.index(error).store(fault.raw(), Ordering::Release));
        self.close();
        // The guest may be past caring.
        let _ = self.channel.notify();
    }

    fn close(&self) {
        *self.page.borrow_mut() = None;
        self.wake.notify();
    }

    /// Takes what waits in the ring; whether there was anything.
    fn take_input(&self, store: &mut Xenstore) -> Result<bool, RingError> {
        let mut unread = self.unread.borrow_mut();
        if unread.is_empty() {
            let mut buffer = [0; RING_SIZE];
            let count = self.with_page(|page| page.requests().read(&mut buffer)).unwrap_or(Ok(0))?;
            unread.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
        let given = unread.len();
        let used = store.input(self.conn, &unread).min(given);
        unread.drain(..used);
        Ok(used != 0)
    }

    /// Writes what waits for the guest; whether anything was written.
    fn give_output(&self, store: &mut Xenstore) -> Result<bool, RingError> {
        let mut any = false;
        loop {
            let bytes = store.output(self.conn);
            if bytes.is_empty() {
                return Ok(any);
            }
            let written = self.with_page(|page| page.answers().write(bytes)).unwrap_or(Ok(0))?;
            if written == 0 {
                return Ok(any);
            }
            store.consume(self.conn, written);
            any = true;
        }
    }
}

impl StoreService {
    /// An empty store.
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            store: RefCell::new(Xenstore::new(Quota::default())),
            links: RefCell::default(),
            watchers: RefCell::default(),
        })
    }

    /// Connects a domain.
    pub(crate) fn introduce(self: &Rc<Self>, dom: DomId, ring: Mfn, port: EvtchnPort) -> Result<(), Errno> {
        let page = map_mfn(dom, ring, Prot::ReadWrite)?;
        let channel = super::bind_port(dom, port)?;
        let conn = self.store.borrow_mut().introduce(dom)?;
        let (page, unread) = (RefCell::new(Some(page)), RefCell::default());
        let answered = Cell::new(false);
        let link = Rc::new(Link { conn, page, channel, unread, answered, wake: Notify::new() });
        self.links.borrow_mut().insert(dom, link.clone());
        task::spawn(self.clone().listen(link)).detach();
        self.pump();
        Ok(())
    }

    /// Lets go of a domain. No error if it was never introduced.
    pub(crate) fn release(self: &Rc<Self>, dom: DomId) {
        if let Some(link) = self.links.borrow_mut().remove(&dom) {
            link.close();
        }
        self.store.borrow_mut().release(dom);
        self.pump();
    }

    /// A domain has stopped; whoever watches is told.
    pub(crate) fn domain_died(self: &Rc<Self>) {
        self.store.borrow_mut().domain_died();
        self.pump();
    }

    async fn listen(self: Rc<Self>, link: Rc<Link>) {
        let mut worked = false;
        while !link.is_closed() {
            self.store.borrow_mut().set_time(time::now_ns());
            let progress = link.take_input(&mut self.store.borrow_mut());
            let broken = self.store.borrow().is_broken(link.conn);
            let paused = self.store.borrow().paused_until(link.conn);
            match progress {
                _ if broken => link.fail(RingFault::Proto),
                Err(_) => link.fail(RingFault::RingIdx),
                Ok(progress) => {
                    self.pump();
                    worked |= progress || link.answered.take();
                    if progress {
                        // The guest may be waiting for room.
                        let _ = link.channel.notify();
                        task::yield_now().await;
                    } else if let Some(until) = paused {
                        task::select(time::sleep_until(until), link.wake.wait()).await;
                    } else {
                        let event = link.channel.wait_after(core::mem::take(&mut worked));
                        task::select(event, link.wake.wait()).await;
                    }
                }
            }
        }
    }

    /// Sends whatever waits to be sent, to guests and to dom0's own watchers.
    fn pump(self: &Rc<Self>) {
        self.carry_out_effects();
        let ready: Vec<ConnId> = self.store.borrow().ready().collect();
        for conn in ready {
            if let Some(watcher) = self.watchers.borrow().iter().find(|watcher| watcher.conn == conn) {
                watcher.news.notify();
                continue;
            }
            let link = self.links.borrow().values().find(|link| link.conn == conn).cloned();
            let Some(link) = link.filter(|link| !link.is_closed()) else { continue };
            let written = link.give_output(&mut self.store.borrow_mut());
            match written {
                Ok(true) => {
                    link.answered.set(true);
                    // Failing means that the guest closed its end.
                    let _ = link.channel.notify();
                }
                Ok(false) => {}
                Err(_) => link.fail(RingFault::RingIdx),
            }
        }
    }

    fn carry_out_effects(self: &Rc<Self>) {
        loop {
            let effect = self.store.borrow_mut().take_effect();
            match effect {
                Some(Effect::Introduce { dom, ring, port }) => {
                    // The request has been answered; what fails here shows by the domain not being connected.
                    let _ = self.introduce(dom, ring, port);
                }
                Some(Effect::Release(dom)) => self.release(dom),
                None => return,
            }
        }
    }

    /// A connection for one of dom0's parts, and what tells it about events.
    pub(crate) fn watcher(&self) -> (ConnId, Rc<Notify>) {
        let conn = self.store.borrow_mut().connect_local();
        let news = Rc::new(Notify::new());
        self.watchers.borrow_mut().push(Watcher { conn, news: news.clone() });
        (conn, news)
    }

    /// Watches a path for one of dom0's parts.
    pub(crate) fn watch(self: &Rc<Self>, conn: ConnId, path: &str, token: &str) -> Result<(), Errno> {
        self.store.borrow_mut().watch_local(conn, path, token)?;
        self.pump();
        Ok(())
    }

    /// Ends a watch.
    pub(crate) fn unwatch(&self, conn: ConnId, path: &str, token: &str) {
        self.store.borrow_mut().unwatch_local(conn, path, token);
    }

    /// The next event of one of dom0's parts.
    pub(crate) fn take_event(&self, conn: ConnId) -> Option<Event> {
        self.store.borrow_mut().take_event(conn)
    }

    /// Whether one of dom0's parts has missed events; then it has to look at everything.
    pub(crate) fn has_lost_events(&self, conn: ConnId) -> bool {
        self.store.borrow_mut().has_lost_events(conn)
    }

    /// The store as the toolstack uses it.
    pub(crate) fn handle(self: &Rc<Self>) -> StoreHandle {
        StoreHandle(self.clone())
    }
}

/// dom0's own access to the store: each change reaches whoever watches at once.
#[derive(Clone)]
pub(crate) struct StoreHandle(Rc<StoreService>);

impl StoreHandle {
    fn change<T>(&self, change: impl FnOnce(&mut Xenstore) -> T) -> T {
        let result = change(&mut self.0.store.borrow_mut());
        self.0.pump();
        result
    }
}

impl Store for StoreHandle {
    fn read(&mut self, path: &str) -> Result<Vec<u8>, Errno> {
        self.0.store.borrow_mut().read(path)
    }

    fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Errno> {
        self.change(|store| store.write(path, value))
    }

    fn mkdir(&mut self, path: &str) -> Result<(), Errno> {
        self.change(|store| store.mkdir(path))
    }

    fn remove(&mut self, path: &str) -> Result<(), Errno> {
        self.change(|store| store.remove(path))
    }

    fn directory(&mut self, path: &str) -> Result<Vec<String>, Errno> {
        self.0.store.borrow_mut().directory(path)
    }

    fn set_perms(
        &mut self,
        path: &str,
        owner: (DomId, ports::Access),
        others: &[(DomId, ports::Access)],
    ) -> Result<(), Errno> {
        self.change(|store| store.set_perms(path, owner, others))
    }

    fn forget_domain(&mut self, dom: DomId) {
        self.change(|store| store.forget_domain(dom));
    }
}

/// Text of a node; `None` if it is not there or no text.
pub(super) fn text(store: &mut StoreHandle, path: &str) -> Option<String> {
    let value = store.read(path).ok()?;
    String::from_utf8(value).ok().map(|text| text.trim_end_matches('\0').to_string())
}

/// Number of a node; `None` if it is not there or none.
pub(super) fn number(store: &mut StoreHandle, path: &str) -> Option<u32> {
    text(store, path)?.trim().parse().ok()
}
