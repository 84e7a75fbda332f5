//! Grant tables.

/// Part of the room's state.
#[derive(Debug, Default)]
pub struct DomainGrants {}
