//! What the scheduler and the lifecycle tell guests by virtual interrupt.

use alloc::sync::Arc;

use crate::hv::Hypervisor;
use crate::port::Machine;
use crate::vcpu::Vcpu;

/// `VIRQ_TIMER` to a vcpu.
pub(crate) fn timer<M: Machine>(hv: &Hypervisor, m: &M, v: &Arc<Vcpu>) {
    let _ = (hv, m, v);
}

/// `VIRQ_DOM_EXC` to the domain that looks after others.
pub(crate) fn domain_exception<M: Machine>(hv: &Hypervisor, m: &M) {
    let _ = (hv, m);
}
