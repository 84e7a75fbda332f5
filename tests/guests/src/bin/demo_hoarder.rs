//! Takes all ports and all grant frames that it gets, says so, and waits to be destroyed: the domain whose end is the most
//! work.
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::time::Duration;
use pv_abi::ids::DomId;
use pv_guest_kernel::grant::{Access, GrantedPages};
use pv_guest_kernel::{Context, event, println, task, time};
use test_guests::{Claim, ensure};

test_guests::claim!(all_is_taken);

/// Pages of one step of granting.
const PAGES: usize = 1;
/// More than there are.
const MOST: usize = 200_000;

fn all_is_taken(_: &'static Context) -> Claim {
    let mut ports = 0;
    while ports < MOST {
        let Ok(channel) = event::alloc_unbound(DomId::DOM0) else { break };
        channel.leak();
        ports += 1;
    }
    // More than this kernel has handlers for.
    while ports < MOST && event::alloc_unbound_for(DomId::SELF, DomId::DOM0).is_ok() {
        ports += 1;
    }
    let mut grants = 0;
    while grants < MOST {
        let Ok(pages) = GrantedPages::new(DomId::DOM0, PAGES, Access::ReadWrite) else { break };
        core::mem::forget(pages);
        grants += 1;
    }
    ensure!(ports > 16_000 && grants > 32_000, "{ports} ports and {grants} grants");
    println!("HOARDED {ports} ports, {grants} grants");
    task::block_on(async {
        loop {
            time::sleep(Duration::from_secs(1)).await;
        }
    })
}
