//! State of every frame.

/// Part of the room's state.
#[derive(Debug, Default)]
pub struct FrameTable {}

/// Part of the room's state.
#[derive(Debug, Default)]
pub struct DomainMemory {}
