//! Event channels within one domain: an interrupt to oneself, a pair of ports connected with each other, masking, polling.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use pv_guest_kernel::hypercall::Result;
use pv_guest_kernel::pv_abi::ids::{DomId, VcpuId};
use pv_guest_kernel::{Context, event, println, sched, task, time};

pv_guest_kernel::entry!(kernel);

fn kernel(_context: &'static Context) {
    if let Err(error) = to_oneself().and_then(|()| pair()).and_then(|()| masked()) {
        println!("events failed: {error}");
    }
    println!("{} events at ports without an owner", event::spurious_count());
}

/// The handler runs before the call that sends returns.
fn to_oneself() -> Result {
    let count = Arc::new(AtomicU32::new(0));
    let channel = event::bind_ipi(VcpuId::new(0))?;
    let counter = Arc::clone(&count);
    channel.set_handler(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    for _ in 0..1000 {
        channel.notify()?;
    }
    println!("1000 sent, {} handled", count.load(Ordering::Relaxed));
    Ok(())
}

/// Two tasks play ping-pong over a connection of this domain with itself.
fn pair() -> Result {
    let left = event::alloc_unbound(DomId::SELF)?;
    let right = event::bind_interdomain(DomId::SELF, left.port())?;
    let serve = async {
        for _ in 0..100 {
            left.notify()?;
            left.wait().await;
        }
        Ok(())
    };
    let answer = async {
        for _ in 0..100 {
            right.wait().await;
            right.notify()?;
        }
        Ok(())
    };
    let (served, answered): (Result, Result) = task::block_on(task::join(serve, answer));
    served.and(answered)?;
    println!("100 round trips");
    Ok(())
}

/// A masked port is pending but silent; opening it delivers.
fn masked() -> Result {
    let channel = event::bind_ipi(VcpuId::new(0))?;
    channel.mask();
    channel.notify()?;
    println!("masked: delivered {}, pending {}", channel.try_take(), channel.is_pending());
    channel.unmask();
    println!("unmasked: delivered {}", channel.try_take());
    let before = event::mask();
    channel.notify()?;
    sched::poll(&[channel.port()], None)?;
    println!("events masked: delivered {}, polled {}", channel.try_take(), channel.is_pending());
    if !before {
        event::unmask();
    }
    println!("events open: delivered {}", channel.try_take());
    let start = time::now_ns();
    sched::poll(&[channel.port()], Some(start + 20_000_000))?;
    let waited = Duration::from_nanos(time::now_ns() - start);
    println!("poll for 20 ms took {} ms", waited.as_millis());
    Ok(())
}
