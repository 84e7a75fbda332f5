//! Tells the time, and shows that one vcpu can wait for several things: two tasks tick at different rates.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use core::time::Duration;

use pv_guest_kernel::{Context, println, task, time};

pv_guest_kernel::entry!(kernel);

fn kernel(_context: &'static Context) {
    println!("wall clock: {} s since 1970", time::wall_clock().as_secs());
    let start = time::now_ns();
    task::block_on(task::join(tick("fast", 100, 6), tick("slow", 250, 2)));
    let elapsed = Duration::from_nanos(time::now_ns() - start);
    println!("both done after {} ms", elapsed.as_millis());
    let late = task::block_on(time::timeout(Duration::from_millis(50), time::sleep(Duration::from_secs(5))));
    println!("a sleep of 5 s within 50 ms: {}", if late.is_some() { "done?" } else { "timed out" });
}

async fn tick(name: &'static str, period_ms: u64, count: u32) {
    let start = time::now_ns();
    for number in 1..=count {
        time::sleep(Duration::from_millis(period_ms)).await;
        println!("{name} {number} at {} ms", (time::now_ns() - start) / 1_000_000);
    }
}
