//! Counts what each operation of the ABI costs that one domain can do alone, guest side included.
//!
//! Under `-icount shift=0` the time stamp counter counts instructions, so the figures are the same from run to run. Each
//! line `BENCH name operations instructions nanoseconds` is the cost of one operation; the loop around it is part of it.
//!
//! Words on the command line: `only=NAME` measures one row, `rounds=N` sets the operations of each batch.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod calls;
mod emulated;
mod events;
mod faults;
mod grants;
mod segments;
mod stubs;
mod tables;
mod times;
mod trees;

use pv_guest_kernel::Context;
use test_guests::Claim;
use test_guests::meter::Meter;

test_guests::claim!(operations_are_measured);

fn operations_are_measured(context: &'static Context) -> Claim {
    let meter = Meter::new(context)?;
    calls::measure(&meter)?;
    events::measure(&meter)?;
    times::measure(&meter)?;
    tables::measure(&meter)?;
    trees::measure(&meter)?;
    segments::measure(&meter)?;
    grants::measure(&meter)?;
    emulated::measure(&meter)?;
    // The last ones, because they take the trap table over.
    faults::measure(&meter)
}
