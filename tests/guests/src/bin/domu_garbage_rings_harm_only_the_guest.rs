//! For a domU with one disk: breaks the rings it shares with dom0, one after another. The block back end must part
//! from it, the store must say on the page that it listens no longer; that dom0 and the other guests go on is for
//! whoever started this guest to see.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![expect(unsafe_code, reason = "views the store's page as dom0 sees it")]

extern crate alloc;

use alloc::format;
use alloc::string::ToString;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use pv_abi::ids::{DomId, EvtchnPort, Mfn};
use pv_abi::io::ring::{REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use pv_abi::io::xenbus::XenbusState;
use pv_abi::io::xenstore::XenstoreDomainInterface;
use pv_guest_kernel::grant::{Access, GrantedPages};
use pv_guest_kernel::xenstore::Client;
use pv_guest_kernel::{Context, event, memory, println, task, time};
use test_guests::{Claim, Trouble, ensure};

test_guests::claim!(garbage_rings_harm_only_the_guest);

const WORDS: usize = 1024;
const PATIENCE_ROUNDS: usize = 100;
const ROUND: Duration = Duration::from_millis(50);

fn garbage_rings_harm_only_the_guest(context: &'static Context) -> Claim {
    if context.is_dom0() {
        return Err(Trouble::error("this is for a domU"));
    }
    task::block_on(break_block_ring(context))?;
    task::block_on(break_store_ring(context))
}

/// Connects as a front end would, but with indices that no ring can have.
async fn break_block_ring(context: &Context) -> Claim {
    let store = Client::connect(context)?;
    let devices = store.directory("device/vbd").await?;
    let device = devices.first().ok_or(Trouble::error("there is no disk"))?;
    let front = format!("device/vbd/{device}");
    let back = store.read_text(&format!("{front}/backend")).await?;
    await_state(&store, &back, XenbusState::InitWait).await?;
    let page = GrantedPages::new(DomId::DOM0, 1, Access::ReadWrite)
        .map_err(|error| Trouble::error(&error.to_string()))?;
    let words: &[AtomicU32; WORDS] = page.area().view(0);
    for (index, value) in [(REQ_PROD, 77_777), (REQ_EVENT, 1), (RSP_PROD, 5), (RSP_EVENT, 1)] {
        words[index].store(value, Ordering::Release);
    }
    let channel = event::alloc_unbound(DomId::DOM0)?;
    let reference = page.references().first().ok_or(Trouble::error("no grant"))?.raw();
    store.write(&format!("{front}/ring-ref"), reference.to_string()).await?;
    store.write(&format!("{front}/event-channel"), channel.port().raw().to_string()).await?;
    store.write(&format!("{front}/protocol"), "x86_64-abi").await?;
    store.write(&format!("{front}/state"), XenbusState::Initialised.raw().to_string()).await?;
    await_state(&store, &back, XenbusState::Closed).await?;
    println!("the block back end has parted from us");
    Ok(())
}

async fn await_state(store: &Client, back: &str, wanted: XenbusState) -> Claim {
    let mut state = 0_u32;
    for _ in 0..PATIENCE_ROUNDS {
        state = store.read_number(&format!("{back}/state")).await.unwrap_or(0);
        if state == wanted.raw() {
            return Ok(());
        }
        time::sleep(ROUND).await;
    }
    Err(Trouble::Failure(format!("the back end is in state {state} instead of {}", wanted.raw())))
}

/// Claims to have sent more than the ring holds.
async fn break_store_ring(context: &Context) -> Claim {
    let info = context.start_info();
    let page = memory::pfn_of(Mfn::new(info.store_mfn)).ok_or(Trouble::error("no store page"))?;
    let address = usize::try_from(memory::direct(page)).unwrap_or(0);
    let page = core::ptr::with_exposed_provenance::<XenstoreDomainInterface>(address);
    // SAFETY: the builder gave us this page for ever, it is in the direct map, and all of it is atomics.
    let page = unsafe { &*page };
    ensure!(page.error.load(Ordering::Acquire) == 0, "the store's page has an error already");
    page.req_prod.fetch_add(5000, Ordering::AcqRel);
    let port = event::adopt(EvtchnPort::new(info.store_evtchn))?;
    port.notify()?;
    for _ in 0..PATIENCE_ROUNDS {
        if page.error.load(Ordering::Acquire) != 0 {
            println!("the store no longer listens to us");
            return Ok(());
        }
        time::sleep(ROUND).await;
    }
    Err(Trouble::Failure("the store takes no note of a broken ring".to_string()))
}
