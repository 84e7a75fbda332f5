//! Looking domains up, listing them, and asking them to do something.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, VcpuId};

use super::error::Doing;
use super::ports::DomainInfo;
use super::{Env, Error, nodes};
use crate::ctl::render::{NamedDomain, NamedVcpu};

/// What a guest can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `poweroff`
    Poweroff,
    /// `reboot`
    Reboot,
}

/// Writes what xenstore shall say about dom0 itself.
///
/// # Errors
/// The store's refusal.
pub fn init_dom0(env: &mut Env<'_>) -> Result<(), Error> {
    let home = nodes::home(DomId::DOM0);
    for (name, value) in [("name", "Domain-0"), ("domid", "0")] {
        env.store.write(&format!("{home}/{name}"), value.as_bytes()).doing("writing xenstore")?;
    }
    Ok(())
}

/// A domain's name, or `(null)` as `xl` says.
pub fn domain_name(env: &mut Env<'_>, dom: DomId) -> String {
    let value = env.store.read(&format!("{}/name", nodes::home(dom)));
    let name = value.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    name.unwrap_or_else(|| "(null)".to_string())
}

/// The domain of a name.
pub(super) fn find_name(env: &mut Env<'_>, name: &str) -> Result<Option<DomId>, Error> {
    for info in all(env)? {
        if domain_name(env, info.domid) == name {
            return Ok(Some(info.domid));
        }
    }
    Ok(None)
}

fn all(env: &mut Env<'_>) -> Result<Vec<DomainInfo>, Error> {
    env.hv.list_domains().doing("listing domains")
}

/// The domain of a number or name, as a user gives it.
///
/// # Errors
/// `NoSuchDomain`.
pub fn resolve(env: &mut Env<'_>, given: &str) -> Result<DomId, Error> {
    let no_such = || Error::NoSuchDomain(given.to_string());
    let is_number = !given.is_empty() && given.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        return find_name(env, given)?.ok_or_else(no_such);
    }
    let dom = DomId::new(given.parse().map_err(|_| no_such())?);
    let known = all(env)?.iter().any(|info| info.domid == dom);
    if known { Ok(dom) } else { Err(no_such()) }
}

/// ESRCH means that the domain is gone.
pub(super) fn missing(dom: DomId, errno: Errno) -> Error {
    match errno {
        Errno::Srch => Error::NoSuchDomain(dom.raw().to_string()),
        errno => Error::Refused { doing: "asking for the domain", errno },
    }
}

/// All domains, or one.
///
/// # Errors
/// The hypervisor's refusal; `NoSuchDomain`.
pub fn list(env: &mut Env<'_>, only: Option<DomId>) -> Result<Vec<NamedDomain>, Error> {
    let mut list = Vec::new();
    for info in all(env)? {
        if only.is_none_or(|dom| dom == info.domid) {
            list.push(NamedDomain { name: domain_name(env, info.domid), info });
        }
    }
    match only {
        Some(dom) if list.is_empty() => Err(Error::NoSuchDomain(dom.raw().to_string())),
        _ => Ok(list),
    }
}

/// Vcpus of all domains, or of one.
///
/// # Errors
/// The hypervisor's refusal; `NoSuchDomain`.
pub fn vcpu_list(env: &mut Env<'_>, only: Option<DomId>) -> Result<Vec<NamedVcpu>, Error> {
    let mut vcpus = Vec::new();
    for NamedDomain { name, info } in list(env, only)? {
        // A domain without vcpus has an impossible highest number; a real one stays far below this.
        let count = info.max_vcpu_id.checked_add(1).filter(|&count| count <= 8192).unwrap_or(0);
        for vcpu in 0..count {
            match env.hv.vcpu_status(info.domid, VcpuId::new(vcpu)) {
                Ok(status) => {
                    vcpus.push(NamedVcpu { name: name.clone(), domid: info.domid.raw(), vcpu, status });
                }
                // Never brought into being, or gone meanwhile.
                Err(Errno::Srch | Errno::NoEnt | Errno::Inval) => {}
                Err(errno) => return Err(Error::Refused { doing: "asking for a vcpu", errno }),
            }
        }
    }
    Ok(vcpus)
}

/// Stops running a domain.
///
/// # Errors
/// `IsDom0`, `NoSuchDomain`, or the hypervisor's refusal.
pub fn pause(env: &mut Env<'_>, dom: DomId) -> Result<(), Error> {
    if dom == DomId::DOM0 {
        return Err(Error::IsDom0);
    }
    env.hv.pause(dom).map_err(|errno| missing(dom, errno))
}

/// Goes on running it.
///
/// # Errors
/// `NoSuchDomain`, or the hypervisor's refusal.
pub fn unpause(env: &mut Env<'_>, dom: DomId) -> Result<(), Error> {
    env.hv.unpause(dom).map_err(|errno| missing(dom, errno))
}

/// Asks a guest to stop; it does when and if it likes.
///
/// # Errors
/// `IsDom0`, `NoSuchDomain`, `NotRunning`, or the store's refusal.
pub fn request_stop(env: &mut Env<'_>, dom: DomId, stop: Stop) -> Result<(), Error> {
    if dom == DomId::DOM0 {
        return Err(Error::IsDom0);
    }
    let info = env.hv.domain_info(dom).map_err(|errno| missing(dom, errno))?;
    if info.dying || info.shutdown.is_some() {
        return Err(Error::NotRunning(dom));
    }
    let word = match stop {
        Stop::Poweroff => "poweroff",
        Stop::Reboot => "reboot",
    };
    let node = format!("{}/control/shutdown", nodes::home(dom));
    env.store.write(&node, word.as_bytes()).doing("writing xenstore")
}
