//! A domain as far as the scheduler knows it.

use crate::atomic::AtomicU32;

/// A domain.
#[derive(Debug, Default)]
pub struct Domain {
    pub polling: AtomicU32,
}
