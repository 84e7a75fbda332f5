//! Flushing before a frame is put to a new use (C.5, I12).

use crate::port::{Cpu, FlushScope, Tlb};

/// Proof that no TLB holds a mapping of a frame from its former use. Only [`before_reuse`] and [`is_done`] make one.
#[derive(Debug)]
#[must_use]
pub struct Flushed {
    _private: (),
}

/// Whether no pcpu has to be flushed for a frame with that stamp.
pub fn is_done(m: &(impl Tlb + Cpu), stamp: u64) -> Option<Flushed> {
    let done = stamp == 0 || seeded!(ZeroesUnflushed) || m.stale_since(m.online(), stamp).is_empty();
    done.then_some(Flushed { _private: () })
}

/// Flushes every pcpu that has had no full flush since `stamp`, the flush clock when the frame's last mapping ended.
/// A stamp of 0 says that the frame was never mapped.
pub fn before_reuse(m: &(impl Tlb + Cpu), stamp: u64) -> Flushed {
    if stamp != 0 && !seeded!(NoFlushBeforeReuse) {
        let stale = m.stale_since(m.online(), stamp);
        if !stale.is_empty() {
            m.flush(stale, FlushScope::All);
        }
    }
    Flushed { _private: () }
}
