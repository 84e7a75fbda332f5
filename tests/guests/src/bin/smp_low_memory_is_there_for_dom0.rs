//! dom0 may map the first MiB of the machine, where firmware leaves its tables: Linux looks there while it boots. Nothing of
//! the hypervisor's is in it.
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use pv_abi::ids::MachAddr;
use pv_guest_kernel::Context;
use pv_guest_kernel::memory::vmap;
use test_guests::{Claim, ensure, ensure_eq};

test_guests::claim!(smp_low_memory_is_there_for_dom0);

const BYTES: usize = 1 << 20;
/// Where a processor starts after a reset: the firmware has a far jump there.
const RESET: usize = 0xf_fff0;
const FAR_JUMP: u64 = 0xea;
/// Ordinary memory, which the firmware does not use and where processors may be started.
const ORDINARY: core::ops::Range<usize> = 0x8_0000..0x9_f000;
/// The upper bits of the hypervisor's addresses, its direct map included.
const HYPERVISORS: core::ops::RangeInclusive<u128> = 0xffff_8000..=0xffff_87ff;

fn smp_low_memory_is_there_for_dom0(_: &'static Context) -> Claim {
    let low = vmap::map_device(MachAddr::new(0), BYTES / 4096)?;
    let word = |at: usize| low.area().view::<AtomicU64>(at).load(Relaxed);
    ensure_eq!(word(RESET) & 0xff, FAR_JUMP, "the firmware's first instruction");
    let mut before = 0;
    for at in ORDINARY.step_by(8) {
        let here = word(at);
        for shift in [0, 16, 32, 48] {
            let upper = (u128::from(here) << 64 | u128::from(before)) >> (shift + 32) & 0xffff_ffff;
            ensure!(!HYPERVISORS.contains(&upper), "an address of the hypervisor before {at:#x}");
        }
        before = here;
    }
    Ok(())
}
