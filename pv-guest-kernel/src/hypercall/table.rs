//! One function per hypercall, made from the ABI's table.
//!
//! The functions have the ABI's names and take their arguments as an array of numbers, addresses included.

use super::{Result, check, raw};

/// All arguments of a call, from those that it has. In line: the numbers go straight to their registers.
#[inline(always)]
fn five<const N: usize>(args: [u64; N]) -> [u64; 5] {
    let mut all = [0; 5];
    let mut n = 0;
    while n < N {
        all[n] = args[n];
        n += 1;
    }
    all
}

macro_rules! define_calls {
    ([] $($number:literal, $name:ident, $abi:ident, $count:literal, $class:ident, $preemption:ident;)+) => {
        $(
            #[doc = concat!("`__HYPERVISOR_", stringify!($abi), "` (", stringify!($number), ").")]
            ///
            /// # Safety
            /// What the arguments say must not harm memory that Rust owns: see [`raw::call`].
            #[inline(always)]
            pub unsafe fn $abi(args: [u64; $count]) -> Result<u64> {
                // SAFETY: as promised by the caller.
                check(unsafe { raw::call($number, five(args)) })
            }
        )+
    };
}

pv_abi::for_each_hypercall!(define_calls);
