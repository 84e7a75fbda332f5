//! The hypervisor's image: the thin layer that gives `hv-core` a machine.
//!
//! On the host this is an empty program, so that the workspace builds and is linted as a whole.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(any(target_os = "none", clippy))]
extern crate alloc;

#[cfg(any(target_os = "none", clippy))]
mod arch;
#[cfg(any(target_os = "none", clippy))]
mod boot;
#[cfg(any(target_os = "none", clippy))]
mod console;
#[cfg(any(target_os = "none", clippy))]
mod debug_keys;
#[cfg(any(target_os = "none", clippy))]
mod heap;
#[cfg(any(target_os = "none", clippy))]
mod log;
#[cfg(any(target_os = "none", clippy))]
mod machine;
#[cfg(any(target_os = "none", clippy))]
mod panic;
#[cfg(any(target_os = "none", clippy))]
mod percpu;
#[cfg(any(target_os = "none", clippy))]
mod power;
#[cfg(any(target_os = "none", clippy))]
mod selftest;
#[cfg(any(target_os = "none", clippy))]
mod start;
#[cfg(any(target_os = "none", clippy))]
mod state;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the hypervisor runs on bare metal: cargo xtask run");
}
