//! A connected network interface: packets off the guest's ring into frames of ours and to the switch; frames for the
//! guest into pages that it granted.
//!
//! One task serves both rings, a bounded number of packets in each turn, so that guests have equal parts of dom0's time.
//! Each turn takes one grant copy call, one look at the switch per frame, and one notification at most in each direction.
//! Frames wait for a guest that posts no pages in a bounded queue; when such a guest stirs no more, they are dropped.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::AtomicU32;

use dom0_tools::net::switch::{Identity, PortId};
use dom0_tools::net::{Meta, Takes};
use dom0_tools::netback::credit::{Credit, Rate};
use dom0_tools::netback::rx::{self, Layout};
use dom0_tools::netback::tx::{Batch, TxFault};
use pv_abi::frame::PAGE_SIZE;
use pv_abi::ids::{DomId, EvtchnPort, GrantRef};
use pv_abi::io::netif::{NetifRx, NetifRxRequest, NetifTx};
use pv_abi::io::ring::{BackRing, RingError};
use pv_guest_kernel::event::EventChannel;
use pv_guest_kernel::grant::{self, Access, CopyBatch, GrantError, GrantMapping};
use pv_guest_kernel::task::{self, Notify};
use pv_guest_kernel::time;

use crate::net::bridge::{Bridge, Outlet};
use crate::net::frame::Frame;

const RING_WORDS: usize = PAGE_SIZE / 4;
/// Packets, and slots of packets, that are taken off the sending ring in one turn.
const TURN_PACKETS: usize = 64;
const TURN_SLOTS: usize = 128;
/// Slots of the receiving ring that are filled in one turn.
const TURN_RX_SLOTS: usize = 128;
/// Most pages, and frames, that wait for the guest.
const MOST_QUEUED_PAGES: usize = 384;
const MOST_QUEUED_FRAMES: usize = 384;
/// A guest that fetches nothing for so long gets nothing kept.
const STALLED_NS: u64 = 5_000_000_000;

/// What a front end has told.
pub(crate) struct Wiring {
    /// The front end's domain.
    pub(crate) dom: DomId,
    /// The interface's number.
    pub(crate) number: u32,
    /// The sending ring's page.
    pub(crate) tx: GrantRef,
    /// The receiving ring's page.
    pub(crate) rx: GrantRef,
    /// The port for what is sent, and another for what is received if there are two.
    pub(crate) ports: (EvtchnPort, Option<EvtchnPort>),
    /// What it takes.
    pub(crate) takes: Takes,
    /// How much it may send.
    pub(crate) rate: Option<Rate>,
    /// Its address and what it is held to.
    pub(crate) identity: Identity,
}

/// Both rings' pages.
struct Pages {
    tx: GrantMapping,
    rx: GrantMapping,
}

/// Frames on their way to the guest.
#[derive(Default)]
struct Queue {
    frames: VecDeque<Rc<Frame>>,
    pages: usize,
    /// When the guest last fetched anything, or the first frame came.
    moved_ns: u64,
}

/// A frame that is given to the guest in this turn.
struct Outgoing {
    frame: Rc<Frame>,
    layout: Layout,
    meta: Meta,
    /// Its first request among those taken.
    first: usize,
}

/// Memory that is used again in every turn.
#[derive(Default)]
struct Scratch {
    batch: Batch,
    requests: Vec<NetifRxRequest>,
    failed: Vec<bool>,
    outgoing: Vec<Outgoing>,
}

/// A connected interface.
pub(crate) struct Vif {
    dom: DomId,
    number: u32,
    takes: Takes,
    bridge: Rc<Bridge>,
    port: Cell<Option<PortId>>,
    /// Gone when the connection is over.
    pages: RefCell<Option<Pages>>,
    tx: RefCell<BackRing<NetifTx>>,
    rx: RefCell<BackRing<NetifRx>>,
    channel: EventChannel,
    rx_channel: Option<EventChannel>,
    credit: RefCell<Credit>,
    queue: RefCell<Queue>,
    wake: Notify,
    /// Told when the rings are given up.
    given_up: Box<dyn Fn(TxFault)>,
}

fn because<T>(what: &str, result: Result<T, impl ToString>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {}", error.to_string()))
}

fn bind(dom: DomId, port: EvtchnPort) -> Result<EventChannel, String> {
    super::bind_port(dom, port).map_err(|error| format!("binding a port: {}", error.name()))
}

fn words(page: &GrantMapping) -> &[AtomicU32] {
    let all: &[AtomicU32; RING_WORDS] = page.area().view(0);
    all
}

impl Vif {
    /// Takes a front end's rings up, hangs it on the switch and serves it from now on. `given_up` is called if a ring
    /// turns out to hold nonsense.
    pub(crate) fn connect(
        wiring: Wiring,
        bridge: Rc<Bridge>,
        given_up: Box<dyn Fn(TxFault)>,
    ) -> Result<Rc<Self>, String> {
        let Wiring { dom, number, tx, rx, ports, takes, rate, identity } = wiring;
        let map = |ring| because("mapping a ring", grant::map(dom, &[ring], Access::ReadWrite));
        let pages = Pages { tx: map(tx)?, rx: map(rx)? };
        let tx = because("the sending ring", BackRing::attach(words(&pages.tx)))?;
        let rx = because("the receiving ring", BackRing::attach(words(&pages.rx)))?;
        let vif = Rc::new(Self {
            dom,
            number,
            takes,
            bridge: bridge.clone(),
            port: Cell::new(None),
            pages: RefCell::new(Some(pages)),
            tx: RefCell::new(tx),
            rx: RefCell::new(rx),
            channel: bind(dom, ports.0)?,
            rx_channel: ports.1.map(|port| bind(dom, port)).transpose()?,
            credit: RefCell::new(Credit::new(rate, time::now_ns())),
            queue: RefCell::default(),
            wake: Notify::new(),
            given_up,
        });
        vif.port.set(Some(bridge.attach(identity, vif.clone())));
        task::spawn(vif.clone().serve()).detach();
        Ok(vif)
    }

    /// Lets go of the guest's pages at once and leaves the switch.
    pub(crate) fn close(&self) {
        *self.pages.borrow_mut() = None;
        *self.queue.borrow_mut() = Queue::default();
        self.wake.notify();
        if let Some(port) = self.port.take() {
            self.bridge.detach(port);
        }
    }

    /// Works on the sending ring; `None` once it is gone.
    fn with_tx<T>(
        &self,
        action: impl FnOnce(&mut BackRing<NetifTx>, &[AtomicU32]) -> Result<T, TxFault>,
    ) -> Option<Result<T, TxFault>> {
        let pages = self.pages.borrow();
        Some(action(&mut self.tx.borrow_mut(), words(&pages.as_ref()?.tx)))
    }

    /// Works on the receiving ring.
    fn with_rx<T>(
        &self,
        action: impl FnOnce(&mut BackRing<NetifRx>, &[AtomicU32]) -> Result<T, RingError>,
    ) -> Option<Result<T, TxFault>> {
        let pages = self.pages.borrow();
        Some(action(&mut self.rx.borrow_mut(), words(&pages.as_ref()?.rx)).map_err(TxFault::Ring))
    }

    async fn serve(self: Rc<Self>) {
        let mut scratch = Scratch::default();
        let mut worked = false;
        loop {
            match self.turn(&mut scratch) {
                None => return,
                Some(Err(fault)) => {
                    self.close();
                    (self.given_up)(fault);
                    return;
                }
                Some(Ok(true)) => {
                    worked = true;
                    task::yield_now().await;
                }
                Some(Ok(false)) => self.sleep(core::mem::take(&mut worked)).await,
            }
        }
    }

    /// Whether anything was done; if not, both rings will notify.
    fn turn(&self, scratch: &mut Scratch) -> Option<Result<bool, TxFault>> {
        let sent = match self.send(scratch)? {
            Ok(sent) => sent,
            Err(fault) => return Some(Err(fault)),
        };
        let received = match self.receive(scratch)? {
            Ok(received) => received,
            Err(fault) => return Some(Err(fault)),
        };
        if sent || received {
            return Some(Ok(true));
        }
        let out_of_credit = self.credit.borrow_mut().wait_until(time::now_ns()).is_some();
        if out_of_credit {
            return Some(Ok(false));
        }
        self.with_tx(|ring, words| Ok(ring.final_check(words)?))
    }

    /// Waits for something to do. `worked`: there was something since the last time.
    async fn sleep(&self, worked: bool) {
        let events = async {
            match &self.rx_channel {
                Some(rx) => task::race(self.channel.wait_after(worked), rx.wait_after(worked)).await,
                None => self.channel.wait_after(worked).await,
            }
        };
        let woken = task::race(events, self.wake.wait());
        let until = self.credit.borrow_mut().wait_until(time::now_ns());
        match until {
            Some(until) => task::race(woken, time::sleep_until(until)).await,
            None => woken.await,
        }
    }

    // ---- From the guest ---------------------------------------------------------------------------------------------

    fn send(&self, scratch: &mut Scratch) -> Option<Result<bool, TxFault>> {
        let batch = &mut scratch.batch;
        batch.clear();
        let fault = self.with_tx(|ring, words| self.fill(batch, ring, words))?.err();
        let frames = self.copy_in(batch);
        let told = self.with_tx(|ring, words| {
            for packet in batch.packets() {
                for answer in batch.answers(packet) {
                    ring.put_response(words, &answer)?;
                }
            }
            Ok(if batch.packets().is_empty() { false } else { ring.push(words)? })
        })?;
        match told {
            Ok(true) => {
                // Failing means that the guest is gone.
                let _ = self.channel.notify();
            }
            Ok(false) => {}
            Err(fault) => return Some(Err(fault)),
        }
        let port = self.port.get()?;
        for frame in frames {
            match frame {
                Some(frame) => self.bridge.input(port, &Rc::new(frame)),
                None => self.bridge.count_bad(port),
            }
        }
        Some(fault.map_or(Ok(!batch.packets().is_empty()), Err))
    }

    /// Takes packets off the ring as long as the turn and the credit last.
    fn fill(
        &self,
        batch: &mut Batch,
        ring: &mut BackRing<NetifTx>,
        words: &[AtomicU32],
    ) -> Result<(), TxFault> {
        let mut credit = self.credit.borrow_mut();
        while batch.packets().len() < TURN_PACKETS
            && batch.slot_count() < TURN_SLOTS
            && credit.wait_until(time::now_ns()).is_none()
        {
            if !batch.take(&mut || ring.take_request(words))? {
                return Ok(());
            }
            credit.take(batch.packets().last().map_or(0, |packet| packet.len as u64));
        }
        Ok(())
    }

    /// Copies the packets out of the guest's pages; those of which anything fails are spoilt.
    fn copy_in(&self, batch: &mut Batch) -> Vec<Option<Frame>> {
        let frame = |packet: &dom0_tools::netback::tx::Packet| {
            let lens = batch.slots(packet).iter().map(|slot| usize::from(slot.len));
            if packet.is_good { Frame::with_pieces(lens, packet.meta) } else { None }
        };
        let mut frames: Vec<Option<Frame>> = batch.packets().iter().map(frame).collect();
        let results = self.run_copies(batch, &frames);
        let mut results = results.iter();
        for (number, frame) in frames.iter_mut().enumerate() {
            let Some(pieces) = frame.as_ref().map(|frame| frame.pages().len()) else {
                batch.spoil(number);
                continue;
            };
            // All of a packet's results are taken, whatever the first says.
            let failed = results.by_ref().take(pieces).filter(|result| result.is_err()).count();
            if failed != 0 {
                *frame = None;
                batch.spoil(number);
            }
        }
        frames
    }

    /// One result for each piece of each frame.
    fn run_copies(&self, batch: &Batch, frames: &[Option<Frame>]) -> Vec<Result<(), GrantError>> {
        let mut copies = CopyBatch::with_capacity(batch.slot_count());
        let mut count = 0;
        for (packet, frame) in batch.packets().iter().zip(frames) {
            let Some(frame) = frame else { continue };
            for (slot, page) in batch.slots(packet).iter().zip(frame.pages()) {
                let from = (self.dom, slot.gref, usize::from(slot.offset));
                // Offsets and lengths were checked when the packet was taken.
                let _ = copies.read(from, (page.area(), 0), usize::from(slot.len));
                count += 1;
            }
        }
        match copies.run() {
            Ok(results) if results.len() == count => results,
            _ => alloc::vec![Err(GrantError::Call(pv_abi::errno::Errno::Io)); count],
        }
    }

    // ---- To the guest -----------------------------------------------------------------------------------------------

    fn receive(&self, scratch: &mut Scratch) -> Option<Result<bool, TxFault>> {
        let Scratch { requests, failed, outgoing, .. } = scratch;
        requests.clear();
        outgoing.clear();
        let taken = self.with_rx(|ring, words| self.choose(ring, words, requests, outgoing))?;
        if let Err(fault) = taken {
            return Some(Err(fault));
        }
        if outgoing.is_empty() {
            return Some(Ok(false));
        }
        failed.clear();
        failed.resize(requests.len(), false);
        self.copy_out(requests, outgoing, failed);
        let told = self.with_rx(|ring, words| {
            for one in outgoing.iter() {
                answer(one, requests, failed, ring, words)?;
            }
            ring.push(words)
        })?;
        // The frames go back as soon as the guest has them.
        outgoing.clear();
        match told {
            Ok(notify) => {
                if notify {
                    let channel = self.rx_channel.as_ref().unwrap_or(&self.channel);
                    // Failing means that the guest is gone.
                    let _ = channel.notify();
                }
                Some(Ok(true))
            }
            Err(fault) => Some(Err(fault)),
        }
    }

    /// Takes frames off the queue, and for each of them its requests off the ring.
    fn choose(
        &self,
        ring: &mut BackRing<NetifRx>,
        words: &[AtomicU32],
        requests: &mut Vec<NetifRxRequest>,
        outgoing: &mut Vec<Outgoing>,
    ) -> Result<(), RingError> {
        let mut queue = self.queue.borrow_mut();
        while let Some(frame) = queue.frames.front() {
            if requests.len() >= TURN_RX_SLOTS {
                break;
            }
            let meta = frame.meta();
            // What it cannot take was not queued.
            let Some(layout) = Layout::of(frame.lens(), self.takes.several_pages) else {
                queue.pop();
                continue;
            };
            let need = layout.ring_slots(meta);
            let wanted = u32::try_from(need).unwrap_or(u32::MAX);
            if ring.waiting_requests(words)? < wanted && !ring.await_requests(words, wanted)? {
                break;
            }
            let first = requests.len();
            for _ in 0..need {
                requests.extend(ring.take_request(words)?);
            }
            if let Some(frame) = queue.pop() {
                outgoing.push(Outgoing { frame, layout, meta, first });
            }
            queue.moved_ns = time::now_ns();
        }
        Ok(())
    }

    /// Copies the frames into the guest's pages; marks the requests whose pages could not be written.
    fn copy_out(&self, requests: &[NetifRxRequest], outgoing: &[Outgoing], failed: &mut [bool]) {
        let mut copies = CopyBatch::with_capacity(requests.len());
        let mut of: Vec<usize> = Vec::with_capacity(requests.len());
        for one in outgoing {
            let runs = one.layout.runs::<GrantError>(one.frame.lens(), &mut |run| {
                let number = one.request_of(run.slot);
                let (Some(request), Some(page)) = (requests.get(number), one.frame.pages().get(run.piece))
                else {
                    return Ok(());
                };
                let to = (self.dom, GrantRef::new(request.gref), run.to);
                copies.write((page.area(), run.from), to, run.len)?;
                of.push(number);
                Ok(())
            });
            if runs.is_err() {
                failed.iter_mut().skip(one.first).for_each(|failed| *failed = true);
            }
        }
        match copies.run() {
            Ok(results) => {
                for (number, result) in of.into_iter().zip(results) {
                    if let (Err(_), Some(flag)) = (result, failed.get_mut(number)) {
                        *flag = true;
                    }
                }
            }
            Err(_) => failed.fill(true),
        }
    }
}

impl Outgoing {
    /// The request of a slot of data: extra information takes the one after the first.
    fn request_of(&self, slot: usize) -> usize {
        self.first + slot + usize::from(slot != 0 && self.meta.gso.is_some())
    }
}

fn answer(
    one: &Outgoing,
    requests: &[NetifRxRequest],
    failed: &[bool],
    ring: &mut BackRing<NetifRx>,
    words: &[AtomicU32],
) -> Result<(), RingError> {
    for slot in 0..one.layout.slots() {
        let number = one.request_of(slot);
        let id = requests.get(number).map_or(0, |request| request.id);
        let good = !failed.get(number).copied().unwrap_or(true);
        ring.put_response(words, &one.layout.answer(one.frame.lens(), one.meta, slot, id, good))?;
        if let Some(gso) = one.meta.gso.filter(|_| slot == 0) {
            ring.put_response(words, &rx::gso_slot(gso))?;
        }
    }
    Ok(())
}

impl Queue {
    fn pop(&mut self) -> Option<Rc<Frame>> {
        let frame = self.frames.pop_front()?;
        self.pages -= frame.pages().len();
        Some(frame)
    }
}

impl Outlet for Vif {
    fn name(&self) -> String {
        format!("vif{}.{}", self.dom.raw(), self.number)
    }

    fn takes(&self) -> Takes {
        self.takes
    }

    fn deliver(&self, frame: Rc<Frame>) -> bool {
        let mut queue = self.queue.borrow_mut();
        let now = time::now_ns();
        if queue.frames.is_empty() {
            queue.moved_ns = now;
        } else if now.saturating_sub(queue.moved_ns) > STALLED_NS {
            *queue = Queue { moved_ns: now, ..Queue::default() };
        }
        let pages = queue.pages + frame.pages().len();
        let room = pages <= MOST_QUEUED_PAGES && queue.frames.len() < MOST_QUEUED_FRAMES;
        if !room || Layout::of(frame.lens(), self.takes.several_pages).is_none() {
            return false;
        }
        queue.pages = pages;
        queue.frames.push_back(frame);
        drop(queue);
        self.wake.notify();
        true
    }
}
