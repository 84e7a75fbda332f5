//! Destroying a domain, in stages, each of which can be preempted.
//!
//! | stage | what goes |
//! |---|---|
//! | 1 | the domain is marked dying and stands still for good |
//! | 2 | event channels |
//! | 3 | what its vcpus hold: timers, areas, base pointers, descriptor tables |
//! | 4 | page tables and frames |
//! | 5 | what it has mapped of others' grants, its own grant table |
//! | 6 | the number, once nobody else holds a frame of it |
//!
//! Each stage starts where it was left, so that the domctl is simply issued again. Between stage 5 and 6 the domain is a
//! *zombie*: dying, without vcpus that run, kept by what others have mapped. [`reap`] looks after zombies.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::{Domain, notify, vcpu_info};
use crate::entry::descriptors;
use crate::evtchn;
use crate::grant;
use crate::hv::Hypervisor;
use crate::mm::teardown::relinquish;
use crate::port::Machine;

/// More is to be done: call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished;

/// Destroys `dom`, which is not the caller's. A domain that is gone already is gone.
///
/// # Errors
/// [`Unfinished`] where it was preempted.
pub fn destroy<M: Machine>(hv: &Hypervisor, m: &M, dom: &Arc<Domain>) -> Result<(), Unfinished> {
    if dom.begin_dying(hv, m) {
        dom.mem.set_dying();
        hv.domains.zombies.fetch_add(1, SeqCst);
    }
    dom.wait_until_it_stands(hv);
    close_services(hv, m, dom)?;
    release_vcpus(hv, m, dom);
    relinquish(hv, m, dom).map_err(|_| Unfinished)?;
    // After the page tables: a granter that is told that its frame is free finds no reference left on it.
    grant::release_mappings(hv, m, dom).map_err(|_| Unfinished)?;
    grant::release_table(&hv.frames, m, dom).map_err(|_| Unfinished)?;
    if give_up_shared_info(hv, dom) {
        notify::domain_exception(hv, m);
    }
    reap(hv);
    Ok(())
}

/// Gives up the shared-info page, once. Under the lock, so that nobody who writes there finds it gone.
fn give_up_shared_info(hv: &Hypervisor, dom: &Domain) -> bool {
    let _writers_wait = dom.slow.lock();
    let first = !dom.shared_info_gone.swap(true, SeqCst);
    if first {
        hv.frames.free_hypervisor(dom.shared_info);
    }
    first
}

fn close_services<M: Machine>(hv: &Hypervisor, m: &M, dom: &Arc<Domain>) -> Result<(), Unfinished> {
    evtchn::destroy(hv, m, dom).map_err(|_| Unfinished)
}

/// What vcpus hold. There are few of them, so this is not preempted.
fn release_vcpus<M: Machine>(hv: &Hypervisor, m: &M, dom: &Arc<Domain>) {
    for v in dom.each_vcpu() {
        hv.sched.stop_all_timers(&v);
        v.sched.areas.clear();
        vcpu_info::release(&hv.frames, &v);
        descriptors::clear(&hv.frames, m, &v);
    }
}

/// Takes the domains out of the table that nobody holds a frame of any more.
pub fn reap(hv: &Hypervisor) {
    if hv.domains.zombies.load(Relaxed) == 0 {
        return;
    }
    let dead: Vec<Arc<Domain>> = hv
        .domains
        .all()
        .filter(|d| d.is_dying() && d.is_dead() && d.mem.tot_pages() == 0 && d.mem.special_pages() == 0)
        .collect();
    for dom in dead {
        if hv.frames.close_memory(&dom.mem).is_ok() && hv.domains.remove(dom.id) {
            hv.domains.zombies.fetch_sub(1, SeqCst);
            let vcpus = dom.each_vcpu().count();
            hv.sched.unreserve(vcpus);
        }
    }
}
