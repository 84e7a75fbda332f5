//! The hypervisor's logic, free of hardware, of statics and of unsafe code.
//!
//! State is passed in ([`Hypervisor`]); the machine is reached through the ports of [`port`]. The same code runs in
//! the image at ring 0 and, over [`fake`], in tests on the host.
//!
//! | room | holds |
//! |---|---|
//! | [`hypercall`] | dispatch, guest pointers, continuations, one file per family |
//! | [`domain`] | table of domains, lifecycle, limits |
//! | [`frame`] | state of every frame, types, references, the allocator |
//! | [`mm`] | page-table updates, pinning, base pointers, page-fault classification |
//! | [`evtchn`] | event channels: states, binding, sending, delivery |
//! | [`grant`] | grant tables: entries, mappings, copies |
//! | [`sched`] | who runs where and when; timers |
//! | [`entry`] | what a guest sees at its gates: bounce frames, iret, callbacks, descriptors |
//! | [`emulate`] | privileged instructions, MSRs, CPUID |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

/// Whether a test has sown this fault (see `seeded.rs`); `false` where it is no test.
#[cfg(test)]
macro_rules! seeded {
    ($fault:ident) => {
        crate::seeded::is(crate::seeded::Fault::$fault)
    };
}
#[cfg(not(test))]
macro_rules! seeded {
    ($fault:ident) => {
        false
    };
}

/// Whether the heap is too full to allocate what a guest asks for. In a test: whether this allocation is to fail.
#[cfg(test)]
macro_rules! memory_is_short {
    () => {
        crate::seeded::allocation_fails()
    };
}
#[cfg(not(test))]
macro_rules! memory_is_short {
    () => {
        hv_sync::heap().is_short()
    };
}

/// Whether a test wants this allocation of frames to fail; `false` where it is no test.
#[cfg(test)]
macro_rules! frames_are_short {
    () => {
        crate::seeded::allocation_fails()
    };
}
#[cfg(not(test))]
macro_rules! frames_are_short {
    () => {
        false
    };
}

pub mod access;
pub mod acpi;
mod atomic;
pub mod audit;
pub mod boot_memory;
pub mod bounded;
pub mod clock;
pub mod cmdline;
pub mod cx;
pub mod domain;
pub mod emulate;
pub mod entry;
pub mod error;
pub mod evtchn;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(test)]
mod faults;
pub mod frame;
pub mod grant;
pub mod hv;
pub mod hypercall;
#[cfg(test)]
mod mixed_walk;
pub mod mm;
#[cfg(test)]
mod models;
pub mod pci;
pub mod port;
pub mod regs;
pub mod sched;
#[cfg(test)]
pub(crate) mod seeded;
pub mod speculation;
pub mod symbols;
pub mod vcpu;

pub use cx::Cx;
pub use hv::Hypervisor;
pub use port::Machine;
pub use regs::UserRegs;
