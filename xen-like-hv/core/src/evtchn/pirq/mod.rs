//! Physical interrupts that a domain's drivers use: lines, and messages of PCI devices.
//!
//! A pirq is a domain's name for one. That of a line is the number of the global system interrupt itself; the numbers behind
//! those of lines are for messages ([`message`]). They belong to the domain that mapped them; only a control domain may.
//!
//! | state | by | then |
//! |---|---|---|
//! | unmapped | `PHYSDEVOP_map_pirq` | mapped: routed, masked |
//! | mapped | `EVTCHNOP_bind_pirq` | bound: unmasked |
//! | bound | the line fires | pending; a level-triggered line stays masked until the guest's EOI |
//! | bound | `EVTCHNOP_close` | mapped, masked |
//! | mapped | `PHYSDEVOP_unmap_pirq` | unmapped |
//! | unmapped | `PHYSDEVOP_get_free_pirq` for a message | held back, until it is mapped or unmapped |
//!
//! Locks: the table of lines has rank `IRQ`, above that of event channels and of PCI devices; no port changes while it is held.

pub mod message;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use hv_sync::{SpinLock, rank};
use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort};

use super::bind;
use super::send::{self, EventPorts};
use super::table::PortState;
use crate::access;
use crate::domain::Domain;
use crate::hv::Hypervisor;
use crate::port::{Frames, GsiConfig, Interrupts};

/// A line that somebody has mapped.
#[derive(Clone, Copy, Debug)]
struct Line {
    owner: DomId,
    /// Port 0 is none.
    port: EvtchnPort,
    /// The domain has its number and cannot bind it: it is the hypervisor's own, or a message to come.
    held_back: bool,
    /// Fired, and not acknowledged by the guest.
    in_service: bool,
}

/// All lines that are mapped, by GSI.
#[derive(Debug)]
pub struct LineTable {
    lines: SpinLock<BTreeMap<u32, Line>>,
}

impl Default for LineTable {
    fn default() -> Self {
        Self { lines: SpinLock::new(rank::IRQ, BTreeMap::new()) }
    }
}

const NO_PORT: EvtchnPort = EvtchnPort::new(0);

/// Maps a line for `dom`; returns its pirq. Mapping a line again that the domain has already is a success, and so is one
/// that the hypervisor uses (its serial port): a dom0 names every line that ACPI lists, and [`bind_pirq`] refuses it.
///
/// # Errors
/// `EPERM` where the domain may not have lines; `EINVAL` where there is none of that number; `EBUSY` where another
/// domain uses it.
pub fn map(hv: &Hypervisor, m: &impl Interrupts, dom: &Domain, gsi: u32) -> Result<u32, Errno> {
    access::control(dom)?;
    if gsi >= m.nr_gsis() {
        return Err(Errno::Inval);
    }
    // Held until the line is there: a second call must not find it free, route it anew and forget its port.
    let mut lines = hv.lines.lines.lock();
    match lines.get(&gsi) {
        Some(line) if line.owner == dom.id => Ok(gsi),
        Some(_) => Err(Errno::Busy),
        None => {
            let held_back = m.route_gsi(gsi, GsiConfig::default()).is_err();
            lines.insert(gsi, Line { owner: dom.id, port: NO_PORT, held_back, in_service: false });
            Ok(gsi)
        }
    }
}

/// Tells trigger and polarity of a line, as dom0 has read them from ACPI. A line of the hypervisor's own is set up already
/// and stays as it is.
///
/// # Errors
/// `EPERM`, `EINVAL` as for [`map`]; `EEXIST` for one that is bound, which stays as it is: a dom0 names a line for each
/// device that shares it, and routing masks it.
pub fn setup(
    hv: &Hypervisor,
    m: &impl Interrupts,
    dom: &Domain,
    gsi: u32,
    config: GsiConfig,
) -> Result<(), Errno> {
    access::control(dom)?;
    if gsi >= m.nr_gsis() {
        return Err(Errno::Inval);
    }
    let lines = hv.lines.lines.lock();
    if lines.get(&gsi).is_some_and(|line| line.port != NO_PORT) {
        return Err(Errno::Exist);
    }
    let _own = m.route_gsi(gsi, config);
    Ok(())
}

/// Takes a line away from `dom`.
///
/// # Errors
/// `EINVAL` where the domain does not have it or a port is bound to it.
pub fn unmap(hv: &Hypervisor, m: &impl Interrupts, dom: &Domain, pirq: u32) -> Result<(), Errno> {
    if pirq >= m.nr_gsis() {
        return message::unmap(hv, m, dom, pirq);
    }
    let mut lines = hv.lines.lines.lock();
    match lines.get(&pirq) {
        Some(line) if line.owner == dom.id && line.port == NO_PORT => {
            let held_back = line.held_back;
            lines.remove(&pirq);
            if !held_back {
                m.mask_gsi(pirq);
            }
            Ok(())
        }
        _ => Err(Errno::Inval),
    }
}

/// `EVTCHNOP_bind_pirq`.
///
/// # Errors
/// `EINVAL` where there is no such line; `EPERM` where the domain may not use it; `EEXIST` where it is bound; `EINVAL`
/// where the domain has not mapped it or it is the hypervisor's own; `EINVAL`, `ENOSPC`, `ENOMEM` as for every new port.
pub fn bind_pirq(
    hv: &Hypervisor,
    m: &(impl EventPorts + Interrupts),
    dom: &Arc<Domain>,
    pirq: u32,
) -> Result<EvtchnPort, Errno> {
    check_line(m, pirq)?;
    access::control(dom)?;
    check_unbound(hv, dom, pirq)?;
    let port = bind::bind_pirq_port(m, dom, pirq)?;
    let bound = {
        let mut lines = hv.lines.lines.lock();
        match lines.get_mut(&pirq) {
            Some(line) if line.owner == dom.id && line.port == NO_PORT && !line.held_back => {
                line.port = port;
                line.in_service = false;
                dom.events.eoi_map.tell(m, pirq, m.gsi_is_level(pirq));
                true
            }
            // Somebody was faster between the check and here.
            _ => false,
        }
    };
    if bound {
        if pirq < m.nr_gsis() {
            m.unmask_gsi(pirq);
        } else {
            message::follow_binding(hv, m, pirq);
        }
        return Ok(port);
    }
    let _closed = super::close::close(hv, m, dom, port);
    Err(Errno::Exist)
}

fn check_unbound(hv: &Hypervisor, dom: &Domain, pirq: u32) -> Result<(), Errno> {
    match hv.lines.lines.lock().get(&pirq) {
        Some(line) if line.owner == dom.id && line.port != NO_PORT => Err(Errno::Exist),
        Some(line) if line.owner == dom.id && !line.held_back => Ok(()),
        _ => Err(Errno::Inval),
    }
}

/// The port of a line was closed.
pub(super) fn unbound(hv: &Hypervisor, m: &impl Interrupts, dom: &Domain, pirq: u32) {
    let is_line = pirq < m.nr_gsis();
    {
        let mut lines = hv.lines.lines.lock();
        let Some(line) = lines.get_mut(&pirq).filter(|line| line.owner == dom.id) else { return };
        line.port = NO_PORT;
        line.in_service = false;
        if is_line {
            m.mask_gsi(pirq);
        }
    }
    if !is_line {
        message::follow_binding(hv, m, pirq);
    }
}

/// A line has fired: what the exit loop calls for each interrupt that the controller's handler has noted. The handler
/// has masked the line if it is level-triggered.
pub fn fired(hv: &Hypervisor, m: &(impl EventPorts + Interrupts), gsi: u32) {
    let (owner, port) = {
        let mut lines = hv.lines.lines.lock();
        let Some(line) = lines.get_mut(&gsi).filter(|line| line.port != NO_PORT) else { return };
        line.in_service = true;
        (line.owner, line.port)
    };
    let Some(dom) = hv.domains.get(owner) else { return };
    let table = dom.events.lock();
    let Ok(p) = table.port(port) else { return };
    // The port may have been closed and given to something else since.
    if matches!(p.state, PortState::Pirq(line) if line == gsi) {
        send::set_pending(hv, m, &dom, p.target.as_ref(), port);
    }
}

/// `PHYSDEVOP_eoi`: the guest has served the device, the line may fire again. Where the domain shares its map of lines as
/// version 1, the line's port is unmasked first.
///
/// # Errors
/// `EINVAL` where the domain has not bound it.
pub fn eoi(
    hv: &Hypervisor,
    m: &(impl EventPorts + Interrupts),
    dom: &Domain,
    pirq: u32,
) -> Result<(), Errno> {
    if dom.events.eoi_map.unmasks() {
        // Ports come before lines in the order of locks.
        send::unmask(hv, m, dom, bound_port(hv, dom, pirq)?)?;
    }
    let mut lines = hv.lines.lines.lock();
    let line = lines.get_mut(&pirq).filter(|line| line.owner == dom.id && line.port != NO_PORT);
    let line = line.ok_or(Errno::Inval)?;
    if core::mem::take(&mut line.in_service) && m.gsi_is_level(pirq) {
        m.unmask_gsi(pirq);
    }
    Ok(())
}

/// The port of a line that the domain has bound.
fn bound_port(hv: &Hypervisor, dom: &Domain, pirq: u32) -> Result<EvtchnPort, Errno> {
    let lines = hv.lines.lines.lock();
    let line = lines.get(&pirq).filter(|line| line.owner == dom.id && line.port != NO_PORT);
    line.map(|line| line.port).ok_or(Errno::Inval)
}

/// Writes the bits of all lines that the domain has bound into its map.
pub(super) fn tell_all(hv: &Hypervisor, m: &(impl Frames + Interrupts), dom: &Domain) {
    let lines = hv.lines.lines.lock();
    for (&pirq, _) in lines.iter().filter(|(_, line)| line.owner == dom.id && line.port != NO_PORT) {
        dom.events.eoi_map.tell(m, pirq, m.gsi_is_level(pirq));
    }
}

/// Whether a pirq exists, for `PHYSDEVOP_irq_status_query`; every one of a PV guest wants an EOI.
///
/// # Errors
/// `EINVAL`.
pub(crate) fn check_line(m: &impl Interrupts, pirq: u32) -> Result<(), Errno> {
    if pirq < m.nr_pirqs() { Ok(()) } else { Err(Errno::Inval) }
}

/// The lowest line above the legacy ones that nobody has mapped.
pub fn first_free(hv: &Hypervisor, m: &impl Interrupts) -> Option<u32> {
    let lines = hv.lines.lines.lock();
    (16..m.nr_gsis()).find(|gsi| !lines.contains_key(gsi))
}

/// Takes all lines from a domain that dies; its ports are closed already.
pub(super) fn release_all(hv: &Hypervisor, m: &impl Interrupts, dom: &Domain) {
    message::release_all(hv, m, dom);
    let mut lines = hv.lines.lines.lock();
    lines.retain(|&gsi, line| {
        if line.owner != dom.id {
            return true;
        }
        if !line.held_back {
            m.mask_gsi(gsi);
        }
        false
    });
}

/// Whether a bound line's port is what it should be, for the audit: `(gsi, port)` of the lines of a domain.
pub(super) fn bound_lines(hv: &Hypervisor, dom: DomId) -> alloc::vec::Vec<(u32, EvtchnPort)> {
    let lines = hv.lines.lines.lock();
    lines
        .iter()
        .filter(|(_, line)| line.owner == dom && line.port != NO_PORT)
        .map(|(&gsi, line)| (gsi, line.port))
        .collect()
}
