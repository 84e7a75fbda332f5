//! One of a pair. With `peer=ID` it leaves a port and a page for that domain and goes on with work of its own, which it
//! checks. The other storms with all its vcpus: half of them send events to the port and to dom0's services, half of
//! them map and unmap the page, until the first has done its work.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use pv_abi::evtchn::{EvtchnOp, EvtchnSend};
use pv_abi::grant::{GntmapFlags, GnttabMapGrantRef, GnttabOp, GnttabUnmapGrantRef};
use pv_abi::hypercall::Hypercall as H;
use pv_abi::ids::{DomId, EvtchnPort, GrantRef, VcpuId};
use pv_guest_kernel::event::{self, EventChannel};
use pv_guest_kernel::grant::{self, Access, GrantedPages};
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::xenstore::{Client, Permission};
use pv_guest_kernel::{Context, println, smp, task, time};
use test_guests::random::Random;
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claim!(a_storm_stops_nobody);

/// Rounds of the work that is checked, at least.
const ROUNDS: u64 = 150;
const WORDS: usize = 8192;
const PAUSE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(120);
/// Events that have to arrive, maps that have to be made, for it to be a storm.
const STORM: u64 = 200;
/// Domain numbers among which an offer is looked for.
const DOMAINS: u16 = 64;
/// Words of the shared page: that it is over, events sent, maps made.
const OVER: usize = 0;
const SENT: usize = 8;
const MAPPED: usize = 16;

fn a_storm_stops_nobody(context: &'static Context) -> Claim {
    let work = async {
        let store = Client::connect(context)?;
        match context.option("peer").and_then(|text| text.parse().ok()) {
            Some(peer) => calm(&store, DomId::new(peer)).await,
            None => storm(context, &store).await,
        }
    };
    task::block_on(time::timeout(PATIENCE, work)).unwrap_or(Err(Trouble::Failure("it takes too long".into())))
}

fn trouble(error: grant::GrantError) -> Trouble {
    Trouble::Failure(format!("grants: {error:?}"))
}

// ---- The one that works -----------------------------------------------------------------------------------------

async fn calm(store: &Client, peer: DomId) -> Claim {
    let own = DomId::new(store.read_number("domid").await?);
    let mut pages = GrantedPages::new(peer, 1, Access::ReadWrite).map_err(trouble)?;
    let gref = pages.references().first().copied().ok_or(Trouble::error("no reference"))?;
    let channel = event::alloc_unbound(peer)?;
    let arrived = Arc::new(AtomicU64::new(0));
    let count = arrived.clone();
    channel.set_handler(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    store.write("data/offer", format!("{} {} {}", peer.raw(), gref.raw(), channel.port().raw())).await?;
    store.set_permissions("data/offer", &[(own, Permission::None), (peer, Permission::Read)]).await?;
    let word = |at: usize| -> &AtomicU64 { pages.area().view(at) };
    while word(SENT).load(Ordering::Acquire) == 0 || word(MAPPED).load(Ordering::Acquire) == 0 {
        time::sleep(PAUSE).await;
    }
    let start = arrived.load(Ordering::Relaxed);
    let mut rounds = 0;
    // On a busy host the two may hardly run at the same time: so long as it was no storm it goes on, within PATIENCE.
    let (during, sent, mapped) = loop {
        one_round(rounds).await?;
        rounds += 1;
        let during = arrived.load(Ordering::Relaxed) - start;
        let (sent, mapped) = (word(SENT).load(Ordering::Acquire), word(MAPPED).load(Ordering::Acquire));
        if rounds >= ROUNDS && during >= STORM && mapped >= STORM {
            break (during, sent, mapped);
        }
    };
    word(OVER).store(1, Ordering::Release);
    println!("STORM {during} events arrived of {sent}, {mapped} maps, {rounds} rounds of work");
    // The other unmaps when it sees that it is over; the grant ends then and not before.
    while !pages.try_end() {
        time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Fills memory, waits, and finds it as it was.
async fn one_round(round: u64) -> Claim {
    let mut random = Random::new(round);
    let words: vec::Vec<u64> = (0..WORDS).map(|_| random.next()).collect();
    let before = time::now_ns();
    time::sleep(PAUSE).await;
    ensure!(time::now_ns() >= before + 2_000_000, "a timer went off too early, round {round}");
    let mut again = Random::new(round);
    ensure!(words.iter().all(|word| *word == again.next()), "another word, round {round}");
    Ok(())
}

// ---- The one that storms ----------------------------------------------------------------------------------------

/// What all its vcpus use.
struct Target {
    peer: DomId,
    gref: GrantRef,
    channel: EventChannel,
    /// Ports whose other ends are dom0's.
    services: [u32; 2],
    page: grant::GrantMapping,
    running: AtomicU64,
    wrong: AtomicU64,
}

impl Target {
    fn word(&self, at: usize) -> &AtomicU64 {
        self.page.area().view(at)
    }

    fn is_over(&self) -> bool {
        self.word(OVER).load(Ordering::Acquire) != 0
    }

    /// One vcpu's part; whatever goes wrong is counted.
    fn work(&self, number: u32) {
        let outcome = if number.is_multiple_of(2) { self.send() } else { self.map() };
        if outcome.is_err() {
            self.wrong.fetch_add(1, Ordering::Release);
        }
        self.running.fetch_sub(1, Ordering::Release);
    }

    fn send(&self) -> Claim {
        while !self.is_over() {
            self.channel.notify()?;
            self.services.iter().try_for_each(|port| send(*port))?;
            self.word(SENT).fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn map(&self) -> Claim {
        let range = Range::reserve(1)?;
        range.entry(0)?;
        while !self.is_over() {
            let mut list = [GnttabMapGrantRef {
                host_addr: range.start(),
                flags: GntmapFlags::HOST_MAP.bits(),
                gref: self.gref.raw(),
                dom: self.peer.raw(),
                ..GnttabMapGrantRef::default()
            }];
            grant_op(GnttabOp::MapGrantRef, &mut list)?;
            ensure_eq!(list[0].status, 0, "mapping");
            let handle = list[0].handle;
            let mut list =
                [GnttabUnmapGrantRef { host_addr: range.start(), handle, ..GnttabUnmapGrantRef::default() }];
            grant_op(GnttabOp::UnmapGrantRef, &mut list)?;
            ensure_eq!(list[0].status, 0, "unmapping");
            self.word(MAPPED).fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn send(port: u32) -> Claim {
    let argument = EvtchnSend { port };
    let answer = call::call(H::EventChannelOp, [u64::from(EvtchnOp::Send.raw()), call::address(&argument)]);
    call::granted("a send", answer).map(drop)
}

fn grant_op<T>(op: GnttabOp, list: &mut [T]) -> Claim {
    let answer =
        call::call(H::GrantTableOp, [u64::from(op.raw()), call::address_mut(list), list.len() as u64]);
    call::granted("a grant operation", answer).map(drop)
}

async fn storm(context: &Context, store: &Client) -> Claim {
    let vcpus = smp::vcpu_count();
    ensure!(vcpus > 1, "there is one vcpu only");
    let (peer, gref, port) = find(store).await?;
    let info = context.start_info();
    let target = Arc::new(Target {
        peer,
        gref,
        channel: event::bind_interdomain(peer, port)?,
        services: [info.store_evtchn, info.console_evtchn],
        page: grant::map(peer, &[gref], Access::ReadWrite).map_err(trouble)?,
        running: AtomicU64::new(u64::from(vcpus)),
        wrong: AtomicU64::new(0),
    });
    let begin = time::now_ns();
    for vcpu in 1..vcpus {
        let target = target.clone();
        smp::start(VcpuId::new(vcpu), move || target.work(vcpu))?;
    }
    target.work(0);
    while target.running.load(Ordering::Acquire) != 0 {
        time::sleep(PAUSE).await;
    }
    ensure_eq!(target.wrong.load(Ordering::Acquire), 0, "vcpus that went wrong");
    println!("LASTED {}", (time::now_ns() - begin) / 1_000_000);
    println!("SENT {} events to each of dom0's services", target.word(SENT).load(Ordering::Acquire));
    Ok(())
}

/// Finds the offer that names this domain.
async fn find(store: &Client) -> Claim<(DomId, GrantRef, EvtchnPort)> {
    let own: u16 = store.read_number("domid").await?;
    loop {
        for domain in (1..DOMAINS).filter(|domain| *domain != own) {
            let Ok(text) = store.read_text(&format!("/local/domain/{domain}/data/offer")).await else {
                continue;
            };
            let mut numbers = text.split(' ').filter_map(|word| word.parse::<u32>().ok());
            if let (Some(to), Some(gref), Some(port)) = (numbers.next(), numbers.next(), numbers.next())
                && to == u32::from(own)
            {
                return Ok((DomId::new(domain), GrantRef::new(gref), EvtchnPort::new(port)));
            }
        }
        time::sleep(PAUSE).await;
    }
}
