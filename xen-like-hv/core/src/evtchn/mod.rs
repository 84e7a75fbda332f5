//! Event channels.

/// Part of the room's state.
#[derive(Debug, Default)]
pub struct DomainEvents {}

/// Part of the room's state.
#[derive(Debug, Default)]
pub struct VcpuEvents {}
