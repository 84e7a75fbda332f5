//! What a hypercall handler is given.

use alloc::sync::Arc;

use crate::domain::Domain;
use crate::error::Exit;
use crate::hv::Hypervisor;
use crate::port::Machine;
use crate::regs::UserRegs;
use crate::vcpu::Vcpu;

/// One entry from a guest: who called, with which registers, on which machine.
#[derive(Debug)]
pub struct Cx<'a, M: Machine> {
    /// All state of the hypervisor.
    pub hv: &'a Hypervisor,
    /// The machine.
    pub m: &'a M,
    /// The calling domain.
    pub dom: &'a Arc<Domain>,
    /// The calling vcpu; it runs on this pcpu.
    pub vcpu: &'a Arc<Vcpu>,
    /// The guest's registers.
    pub regs: &'a mut UserRegs,
    /// How a call ends that does not simply return a word; see [`Reply`](crate::error::Reply).
    pub exit: Exit,
}

impl<'a, M: Machine> Cx<'a, M> {
    /// An entry.
    pub const fn new(
        hv: &'a Hypervisor,
        m: &'a M,
        dom: &'a Arc<Domain>,
        vcpu: &'a Arc<Vcpu>,
        regs: &'a mut UserRegs,
    ) -> Self {
        Self { hv, m, dom, vcpu, regs, exit: Exit::RegsReplaced }
    }
}
