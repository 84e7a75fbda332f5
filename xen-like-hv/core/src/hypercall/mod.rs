//! Hypercalls: dispatch, guest pointers, continuations, one file per family.

pub mod guest_ptr;

pub use guest_ptr::GuestPtr;
