//! Pirqs of messages.
//!
//! A message has a pirq, a vector and its place in the device, and all three are taken and given back together, under the
//! lock of PCI devices. Where the domain binds the pirq the message is unmasked, where it closes the port it is masked.

use pv_abi::errno::Errno;

use super::{Line, NO_PORT};
use crate::access;
use crate::domain::Domain;
use crate::hv::Hypervisor;
use crate::pci::Address;
use crate::pci::message::Which;
use crate::port::{Interrupts, Message};

/// Gives a device's message a pirq of `dom`, masked: `wanted`, or the highest that is free.
///
/// # Errors
/// `EPERM` where the domain may not have interrupts; what [`crate::pci`] says of the device: `ENODEV`, `EINVAL`, `EEXIST`,
/// `EBUSY`, `ENXIO`, `ENOMEM`; `EINVAL` where `wanted` is none of a message, `EEXIST` where it is in use; `ENOSPC` where no
/// pirq or vector is free.
pub fn map(
    hv: &Hypervisor,
    m: &impl Interrupts,
    dom: &Domain,
    (at, which): (Address, Which),
    wanted: Option<u32>,
) -> Result<u32, Errno> {
    access::control(dom)?;
    let mut devices = hv.pci.lock();
    devices.prepare(&hv.frames, m, at, which)?;
    match take(hv, m, dom, wanted) {
        Ok((pirq, message)) => {
            devices.install(&hv.frames, m, (at, which), pirq, message);
            Ok(pirq)
        }
        Err(e) => {
            devices.settle(&hv.frames, at);
            Err(e)
        }
    }
}

/// A pirq and a vector for it.
fn take(
    hv: &Hypervisor,
    m: &impl Interrupts,
    dom: &Domain,
    wanted: Option<u32>,
) -> Result<(u32, Message), Errno> {
    let range = m.nr_gsis()..m.nr_pirqs();
    let mut lines = hv.lines.lines.lock();
    let pirq = match wanted {
        Some(pirq) if !range.contains(&pirq) => return Err(Errno::Inval),
        Some(pirq) => pirq,
        None => range.rev().find(|pirq| !lines.contains_key(pirq)).ok_or(Errno::NoSpc)?,
    };
    if lines.get(&pirq).is_some_and(|line| line.owner != dom.id || !line.held_back) {
        return Err(Errno::Exist);
    }
    let message = m.open_message(pirq).ok_or(Errno::NoSpc)?;
    let line = Line { owner: dom.id, port: NO_PORT, held_back: false, in_service: false };
    lines.insert(pirq, line);
    Ok((pirq, message))
}

/// `PHYSDEVOP_get_free_pirq` for a message: a pirq that [`map`] may be asked for, and nobody else gets.
///
/// # Errors
/// `EPERM`; `ENOSPC`.
pub fn reserve(hv: &Hypervisor, m: &impl Interrupts, dom: &Domain) -> Result<u32, Errno> {
    access::control(dom)?;
    let mut lines = hv.lines.lines.lock();
    let free = (m.nr_gsis()..m.nr_pirqs()).rev().find(|pirq| !lines.contains_key(pirq));
    let pirq = free.ok_or(Errno::NoSpc)?;
    lines.insert(pirq, Line { owner: dom.id, port: NO_PORT, held_back: true, in_service: false });
    Ok(pirq)
}

/// Takes a pirq away from `dom`, with what it stands for.
///
/// # Errors
/// `EINVAL` where the domain does not have it or a port is bound to it.
pub(super) fn unmap(hv: &Hypervisor, m: &impl Interrupts, dom: &Domain, pirq: u32) -> Result<(), Errno> {
    let mut devices = hv.pci.lock();
    {
        let mut lines = hv.lines.lines.lock();
        let line = lines.get(&pirq).filter(|line| line.owner == dom.id && line.port == NO_PORT);
        line.ok_or(Errno::Inval)?;
        lines.remove(&pirq);
    }
    devices.release(&hv.frames, m, pirq);
    // After the device can send no more; what is on its way finds no vector.
    m.close_message(pirq);
    Ok(())
}

/// Masks or unmasks the message of a pirq as it is bound now: others may have bound or closed it meanwhile.
pub(super) fn follow_binding(hv: &Hypervisor, m: &impl Interrupts, pirq: u32) {
    let mut devices = hv.pci.lock();
    let bound = hv.lines.lines.lock().get(&pirq).is_some_and(|line| line.port != NO_PORT);
    devices.set_mask(&hv.frames, m, pirq, !bound);
}

/// Takes all messages from a domain that dies; its ports are closed already.
pub(super) fn release_all(hv: &Hypervisor, m: &impl Interrupts, dom: &Domain) {
    let next = |from: u32| {
        let lines = hv.lines.lines.lock();
        lines.range(from..).find(|(_, line)| line.owner == dom.id).map(|(&pirq, _)| pirq)
    };
    let mut from = m.nr_gsis();
    while let Some(pirq) = next(from) {
        // One that another control domain has taken away meanwhile is gone; the others must go too.
        let _gone = unmap(hv, m, dom, pirq);
        from = pirq.saturating_add(1);
    }
}
