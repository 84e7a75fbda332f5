//! Who may do what: the only room that knows of privilege.

use pv_abi::errno::Errno;
use pv_abi::ids::DomId;

use crate::domain::Domain;

/// What a domain may do to others and to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// Only to itself.
    Unprivileged,
    /// Control interfaces, other domains' memory, devices: dom0.
    Control,
}

/// Checks that `who` may use the control interfaces (domctl, sysctl, platform and device operations).
///
/// # Errors
/// `EPERM`.
pub fn control(who: &Domain) -> Result<(), Errno> {
    match who.privilege {
        Privilege::Control => Ok(()),
        Privilege::Unprivileged => Err(Errno::Perm),
    }
}

/// Checks that `who` may act on `target`'s memory and events.
///
/// # Errors
/// `EPERM`.
pub fn act_on(who: &Domain, target: DomId) -> Result<(), Errno> {
    if who.id == target { Ok(()) } else { control(who) }
}
