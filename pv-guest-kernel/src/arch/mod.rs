//! The processor as a guest kernel sees it.
//!
//! Everything here is about registers and instructions; what needs a hypercall uses [`crate::hypercall`].
#![expect(unsafe_code, reason = "assembly, entry stubs and per-vcpu state")]

pub mod cpu;
#[cfg(target_os = "none")]
mod notes;
pub mod percpu;
pub mod probe;
pub mod sections;
pub(crate) mod start;
mod stubs;
pub mod trap;
pub mod user;

/// Selector of the flat 64-bit code segment that the hypervisor reserves for guests.
pub const KERNEL_CS: u16 = 0xe033;
/// Selector of the flat data segment.
pub const KERNEL_SS: u16 = 0xe02b;
/// Code selector of user mode. It is the kernel's: only the page tables tell the two apart.
pub const USER_CS: u16 = KERNEL_CS;
/// Stack selector of user mode.
pub const USER_SS: u16 = KERNEL_SS;
