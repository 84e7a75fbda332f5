//! For the demo: two guests of this kind exchange events and granted pages.
//!
//! The one that is told `peer=ID` on its command line offers: it grants a page to its peer, leaves a port for it, and
//! writes both into its part of xenstore where the peer may read them. The other looks for an offer in the parts of
//! other domains, maps the page and connects. Then a counter in the page goes to and fro, with an event for each step.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use pv_abi::ids::{DomId, EvtchnPort, GrantRef};
use pv_guest_kernel::event::{self, EventChannel};
use pv_guest_kernel::grant::{self, Access, CopyBatch, GrantedPages};
use pv_guest_kernel::xenstore::{Client, Permission};
use pv_guest_kernel::{Context, println, task, time};
use test_guests::{Claim, Trouble, ensure, ensure_eq};

test_guests::claim!(two_guests_exchange_events_and_pages);

/// Steps of the counter; each is an event to the other side.
const STEPS: u64 = 2000;
/// Domain numbers among which an offer is looked for.
const DOMAINS: u16 = 256;
const PATIENCE: Duration = Duration::from_secs(60);
const TEXT: &[u8] = b"copied by grant, not by mapping";
/// Where the text is in the page; the counter is at 0.
const TEXT_AT: usize = 1024;

fn two_guests_exchange_events_and_pages(context: &'static Context) -> Claim {
    let work = async {
        let store = Client::connect(context)?;
        match context.option("peer").and_then(|text| text.parse().ok()) {
            Some(peer) => offer(&store, DomId::new(peer)).await,
            None => accept(&store).await,
        }
    };
    task::block_on(time::timeout(PATIENCE, work))
        .unwrap_or(Err(Trouble::Failure("the other side does not answer".into())))
}

async fn offer(store: &Client, peer: DomId) -> Claim {
    let own = DomId::new(store.read_number("domid").await?);
    let mut pages = GrantedPages::new(peer, 1, Access::ReadWrite).map_err(trouble)?;
    pages.area().write(TEXT_AT, TEXT);
    let channel = event::alloc_unbound(peer)?;
    let gref = pages.references().first().copied().ok_or(Trouble::error("no reference"))?;
    store.write("data/offer", format!("{} {} {}", peer.raw(), gref.raw(), channel.port().raw())).await?;
    store.set_permissions("data/offer", &[(own, Permission::None), (peer, Permission::Read)]).await?;
    let counter: &AtomicU64 = pages.area().view(0);
    exchange(&channel, counter, 1).await?;
    // The peer unmaps when it is done; the grant ends then and not before.
    while !pages.try_end() {
        time::sleep(Duration::from_millis(20)).await;
    }
    store.remove("data/offer").await?;
    println!("PAIR offered to {}, {STEPS} steps", peer.raw());
    Ok(())
}

/// Finds the offer that names this domain: who made it, the reference, the port.
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
        time::sleep(Duration::from_millis(50)).await;
    }
}

async fn accept(store: &Client) -> Claim {
    let (peer, gref, port) = find(store).await?;
    let mapping = grant::map(peer, &[gref], Access::ReadWrite).map_err(trouble)?;
    let channel = event::bind_interdomain(peer, port)?;
    copy_text(peer, gref)?;
    let counter: &AtomicU64 = mapping.area().view(0);
    // Whoever accepts makes the first step.
    counter.store(1, Ordering::Release);
    channel.notify()?;
    exchange(&channel, counter, 0).await?;
    println!("PAIR accepted from {}, {STEPS} steps", peer.raw());
    Ok(())
}

/// Reads the text by a grant copy instead of through the mapping.
fn copy_text(peer: DomId, gref: GrantRef) -> Claim {
    let target = pv_guest_kernel::memory::SharedPages::new(1).ok_or(Trouble::error("no memory"))?;
    let mut batch = CopyBatch::new();
    batch.read((peer, gref, TEXT_AT), (target.area(), 0), TEXT.len()).map_err(trouble)?;
    batch.run_all().map_err(trouble)?;
    let mut text = [0; TEXT.len()];
    target.area().read(0, &mut text);
    ensure_eq!(text, TEXT, "the text that was copied");
    Ok(())
}

/// Whoever finds the counter with its parity adds one and tells the other.
async fn exchange(channel: &EventChannel, counter: &AtomicU64, parity: u64) -> Claim {
    loop {
        let value = counter.load(Ordering::Acquire);
        if value >= STEPS {
            return Ok(());
        }
        if value > 0 && value % 2 == parity {
            ensure!(
                counter.compare_exchange(value, value + 1, Ordering::AcqRel, Ordering::Acquire).is_ok(),
                "somebody else changed the counter at {value}"
            );
            channel.notify()?;
        } else {
            channel.wait().await;
        }
    }
}

fn trouble(error: grant::GrantError) -> Trouble {
    Trouble::Failure(format!("grants: {error}"))
}
