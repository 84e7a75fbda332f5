//! One function per hypercall, made from the ABI's table.
//!
//! The functions have the ABI's names and take their arguments as an array of numbers, addresses included.

use super::{Result, check, raw};

macro_rules! define_calls {
    ([] $($number:literal, $name:ident, $abi:ident, $count:literal, $class:ident, $preemption:ident;)+) => {
        $(
            #[doc = concat!("`__HYPERVISOR_", stringify!($abi), "` (", stringify!($number), ").")]
            ///
            /// # Safety
            /// What the arguments say must not harm memory that Rust owns: see [`raw::call`].
            #[inline]
            pub unsafe fn $abi(args: [u64; $count]) -> Result<u64> {
                let mut all = [0; 5];
                all[..$count].copy_from_slice(&args);
                // SAFETY: as promised by the caller.
                check(unsafe { raw::call($number, all) })
            }
        )+
    };
}

pv_abi::for_each_hypercall!(define_calls);
