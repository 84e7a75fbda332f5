//! virtio network cards, as simple as they come: no offloads, frames of at most a wire's length.
//!
//! Received frames stay in the page that the device filled; the slot gets another. Frames to be sent stay where they are,
//! and are held until the device is done with them. Both rings use indirect tables that lie in memory of the ring's own:
//! the device's header, then the frame.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use dom0_tools::net::{MAX_WIRE_FRAME, Mac, Meta};
use pv_abi::frame::PAGE_SIZE;
use pv_guest_kernel::privileged::dma::DmaBuf;
use pv_guest_kernel::task::Notify;

use super::queue::{Buffer, DESC_NEXT, DESC_WRITE, Queue, QueueError, write_desc};
use super::{InitError, Transport};
use crate::irq::Interrupt;
use crate::net::frame::Frame;
use crate::pages::TransferPage;
use crate::pci::Function;

const RX: u16 = 0;
const TX: u16 = 1;
/// Frames in flight in each direction.
const DEPTH: u16 = 256;
/// Frames that wait for a slot of the device.
const BACKLOG: usize = 256;

const FEATURE_MAC: u32 = 1 << 5;
const FEATURE_INDIRECT: u32 = 1 << 28;

const DESC_BYTES: usize = 16;
/// Bytes of a slot's table; the header stands at its end.
const SLOT_BYTES: usize = 512;
/// What the device puts before each frame, without the feature that makes it longer.
const HEADER_BYTES: usize = 10;
const HEADER_AT: usize = SLOT_BYTES - DESC_BYTES;
/// Pieces of a frame that a table has room for.
const MAX_PIECES: usize = HEADER_AT / DESC_BYTES - 1;

/// A ring and its tables.
struct Ring {
    queue: Queue,
    tables: DmaBuf,
}

impl Ring {
    fn new(queue: Queue) -> Result<Self, InitError> {
        let bytes = queue.depth() * SLOT_BYTES;
        let tables = DmaBuf::alloc(bytes).ok_or(InitError::Queue(QueueError::NoMemory))?;
        Ok(Self { queue, tables })
    }

    /// Gives a slot to the device: the header and these pages.
    fn publish<'p>(
        &mut self,
        id: u16,
        flags: u16,
        pieces: impl ExactSizeIterator<Item = (&'p TransferPage, usize)>,
    ) {
        let start = usize::from(id) * SLOT_BYTES;
        let header = self.tables.maddr_at(start + HEADER_AT);
        let count = pieces.len();
        write_desc(&self.tables, start, header, small(HEADER_BYTES), DESC_NEXT | flags, 1);
        for (number, (page, len)) in (1_u16..).zip(pieces) {
            let next = if usize::from(number) < count { DESC_NEXT } else { 0 };
            let at = start + usize::from(number) * DESC_BYTES;
            write_desc(&self.tables, at, page.maddr(), small(len), next | flags, number + 1);
        }
        let table = Buffer::Indirect(self.tables.maddr_at(start), small((count + 1) * DESC_BYTES));
        self.queue.publish(id, &table);
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

struct Inner {
    rx: Ring,
    /// By slot; present while the device has it.
    rx_pages: Vec<Option<TransferPage>>,
    received: VecDeque<(TransferPage, usize)>,
    tx: Ring,
    /// By slot: what the device is sending.
    sending: Vec<Option<Rc<Frame>>>,
    backlog: VecDeque<Rc<Frame>>,
}

/// A network card.
pub(crate) struct Nic {
    name: String,
    mac: Mac,
    transport: Transport,
    inner: RefCell<Inner>,
    news: Notify,
}

impl Nic {
    /// Sets the device up. The caller gives it to the device's interrupt line.
    pub(crate) fn new(number: usize, function: &Function) -> Result<Rc<Self>, InitError> {
        let (transport, offered) = Transport::start(function)?;
        for (feature, name) in [(FEATURE_MAC, "an address"), (FEATURE_INDIRECT, "indirect descriptors")] {
            if offered & feature == 0 {
                transport.fail();
                return Err(InitError::MissingFeature(name));
            }
        }
        transport.accept(FEATURE_MAC | FEATURE_INDIRECT);
        let rx = Ring::new(transport.queue(RX, DEPTH)?)?;
        let mut tx = Ring::new(transport.queue(TX, DEPTH)?)?;
        tx.queue.mute();
        let [a, b, c, d] = transport.config_u32(0).to_le_bytes();
        let [e, f, ..] = transport.config_u32(4).to_le_bytes();
        let rx_pages = (0..rx.queue.depth()).map(|_| None).collect();
        let sending = (0..tx.queue.depth()).map(|_| None).collect();
        let mut inner =
            Inner { rx, rx_pages, received: VecDeque::new(), tx, sending, backlog: VecDeque::new() };
        while let Some(id) = inner.rx.queue.claim() {
            let page = TransferPage::take().ok_or(InitError::Queue(QueueError::NoMemory))?;
            inner.post(id, page);
        }
        transport.run();
        transport.notify(RX);
        let (name, mac) = (format!("eth{number}"), Mac([a, b, c, d, e, f]));
        Ok(Rc::new(Self { name, mac, transport, inner: RefCell::new(inner), news: Notify::new() }))
    }

    /// `eth0` and so on.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub(crate) fn mac(&self) -> Mac {
        self.mac
    }

    /// Sends a frame; false if there is no room.
    pub(crate) fn send(&self, frame: Rc<Frame>) -> bool {
        let mut inner = self.inner.borrow_mut();
        inner.finish_sent();
        if inner.backlog.len() >= BACKLOG || frame.pages().len() > MAX_PIECES {
            return false;
        }
        inner.backlog.push_back(frame);
        self.push(&mut inner);
        true
    }

    /// Gives the device what it has room for.
    fn push(&self, inner: &mut Inner) {
        if inner.send_backlog() && inner.tx.queue.needs_notify() {
            self.transport.notify(TX);
        }
    }

    /// The next frame that came in.
    pub(crate) fn take(&self) -> Option<Frame> {
        let (page, len) = self.inner.borrow_mut().received.pop_front()?;
        Some(Frame::of_page(page, len, Meta::default()))
    }

    /// Whether frames wait.
    pub(crate) fn has_frames(&self) -> bool {
        !self.inner.borrow().received.is_empty()
    }

    /// Waits for frames.
    pub(crate) async fn wait(&self) {
        self.news.wait().await;
    }
}

impl Inner {
    fn post(&mut self, id: u16, page: TransferPage) {
        self.rx.publish(id, DESC_WRITE, [(&page, PAGE_SIZE)].into_iter());
        if let Some(slot) = self.rx_pages.get_mut(usize::from(id)) {
            *slot = Some(page);
        }
    }

    /// A slot was filled. Its page goes on, unless there is none to put in its place or nobody fetches frames.
    fn receive(&mut self, id: u16, bytes: u32) {
        let Some(page) = self.rx_pages.get_mut(usize::from(id)).and_then(Option::take) else { return };
        let len = usize::try_from(bytes).unwrap_or(0).saturating_sub(HEADER_BYTES);
        let fits = (1..=MAX_WIRE_FRAME).contains(&len) && self.received.len() < BACKLOG;
        match TransferPage::take().filter(|_| fits) {
            Some(fresh) => {
                self.received.push_back((page, len));
                self.post(id, fresh);
            }
            None => self.post(id, page),
        }
    }

    /// Lets go of what the device has sent.
    fn finish_sent(&mut self) {
        while let Some((id, _)) = self.tx.queue.pop() {
            if let Some(slot) = self.sending.get_mut(usize::from(id)) {
                *slot = None;
            }
            self.tx.queue.release(id);
        }
    }

    /// A free slot of the sending ring. If there is none, the device will interrupt once it has finished one.
    fn claim_or_listen(&mut self) -> Option<u16> {
        if let Some(id) = self.tx.queue.claim() {
            return Some(id);
        }
        self.tx.queue.unmute();
        // What was finished before the device saw that would never be told of.
        self.finish_sent();
        self.tx.queue.claim()
    }

    /// Whether anything went to the device. It tells of sent frames only while others wait for their slots.
    fn send_backlog(&mut self) -> bool {
        let mut any = false;
        while !self.backlog.is_empty() {
            let Some(id) = self.claim_or_listen() else { return any };
            let Some(frame) = self.backlog.pop_front() else { break };
            self.tx.publish(id, 0, frame.pages().iter().zip(frame.lens().iter().copied()));
            if let Some(slot) = self.sending.get_mut(usize::from(id)) {
                *slot = Some(frame);
            }
            any = true;
        }
        self.tx.queue.mute();
        any
    }
}

impl Interrupt for Nic {
    fn interrupt(&self) {
        // Reading the cause makes the line fall; what is completed after this raises it again.
        self.transport.take_isr();
        let mut inner = self.inner.borrow_mut();
        let mut any = false;
        while let Some((id, bytes)) = inner.rx.queue.pop() {
            inner.receive(id, bytes);
            any = true;
        }
        inner.finish_sent();
        self.push(&mut inner);
        drop(inner);
        if any {
            self.transport.notify(RX);
            self.news.notify();
        }
    }
}
