//! Ending a domain: everybody lets go, the nodes go away, the hypervisor frees the rest.

use super::error::Doing;
use super::{Env, Error, nodes};
use alloc::string::String;
use pv_abi::errno::Errno;
use pv_abi::ids::DomId;

/// Destroys a domain, whatever its state.
///
/// # Errors
/// `IsDom0`, `NoSuchDomain`, or the hypervisor's refusal. Services and nodes are gone even then.
pub fn destroy(env: &mut Env<'_>, dom: DomId) -> Result<(), Error> {
    if dom == DomId::DOM0 {
        return Err(Error::IsDom0);
    }
    let info = env.hv.domain_info(dom).map_err(|errno| super::control::missing(dom, errno))?;
    // It shall not go on while its devices disappear. A domain that is dying already may refuse.
    let _ = env.hv.pause(dom);
    release(env, dom, Some(&info.handle)).doing("destroying the domain")
}

/// Takes everything away that a domain may have. Works at any stage of its making, and goes on when one
/// of the parts fails: the hypervisor's answer is the result.
pub(super) fn release(env: &mut Env<'_>, dom: DomId, handle: Option<&[u8; 16]>) -> Result<(), Errno> {
    release_devices(env, dom);
    env.services.console_detach(dom);
    env.services.store_release(dom);
    remove_nodes(env, [nodes::home(dom)].into_iter().chain(handle.map(nodes::vm)));
    env.store.forget_domain(dom);
    match env.hv.destroy_domain(dom) {
        Err(_) => env.hv.destroy_domain(dom),
        Ok(()) => Ok(()),
    }
}

/// Takes its devices away from a domain that does not run.
pub(super) fn release_devices(env: &mut Env<'_>, dom: DomId) {
    env.services.disks_detach(dom);
    env.services.vifs_detach(dom);
    remove_nodes(env, [nodes::vbd_backends(dom), nodes::vif_backends(dom)].into_iter());
}

fn remove_nodes(env: &mut Env<'_>, paths: impl Iterator<Item = String>) {
    for path in paths {
        if env.store.remove(&path).is_err() {
            // Once more: a second failure leaves a few bytes behind, never a domain.
            let _ = env.store.remove(&path);
        }
    }
}
