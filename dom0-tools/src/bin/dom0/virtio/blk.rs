//! virtio disks: many requests in flight, each a future that ends when the device has answered, or an
//! [`Order`] that is told.
//!
//! A request in flight owns one page that the device reads and writes: request header, status byte and the
//! table of its segments. It also holds what its caller gave it to hold (a buffer, an order), so that
//! memory stays where it is until the device is done with it, even when the caller went away.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::RefCell;
use core::task::{Poll, Waker};

use dom0_tools::blkback::leaving::Leaving;
use dom0_tools::blkback::patience::{LONGEST_NS, Patience};
use pv_abi::frame::PAGE_SIZE;
use pv_abi::ids::MachAddr;
use pv_guest_kernel::privileged::dma::DmaBuf;
use pv_guest_kernel::task::{self, Look, Notify};
use pv_guest_kernel::{event, time};

use super::queue::{Buffer, DESC_NEXT, DESC_WRITE, Queue, write_desc};
use super::{InitError, Transport};
use crate::irq::Interrupt;
use crate::pci::Function;

/// Bytes of a sector in every request, whatever the disk's own block size.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Most requests in flight per disk.
const DEPTH: u16 = 64;
/// Most segments of one request: what a page holds behind the header, rounded.
pub(crate) const MAX_SEGMENTS: usize = 128;

/// Most segments of a request whose answer is waited for on the spot.
const WAITED_SEGMENTS: usize = 8;

const FEATURE_SEG_MAX: u32 = 1 << 2;
const FEATURE_READ_ONLY: u32 = 1 << 5;
const FEATURE_FLUSH: u32 = 1 << 9;
const FEATURE_DISCARD: u32 = 1 << 13;
const FEATURE_INDIRECT: u32 = 1 << 28;

const CONFIG_CAPACITY: u16 = 0;
const CONFIG_SEG_MAX: u16 = 12;
const CONFIG_DISCARD_SECTORS: u16 = 36;
const CONFIG_DISCARD_ALIGNMENT: u16 = 44;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_DISCARD: u32 = 11;

const HEADER_BYTES: u32 = 16;
const STATUS_OFFSET: usize = 16;
const TABLE_OFFSET: usize = 32;
/// What a discard is about; no table reaches so far.
const RANGE_OFFSET: usize = PAGE_SIZE - 16;
const RANGE_BYTES: u32 = 16;
const DESC_BYTES: usize = 16;
const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;
/// What the status byte holds until the device has written it.
const STATUS_PENDING: u8 = 0xff;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Disk to memory.
    Read,
    /// Memory to disk.
    Write,
    /// What was written reaches stable storage.
    Flush,
    /// The contents of so many sectors are needed no more.
    Discard(u32),
}

/// A run of machine memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Where it starts.
    pub(crate) addr: MachAddr,
    /// Bytes.
    pub(crate) len: u32,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskError {
    /// Beyond the end, not whole sectors, or too many segments.
    Range,
    /// A write to a read-only disk.
    ReadOnly,
    /// The device does not know the request.
    Unsupported,
    /// The device reports an error.
    Io,
    /// No memory for the transfer.
    NoMemory,
}

impl core::fmt::Display for DiskError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Range => "request outside the disk",
            Self::ReadOnly => "the disk is read-only",
            Self::Unsupported => "not supported by the disk",
            Self::Io => "I/O error",
            Self::NoMemory => "out of memory",
        })
    }
}

/// A request without a future: less work for who has nothing to do until the answer is there. It holds the segments.
pub(crate) trait Order {
    /// The request is over. Runs in a task, or, for what was waited for on the spot, with events masked: never for long.
    fn over(self: Box<Self>, result: Result<(), DiskError>);
}

/// What a request in flight holds.
enum Hold {
    Nothing,
    /// Its segments; a future waits for the result.
    Segments(#[expect(dead_code, reason = "held, not used")] Box<dyn Any>),
    /// Who is told.
    Order(Box<dyn Order>),
}

struct Slot {
    page: DmaBuf,
    result: Option<Result<(), DiskError>>,
    waker: Option<Waker>,
    hold: Hold,
    /// The future was dropped: whoever completes the request recycles the descriptor.
    orphan: bool,
}

struct Inner {
    queue: Queue,
    slots: Vec<Slot>,
    waiting: Vec<Waker>,
    /// Orders that are over and have not been told yet.
    over: VecDeque<(Box<dyn Order>, Result<(), DiskError>)>,
    /// Requests that the device has.
    in_flight: usize,
    /// When the only request was sent whose answer is waited for on the spot: the device does not interrupt.
    quiet_since: Option<u64>,
    patience: Patience,
}

/// A disk.
pub(crate) struct Disk {
    name: String,
    transport: Transport,
    inner: RefCell<Inner>,
    /// Some orders are over.
    some_over: Notify,
    sectors: u64,
    read_only: bool,
    flush: bool,
    max_segments: usize,
    discard: Option<Discard>,
    leaving: Leaving,
}

/// How the device discards.
#[derive(Clone, Copy, Debug)]
struct Discard {
    /// Most sectors of one request.
    most: u32,
    /// Sectors of what it keeps or discards as one.
    granularity: u32,
}

impl Disk {
    /// Sets the device up. The caller gives it to the device's interrupt line.
    pub(crate) fn new(name: String, function: &Function) -> Result<Rc<Self>, InitError> {
        let (transport, offered) = Transport::start(function)?;
        if offered & FEATURE_INDIRECT == 0 {
            transport.fail();
            return Err(InitError::MissingFeature("indirect descriptors"));
        }
        let wanted = FEATURE_SEG_MAX | FEATURE_READ_ONLY | FEATURE_FLUSH | FEATURE_INDIRECT | FEATURE_DISCARD;
        transport.accept(offered & wanted);
        let queue = transport.queue(0, DEPTH)?;
        let slots: Option<Vec<Slot>> = (0..queue.depth()).map(|_| Slot::new()).collect();
        let slots = slots.ok_or(InitError::Queue(super::queue::QueueError::NoMemory))?;
        let sectors = u64::from(transport.config_u32(CONFIG_CAPACITY))
            | u64::from(transport.config_u32(CONFIG_CAPACITY + 4)) << 32;
        let device_segments = match offered & FEATURE_SEG_MAX {
            0 => 1,
            _ => usize::try_from(transport.config_u32(CONFIG_SEG_MAX)).unwrap_or(1).max(1),
        };
        let discard = (offered & FEATURE_DISCARD != 0).then(|| Discard {
            most: transport.config_u32(CONFIG_DISCARD_SECTORS).max(1),
            granularity: transport.config_u32(CONFIG_DISCARD_ALIGNMENT).max(1),
        });
        transport.run();
        let disk = Rc::new(Self {
            name,
            transport,
            inner: RefCell::new(Inner::new(queue, slots)),
            some_over: Notify::new(),
            sectors,
            read_only: offered & FEATURE_READ_ONLY != 0,
            flush: offered & FEATURE_FLUSH != 0,
            max_segments: device_segments.min(MAX_SEGMENTS),
            discard,
            leaving: Leaving::default(),
        });
        task::spawn(disk.clone().tell_orders()).detach();
        Ok(disk)
    }

    /// Tells orders that they are over, one at a turn: each may have much to copy.
    async fn tell_orders(self: Rc<Self>) {
        loop {
            self.some_over.wait().await;
            while self.tell_order() {
                task::yield_now().await;
            }
        }
    }

    /// Tells the first order that is over; whether there was one.
    fn tell_order(&self) -> bool {
        let first = self.inner.borrow_mut().over.pop_front();
        let Some((order, result)) = first else { return false };
        order.over(result);
        true
    }

    /// `vda` and so on.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Guests' connections to it that are over and may still have requests here.
    pub(crate) fn leaving(&self) -> &Leaving {
        &self.leaving
    }

    /// Size in sectors of 512 bytes.
    pub(crate) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether the machine gave us this disk for reading alone.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Most segments a request may have.
    pub(crate) fn max_segments(&self) -> usize {
        self.max_segments
    }

    /// Bytes of what a discard frees as one; `None` if the disk does not discard.
    pub(crate) fn discard_granularity(&self) -> Option<u64> {
        let discard = self.discard.filter(|_| !self.read_only)?;
        Some(u64::from(discard.granularity) * SECTOR_BYTES)
    }

    /// Tells the disk that `count` sectors are needed no more: in as many requests as it takes.
    pub(crate) async fn discard(&self, sector: u64, count: u64) -> Result<(), DiskError> {
        let most = self.discard.ok_or(DiskError::Unsupported)?.most;
        let end = sector.checked_add(count).ok_or(DiskError::Range)?;
        let mut next = sector;
        while next < end {
            let part = u32::try_from(end - next).unwrap_or(u32::MAX).min(most);
            self.request(Op::Discard(part), next, &[], Box::new(())).await?;
            next += u64::from(part);
        }
        Ok(())
    }

    fn check(&self, op: Op, sector: u64, segments: &[Segment]) -> Result<(), DiskError> {
        if op == Op::Flush {
            return Ok(());
        }
        if op != Op::Read && self.read_only {
            return Err(DiskError::ReadOnly);
        }
        if let Op::Discard(count) = op {
            let end = sector.checked_add(u64::from(count));
            return if end.is_some_and(|end| end <= self.sectors) { Ok(()) } else { Err(DiskError::Range) };
        }
        let bytes: u64 = segments.iter().map(|s| u64::from(s.len)).sum();
        let end = sector.checked_add(bytes / SECTOR_BYTES).ok_or(DiskError::Range)?;
        let whole = segments.iter().all(|s| s.len != 0 && u64::from(s.len) % SECTOR_BYTES == 0);
        let fits = segments.len() <= self.max_segments && !segments.is_empty();
        if whole && fits && end <= self.sectors { Ok(()) } else { Err(DiskError::Range) }
    }

    /// Runs one request. `hold` is kept until the device is done with the segments.
    pub(crate) async fn request(
        &self,
        op: Op,
        sector: u64,
        segments: &[Segment],
        hold: Box<dyn Any>,
    ) -> Result<(), DiskError> {
        self.check(op, sector, segments)?;
        if op == Op::Flush && !self.flush {
            // Without the feature the device writes through.
            return Ok(());
        }
        let id = self.claim().await;
        self.submit(id, op, sector, segments, Hold::Segments(hold));
        InFlight { disk: self, id }.await
    }

    /// Sends a read or a write as soon as there is room for it; `order` is told when it is over, which may be at once.
    pub(crate) async fn send(&self, op: Op, sector: u64, segments: &[Segment], order: Box<dyn Order>) {
        if let Err(error) = self.check(op, sector, segments) {
            return order.over(Err(error));
        }
        let id = self.claim().await;
        self.submit(id, op, sector, segments, Hold::Order(order));
    }

    /// A free slot, as soon as there is one.
    async fn claim(&self) -> u16 {
        core::future::poll_fn(|cx| {
            let mut inner = self.inner.borrow_mut();
            match inner.queue.claim() {
                Some(id) => Poll::Ready(id),
                None => {
                    inner.waiting.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn submit(&self, id: u16, op: Op, sector: u64, segments: &[Segment], hold: Hold) {
        let mut inner = self.inner.borrow_mut();
        inner.choose_wait(op, segments.len());
        if !inner.over.is_empty() {
            self.some_over.notify();
        }
        let Inner { queue, slots, in_flight, .. } = &mut *inner;
        let Some(slot) = slots.get_mut(usize::from(id)) else { return };
        let bytes = slot.write_request(op, sector, segments);
        slot.hold = hold;
        let table = slot.page.maddr_at(TABLE_OFFSET);
        *in_flight += 1;
        queue.publish(id, &Buffer::Indirect(table, bytes));
        if queue.needs_notify() {
            self.transport.notify(queue.index());
        }
    }

    /// Looks after a request whose answer does not interrupt.
    pub(crate) fn look(&self, look: Look) {
        let mut inner = self.inner.borrow_mut();
        let Some(since) = inner.quiet_since else { return };
        let was_told = inner.over.is_empty();
        let mut waited = inner.answered(since);
        while look == Look::Idle && waited == Waited::NotYet && !event::is_any_pending() {
            waited = inner.answered(since);
        }
        match waited {
            Waited::NotYet => {}
            Waited::Answered(took) => {
                inner.patience.learn(Some(took));
                inner.quiet_since = None;
                inner.reap();
            }
            Waited::TooLong => {
                inner.patience.learn(None);
                inner.listen();
            }
        }
        drop(inner);
        // Only one request is waited for, and a small one; what else is over has its turn in the task.
        if was_told {
            self.tell_order();
        }
        if !self.inner.borrow().over.is_empty() {
            self.some_over.notify();
        }
    }
}

/// What has become of a request whose answer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    NotYet,
    /// After so many nanoseconds.
    Answered(u64),
    TooLong,
}

impl Interrupt for Disk {
    fn interrupt(&self) {
        // Reading the cause makes the line fall; what is completed after this raises it again.
        self.transport.take_isr();
        let mut inner = self.inner.borrow_mut();
        inner.reap();
        if !inner.over.is_empty() {
            self.some_over.notify();
        }
    }
}

impl Inner {
    /// Nothing is in flight.
    fn new(queue: Queue, slots: Vec<Slot>) -> Self {
        Self {
            queue,
            slots,
            waiting: Vec::new(),
            over: VecDeque::new(),
            in_flight: 0,
            quiet_since: None,
            patience: Patience::default(),
        }
    }

    /// Takes every answer that is there.
    fn reap(&mut self) {
        while let Some((id, _)) = self.queue.pop() {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.finish(id);
        }
        if self.in_flight == 0 {
            self.quiet_since = None;
        }
    }

    /// Before a request is sent: whether the device interrupts when it has answered. A small one that is the only one is
    /// waited for on the spot, as long as the disk is quick.
    fn choose_wait(&mut self, op: Op, segments: usize) {
        let alone = self.in_flight == 0 && matches!(op, Op::Read | Op::Write) && segments <= WAITED_SEGMENTS;
        if alone && self.patience.waits() {
            self.queue.mute();
            self.quiet_since = Some(time::now_ns());
        } else {
            self.listen();
        }
    }

    fn answered(&self, since: u64) -> Waited {
        let took = time::now_ns().saturating_sub(since);
        if self.queue.has_answer() {
            Waited::Answered(took)
        } else if took > LONGEST_NS {
            Waited::TooLong
        } else {
            Waited::NotYet
        }
    }

    /// The device interrupts from now on. What it has answered without is taken.
    fn listen(&mut self) {
        self.quiet_since = None;
        self.queue.unmute();
        self.reap();
    }

    /// The device answered request `id`.
    fn finish(&mut self, id: u16) {
        let Some(slot) = self.slots.get_mut(usize::from(id)) else { return };
        let hold = core::mem::replace(&mut slot.hold, Hold::Nothing);
        if core::mem::take(&mut slot.orphan) {
            self.release(id);
            return;
        }
        let result = match slot.page.read_u8(STATUS_OFFSET) {
            STATUS_OK => Ok(()),
            STATUS_UNSUPPORTED => Err(DiskError::Unsupported),
            _ => Err(DiskError::Io),
        };
        if let Hold::Order(order) = hold {
            self.over.push_back((order, result));
            self.release(id);
            return;
        }
        slot.result = Some(result);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }

    fn release(&mut self, id: u16) {
        self.queue.release(id);
        // All of them: the first may belong to a future that is gone.
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

impl Slot {
    fn new() -> Option<Self> {
        let page = DmaBuf::alloc(PAGE_SIZE)?;
        Some(Self { page, result: None, waker: None, hold: Hold::Nothing, orphan: false })
    }

    /// Fills header and table; returns the table's bytes.
    fn write_request(&mut self, op: Op, sector: u64, segments: &[Segment]) -> u32 {
        let (kind, data_flags) = match op {
            Op::Read => (TYPE_IN, DESC_WRITE),
            Op::Write => (TYPE_OUT, 0),
            Op::Flush => (TYPE_FLUSH, 0),
            Op::Discard(_) => (TYPE_DISCARD, 0),
        };
        // What a discard is about is data of its request; the field for a sector stays unused.
        let header_sector = if matches!(op, Op::Discard(_)) { 0 } else { sector };
        self.result = None;
        self.waker = None;
        self.page.write_u32(0, kind);
        self.page.write_u32(4, 0);
        self.page.write_u64(8, header_sector);
        self.page.write_u8(STATUS_OFFSET, STATUS_PENDING);
        let mut table = Table { page: &self.page, next: 0 };
        table.add(self.page.maddr(), HEADER_BYTES, DESC_NEXT);
        for segment in segments {
            table.add(segment.addr, segment.len, DESC_NEXT | data_flags);
        }
        if let Op::Discard(count) = op {
            self.page.write_u64(RANGE_OFFSET, sector);
            self.page.write_u32(RANGE_OFFSET + 8, count);
            self.page.write_u32(RANGE_OFFSET + 12, 0);
            table.add(self.page.maddr_at(RANGE_OFFSET), RANGE_BYTES, DESC_NEXT);
        }
        table.add(self.page.maddr_at(STATUS_OFFSET), 1, DESC_WRITE);
        u32::from(table.next) * 16
    }
}

/// An indirect table being written.
struct Table<'a> {
    page: &'a DmaBuf,
    next: u16,
}

impl Table<'_> {
    fn add(&mut self, addr: MachAddr, len: u32, flags: u16) {
        let offset = TABLE_OFFSET + DESC_BYTES * usize::from(self.next);
        self.next += 1;
        write_desc(self.page, offset, addr, len, flags, self.next);
    }
}

/// A request that the device has.
struct InFlight<'a> {
    disk: &'a Disk,
    id: u16,
}

impl Future for InFlight<'_> {
    type Output = Result<(), DiskError>;

    fn poll(self: core::pin::Pin<&mut Self>, cx: &mut core::task::Context<'_>) -> Poll<Self::Output> {
        let mut inner = self.disk.inner.borrow_mut();
        let Some(slot) = inner.slots.get_mut(usize::from(self.id)) else {
            return Poll::Ready(Err(DiskError::Io));
        };
        match slot.result {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut inner = self.disk.inner.borrow_mut();
        let Some(slot) = inner.slots.get_mut(usize::from(self.id)) else { return };
        if slot.result.take().is_some() {
            inner.release(self.id);
        } else {
            slot.orphan = true;
        }
    }
}
