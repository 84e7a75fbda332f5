//! Counts what two domains cost that work together: events, a ring, grants, the switch between them.
//!
//! The one with `offer=ID` on its command line grants pages to its peer and leaves a port for it; the other, with
//! `accept=ID`, connects, measures, and prints a line `BENCH name operations instructions nanoseconds` for each row. The
//! offerer does what the page's command word says. `suffix=WORDS` ends the names of the rows; with it, what makes sense
//! on one pcpu only is left out.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use pv_abi::grant::{
    GntcopyFlags, GntmapFlags, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef, GnttabOp, GnttabUnmapGrantRef,
};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, EvtchnPort, GrantRef};
use pv_guest_kernel::event::{self, EventChannel};
use pv_guest_kernel::grant::{self, Access, GrantedPages};
use pv_guest_kernel::hypercall::typed;
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{Area, SharedPages};
use pv_guest_kernel::xenstore::{Client, Permission};
use pv_guest_kernel::{Context, shared, task, time};
use test_guests::meter::Meter;
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claim!(two_domains_are_measured);

/// Pages that are granted; the first one is for talking.
const PAGES: usize = 33;
/// Requests for each event.
const BURST: u64 = 32;
/// Words of a request.
const REQUEST: usize = 8;
const PATIENCE: Duration = Duration::from_secs(120);

/// What the offerer is to do, in word 0 of the first page.
mod command {
    /// Send an event back.
    pub(super) const ECHO: u64 = 0;
    /// Answer the requests of the ring, then send an event back.
    pub(super) const SERVE: u64 = 1;
    /// Take turns by yielding, until told otherwise.
    pub(super) const YIELD: u64 = 2;
    /// Power off.
    pub(super) const STOP: u64 = 3;
}

/// The first page: words for commands, whose turn it is, ring counters, and requests.
struct Talk<'a>(Area<'a>);

impl Talk<'_> {
    fn word(&self, number: usize) -> &AtomicU64 {
        self.0.view(number * 8)
    }

    fn command(&self) -> &AtomicU64 {
        self.word(0)
    }

    /// 1: the offerer's, 0: the acceptor's.
    fn turn(&self) -> &AtomicU64 {
        self.word(8)
    }

    fn requested(&self) -> &AtomicU64 {
        self.word(16)
    }

    fn answered(&self) -> &AtomicU64 {
        self.word(24)
    }

    /// A request; they begin at half of the page. Looked up once for all its words: the row is about what two domains do.
    fn request(&self, number: u64) -> &[AtomicU64; REQUEST] {
        let slot = usize::try_from(number % BURST).unwrap_or(0);
        self.0.view((256 + slot * REQUEST) * 8)
    }
}

fn two_domains_are_measured(context: &'static Context) -> Claim {
    let number = |name: &str| context.option(name).and_then(|text| text.parse().ok()).map(DomId::new);
    let meet = async {
        let store = Client::connect(context)?;
        match (number("offer"), number("accept")) {
            (Some(peer), _) => offer(&store, peer).await.map(Side::Offerer),
            (None, Some(peer)) => accept(&store, peer).await.map(Side::Acceptor),
            (None, None) => Err(Trouble::error("neither offer=ID nor accept=ID")),
        }
    };
    let met = task::block_on(time::timeout(PATIENCE, meet));
    let side = met.unwrap_or(Err(Trouble::Failure("the other side does not answer".into())))?;
    // From here on nobody takes upcalls: both sides look at their port and sleep until it has something.
    event::mask();
    match side {
        Side::Offerer(mut pages) => serve(&mut pages),
        Side::Acceptor(peer) => measure(&Meter::new(context)?, &peer, context.option("suffix").unwrap_or("")),
    }
}

enum Side {
    Offerer(Offer),
    Acceptor(Peer),
}

struct Offer {
    pages: GrantedPages,
    channel: EventChannel,
}

struct Peer {
    domain: DomId,
    references: Vec<GrantRef>,
    channel: EventChannel,
}

async fn offer(store: &Client, peer: DomId) -> Claim<Offer> {
    let own = DomId::new(store.read_number("domid").await?);
    let pages = GrantedPages::new(peer, PAGES, Access::ReadWrite)?;
    let channel = event::alloc_unbound(peer)?;
    let mut text = format!("{}", channel.port().raw());
    for gref in pages.references() {
        text.push_str(&format!(" {}", gref.raw()));
    }
    store.write("data/offer", text).await?;
    store.set_permissions("data/offer", &[(own, Permission::None), (peer, Permission::Read)]).await?;
    Ok(Offer { pages, channel })
}

async fn accept(store: &Client, peer: DomId) -> Claim<Peer> {
    loop {
        if let Ok(text) = store.read_text(&format!("/local/domain/{}/data/offer", peer.raw())).await {
            let mut numbers = text.split(' ').filter_map(|word| word.parse::<u32>().ok());
            let port = numbers.next().ok_or(Trouble::error("an offer without a port"))?;
            let references: Vec<GrantRef> = numbers.map(GrantRef::new).collect();
            ensure_eq!(references.len(), PAGES, "pages on offer");
            let channel = event::bind_interdomain(peer, EvtchnPort::new(port))?;
            return Ok(Peer { domain: peer, references, channel });
        }
        time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sleeps until the port has an event, and takes it.
fn wait(channel: &EventChannel) -> Claim {
    let port = channel.port().raw();
    let word = usize::try_from(port / 64).ok().and_then(|word| shared::info().evtchn_pending.get(word));
    let word = word.ok_or(Trouble::error("a port beyond the table"))?;
    let bit = 1 << (port % 64);
    while word.load(Ordering::Acquire) & bit == 0 {
        typed::sched_poll(&[port], 0)?;
    }
    word.fetch_and(!bit, Ordering::AcqRel);
    Ok(())
}

fn serve(offer: &mut Offer) -> Claim {
    let talk = Talk(offer.pages.area());
    loop {
        wait(&offer.channel)?;
        match talk.command().load(Ordering::Acquire) {
            command::SERVE => answer(&talk),
            command::YIELD => take_turns(&talk)?,
            command::STOP => break,
            _ => {}
        }
        offer.channel.notify()?;
    }
    // The acceptor has let go of the pages before it said so.
    ensure!(offer.pages.try_end(), "pages are still in use");
    event::unmask();
    Ok(())
}

/// Answers every request: its words, each with one added.
fn answer(talk: &Talk<'_>) {
    let (from, to) = (talk.answered().load(Ordering::Relaxed), talk.requested().load(Ordering::Acquire));
    for number in from..to {
        for word in talk.request(number) {
            word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
    talk.answered().store(to, Ordering::Release);
}

fn take_turns(talk: &Talk<'_>) -> Claim {
    while talk.command().load(Ordering::Acquire) == command::YIELD {
        if talk.turn().load(Ordering::Acquire) == 1 {
            talk.turn().store(0, Ordering::Release);
        }
        typed::sched_yield()?;
    }
    Ok(())
}

fn measure(meter: &Meter, peer: &Peer, suffix: &str) -> Claim {
    let mapping = grant::map(peer.domain, &peer.references[..1], Access::ReadWrite)?;
    let talk = Talk(mapping.area());
    let round = |what: u64| {
        talk.command().store(what, Ordering::Release);
        peer.channel.notify()?;
        wait(&peer.channel)
    };
    meter.row(&format!("pair_event_round_trip{suffix}"), 1, || round(command::ECHO))?;
    meter.row(&format!("pair_ring_request{suffix}"), BURST, || {
        let from = talk.requested().load(Ordering::Relaxed);
        for number in from..from + BURST {
            for word in talk.request(number) {
                word.store(number, Ordering::Relaxed);
            }
        }
        talk.requested().store(from + BURST, Ordering::Release);
        round(command::SERVE)?;
        ensure_eq!(talk.answered().load(Ordering::Acquire), from + BURST, "requests answered");
        ensure_eq!(talk.request(from)[REQUEST - 1].load(Ordering::Relaxed), from + 1, "an answer");
        Ok(())
    })?;
    if suffix.is_empty() {
        turns(meter, peer, &talk)?;
        grants(meter, peer)?;
    }
    talk.command().store(command::STOP, Ordering::Release);
    drop(mapping);
    peer.channel.notify()?;
    event::unmask();
    Ok(())
}

/// Each round is a switch to the other domain and one back.
fn turns(meter: &Meter, peer: &Peer, talk: &Talk<'_>) -> Claim {
    talk.command().store(command::YIELD, Ordering::Release);
    peer.channel.notify()?;
    meter.row("pair_switch_by_yield", 2, || {
        talk.turn().store(1, Ordering::Release);
        while talk.turn().load(Ordering::Acquire) == 1 {
            typed::sched_yield()?;
        }
        Ok(())
    })?;
    talk.command().store(command::ECHO, Ordering::Release);
    wait(&peer.channel)
}

fn operate<T>(op: GnttabOp, entries: &mut [T]) -> Claim {
    let args = [u64::from(op.raw()), call::address_mut(entries), entries.len() as u64];
    ensure_eq!(call::call(Hypercall::GrantTableOp, args), 0, "{op:?}");
    Ok(())
}

fn grants(meter: &Meter, peer: &Peer) -> Claim {
    // The first page is in use.
    let pages = &peer.references[1..];
    for (name, count) in
        [("pair_grant_map_and_unmap", 1), ("pair_grant_map_and_unmap_of_32_per_page", PAGES - 1)]
    {
        mapping(meter, name, peer.domain, &pages[..count])?;
    }
    for (name, count) in
        [("pair_grant_copy_of_4096_bytes", 1), ("pair_grant_copy_of_32_pages_per_page", PAGES - 1)]
    {
        copying(meter, name, peer.domain, &pages[..count])?;
    }
    Ok(())
}

fn mapping(meter: &Meter, name: &str, peer: DomId, references: &[GrantRef]) -> Claim {
    let range = Range::reserve(references.len())?;
    let place = |number: usize| range.page(number);
    let map = |(number, gref): (usize, &GrantRef)| GnttabMapGrantRef {
        host_addr: place(number),
        flags: GntmapFlags::HOST_MAP.bits(),
        gref: gref.raw(),
        dom: peer.raw(),
        ..GnttabMapGrantRef::default()
    };
    let mut maps: Vec<GnttabMapGrantRef> = references.iter().enumerate().map(map).collect();
    let unmap =
        |number: usize| GnttabUnmapGrantRef { host_addr: place(number), ..GnttabUnmapGrantRef::default() };
    let mut unmaps: Vec<GnttabUnmapGrantRef> = (0..references.len()).map(unmap).collect();
    meter.row(name, references.len() as u64, || {
        operate(GnttabOp::MapGrantRef, &mut maps)?;
        for (map, unmap) in maps.iter().zip(&mut unmaps) {
            ensure_eq!(map.status, 0, "a map");
            unmap.handle = map.handle;
        }
        operate(GnttabOp::UnmapGrantRef, &mut unmaps)
    })?;
    ensure!(unmaps.iter().all(|unmap| unmap.status == 0), "an unmap failed");
    Ok(())
}

fn copying(meter: &Meter, name: &str, peer: DomId, references: &[GrantRef]) -> Claim {
    let target = SharedPages::new(references.len()).ok_or(Trouble::error("no memory"))?;
    let mut copies = Vec::new();
    for (number, gref) in references.iter().enumerate() {
        let mfn = target.mfn(number).ok_or(Trouble::error("no frame"))?;
        copies.push(GnttabCopy {
            source: GnttabCopyPtr { u: gref.raw().into(), domid: peer.raw(), ..GnttabCopyPtr::default() },
            dest: GnttabCopyPtr { u: mfn.raw(), domid: DomId::SELF.raw(), ..GnttabCopyPtr::default() },
            len: 4096,
            flags: GntcopyFlags::SOURCE_GREF.bits(),
            ..GnttabCopy::default()
        });
    }
    meter.row(name, references.len() as u64, || operate(GnttabOp::Copy, &mut copies))?;
    ensure!(copies.iter().all(|copy| copy.status == 0), "a copy failed");
    Ok(())
}
