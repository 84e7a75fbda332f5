//! SDK for kernels that run on the Xen PV ABI, on x86-64.
//!
//! A guest kernel is a `no_std` binary:
//!
//! ```ignore
//! #![cfg_attr(target_os = "none", no_std, no_main)]
//!
//! use pv_guest_kernel::{Context, println};
//!
//! pv_guest_kernel::entry!(kernel);
//!
//! fn kernel(context: &'static Context) {
//!     println!("hello from a domain with {} pages", context.page_count());
//! }
//! ```
//!
//! and its `build.rs` asks for the linker script (see `docs/sdk.md`). When `kernel` returns the domain powers off.
//!
//! The kernel finds memory, a heap, traps, events, time and the console set up. [`task`] lets one vcpu wait for many
//! things; everything that waits has an `async fn`.
//!
//! Unsafe code is confined to [`arch`], [`hypercall`], [`memory`] and the modules of shared pages.
#![no_std]

extern crate alloc;

pub use pv_abi;
#[cfg(feature = "smoltcp")]
pub use smoltcp;

pub mod arch;
pub mod blkfront;
mod boot;
pub mod console;
mod context;
pub mod control;
pub mod event;
pub mod grant;
pub mod hypercall;
mod local;
pub mod memory;
pub mod netfront;
mod panic;
pub mod privileged;
pub mod sched;
pub mod shared;
pub mod smp;
pub mod sync;
pub mod task;
pub mod time;
pub mod xenbus;
pub mod xenstore;

pub use context::Context;
pub use local::BootLocal;

/// Makes a function `fn(&'static Context)` the kernel's entry. Call it anything but `main`, the name
/// that the host's build needs.
///
/// On the host it defines an empty `main`, so that a crate of guests builds and is linted there too.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[cfg(target_os = "none")]
        const _: () = {
            #[unsafe(no_mangle)]
            fn pv_guest_main(context: &'static $crate::Context) {
                $main(context);
            }
        };

        #[cfg(not(target_os = "none"))]
        fn main() {
            let _: fn(&'static $crate::Context) = |context| {
                $main(context);
            };
        }
    };
}
