//! The hypervisor core.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod acpi;
pub mod boot_memory;
pub mod bounded;
pub mod cmdline;
pub mod symbols;
