//! What follows when a domain has stopped by itself.
//!
//! | state | meaning | moves |
//! |---|---|---|
//! | running | known, has not stopped | stopped → its action |
//! | kept | stopped, and `preserve` says to keep it | destroyed by hand only |
//!
//! A domain that keeps stopping at once is not restarted for ever: after [`MAX_QUICK`] restarts in a
//! row that each lasted less than [`QUICK_NS`] it is destroyed.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::ids::DomId;

use super::control::find_name;
use super::error::Doing;
use super::ports::{DomainInfo, ShutdownReason};
use super::{Env, Error, nodes, teardown};
use crate::cfg::{DomainConfig, RestartAction};

/// A run shorter than this counts as quick.
const QUICK_NS: u64 = 10_000_000_000;
/// So many quick runs in a row are borne.
const MAX_QUICK: u32 = 5;

/// A domain is to be made anew. The kernel has to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartRequest {
    /// What to make.
    pub config: DomainConfig,
    /// To be handed to [`Lifecycle::adopt`] with the new domain.
    pub quick_runs: u32,
}

/// What happened to a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifecycleEvent {
    /// It is gone.
    Destroyed {
        /// Its number.
        dom: DomId,
        /// Its name.
        name: String,
        /// Why it stopped.
        reason: ShutdownReason,
    },
    /// It is gone (or renamed) and has to be made anew.
    Restart {
        /// Its old number.
        dom: DomId,
        /// Why it stopped.
        reason: ShutdownReason,
        /// What to make.
        request: RestartRequest,
    },
    /// It is kept as it is.
    Preserved {
        /// Its number.
        dom: DomId,
        /// Its name.
        name: String,
        /// Why it stopped.
        reason: ShutdownReason,
    },
    /// It restarted too often too soon and is gone.
    GaveUp {
        /// Its number.
        dom: DomId,
        /// Its name.
        name: String,
    },
    /// It should have been ended, and that failed.
    Failed {
        /// Its number.
        dom: DomId,
        /// Why.
        error: Error,
    },
}

struct Managed {
    config: DomainConfig,
    started_ns: u64,
    quick_runs: u32,
    kept: bool,
}

/// The domains this toolstack made and still looks after.
#[derive(Default)]
pub struct Lifecycle {
    managed: BTreeMap<DomId, Managed>,
}

impl Lifecycle {
    /// Looks after a domain from now on. `quick_runs` is 0, or what a restart request said.
    pub fn adopt(&mut self, env: &mut Env<'_>, dom: DomId, config: DomainConfig, quick_runs: u32) {
        let started_ns = env.services.now_ns();
        self.managed.insert(dom, Managed { config, started_ns, quick_runs, kept: false });
    }

    /// Forgets a domain that was destroyed by hand.
    pub fn forget(&mut self, dom: DomId) {
        self.managed.remove(&dom);
    }

    /// The configuration of a domain.
    #[must_use]
    pub fn config(&self, dom: DomId) -> Option<&DomainConfig> {
        self.managed.get(&dom).map(|managed| &managed.config)
    }

    /// Changes what a domain will be when it starts again: it keeps what it was given meanwhile.
    pub fn amend(&mut self, dom: DomId, change: impl FnOnce(&mut DomainConfig)) {
        if let Some(managed) = self.managed.get_mut(&dom) {
            change(&mut managed.config);
        }
    }

    /// Looks at all domains and deals with those that have stopped. To be called when VIRQ_DOM_EXC fires, and some time
    /// after an event that says [`LifecycleEvent::Failed`].
    ///
    /// # Errors
    /// The list of domains could not be had. What fails for one domain is in its event.
    pub fn poll(&mut self, env: &mut Env<'_>) -> Result<Vec<LifecycleEvent>, Error> {
        let list = env.hv.list_domains().doing("listing domains")?;
        // Domains that are gone without us.
        self.managed.retain(|dom, _| list.iter().any(|info| info.domid == *dom));
        Ok(list.iter().filter_map(|info| self.look_at(env, info)).collect())
    }

    fn look_at(&mut self, env: &mut Env<'_>, info: &DomainInfo) -> Option<LifecycleEvent> {
        let reason = info.shutdown.filter(|_| !info.dying)?;
        let managed = self.managed.get_mut(&info.domid).filter(|managed| !managed.kept)?;
        let dom = info.domid;
        let name = managed.config.name.clone();
        let action = action_for(&managed.config, reason);
        if action == RestartAction::Preserve {
            managed.kept = true;
            return Some(LifecycleEvent::Preserved { dom, name, reason });
        }
        let ran_ns = env.services.now_ns().saturating_sub(managed.started_ns);
        let quick_runs = if ran_ns < QUICK_NS { managed.quick_runs.saturating_add(1) } else { 0 };
        if action == RestartAction::Destroy {
            return Some(self.end(env, dom, LifecycleEvent::Destroyed { dom, name, reason }));
        }
        if quick_runs > MAX_QUICK {
            return Some(self.end(env, dom, LifecycleEvent::GaveUp { dom, name }));
        }
        let request = RestartRequest { config: managed.config.clone(), quick_runs };
        let event = LifecycleEvent::Restart { dom, reason, request };
        if action == RestartAction::RenameRestart {
            return Some(self.rename(env, info, event));
        }
        Some(self.end(env, dom, event))
    }

    fn end(&mut self, env: &mut Env<'_>, dom: DomId, event: LifecycleEvent) -> LifecycleEvent {
        match teardown::destroy(env, dom) {
            Ok(()) => {
                self.managed.remove(&dom);
                event
            }
            // Stays managed: the next poll tries again, and whoever polls sees to it that there is one.
            Err(error) => LifecycleEvent::Failed { dom, error },
        }
    }

    /// Keeps the old domain under another name. Its devices are the new one's.
    fn rename(&mut self, env: &mut Env<'_>, info: &DomainInfo, event: LifecycleEvent) -> LifecycleEvent {
        let dom = info.domid;
        let Some(managed) = self.managed.get_mut(&dom) else { return event };
        let new = match free_name(env, &managed.config.name, dom) {
            Ok(name) => name,
            Err(error) => return LifecycleEvent::Failed { dom, error },
        };
        let paths = [nodes::home(dom), nodes::vm(&info.handle)];
        let written =
            paths.iter().try_for_each(|dir| env.store.write(&format!("{dir}/name"), new.as_bytes()));
        match written.doing("renaming the domain") {
            Ok(()) => {
                managed.kept = true;
                managed.config.name = new;
                teardown::release_devices(env, dom);
                event
            }
            Err(error) => LifecycleEvent::Failed { dom, error },
        }
    }
}

/// The name that a domain is kept under: its own with its number, which another may bear already.
fn free_name(env: &mut Env<'_>, name: &str, dom: DomId) -> Result<String, Error> {
    let mut new = format!("{name}-{}", dom.raw());
    while find_name(env, &new)?.is_some() {
        new = format!("{new}-{}", dom.raw());
    }
    Ok(new)
}

const fn action_for(config: &DomainConfig, reason: ShutdownReason) -> RestartAction {
    match reason {
        ShutdownReason::Poweroff => config.on_poweroff,
        ShutdownReason::Reboot => config.on_reboot,
        // There is no saving and restoring yet: a guest that suspends by itself is kept for inspection.
        ShutdownReason::Suspend => RestartAction::Preserve,
        ShutdownReason::Watchdog => config.on_watchdog,
        ShutdownReason::Crash | ShutdownReason::SoftReset | ShutdownReason::Other(_) => config.on_crash,
    }
}
