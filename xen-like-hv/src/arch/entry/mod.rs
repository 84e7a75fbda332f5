//! Entry and exit: everything between an instruction of a guest and the core.
//!
//! | file | holds |
//! |---|---|
//! | [`stubs`] | first and last instructions; with `short.s`, all of them for what guests do most |
//! | [`cpu_info`] | per-CPU stack block |
//! | [`idt`] | gates |
//! | [`current`] | who runs here |
//! | [`guest`] | entries from guests |
//! | [`trap`] | exceptions of the hypervisor itself, with the addresses at which a fault is expected |
//! | [`exit`] | exit loop and scheduling |
//! | [`words`] | a few words between guest and hypervisor, inline |
//! | [`context`] | register state of a vcpu, in and out |

pub(crate) mod context;
pub(crate) mod cpu_info;
pub(crate) mod current;
pub(crate) mod exit;
pub(crate) mod guest;
pub(crate) mod idt;
#[cfg(feature = "stretch")]
pub(crate) mod stretch;
pub(crate) mod stubs;
pub(crate) mod trap;
pub(crate) mod words;
