//! For a domU: announces success and then destroys its own trap table and stack, so that the next fault cannot be
//! delivered. Only this domain may end by it; whoever started the guest sees dom0 go on.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::hypercall::Hypercall;
use pv_guest_kernel::{Context, println};
use test_guests::{Claim, Trouble, call};

test_guests::claim!(wild_faults_harm_only_the_guest);

/// No guest has a page here.
const NOWHERE: u64 = 0x1000;
const KERNEL_STACK_SELECTOR: u64 = 0xe02b;

fn wild_faults_harm_only_the_guest(context: &'static Context) -> Claim {
    if context.is_dom0() {
        return Err(Trouble::Skip("the claim is about an ordinary domain".into()));
    }
    println!("VERDICT: SUCCESS wild_faults_harm_only_the_guest: about to crash");
    call::granted("emptying the trap table", call::call(Hypercall::SetTrapTable, [0]))?;
    call::granted("a stack nowhere", call::call(Hypercall::StackSwitch, [KERNEL_STACK_SELECTOR, NOWHERE]))?;
    call::store(NOWHERE, 1);
    Err(Trouble::Failure("a store to an address without a page went through".into()))
}
