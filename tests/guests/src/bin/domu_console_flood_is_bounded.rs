//! For a domU: prints far more than its console keeps. The guest is slowed down, nothing else; its last line arrives.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_guest_kernel::{Context, println};
use test_guests::{Claim, Trouble};

test_guests::claim!(console_flood_is_bounded);

const LINES: u32 = 30_000;

fn console_flood_is_bounded(context: &'static Context) -> Claim {
    if context.is_dom0() {
        return Err(Trouble::Skip("the claim is about an ordinary domain".into()));
    }
    for line in 0..LINES {
        println!(
            "{line:08} the quick brown fox jumps over the lazy dog, again and again and again and again"
        );
    }
    Ok(())
}
