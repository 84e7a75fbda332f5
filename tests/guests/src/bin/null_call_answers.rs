//! The cheapest call tells the version of the ABI, and tells it again and again.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::hypercall::Hypercall;
use pv_guest_kernel::{Context, hypercall};
use test_guests::{Claim, call, ensure_eq};

test_guests::claim!(null_call_answers);

const ROUNDS: u32 = 10_000;

fn null_call_answers(_: &'static Context) -> Claim {
    let (major, minor) = hypercall::version()?;
    ensure_eq!((major, minor), (4, 17), "the version");
    for round in 0..ROUNDS {
        let again = call::call(Hypercall::XenVersion, [0, 0]);
        ensure_eq!(again, (4 << 16) + 17, "the version in round {round}");
    }
    Ok(())
}
