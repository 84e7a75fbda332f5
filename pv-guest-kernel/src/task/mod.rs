//! A small executor: one vcpu waits on many things.
//!
//! Tasks are futures without a `Send` bound; they all run on vcpu 0, one at a time, so they may share state through
//! `Rc` and `RefCell`. Wakers are atomic and may be called from event handlers and from other vcpus. When no task is
//! ready the vcpu blocks in the hypervisor.
//!
//! [`block_on`] is the door: it runs a future and, meanwhile, every task that [`spawn`] started.

mod combine;
mod executor;
mod sync;

pub use combine::{Either, join, join_all, poll_once, race, select, yield_now};
pub use executor::{JoinHandle, Look, block_on, set_lookout, spawn};
pub use sync::{Channel, Mutex, MutexGuard, Notify, OneShot, OneShotReceiver, oneshot};

#[cfg(test)]
mod tests;
