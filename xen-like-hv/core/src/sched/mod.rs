//! Scheduling and timers.

use crate::port::CpuMask;

/// Who runs where.
#[derive(Debug, Default)]
pub struct Scheduler {}

/// Run state of a vcpu.
#[derive(Debug, Default)]
pub struct VcpuSched {}

impl VcpuSched {
    /// The pcpu on which the vcpu runs or whose registers still hold its state, as a set.
    #[must_use]
    pub fn running_on(&self) -> CpuMask {
        CpuMask::EMPTY
    }
}
