//! The two rings, each with its pages.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;

use pv_abi::ids::DomId;
use pv_abi::io::netif::{
    NetRxFlags, NetTxFlags, NetifRx, NetifRxRequest, NetifRxResponse, NetifTx, NetifTxRequest,
};
use pv_abi::io::ring::{FrontRing, RingError};

use super::MAX_FRAME;
use crate::event::EventChannel;
use crate::grant::{Access, GrantedPages};
use crate::hypercall::{Errno, Result};
use crate::memory::PAGE_SIZE;

/// Frames in flight in each direction.
const DEPTH: u16 = 128;

type Words = [AtomicU32; PAGE_SIZE / 4];

fn words(ring: &GrantedPages) -> &Words {
    ring.area().view::<Words>(0)
}

fn gref(page: &GrantedPages) -> u32 {
    page.references().first().map_or(0, |gref| gref.raw())
}

fn pages(backend: DomId, access: Access) -> Result<Vec<GrantedPages>> {
    (0..DEPTH).map(|_| GrantedPages::new(backend, 1, access).map_err(Errno::from)).collect()
}

/// What goes out.
pub(super) struct Sender {
    ring_page: GrantedPages,
    ring: FrontRing<NetifTx>,
    pages: Vec<GrantedPages>,
    free: Vec<u16>,
    in_flight: Vec<bool>,
    buffer: Box<[u8; MAX_FRAME]>,
    broken: bool,
}

impl Sender {
    pub(super) fn new(backend: DomId) -> Result<Self> {
        let ring_page = GrantedPages::new(backend, 1, Access::ReadWrite)?;
        let ring = FrontRing::init(words(&ring_page)).map_err(|_| Errno::Io)?;
        Ok(Self {
            ring_page,
            ring,
            pages: pages(backend, Access::Read)?,
            free: (0..DEPTH).collect(),
            in_flight: (0..DEPTH).map(|_| false).collect(),
            buffer: Box::new([0; MAX_FRAME]),
            broken: false,
        })
    }

    /// The ring's reference.
    pub(super) fn reference(&self) -> u32 {
        gref(&self.ring_page)
    }

    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether a frame can be sent now. If not, the back end will notify when it has let go of one.
    pub(super) fn has_room(&mut self) -> bool {
        if self.free.is_empty() && !self.broken {
            let collected = self.collect().and_then(|()| {
                if self.free.is_empty() && self.ring.final_check(words(&self.ring_page))? {
                    self.collect()?;
                }
                Ok(())
            });
            self.broken |= collected.is_err();
        }
        !self.broken && !self.free.is_empty()
    }

    /// Takes the answers that are there.
    fn collect(&mut self) -> core::result::Result<(), RingError> {
        while let Some(response) = self.ring.take_response(words(&self.ring_page))? {
            // An answer to nothing that was asked would hand a page out twice.
            let flag = self.in_flight.get_mut(usize::from(response.id)).ok_or(RingError::BadIndex)?;
            if !core::mem::take(flag) {
                return Err(RingError::BadIndex);
            }
            self.free.push(response.id);
        }
        Ok(())
    }

    /// Sends a frame of `len` bytes that `fill` writes; what is too long or has no room is dropped.
    pub(super) fn send<R>(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> R,
        channel: &EventChannel,
    ) -> R {
        let len = len.min(MAX_FRAME);
        let result = fill(self.buffer.get_mut(..len).unwrap_or_default());
        if self.has_room() {
            match self.push(len) {
                Ok(true) => {
                    // Failing means that the back end is gone.
                    let _ = channel.notify();
                }
                Ok(false) => {}
                Err(_) => self.broken = true,
            }
        }
        result
    }

    fn push(&mut self, len: usize) -> core::result::Result<bool, RingError> {
        let id = self.free.pop().ok_or(RingError::Full)?;
        let page = self.pages.get(usize::from(id)).ok_or(RingError::Full)?;
        page.area().write(0, self.buffer.get(..len).unwrap_or_default());
        let size = u16::try_from(len).map_err(|_| RingError::Full)?;
        // The checksums are there: what this kernel made itself needs no look at them.
        let flags = NetTxFlags::DATA_VALIDATED.bits();
        let request = NetifTxRequest { gref: gref(page), offset: 0, flags, id, size };
        if let Some(flag) = self.in_flight.get_mut(usize::from(id)) {
            *flag = true;
        }
        self.ring.put_request(words(&self.ring_page), &request)?;
        self.ring.push(words(&self.ring_page))
    }
}

/// What comes in.
pub(super) struct Receiver {
    ring_page: GrantedPages,
    ring: FrontRing<NetifRx>,
    pages: Vec<GrantedPages>,
    /// The page that the next answer is about: answers come in the order of the requests.
    next: u16,
    /// The rest of a packet of several slots, which was not asked for, is passed over.
    skipping: bool,
    buffer: Box<[u8; MAX_FRAME]>,
    broken: bool,
}

impl Receiver {
    pub(super) fn new(backend: DomId) -> Result<Self> {
        let ring_page = GrantedPages::new(backend, 1, Access::ReadWrite)?;
        let ring = FrontRing::init(words(&ring_page)).map_err(|_| Errno::Io)?;
        let pages = pages(backend, Access::ReadWrite)?;
        let buffer = Box::new([0; MAX_FRAME]);
        let mut receiver = Self { ring_page, ring, pages, next: 0, skipping: false, buffer, broken: false };
        (0..DEPTH).try_for_each(|id| receiver.post(id)).map_err(|_| Errno::Io)?;
        receiver.ring.push(words(&receiver.ring_page)).map_err(|_| Errno::Io)?;
        Ok(receiver)
    }

    /// The ring's reference.
    pub(super) fn reference(&self) -> u32 {
        gref(&self.ring_page)
    }

    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    fn post(&mut self, id: u16) -> core::result::Result<(), RingError> {
        let page = self.pages.get(usize::from(id)).ok_or(RingError::Full)?;
        let request = NetifRxRequest { id, pad: 0, gref: gref(page) };
        self.ring.put_request(words(&self.ring_page), &request)
    }

    /// Whether a frame waits. If not, the back end will notify.
    pub(super) fn is_waiting(&mut self) -> bool {
        if self.broken {
            return false;
        }
        let waiting = self.ring.final_check(words(&self.ring_page));
        self.broken |= waiting.is_err();
        waiting.unwrap_or(false)
    }

    /// The next frame.
    pub(super) fn next(&mut self, channel: &EventChannel) -> Option<&[u8]> {
        while !self.broken {
            match self.take(channel) {
                Ok(None) => return None,
                Ok(Some(0)) => {}
                Ok(Some(len)) => return self.buffer.get(..len),
                Err(_) => self.broken = true,
            }
        }
        None
    }

    /// Takes an answer: the bytes it brought, 0 if it brought nothing.
    fn take(&mut self, channel: &EventChannel) -> core::result::Result<Option<usize>, RingError> {
        let Some(response) = self.ring.take_response(words(&self.ring_page))? else { return Ok(None) };
        let id = self.next;
        self.next = (self.next + 1) % DEPTH;
        let len = self.look_at(&response, id)?;
        self.post(id)?;
        if self.ring.push(words(&self.ring_page))? {
            // Failing means that the back end is gone.
            let _ = channel.notify();
        }
        Ok(Some(len))
    }

    fn look_at(&mut self, response: &NetifRxResponse, id: u16) -> core::result::Result<usize, RingError> {
        let flags = NetRxFlags::from_bits_retain(response.flags);
        let more = flags.contains(NetRxFlags::MORE_DATA);
        let skip = core::mem::replace(&mut self.skipping, more) || more;
        // Extra information was not asked for; it would shift what the following answers mean.
        if response.id != id || flags.contains(NetRxFlags::EXTRA_INFO) {
            return Err(RingError::BadIndex);
        }
        let Ok(len) = usize::try_from(response.status) else { return Ok(0) };
        let offset = usize::from(response.offset);
        if offset + len > PAGE_SIZE {
            return Err(RingError::BadIndex);
        }
        let Some(buffer) = self.buffer.get_mut(..len).filter(|_| !skip) else { return Ok(0) };
        if let Some(page) = self.pages.get(usize::from(id)) {
            page.area().read(offset, buffer);
        }
        Ok(len)
    }
}
