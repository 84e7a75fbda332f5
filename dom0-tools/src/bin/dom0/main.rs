//! dom0: a kernel on the SDK with every service inside.
//!
//! It drives the machine's virtio devices, keeps xenstore, serves guests' consoles and disks, makes and ends
//! domains, and takes commands in its shell and over the control channel. It uses the public hypercalls alone.
//!
//! | module | what it is |
//! |---|---|
//! | [`pci`], [`irq`], [`virtio`], [`pages`] | the machine's devices |
//! | [`net`] | the software switch |
//! | [`volume`] | the FAT volume on the first disk |
//! | [`tty`], [`session`], [`shell`], [`ctl`] | users: at the console and over the control channel |
//! | [`commands`] | what they may ask for |
//! | [`hv`] | hypercalls for the toolstack |
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(any(target_os = "none", clippy))]
extern crate alloc;

#[cfg(any(target_os = "none", clippy))]
mod boot;
#[cfg(any(target_os = "none", clippy))]
mod commands;
#[cfg(any(target_os = "none", clippy))]
mod ctl;
#[cfg(any(target_os = "none", clippy))]
mod hv;
#[cfg(any(target_os = "none", clippy))]
mod irq;
#[cfg(any(target_os = "none", clippy))]
mod machine;
#[cfg(any(target_os = "none", clippy))]
mod net;
#[cfg(any(target_os = "none", clippy))]
mod pages;
#[cfg(any(target_os = "none", clippy))]
mod pci;
#[cfg(any(target_os = "none", clippy))]
mod services;
#[cfg(any(target_os = "none", clippy))]
mod session;
#[cfg(any(target_os = "none", clippy))]
mod shell;
#[cfg(any(target_os = "none", clippy))]
mod sync;
#[cfg(any(target_os = "none", clippy))]
mod toolstack;
#[cfg(any(target_os = "none", clippy))]
mod tty;
#[cfg(any(target_os = "none", clippy))]
mod virtio;
#[cfg(any(target_os = "none", clippy))]
mod volume;

#[cfg(any(target_os = "none", clippy))]
pv_guest_kernel::entry!(boot::kernel);

#[cfg(not(any(target_os = "none", clippy)))]
fn main() {}
