//! The first port of a virtio console: a byte stream to the host, used as the control channel.
//!
//! The device's multiport feature is left alone, so the host's coming and going cannot be seen here; the
//! protocol above (`ctl`) copes with that.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::task::{Poll, Waker};

use pv_abi::frame::PAGE_SIZE;
use pv_guest_kernel::privileged::dma::DmaBuf;

use super::queue::{Buffer, Queue, QueueError};
use super::{InitError, Transport};
use crate::irq::Interrupt;
use crate::pci::Function;

const RX: u16 = 0;
const TX: u16 = 1;
/// Pages posted for receiving, and pages in flight for sending.
const DEPTH: u16 = 8;
const PAGE_BYTES: u32 = 4096;
/// Received bytes kept for a reader. Beyond this the device gets no new buffers, and the host waits.
const BACKLOG_BYTES: usize = 64 * 1024;

struct Inner {
    rx: Queue,
    rx_pages: Vec<DmaBuf>,
    /// Receive buffers not posted because of the backlog.
    held_back: Vec<u16>,
    received: VecDeque<u8>,
    reader: Option<Waker>,
    tx: Queue,
    tx_pages: Vec<DmaBuf>,
    writers: Vec<Waker>,
}

/// The stream.
pub(crate) struct Console {
    transport: Transport,
    inner: RefCell<Inner>,
}

fn pages(queue: &Queue) -> Result<Vec<DmaBuf>, InitError> {
    (0..queue.depth())
        .map(|_| DmaBuf::alloc(PAGE_SIZE))
        .collect::<Option<Vec<_>>>()
        .ok_or(InitError::Queue(QueueError::NoMemory))
}

impl Console {
    /// Sets the device up. The caller gives it to the device's interrupt line.
    pub(crate) fn new(function: &Function) -> Result<Rc<Self>, InitError> {
        let (transport, _) = Transport::start(function)?;
        transport.accept(0);
        let rx = transport.queue(RX, DEPTH)?;
        let tx = transport.queue(TX, DEPTH)?;
        let (rx_pages, tx_pages) = (pages(&rx)?, pages(&tx)?);
        let mut inner = Inner {
            rx,
            rx_pages,
            held_back: Vec::new(),
            received: VecDeque::new(),
            reader: None,
            tx,
            tx_pages,
            writers: Vec::new(),
        };
        while let Some(id) = inner.rx.claim() {
            inner.post(id);
        }
        transport.run();
        transport.notify(RX);
        Ok(Rc::new(Self { transport, inner: RefCell::new(inner) }))
    }

    /// Waits for bytes from the host; never returns an empty vector.
    pub(crate) async fn read(&self) -> Vec<u8> {
        core::future::poll_fn(|cx| {
            let mut inner = self.inner.borrow_mut();
            if inner.received.is_empty() {
                inner.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let bytes = inner.received.drain(..).collect();
            let held_back = core::mem::take(&mut inner.held_back);
            let again = !held_back.is_empty();
            held_back.into_iter().for_each(|id| inner.post(id));
            if again {
                self.transport.notify(RX);
            }
            Poll::Ready(bytes)
        })
        .await
    }

    /// Sends all of `bytes`. Without anybody on the host's side the device throws them away.
    pub(crate) async fn write(&self, bytes: &[u8]) {
        for chunk in bytes.chunks(PAGE_SIZE) {
            let id = core::future::poll_fn(|cx| {
                let mut inner = self.inner.borrow_mut();
                match inner.tx.claim() {
                    Some(id) => Poll::Ready(id),
                    None => {
                        inner.writers.push(cx.waker().clone());
                        Poll::Pending
                    }
                }
            })
            .await;
            self.send(id, chunk);
        }
    }

    fn send(&self, id: u16, chunk: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        let Inner { tx, tx_pages, .. } = &mut *inner;
        let Some(page) = tx_pages.get(usize::from(id)) else { return };
        page.write_bytes(0, chunk);
        let len = u32::try_from(chunk.len()).unwrap_or(PAGE_BYTES);
        tx.publish(id, &Buffer::Read(page.maddr(), len));
        if tx.needs_notify() {
            self.transport.notify(TX);
        }
    }
}

impl Inner {
    fn post(&mut self, id: u16) {
        if let Some(page) = self.rx_pages.get(usize::from(id)) {
            self.rx.publish(id, &Buffer::Write(page.maddr(), PAGE_BYTES));
        }
    }

    fn receive(&mut self, id: u16, len: u32) {
        let Some(page) = self.rx_pages.get(usize::from(id)) else { return };
        let len = usize::try_from(len).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
        let mut bytes = alloc::vec![0; len];
        page.read_bytes(0, &mut bytes);
        self.received.extend(bytes);
        if self.received.len() < BACKLOG_BYTES {
            self.post(id);
        } else {
            self.held_back.push(id);
        }
    }
}

impl Interrupt for Console {
    fn interrupt(&self) {
        self.transport.take_isr();
        let mut inner = self.inner.borrow_mut();
        let mut posted = false;
        while let Some((id, len)) = inner.rx.pop() {
            inner.receive(id, len);
            posted = true;
        }
        while let Some((id, _)) = inner.tx.pop() {
            inner.tx.release(id);
            inner.writers.drain(..).for_each(Waker::wake);
        }
        if posted {
            self.transport.notify(RX);
        }
        if !inner.received.is_empty()
            && let Some(waker) = inner.reader.take()
        {
            waker.wake();
        }
    }
}
