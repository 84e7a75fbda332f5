//! Scheduling and timers.

/// Part of the room's state.
#[derive(Debug, Default)]
pub struct Scheduler {}

/// Part of the room's state.
#[derive(Debug, Default)]
pub struct VcpuSched {}
