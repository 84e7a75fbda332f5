//! A connected virtual disk: requests off the guest's ring, through pages of dom0's own, to the real disk.
//!
//! Data is copied between the guest's granted pages and bounce pages. So a guest that takes a grant back, or dies,
//! in the middle of a request harms that request alone, and nothing of the guest's memory is ever held across a wait
//! but the ring's page.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::AtomicU32;

use dom0_tools::blkback::request::{Action, Decoded, Geometry, Indirect, Segment, Work, decode};
use pv_abi::frame::PAGE_SIZE;
use pv_abi::ids::{DomId, EvtchnPort, GrantRef};
use pv_abi::io::blkif::{Blkif, BlkifResponse, BlkifStatus};
use pv_abi::io::ring::{BackRing, RingError};
use pv_guest_kernel::event::EventChannel;
use pv_guest_kernel::grant::{self, Access, CopyBatch, GrantError, GrantMapping};
use pv_guest_kernel::task::{self, Notify};

use crate::pages::TransferPage;
use crate::sync::{Budget, Share};
use crate::virtio::blk::{Disk, DiskError, Op, Order, Segment as DiskSegment};

const RING_WORDS: usize = PAGE_SIZE / 4;
/// Requests that are taken off a ring before other tasks have their turn.
const TURN: usize = 32;
/// Pages that the requests of one disk may take together (8 MiB). Further requests wait in their ring: neither large
/// ones, nor those that earlier connections left behind, can take up dom0's memory.
pub(crate) const MOST_IN_FLIGHT: usize = 2048;
/// What a request counts at least, so that their number is bounded too.
const LEAST_SHARE: usize = 16;

/// A read or a write that the disk works on, with the pages that it works on.
struct Transfer {
    vbd: Rc<Vbd>,
    work: Work,
    pages: Vec<TransferPage>,
    share: Share,
}

impl Order for Transfer {
    fn over(self: Box<Self>, result: Result<(), DiskError>) {
        let Self { vbd, work, pages, share } = *self;
        let copied = match work.action {
            Action::Read => result.and_then(|()| vbd.copy(&work.segments, &pages, Op::Read)),
            _ => result,
        };
        drop(pages);
        drop(share);
        vbd.finish(&work, copied);
    }
}

/// A connected virtual disk.
pub(crate) struct Vbd {
    dom: DomId,
    disk: Rc<Disk>,
    geometry: Geometry,
    in_flight: Rc<Budget>,
    /// The ring's page; gone when the connection is over.
    page: RefCell<Option<GrantMapping>>,
    ring: RefCell<BackRing<Blkif>>,
    channel: EventChannel,
    wake: Notify,
    /// Told when the ring is given up.
    given_up: Box<dyn Fn(RingError)>,
}

fn because<T>(what: &str, result: Result<T, impl ToString>) -> Result<T, String> {
    result.map_err(|error| alloc::format!("{what}: {}", error.to_string()))
}

impl Vbd {
    /// Takes a front end's ring up and serves it from now on. `given_up` is called if the ring turns out to hold
    /// nonsense.
    pub(crate) fn connect(
        dom: DomId,
        ring: GrantRef,
        port: EvtchnPort,
        disk: (Rc<Disk>, Geometry, Rc<Budget>),
        given_up: Box<dyn Fn(RingError)>,
    ) -> Result<Rc<Self>, String> {
        let (disk, geometry, in_flight) = disk;
        let page = because("mapping the ring", grant::map(dom, &[ring], Access::ReadWrite))?;
        let words: &[AtomicU32; RING_WORDS] = page.area().view(0);
        let ring = because("the ring", BackRing::attach(words))?;
        let channel = super::bind_port(dom, port).map_err(|error| error.name().to_string());
        let channel = because("binding the port", channel)?;
        let vbd = Rc::new(Self {
            dom,
            disk,
            geometry,
            in_flight,
            page: RefCell::new(Some(page)),
            ring: RefCell::new(ring),
            channel,
            wake: Notify::new(),
            given_up,
        });
        task::spawn(vbd.clone().serve()).detach();
        Ok(vbd)
    }

    /// Lets go of the guest's page at once. Requests on their way to the disk end unanswered.
    pub(crate) fn close(&self) {
        let page = self.page.borrow_mut().take();
        if page.is_some() {
            self.disk.leaving().begin();
        }
        self.wake.notify();
    }

    /// Works on the ring; `None` once it is gone. A ring that holds nonsense is given up.
    fn with_ring<T>(
        &self,
        action: impl FnOnce(&mut BackRing<Blkif>, &[AtomicU32]) -> Result<T, RingError>,
    ) -> Option<T> {
        let result = {
            let page = self.page.borrow();
            let words: &[AtomicU32; RING_WORDS] = page.as_ref()?.area().view(0);
            action(&mut self.ring.borrow_mut(), words)
        };
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.close();
                (self.given_up)(error);
                None
            }
        }
    }

    async fn serve(self: Rc<Self>) {
        self.disk.leaving().none_is_left(|| self.page.borrow().is_none()).await;
        let mut taken = 0_usize;
        let mut worked = false;
        loop {
            let Some(request) = self.with_ring(|ring, words| ring.take_request(words)) else { return };
            if let Some(request) = request {
                worked = true;
                self.begin(decode(&request, self.geometry)).await;
                taken = taken.wrapping_add(1);
                // A guest may ask as fast as it is answered, and for ever.
                if taken.is_multiple_of(TURN) {
                    task::yield_now().await;
                }
                continue;
            }
            let Some(more) = self.with_ring(|ring, words| ring.final_check(words)) else { return };
            if more {
                task::yield_now().await;
            } else {
                let event = self.channel.wait_after(core::mem::take(&mut worked));
                task::select(event, self.wake.wait()).await;
            }
        }
    }

    /// Starts a request as soon as there is room for it; its answer comes when it comes.
    async fn begin(self: &Rc<Self>, decoded: Decoded) {
        let decoded = match decoded {
            Decoded::Fetch(indirect) => self
                .fetch(&indirect)
                .unwrap_or_else(|_| Decoded::Answer(indirect.ticket().answer(BlkifStatus::Error))),
            other => other,
        };
        match decoded {
            Decoded::Answer(answer) => self.answer(&answer),
            Decoded::Run(work) => {
                let share = self.in_flight.take(work.segments.len().max(LEAST_SHARE)).await;
                match work.action {
                    Action::Read => self.transfer(work, share, Op::Read).await,
                    Action::Write => self.transfer(work, share, Op::Write).await,
                    Action::Flush | Action::Discard(_) => {
                        task::spawn(self.clone().run(work, share)).detach();
                    }
                }
            }
            // What is inside an indirect request is never itself indirect.
            Decoded::Fetch(indirect) => self.answer(&indirect.ticket().answer(BlkifStatus::Error)),
        }
    }

    fn fetch(&self, indirect: &Indirect) -> Result<Decoded, GrantError> {
        let page = TransferPage::take().ok_or(pv_abi::errno::Errno::NoMem)?;
        let mut copy = CopyBatch::new();
        copy.read((self.dom, indirect.page, 0), (page.area(), 0), indirect.bytes())?;
        copy.run_all()?;
        let mut bytes = alloc::vec![0; indirect.bytes()];
        page.read_bytes(0, &mut bytes);
        Ok(indirect.decode(&bytes, self.geometry))
    }

    /// Sends a read or a write to the disk, which tells [`Transfer`] when it is over.
    async fn transfer(self: &Rc<Self>, work: Work, share: Share, op: Op) {
        if self.page.borrow().is_none() {
            return;
        }
        let Some(pages) = TransferPage::take_many(work.segments.len()) else {
            return self.finish(&work, Err(DiskError::NoMemory));
        };
        if op == Op::Write
            && let Err(error) = self.copy(&work.segments, &pages, op)
        {
            return self.finish(&work, Err(error));
        }
        let part = |(segment, page): (&Segment, &TransferPage)| DiskSegment {
            addr: page.maddr(),
            len: u32::from(segment.len),
        };
        let segments: Vec<DiskSegment> = work.segments.iter().zip(&pages).map(part).collect();
        let sector = work.sector;
        let order = Box::new(Transfer { vbd: self.clone(), work, pages, share });
        self.disk.send(op, sector, &segments, order).await;
    }

    /// Carries out what needs no memory of the guest's.
    async fn run(self: Rc<Self>, work: Work, share: Share) {
        if self.page.borrow().is_none() {
            return;
        }
        let result = match work.action {
            Action::Discard(sectors) => self.disk.discard(work.sector, sectors).await,
            _ => self.disk.request(Op::Flush, 0, &[], Box::new(())).await,
        };
        drop(share);
        self.finish(&work, result);
    }

    fn finish(&self, work: &Work, result: Result<(), DiskError>) {
        let status = match result {
            Ok(()) => BlkifStatus::Okay,
            Err(DiskError::Unsupported) => BlkifStatus::OpNotSupp,
            Err(_) => BlkifStatus::Error,
        };
        self.answer(&work.ticket.answer(status));
    }

    /// Copies between the guest's segments and our pages. Nothing is copied once the connection is over.
    fn copy(&self, segments: &[Segment], pages: &[TransferPage], op: Op) -> Result<(), DiskError> {
        if self.page.borrow().is_none() {
            return Err(DiskError::Io);
        }
        let mut batch = CopyBatch::new();
        for (segment, page) in segments.iter().zip(pages) {
            let guest = (self.dom, segment.gref, usize::from(segment.offset));
            let len = usize::from(segment.len);
            let added = match op {
                Op::Write => batch.read(guest, (page.area(), 0), len).map(drop),
                _ => batch.write((page.area(), 0), guest, len).map(drop),
            };
            added.map_err(|_| DiskError::Io)?;
        }
        batch.run_all().map_err(|_| DiskError::Io)
    }

    fn answer(&self, answer: &BlkifResponse) {
        let notify = self.with_ring(|ring, words| {
            ring.put_response(words, answer)?;
            ring.push(words)
        });
        if notify == Some(true) {
            // Failing means that the guest is gone.
            let _ = self.channel.notify();
        }
    }
}

impl Drop for Vbd {
    fn drop(&mut self) {
        // Every request holds its connection: this was the last one of a connection that is over.
        if self.page.get_mut().is_none() {
            self.disk.leaving().end();
        }
    }
}
