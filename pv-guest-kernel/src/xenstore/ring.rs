//! The store at the other end of the ring of start_info.

#![expect(unsafe_code, reason = "a page shared with the store, seen only as atomics")]

use alloc::rc::Rc;
use alloc::vec::Vec;

use pv_abi::ids::{EvtchnPort, Mfn};
use pv_abi::io::xenstore::{XenstoreDomainInterface, XsdSockmsg};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::message::{Link, Message};
use crate::Context;
use crate::event::{self, EventChannel};
use crate::hypercall::{Errno, Result};
use crate::memory::{FIRST_REGION, PAGE_SIZE, index, p2m};
use crate::task::{self, Notify};

/// The ring page and its port. One event serves both directions, so each has its own flag.
struct Ring {
    page: &'static XenstoreDomainInterface,
    channel: EventChannel,
    readable: Notify,
    writable: Notify,
}

/// Starts the tasks that carry messages between the ring and the link that is returned.
pub(super) fn start(context: &Context) -> Result<Link> {
    let info = context.start_info();
    if context.is_dom0() || info.store_mfn == 0 {
        return Err(Errno::NoDev);
    }
    let pfn = p2m::pfn_of(Mfn::new(info.store_mfn)).ok_or(Errno::NoDev)?;
    let address = FIRST_REGION + pfn.raw() * PAGE_SIZE as u64;
    let page = core::ptr::with_exposed_provenance::<XenstoreDomainInterface>(index(address));
    let ring = Rc::new(Ring {
        // SAFETY: the builder put the page into the first region, where it stays mapped; it is made of atomics.
        page: unsafe { &*page },
        channel: event::adopt(EvtchnPort::new(info.store_evtchn))?,
        readable: Notify::new(),
        writable: Notify::new(),
    });
    let link = Link::new();
    task::spawn(wake_both(Rc::clone(&ring))).detach();
    task::spawn(send_requests(Rc::clone(&ring), link.clone())).detach();
    task::spawn(receive_answers(ring, link.clone())).detach();
    Ok(link)
}

async fn wake_both(ring: Rc<Ring>) {
    loop {
        ring.channel.wait().await;
        ring.readable.notify();
        ring.writable.notify();
    }
}

async fn send_requests(ring: Rc<Ring>, link: Link) {
    loop {
        let message = link.requests.receive().await;
        let sent = match ring.write(message.header().as_bytes()).await {
            Ok(()) => ring.write(&message.payload).await,
            error => error,
        };
        if let Err(error) = sent {
            log::error!("xenstore: the request ring is broken: {error}");
            link.close();
            return;
        }
    }
}

async fn receive_answers(ring: Rc<Ring>, link: Link) {
    loop {
        match ring.receive().await {
            Ok(message) => link.answers.send(message),
            // An answer of a kind that is not known: the rest of the stream is still in step.
            Err(Errno::BadMsg) => log::warn!("xenstore: an answer that makes no sense"),
            Err(error) => {
                log::error!("xenstore: the answer ring is broken: {error}");
                link.close();
                return;
            }
        }
    }
}

impl Ring {
    async fn write(&self, mut bytes: &[u8]) -> Result {
        while !bytes.is_empty() {
            let count = self.page.request_ring().write(bytes).map_err(|_| Errno::Io)?;
            bytes = &bytes[count..];
            if count > 0 {
                self.channel.notify()?;
            } else {
                self.writable.wait().await;
            }
        }
        Ok(())
    }

    async fn read(&self, mut into: &mut [u8]) -> Result {
        while !into.is_empty() {
            let count = self.page.response_ring().read(into).map_err(|_| Errno::Io)?;
            into = &mut into[count..];
            if count > 0 {
                self.channel.notify()?;
            } else {
                self.readable.wait().await;
            }
        }
        Ok(())
    }

    async fn receive(&self) -> Result<Message> {
        let mut raw = [0; size_of::<XsdSockmsg>()];
        self.read(&mut raw).await?;
        let header = XsdSockmsg::read_from_bytes(&raw).unwrap_or_else(|_| XsdSockmsg::new_zeroed());
        // A length that cannot be leaves no way to find the next message.
        let length = Message::payload_length(&header).map_err(|_| Errno::Io)?;
        let mut payload: Vec<u8> = alloc::vec![0; length];
        self.read(&mut payload).await?;
        Message::from_parts(&header, payload)
    }
}
