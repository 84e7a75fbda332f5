//! Page-table updates.

/// Part of the room's state.
#[derive(Debug, Default)]
pub struct DomainMm {}

/// Part of the room's state.
#[derive(Debug, Default)]
pub struct VcpuMm {}
