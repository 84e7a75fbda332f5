//! For a domU with a network interface: gives dom0's network back end rings that mean nothing, one after another. Those
//! that have lost their meaning must be given up and may be made anew; packets that are wrong in themselves must be
//! answered with an error, each slot once. That dom0 and the other guests go on is for whoever started this guest to see.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use pv_abi::ids::DomId;
use pv_abi::io::netif::{NetTxFlags, NetifExtraInfo, NetifRx, NetifTx, NetifTxRequest};
use pv_abi::io::ring::{FrontRing, REQ_PROD};
use pv_abi::io::xenbus::XenbusState;
use pv_guest_kernel::event::{self, EventChannel};
use pv_guest_kernel::grant::{Access, GrantedPages};
use pv_guest_kernel::xenstore::Client;
use pv_guest_kernel::{Context, println, task, time};
use test_guests::{Claim, Trouble, ensure, ensure_eq};

test_guests::claim!(garbage_net_rings_harm_only_the_guest);

const WORDS: usize = 1024;
const FRONT: &str = "device/vif/0";
const PATIENCE_ROUNDS: usize = 100;
const ROUND: Duration = Duration::from_millis(50);
/// Requests that a sending ring holds.
const SLOTS: u16 = 256;

fn garbage_net_rings_harm_only_the_guest(context: &'static Context) -> Claim {
    if context.is_dom0() {
        return Err(Trouble::error("this is for a domU"));
    }
    task::block_on(attack(context))
}

/// A front end's side.
struct Rings {
    tx_page: GrantedPages,
    /// Kept so that the back end finds what it maps.
    _rx_page: GrantedPages,
    tx: FrontRing<NetifTx>,
    channel: EventChannel,
}

fn words(page: &GrantedPages) -> &[AtomicU32; WORDS] {
    page.area().view(0)
}

struct Attacker {
    store: Client,
    back: String,
}

async fn attack(context: &'static Context) -> Claim {
    let store = Client::connect(context)?;
    let back = store.read_text(&format!("{FRONT}/backend")).await?;
    let attacker = Attacker { store, back };
    let slot =
        |flags: NetTxFlags, id, size| NetifTxRequest { gref: 8, offset: 0, flags: flags.bits(), id, size };
    let (more, extra) = (NetTxFlags::MORE_DATA, NetTxFlags::EXTRA_INFO);
    attacker.lose("an index out of range", &[], 77_777).await?;
    attacker.lose("an index that runs backwards", &[], u32::MAX).await?;
    attacker.lose("a packet without its end", &[slot(more, 1, 100)], 0).await?;
    attacker.lose("a packet without end", &[slot(more, 1, 65_535); 200], 0).await?;
    attacker.lose("missing extra information", &[slot(extra, 1, 100)], 0).await?;
    let unknown = NetifExtraInfo { kind: 77, flags: 1, data: [0xff; 6] }.to_tx_slot();
    attacker.lose("extra information of no kind", &[slot(extra, 1, 100), unknown], 0).await?;
    attacker.bad_packets().await?;
    attacker.set_state(XenbusState::Closing).await?;
    attacker.await_state(XenbusState::Closing).await
}

impl Attacker {
    async fn set_state(&self, state: XenbusState) -> Claim {
        self.store.write(&format!("{FRONT}/state"), state.raw().to_string()).await?;
        Ok(())
    }

    async fn await_state(&self, wanted: XenbusState) -> Claim {
        let mut state = 0_u32;
        for _ in 0..PATIENCE_ROUNDS {
            state = self.store.read_number(&format!("{}/state", self.back)).await.unwrap_or(0);
            if state == wanted.raw() {
                return Ok(());
            }
            time::sleep(ROUND).await;
        }
        Err(Trouble::Failure(format!("the back end is in state {state} instead of {}", wanted.raw())))
    }

    /// Makes rings, lets `prepare` write to the sending one, and connects.
    async fn connect(
        &self,
        prepare: impl FnOnce(&mut FrontRing<NetifTx>, &GrantedPages) -> Claim,
    ) -> Claim<Rings> {
        self.set_state(XenbusState::Initialising).await?;
        self.await_state(XenbusState::InitWait).await?;
        let page = || GrantedPages::new(DomId::DOM0, 1, Access::ReadWrite);
        let (tx_page, rx_page) = (page()?, page()?);
        let broken = |_| Trouble::error("a ring of our own is broken");
        let mut tx = FrontRing::<NetifTx>::init(words(&tx_page)).map_err(broken)?;
        FrontRing::<NetifRx>::init(words(&rx_page)).map_err(broken)?;
        prepare(&mut tx, &tx_page)?;
        let channel = event::alloc_unbound(DomId::DOM0)?;
        let reference = |page: &GrantedPages| page.references().first().map_or(0, |gref| gref.raw());
        let nodes = [
            ("tx-ring-ref", reference(&tx_page)),
            ("rx-ring-ref", reference(&rx_page)),
            ("event-channel", channel.port().raw()),
            ("request-rx-copy", 1),
        ];
        for (name, value) in nodes {
            self.store.write(&format!("{FRONT}/{name}"), value.to_string()).await?;
        }
        self.set_state(XenbusState::Connected).await?;
        Ok(Rings { tx_page, _rx_page: rx_page, tx, channel })
    }

    /// Sends what a ring cannot hold; the back end has to part from us.
    async fn lose(&self, what: &str, slots: &[NetifTxRequest], jump: u32) -> Claim {
        let rings = self
            .connect(|ring, page| {
                for slot in slots {
                    ring.put_request(words(page), slot).map_err(|_| Trouble::error("no room"))?;
                }
                ring.push(words(page)).map_err(|_| Trouble::error("no push"))?;
                words(page)[REQ_PROD].fetch_add(jump, Ordering::AcqRel);
                Ok(())
            })
            .await?;
        // It may have looked, and parted, already.
        let _ = rings.channel.notify();
        self.await_state(XenbusState::Closed).await?;
        println!("{what}: given up");
        Ok(())
    }

    /// Fills a ring with packets that cannot be sent; each must be answered, and none with success.
    async fn bad_packets(&self) -> Claim {
        let mut rings = self
            .connect(|ring, page| {
                for id in 0..SLOTS {
                    let (offset, size) = match id % 4 {
                        0 => (0, 13),
                        1 => (4000, 200),
                        2 => (0xffff, 0xffff),
                        // A length that is good, in a page that was never granted.
                        _ => (0, 100),
                    };
                    let gref = 0x4000_0000 | u32::from(id);
                    let slot = NetifTxRequest { gref, offset, flags: 0, id, size };
                    ring.put_request(words(page), &slot).map_err(|_| Trouble::error("no room"))?;
                }
                ring.push(words(page)).map(drop).map_err(|_| Trouble::error("no push"))
            })
            .await?;
        self.await_state(XenbusState::Connected).await?;
        rings.channel.notify()?;
        let mut answered = 0;
        for _ in 0..PATIENCE_ROUNDS {
            let broken = |_| Trouble::Failure("the answers' index is out of range".into());
            while let Some(answer) = rings.tx.take_response(words(&rings.tx_page)).map_err(broken)? {
                ensure_eq!(answer.id, answered, "the order of answers");
                ensure!(answer.status == -1, "packet {} was answered with {}", answer.id, answer.status);
                answered += 1;
            }
            if answered == SLOTS {
                println!("{answered} wrong packets: answered");
                return self.await_state(XenbusState::Connected).await;
            }
            time::sleep(ROUND).await;
        }
        Err(Trouble::Failure(format!("{answered} of {SLOTS} packets were answered")))
    }
}
