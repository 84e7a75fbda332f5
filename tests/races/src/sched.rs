//! The scheduler of hv-core, over loom's atomics and locks.

#[path = "../../../xen-like-hv/core/src/sched/heap.rs"]
mod heap;
#[path = "../../../xen-like-hv/core/src/sched/policy.rs"]
pub mod policy;
#[path = "../../../xen-like-hv/core/src/sched/queue.rs"]
mod queue;
#[path = "../../../xen-like-hv/core/src/sched/runstate.rs"]
pub mod runstate;
#[path = "../../../xen-like-hv/core/src/sched/scheduler.rs"]
mod scheduler;
#[path = "../../../xen-like-hv/core/src/sched/state.rs"]
pub mod state;
#[path = "../../../xen-like-hv/core/src/sched/timers.rs"]
pub mod timers;

/// The guest's areas have no part in this.
pub mod areas {
    /// None.
    #[derive(Debug, Default)]
    pub struct Areas {
        none: (),
    }
}

pub use scheduler::{SchedPorts, Scheduler};
pub use state::VcpuSched;
