//! What the test guests share: claims with their verdicts, and hypercalls with arguments of any kind.
//!
//! A test guest is a kernel that tries one claim and says on its last line whether it held. It is a file of `src/bin`
//! whose name is the claim:
//!
//! ```ignore
//! #![cfg_attr(target_os = "none", no_std, no_main)]
//! //! What is claimed, and how it is tried.
//!
//! use test_guests::{Claim, ensure};
//!
//! test_guests::claim!(one_is_one);
//!
//! fn one_is_one(_: &'static pv_guest_kernel::Context) -> Claim {
//!     ensure!(1 == 1, "arithmetic is broken");
//!     Ok(())
//! }
//! ```
//!
//! Every claim must also hold on Xen, so the same guests can be booted there.
#![no_std]

extern crate alloc;

pub mod attempt;
pub mod call;
pub mod canary;
pub mod claims;
pub mod entries;
pub mod frames;
pub mod meter;
pub mod random;
pub mod timer;
pub mod user;
mod verdict;

pub use alloc::format;
pub use verdict::{Claim, Trouble, report};

/// Makes a function `fn(&'static Context) -> Claim` the kernel's entry, named after the claim.
#[macro_export]
macro_rules! claim {
    ($claim:ident) => {
        fn entry(context: &'static pv_guest_kernel::Context) {
            $crate::report(stringify!($claim), $claim(context));
        }
        pv_guest_kernel::entry!(entry);
    };
}

/// Ends the claim with FAILURE unless a condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err($crate::Trouble::Failure($crate::format!($($words)+)));
        }
    };
}

/// Ends the claim with FAILURE unless two values are equal, and tells both.
#[macro_export]
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($words:tt)+) => {
        let (left, right) = (&$left, &$right);
        if left != right {
            let what = $crate::format!($($words)+);
            return Err($crate::Trouble::Failure($crate::format!("{what}: {left:?} instead of {right:?}")));
        }
    };
}

/// This domain's own number: what a port says that was left for "self".
pub fn own_domain() -> Claim<pv_abi::ids::DomId> {
    use pv_abi::ids::DomId;
    let port = pv_guest_kernel::event::alloc_unbound(DomId::SELF)?;
    let own = u16::try_from(port.status()?.u0 & 0xffff).map_err(|_| Trouble::error("no domain id"))?;
    Ok(DomId::new(own))
}
