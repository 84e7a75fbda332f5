//! For a domU: takes of xenstore what it can get and more, writes where it must not, and at the end spoils its ring. Every
//! limit has to be an error of the request that passes it, and what is given back can be taken again. That dom0 and its
//! store go on is for whoever started this guest to see.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem::offset_of;
use core::time::Duration;

use pv_abi::hypercall::Hypercall as H;
use pv_abi::ids::{DomId, EvtchnPort, Mfn};
use pv_abi::io::xenstore::{RING_SIZE, RingFault, XenstoreDomainInterface};
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::memory::{FIRST_REGION, p2m};
use pv_guest_kernel::xenstore::{Client, Permission};
use pv_guest_kernel::{Context, println, sched, task, time};
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claim!(xenstore_attacks_harm_only_the_guest);

/// More of each thing than any guest gets.
const MANY_NODES: usize = 3000;
const MANY_WATCHES: usize = 400;
const MANY_TRANSACTIONS: usize = 64;
const MANY_LEVELS: usize = 200;
/// What each guest gets at least.
const SOME: usize = 8;
const PATIENCE: Duration = Duration::from_secs(10);

fn xenstore_attacks_harm_only_the_guest(context: &'static Context) -> Claim {
    if context.is_dom0() {
        return Err(Trouble::error("this is for a domU"));
    }
    task::block_on(requests(context))?;
    // From here on the SDK's own connection is lost as well.
    spoiled_ring(context)
}

async fn requests(context: &'static Context) -> Claim {
    let store = Client::connect(context)?;
    let own = DomId::new(store.read_number("domid").await?);
    others_paths(&store).await?;
    names(&store).await?;
    nodes(&store).await?;
    values(&store, own).await?;
    watches(&store).await?;
    transactions(&store).await?;
    // After all that it serves as before.
    store.write("data/last", "right").await?;
    ensure_eq!(store.read_text("data/last").await?, "right", "a value after all attacks");
    store.remove("data/last").await?;
    Ok(())
}

fn refused<T>(what: &str, answer: Result<T, Errno>, wanted: &[Errno]) -> Claim {
    match answer {
        Err(errno) if wanted.contains(&errno) => Ok(()),
        Err(errno) => Err(Trouble::Failure(format!("{what}: {} instead of {wanted:?}", errno.name()))),
        Ok(_) => Err(Trouble::Failure(format!("{what}: granted"))),
    }
}

/// What belongs to dom0, to others or to nobody.
async fn others_paths(store: &Client) -> Claim {
    const NO: &[Errno] = &[Errno::Acces, Errno::Perm];
    for path in [
        "/evil",
        "/local/evil",
        "/local/domain/0/evil",
        "/local/domain/0/backend/vbd/evil",
        "/local/domain/1000/data",
        "/vm/evil",
        "/tool/evil",
        "domid",
        "name",
        "store/ring-ref",
        "console/ring-ref",
        "console/limit",
        "memory/target",
        "cpu/0/availability",
        "evil",
    ] {
        refused(&format!("writing {path}"), store.write(path, "evil").await, NO)?;
        refused(&format!("making {path}/x"), store.make(&format!("{path}/x")).await, NO)?;
        let everybody = [(DomId::new(0), Permission::Both)];
        refused_somehow(&format!("permissions of {path}"), store.set_permissions(path, &everybody).await)?;
    }
    for path in ["/", "/local", "/local/domain", "/local/domain/0", "domid", "store", "device", "control"] {
        refused_somehow(&format!("removing {path}"), store.remove(path).await)?;
    }
    let (ring, port) = (Mfn::new(1), EvtchnPort::new(1));
    refused("introducing a domain", store.introduce(DomId::new(1000), ring, port).await, NO)?;
    refused("releasing dom0", store.release(DomId::new(0)).await, NO)?;
    println!("paths of others: refused");
    Ok(())
}

fn refused_somehow<T>(what: &str, answer: Result<T, Errno>) -> Claim {
    ensure!(answer.is_err(), "{what}: granted");
    Ok(())
}

/// Names that are none, and names that are too long or too deep.
async fn names(store: &Client) -> Claim {
    for path in
        ["data//x", "data/x/", "data/a b", "data/\u{7f}", "data/ä", "", "//", "@releaseDomain", "@evil"]
    {
        refused_somehow(&format!("writing {path:?}"), store.write(path, "x").await)?;
    }
    for (start, most) in [("data/", 2048), ("/local/domain/1000/data/", 3072)] {
        let path = start.to_string() + &"x".repeat(most + 1 - start.len());
        refused_somehow(&format!("a path of {} bytes", path.len()), store.write(&path, "x").await)?;
    }
    let mut path = String::from("data/deep");
    let mut levels = 0;
    while levels < MANY_LEVELS {
        match store.make(&path).await {
            Ok(()) => levels += 1,
            Err(Errno::NoSpc | Errno::Inval) => break,
            Err(errno) => return Err(Trouble::Failure(format!("level {levels}: {}", errno.name()))),
        }
        path += "/x";
    }
    ensure!((SOME..MANY_LEVELS).contains(&levels), "{levels} levels below data");
    store.remove("data/deep").await?;
    println!("{levels} levels");
    Ok(())
}

/// Nodes until there are no more, outside of transactions and in one.
async fn nodes(store: &Client) -> Claim {
    let mut taken = Vec::new();
    for _ in 0..2 {
        let mut count = 0;
        while count < MANY_NODES {
            match store.make(&format!("data/many/{count}")).await {
                Ok(()) => count += 1,
                answer => {
                    refused("one node too many", answer, &[Errno::NoSpc])?;
                    break;
                }
            }
        }
        let change = store.transaction().await?;
        let inside = match change.make("data/inside").await {
            Ok(()) => change.commit().await,
            refused => refused,
        };
        refused("one node too many in a transaction", inside, &[Errno::NoSpc])?;
        taken.push(count);
        store.remove("data/many").await?;
    }
    ensure!((SOME..MANY_NODES).contains(&taken[0]), "{} nodes", taken[0]);
    ensure_eq!(taken[1], taken[0], "nodes that can be taken again");
    println!("{} nodes, twice", taken[0]);
    Ok(())
}

async fn values(store: &Client, own: DomId) -> Claim {
    store.write("data/value", "x".repeat(2048)).await?;
    refused(
        "a value too large",
        store.write("data/value", "x".repeat(2049)).await,
        &[Errno::NoSpc, Errno::TooBig],
    )?;
    refused_somehow("a message too large", store.write("data/value", "x".repeat(5000)).await)?;
    let many: Vec<(DomId, Permission)> = (0..100).map(|_| (own, Permission::Both)).collect();
    refused(
        "too many permissions",
        store.set_permissions("data/value", &many).await,
        &[Errno::NoSpc, Errno::Inval],
    )?;
    let given_away = [(DomId::new(0), Permission::Both)];
    refused_somehow("giving a node to dom0", store.set_permissions("data/value", &given_away).await)?;
    store.remove("data/value").await?;
    Ok(())
}

async fn watches(store: &Client) -> Claim {
    let mut taken = Vec::new();
    for _ in 0..2 {
        let mut held = Vec::new();
        while held.len() < MANY_WATCHES {
            match store.watch("data/watched").await {
                Ok(watch) => held.push(watch),
                answer => {
                    refused("one watch too many", answer, &[Errno::NoSpc])?;
                    break;
                }
            }
        }
        // Each change is an event for each of them, and nobody takes any.
        for turn in 0..SOME {
            store.write("data/watched/x", turn.to_string()).await?;
        }
        taken.push(held.len());
    }
    ensure!((SOME..MANY_WATCHES).contains(&taken[0]), "{} watches", taken[0]);
    ensure_eq!(taken[1], taken[0], "watches that can be taken again");
    store.remove("data/watched").await?;
    println!("{} watches, twice", taken[0]);
    Ok(())
}

async fn transactions(store: &Client) -> Claim {
    let mut taken = Vec::new();
    for _ in 0..2 {
        let mut held = Vec::new();
        while held.len() < MANY_TRANSACTIONS {
            match store.transaction().await {
                Ok(transaction) => held.push(transaction),
                answer => {
                    refused("one transaction too many", answer, &[Errno::NoSpc, Errno::Busy])?;
                    break;
                }
            }
        }
        taken.push(held.len());
        let last = held.pop().ok_or(Trouble::error("no transaction"))?;
        let mut bytes = 0;
        let swollen = loop {
            let answer = last.write(&format!("data/big/{bytes}"), "x".repeat(2048)).await;
            bytes += 2048;
            if answer.is_err() || bytes > 4 << 20 {
                break answer;
            }
        };
        refused("a transaction that swells", swollen, &[Errno::NoSpc])?;
        last.abort().await?;
    }
    ensure!((SOME..MANY_TRANSACTIONS).contains(&taken[0]), "{} transactions", taken[0]);
    ensure_eq!(taken[1], taken[0], "transactions that can be taken again");
    refused_somehow("what an aborted transaction wrote", store.read("data/big").await)?;
    println!("{} transactions, twice", taken[0]);
    Ok(())
}

/// Where the ring's words are, and its port.
struct Raw {
    page: u64,
    port: u32,
}

impl Raw {
    fn word(&self, offset: usize) -> u32 {
        let both = call::load(self.page + (offset as u64 & !7));
        u32::try_from(both >> (offset % 8 * 8) & 0xffff_ffff).unwrap_or(0)
    }

    fn set_word(&self, offset: usize, value: u32) {
        let at = self.page + (offset as u64 & !7);
        let (mask, shift) = (0xffff_ffff_u64 << (offset % 8 * 8), offset % 8 * 8);
        call::store(at, call::load(at) & !mask | u64::from(value) << shift);
    }

    fn kick(&self) {
        let argument = [self.port];
        // The other end may be gone, which is what this is about.
        let _any = call::call(H::EventChannelOp, [4, call::address(&argument[..])]);
    }

    /// Waits until the store says what it finds wrong.
    fn fault(&self) -> Claim<u32> {
        let end = time::now_ns() + u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
        loop {
            let fault = self.word(offset_of!(XenstoreDomainInterface, error));
            if fault != 0 {
                return Ok(fault);
            }
            ensure!(time::now_ns() < end, "the store does not say that the ring is broken");
            sched::yield_now();
        }
    }
}

/// A ring full of nothing, and then indices that cannot be.
fn spoiled_ring(context: &'static Context) -> Claim {
    let info = context.start_info();
    let pfn = p2m::pfn_of(Mfn::new(info.store_mfn)).ok_or(Trouble::error("no ring"))?;
    let raw = Raw { page: FIRST_REGION + pfn.raw() * 4096, port: info.store_evtchn };
    ensure_eq!(raw.word(offset_of!(XenstoreDomainInterface, error)), 0, "the ring's state before");
    for word in 0..RING_SIZE as u64 / 8 {
        call::store(raw.page + word * 8, u64::MAX);
    }
    let taken = raw.word(offset_of!(XenstoreDomainInterface, req_cons));
    raw.set_word(offset_of!(XenstoreDomainInterface, req_prod), taken.wrapping_add(64));
    raw.kick();
    ensure_eq!(raw.fault()?, RingFault::Proto.raw(), "a message of 4 GiB");
    for (producer, consumer) in [(u32::MAX, 0), (0, u32::MAX), (0x8000_0000, 0x7fff_ffff), (5000, 1)] {
        raw.set_word(offset_of!(XenstoreDomainInterface, req_prod), producer);
        raw.set_word(offset_of!(XenstoreDomainInterface, req_cons), consumer);
        raw.set_word(offset_of!(XenstoreDomainInterface, rsp_prod), consumer);
        raw.set_word(offset_of!(XenstoreDomainInterface, rsp_cons), producer);
        raw.set_word(offset_of!(XenstoreDomainInterface, connection), producer);
        (0..100).for_each(|_| raw.kick());
    }
    println!("the ring is given up");
    Ok(())
}
