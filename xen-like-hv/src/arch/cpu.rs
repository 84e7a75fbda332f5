//! The CPU: registers, descriptor tables, features, start-up of the other processors.

pub(crate) mod features;
pub(crate) mod gdt;
pub(crate) mod port;
pub(crate) mod regs;
pub(crate) mod setup;
pub(crate) mod smp;
pub(crate) mod speculation;

mod guest_state;

pub(crate) use guest_state::{
    has_xsave, keeps_fpu_pointers, load_tsc_aux, load_xcr0, set_guest_cr4, set_task_switched,
    write_debug_register,
};
