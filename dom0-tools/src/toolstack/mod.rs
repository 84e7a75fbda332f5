//! The toolstack: what makes, watches and ends domains.
//!
//! It asks for everything through three ports, bundled in an [`Env`]: [`Hypervisor`] (hypercalls),
//! [`Store`] (xenstore, as dom0 sees it) and [`Services`] (the other parts of dom0 that must let go of
//! a domain before it can be freed).
//!
//! | file | holds |
//! |---|---|
//! | `create` | making a domain, in small steps, with a complete undo at every one of them |
//! | `nodes` | what a domain finds in xenstore |
//! | `teardown` | ending a domain, also the undo of `create` |
//! | `hotplug` | devices that come and go |
//! | `vifs` | the same for network interfaces |
//! | `adjust` | how many vcpus and how much memory it is asked to use |
//! | `control` | list, look up, pause, shut down, … |
//! | `lifecycle` | what follows when a domain has stopped by itself |
//!
//! A domain in the making is paused and has its name in xenstore from the first step on, so that no
//! other can take the name meanwhile.

mod adjust;
mod control;
mod create;
mod error;
#[cfg(test)]
mod fake;
mod hotplug;
mod lifecycle;
mod nodes;
pub mod ports;
mod teardown;
#[cfg(test)]
mod tests;
mod vifs;

pub use adjust::{set_memory, set_vcpus};
pub use control::{Stop, domain_name, init_dom0, list, pause, request_stop, resolve, unpause, vcpu_list};
pub use create::{CreateJob, CreateOptions, MAX_KERNEL, Progress};
pub use error::Error;
pub use hotplug::{
    Device, DeviceKind, DeviceRow, attach_disk, begin_detach, find_disk, has_parted, list_devices, remove,
};
pub use lifecycle::{Lifecycle, LifecycleEvent, RestartRequest};
pub use ports::{Hypervisor, Services, Store};
pub use teardown::destroy;
pub use vifs::{VifRow, attach_vif, find_vif, list_vifs};

/// The ports, as every operation gets them.
pub struct Env<'e> {
    /// Hypercalls.
    pub hv: &'e mut dyn Hypervisor,
    /// xenstore.
    pub store: &'e mut dyn Store,
    /// The rest of dom0.
    pub services: &'e mut dyn Services,
}
