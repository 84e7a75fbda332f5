//! A vcpu as far as the scheduler knows it, with registers that only one pcpu at a time may touch.

use std::sync::Arc;

use crate::domain::Domain;
use crate::sched::VcpuSched;

/// A vcpu.
#[derive(Debug, Default)]
pub struct Vcpu {
    pub sched: VcpuSched,
    /// Its registers: loom fails where two pcpus touch them with nothing between that orders them.
    pub registers: Registers,
}

/// What is saved and loaded.
#[derive(Debug)]
pub struct Registers(loom::cell::UnsafeCell<()>);

impl Default for Registers {
    fn default() -> Self {
        Self(loom::cell::UnsafeCell::new(()))
    }
}

impl Registers {
    /// Loads or saves them.
    pub fn touch(&self) {
        self.0.with_mut(|_| ());
    }
}

impl Vcpu {
    pub fn domain(&self) -> Option<Arc<Domain>> {
        None
    }
}
