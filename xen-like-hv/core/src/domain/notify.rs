//! What the scheduler and the lifecycle tell guests by virtual interrupt.

use alloc::sync::Arc;

use pv_abi::errno::Errno;
use pv_abi::evtchn::VirqKind;
use pv_abi::ids::EvtchnPort;

use crate::domain::Domain;
use crate::evtchn;
use crate::hv::Hypervisor;
use crate::port::Machine;
use crate::vcpu::Vcpu;

/// `VIRQ_TIMER` to a vcpu.
pub(crate) fn timer<M: Machine>(hv: &Hypervisor, m: &M, v: &Arc<Vcpu>) {
    evtchn::send_virq(hv, m, v, VirqKind::Timer);
}

/// `VIRQ_DOM_EXC` to the domain that looks after others.
pub(crate) fn domain_exception<M: Machine>(hv: &Hypervisor, m: &M) {
    evtchn::send_global_virq(hv, m, VirqKind::DomExc);
}

/// `VIRQ_CONSOLE` to dom0: somebody has typed.
pub fn console<M: Machine>(hv: &Hypervisor, m: &M) {
    evtchn::send_global_virq(hv, m, VirqKind::Console);
}

/// Whether an event is pending on a port.
///
/// # Errors
/// `EINVAL` for a port that the domain does not have.
pub(crate) fn port_is_pending<M: Machine>(m: &M, dom: &Domain, port: EvtchnPort) -> Result<bool, Errno> {
    evtchn::poll_port(m, dom, port)
}
