//! Who runs where and when.
//!
//! The *mechanism* (`scheduler.rs`) keeps one runqueue per pcpu and moves vcpus between the states of
//! [`state`]. The [`policy`] only orders those that wait. Three things hold whatever a policy answers:
//!
//! 1. a vcpu runs on at most one pcpu, and on none until the pcpu that had it last has saved its registers
//!    ([`Scheduler::context_saved`]);
//! 2. a vcpu with a flag or a pause is not chosen;
//! 3. a vcpu is chosen only on a pcpu of its hard affinity.
//!
//! How the image uses it, on each pcpu, with interrupts disabled:
//!
//! ```text
//! timer interrupt, IPI           note that there is work
//! exit loop, idle loop           run_timers(); while resched_needed() { pick_next() … }
//! next is another vcpu           publish the old one's runstate, save its registers, context_saved(old),
//!                                load the new one's, publish its time and runstate
//! ```
//!
//! Locks: a runqueue's (rank `RUNQUEUE`) and a timer queue's (rank `TIMER`, taken first where both are needed).
//! Two runqueues are locked in ascending order of pcpus.

pub mod areas;
mod heap;
pub mod policy;
mod queue;
mod run;
pub mod runstate;
mod scheduler;
pub mod state;
pub mod timers;

#[cfg(test)]
mod tests;

pub use self::areas::{publish_runstate, publish_time, publish_time_of_other};
pub use self::run::run_timers;
pub use self::scheduler::{NoRoom, SchedPorts, Scheduler};
pub use self::state::VcpuSched;
