//! Requests to one pcpu that one act of it serves, however many there are.
//!
//! Whoever wants something draws a ticket and waits until it is served. The pcpu serves all tickets drawn so far at once:
//! it looks at the count first, acts, and then notes what it had seen. A ticket that is drawn during the act waits for the
//! next one.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use crate::atomic::AtomicU64;

/// The requests to one pcpu.
#[derive(Debug, Default)]
pub struct Tickets {
    /// The last ticket drawn, by anybody.
    drawn: AtomicU64,
    /// The last ticket served; written by the pcpu itself.
    served: AtomicU64,
}

impl Tickets {
    /// Without requests.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self { drawn: AtomicU64::new(0), served: AtomicU64::new(0) }
    }

    /// Asks; the caller then tells the pcpu, and waits for the ticket.
    #[must_use]
    pub fn draw(&self) -> u64 {
        self.drawn.fetch_add(1, SeqCst) + 1
    }

    /// Serves all tickets drawn so far by one `act`. Called by the pcpu itself.
    #[inline]
    pub fn serve(&self, act: impl FnOnce()) {
        let wanted = self.drawn.load(SeqCst);
        if self.served.load(Relaxed) != wanted {
            act();
            self.served.store(wanted, SeqCst);
        }
    }

    /// Whether a ticket was served.
    #[must_use]
    pub fn is_served(&self, ticket: u64) -> bool {
        self.served() >= ticket
    }

    /// The last ticket served.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(SeqCst)
    }
}
