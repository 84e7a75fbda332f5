//! Fuzz targets: functions that take any bytes and panic where the code did something that it must not.
//!
//! `cargo xtask fuzz NAME --for T` feeds one from libFuzzer; the tests of this crate replay what it kept in `corpus/`.
//!
//! | target | feeds | oracle |
//! |---|---|---|
//! | `hypercalls` | calls of dom0 and a guest, preempted anywhere | the audit of the whole machine |
//! | `multicall` | batches of such calls | the same |
//! | `traps` | exceptions, events and iret frames | what goes back to ring 3 (I18) |
//! | `decode` | instructions | `iced-x86` |
//! | `emulate` | privileged instructions with registers | `iced-x86`: length, and which registers may change |
//! | `image` | ELF files, notes, bzImages | no panic; what is accepted lies inside the domain |
//! | `xenstore` | bytes of three connections | the store's audit |
//! | `blkif` | block ring requests | what is to be carried out fits disk and pages |
//! | `netif` | network ring slots | what is to be sent has its bytes inside its pages; each slot gets its answer |
//! | `cfg` | domain configurations | no panic |
#![forbid(unsafe_code)]

mod bytes;
mod image;
mod instructions;
mod machine;
mod services;
mod traps;

/// A target.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const TARGETS: [(&str, Target); 10] = [
    ("hypercalls", machine::hypercalls),
    ("multicall", machine::multicall),
    ("traps", traps::traps),
    ("decode", instructions::decode),
    ("emulate", instructions::emulate),
    ("image", image::image),
    ("xenstore", services::xenstore),
    ("blkif", services::blkif),
    ("netif", services::netif),
    ("cfg", services::cfg),
];

/// The target of a name.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(n, _)| *n == name).map(|(_, target)| *target)
}
