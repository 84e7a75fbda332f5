//! Requests and their answers.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::AtomicU32;
use core::time::Duration;

use pv_abi::io::blkif::{
    Blkif, BlkifOp, BlkifRequest, BlkifRequestIndirect, BlkifRequestSegment, BlkifStatus, MAX_SEGMENTS,
    SECTOR_SIZE, SECTORS_PER_PAGE,
};
use pv_abi::io::ring::FrontRing;
use zerocopy::IntoBytes;

use super::pool::{Loan, Pool};
use super::setup::{self, Connection};
use crate::grant::GrantedPages;
use crate::hypercall::{Errno, Result};
use crate::memory::PAGE_SIZE;
use crate::task::{self, Either, Notify, OneShot, oneshot, select};
use crate::time;
use crate::xenbus::{Device, XenbusState};
use crate::xenstore::Client;

/// What the back end says about the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes of a sector of the device: requests should be multiples of it.
    pub sector_size: u32,
    /// The disk cannot be written.
    pub read_only: bool,
    /// The back end has a flush operation.
    pub can_flush: bool,
    /// Most pages of one request.
    pub(super) max_segments: usize,
    /// The back end takes indirect requests.
    pub(super) indirect: bool,
}

/// A request in flight. The pages stay until the answer is there, even if nobody waits for it any more.
struct Pending {
    /// Taken out by the answer; the sender gives the pages to whoever waits.
    answer: OneShot<(Loan, Result)>,
    loan: Loan,
}

struct Shared {
    connection: Connection,
    ring: RefCell<FrontRing<Blkif>>,
    pool: Rc<Pool>,
    pending: RefCell<BTreeMap<u64, Pending>>,
    next_id: Cell<u64>,
    /// A slot has become free.
    room: RefCell<Vec<Rc<Notify>>>,
    broken: Cell<bool>,
    closed: Notify,
}

/// A disk. Clones share it.
#[derive(Clone)]
pub struct Disk {
    shared: Rc<Shared>,
}

/// The ring page as the words that the ring protocol works on.
type Words = [AtomicU32; PAGE_SIZE / 4];

fn words(ring: &GrantedPages) -> &Words {
    ring.area().view::<Words>(0)
}

/// Prepares an empty ring. The indices are kept by the [`FrontRing`] that [`Disk::open`] makes afterwards.
pub(super) fn init_ring(ring: &GrantedPages) -> Result {
    FrontRing::<Blkif>::init(words(ring)).map(drop).map_err(|_| Errno::Io)
}

impl Disk {
    /// Connects to the back end of the device at `path`, such as `device/vbd/51712`.
    pub async fn open(store: &Client, path: &str) -> Result<Self> {
        let device = Device::open(store, path).await?;
        let connection = setup::connect(device).await?;
        // No request was made yet: this is the state that the ring was published with.
        let ring = FrontRing::init(words(&connection.ring)).map_err(|_| Errno::Io)?;
        // Enough for two of the largest requests, with their descriptions.
        let pool = Pool::new(connection.device.backend(), 2 * (connection.info.max_segments + 1));
        let shared = Rc::new(Shared {
            connection,
            ring: RefCell::new(ring),
            pool,
            pending: RefCell::default(),
            next_id: Cell::new(1),
            room: RefCell::default(),
            broken: Cell::new(false),
            closed: Notify::new(),
        });
        task::spawn(take_answers(Rc::clone(&shared))).detach();
        Ok(Self { shared })
    }

    /// The names of the disks in this domain's part of the store, for [`Disk::open`].
    pub async fn list(store: &Client) -> Result<Vec<alloc::string::String>> {
        let names = match store.directory("device/vbd").await {
            Err(Errno::NoEnt) => Vec::new(),
            other => other?,
        };
        Ok(names.into_iter().map(|name| alloc::format!("device/vbd/{name}")).collect())
    }

    /// What the back end says about the disk.
    #[must_use]
    pub fn info(&self) -> Info {
        self.shared.connection.info
    }

    /// Size in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.info().sectors
    }

    /// Reads from `sector` on; the length must be a multiple of 512.
    pub async fn read(&self, sector: u64, into: &mut [u8]) -> Result {
        self.check(sector, into.len())?;
        let piece = self.info().max_segments * PAGE_SIZE;
        let reads = into.chunks_mut(piece).enumerate().map(|(number, chunk)| async move {
            let loan =
                self.transfer(BlkifOp::Read, sector + sectors(number * piece), chunk.len(), None).await?;
            for (page, part) in loan.pages().iter().zip(chunk.chunks_mut(PAGE_SIZE)) {
                page.area().read(0, part);
            }
            Ok(())
        });
        task::join_all(reads).await.into_iter().collect()
    }

    /// Writes from `sector` on; the length must be a multiple of 512.
    pub async fn write(&self, sector: u64, from: &[u8]) -> Result {
        self.check(sector, from.len())?;
        if self.info().read_only {
            return Err(Errno::RoFs);
        }
        let piece = self.info().max_segments * PAGE_SIZE;
        let writes = from.chunks(piece).enumerate().map(|(number, chunk)| async move {
            let at = sector + sectors(number * piece);
            self.transfer(BlkifOp::Write, at, chunk.len(), Some(chunk)).await.map(drop)
        });
        task::join_all(writes).await.into_iter().collect()
    }

    /// Waits until everything written before is safe. EOPNOTSUPP if the back end cannot promise that.
    pub async fn flush(&self) -> Result {
        if !self.info().can_flush {
            return Err(Errno::OpNotSupp);
        }
        let request = BlkifRequest { operation: BlkifOp::FlushDiskcache.raw(), ..BlkifRequest::default() };
        let loan = self.shared.pool.take(0).await?;
        self.submit(request, loan).await.map(drop)
    }

    /// Waits for the requests in flight and has the back end let go of the device, which it is given some time for.
    pub async fn close(&self) -> Result {
        const PATIENCE: Duration = Duration::from_secs(2);
        while !self.shared.pending.borrow().is_empty() {
            self.wait_for_room().await;
        }
        give_up(&self.shared);
        self.shared.closed.notify();
        let device = &self.shared.connection.device;
        device.set_state(XenbusState::Closing).await?;
        let let_go = time::timeout(PATIENCE, device.backend_let_go()).await;
        device.set_state(XenbusState::Closed).await?;
        let_go.unwrap_or(Err(Errno::TimedOut))
    }

    fn check(&self, sector: u64, length: usize) -> Result {
        let end = sector.checked_add(sectors(length));
        if !length.is_multiple_of(SECTOR_SIZE) || end.is_none_or(|end| end > self.sectors()) {
            return Err(Errno::Inval);
        }
        Ok(())
    }

    /// One read or write; gives the pages back with the data in them.
    async fn transfer(&self, op: BlkifOp, sector: u64, length: usize, data: Option<&[u8]>) -> Result<Loan> {
        let pages = length.div_ceil(PAGE_SIZE);
        let indirect = pages > MAX_SEGMENTS;
        let loan = self.shared.pool.take(pages + usize::from(indirect)).await?;
        if let Some(data) = data {
            for (page, part) in loan.pages().iter().zip(data.chunks(PAGE_SIZE)) {
                page.area().write(0, part);
            }
        }
        let segments = segments(&loan.pages()[..pages], length);
        let request = if indirect {
            describe_indirectly(op, sector, &segments, &loan.pages()[pages])?
        } else {
            describe(op, sector, &segments)
        };
        self.submit(request, loan).await
    }

    /// Puts a request on the ring and waits for its answer.
    async fn submit(&self, mut request: BlkifRequest, loan: Loan) -> Result<Loan> {
        let shared = &self.shared;
        // A ring that was given up gets no room any more.
        while !shared.broken.get() && shared.ring.borrow().free_requests() == 0 {
            self.wait_for_room().await;
        }
        if shared.broken.get() {
            return Err(Errno::Io);
        }
        let id = shared.next_id.replace(shared.next_id.get() + 1);
        set_id(&mut request, id);
        let (answer, receiver) = oneshot();
        shared.pending.borrow_mut().insert(id, Pending { answer, loan });
        let shared_words = words(&shared.connection.ring);
        let notify = {
            let mut ring = shared.ring.borrow_mut();
            ring.put_request(shared_words, &request).map_err(|_| Errno::Io)?;
            ring.push(shared_words).map_err(|_| Errno::Io)?
        };
        if notify {
            shared.connection.channel.notify()?;
        }
        let (loan, result) = receiver.receive().await.ok_or(Errno::Io)?;
        result.map(|()| loan)
    }

    async fn wait_for_room(&self) {
        let notify = Rc::new(Notify::new());
        self.shared.room.borrow_mut().push(Rc::clone(&notify));
        notify.wait().await;
    }
}

fn sectors(bytes: usize) -> u64 {
    (bytes / SECTOR_SIZE) as u64
}

/// One segment for each page; the last may be shorter.
fn segments(pages: &[GrantedPages], length: usize) -> Vec<BlkifRequestSegment> {
    let lengths = (0..pages.len()).map(|number| (length - number * PAGE_SIZE).min(PAGE_SIZE));
    pages
        .iter()
        .zip(lengths)
        .map(|(page, bytes)| BlkifRequestSegment {
            gref: page.references().first().map_or(0, |gref| gref.raw()),
            first_sect: 0,
            last_sect: u8::try_from(bytes / SECTOR_SIZE).unwrap_or(SECTORS_PER_PAGE) - 1,
            ..BlkifRequestSegment::default()
        })
        .collect()
}

fn describe(op: BlkifOp, sector: u64, segments: &[BlkifRequestSegment]) -> BlkifRequest {
    let mut request = BlkifRequest {
        operation: op.raw(),
        nr_segments: u8::try_from(segments.len()).unwrap_or(0),
        sector_number: sector,
        ..BlkifRequest::default()
    };
    for (slot, segment) in request.seg.iter_mut().zip(segments) {
        *slot = *segment;
    }
    request
}

/// The segments go into a page of their own.
fn describe_indirectly(
    op: BlkifOp,
    sector: u64,
    segments: &[BlkifRequestSegment],
    page: &GrantedPages,
) -> Result<BlkifRequest> {
    page.area().write(0, segments.as_bytes());
    let mut request = BlkifRequestIndirect {
        operation: BlkifOp::Indirect.raw(),
        indirect_op: op.raw(),
        nr_segments: u16::try_from(segments.len()).map_err(|_| Errno::Inval)?,
        sector_number: sector,
        ..BlkifRequestIndirect::default()
    };
    request.indirect_grefs[0] = page.references().first().ok_or(Errno::Inval)?.raw();
    Ok(request.into())
}

/// The id lies at the same place in all forms of a request.
const fn set_id(request: &mut BlkifRequest, id: u64) {
    request.id = id;
}

/// Hands answers to whoever waits for them.
async fn take_answers(shared: Rc<Shared>) {
    loop {
        if drain(&shared).is_err() {
            log::error!("blkfront: the back end broke the ring");
            give_up(&shared);
            // Nobody will answer any more; the pages may still be written, so they are not used again.
            for (_, pending) in core::mem::take(&mut *shared.pending.borrow_mut()) {
                pending.loan.forget();
            }
            wake_room(&shared);
            return;
        }
        wake_room(&shared);
        if let Either::Right(()) = select(shared.connection.channel.wait(), shared.closed.wait()).await {
            return;
        }
    }
}

/// From now on requests fail.
fn give_up(shared: &Shared) {
    shared.broken.set(true);
    shared.pool.close();
    wake_room(shared);
}

fn wake_room(shared: &Shared) {
    for notify in shared.room.take() {
        notify.notify();
    }
}

/// Takes all answers that are there, and asks to be notified of the next.
fn drain(shared: &Shared) -> core::result::Result<(), pv_abi::io::ring::RingError> {
    let shared_words = words(&shared.connection.ring);
    loop {
        let next = shared.ring.borrow_mut().take_response(shared_words)?;
        let Some(response) = next else {
            if shared.ring.borrow_mut().final_check(shared_words)? {
                continue;
            }
            return Ok(());
        };
        // An answer to something that was not asked is ignored.
        let Some(pending) = shared.pending.borrow_mut().remove(&response.id) else { continue };
        let result = match BlkifStatus::from_raw(response.status) {
            Some(BlkifStatus::Okay) => Ok(()),
            Some(BlkifStatus::OpNotSupp) => Err(Errno::OpNotSupp),
            Some(BlkifStatus::Error) | None => Err(Errno::Io),
        };
        pending.answer.send((pending.loan, result));
    }
}
