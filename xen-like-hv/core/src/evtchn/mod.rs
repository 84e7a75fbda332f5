//! Event channels: the interrupts of PV guests.
//!
//! A *port* is a domain's index into its channels. What a port can be, and how it gets there:
//!
//! | state | made by | notified by | leaves by |
//! |---|---|---|---|
//! | free | | | any bind |
//! | reserved | port 0, for good | | |
//! | unbound (domid) | `alloc_unbound`; the other end closes | nobody: a send is dropped | `bind_interdomain` of that domain; close |
//! | interdomain (domain, port) | `bind_interdomain`, both ends | the other end's send | close of either end |
//! | virq (line) | `bind_virq` | [`send_virq`], [`send_global_virq`] | close |
//! | ipi | `bind_ipi` | the domain's own send | close |
//! | pirq (line) | `bind_pirq` | the device: [`pirq::fired`] | close |
//!
//! Every bind takes the lowest free port. A port that was valid once stays valid (XSA-338). A dying domain gets no new
//! port; closing all of them is preemptible (XSA-344).
//!
//! Delivery uses the two-level ABI (pending bit, selector, upcall: [`send`](mod@send)) until the domain asks for the FIFO ABI
//! (event words and queues: [`fifo`]).
//!
//! | file | holds |
//! |---|---|
//! | `op` | the hypercall |
//! | `table` | ports, free list, locks |
//! | `bind` | making, describing and moving ports |
//! | `close` | closing one, closing all |
//! | `send` | delivery |
//! | `virq` | virtual lines and who gets the global ones |
//! | [`fifo`] | the FIFO ABI: queues, event words, the switch |
//! | [`pirq`] | physical lines |
//! | `eoi_map` | the page that tells which of them want an EOI |
//! | `vcpu_info` | the vcpu's own page |
//! | `audit` | the recount |
//!
//! Locks: one of rank `EVTCHN` per domain; both ends of a channel in ascending order of domain ids. A sender holds its
//! own domain's while it tells the target.

mod audit;
mod bind;
mod close;
mod eoi_map;
pub mod fifo;
mod op;
pub mod pirq;
mod send;
mod table;
#[cfg(test)]
mod tests;
mod vcpu_info;
mod virq;
mod words;

pub use audit::audit;
pub use bind::{alloc_unbound, bind_interdomain, bind_ipi, bind_vcpu, bind_virq, status, virq_is_bound};
pub use close::{Preempted, close, destroy, reset};
pub use eoi_map::{EoiMapVersion, register as register_eoi_map};
pub use op::event_channel_op;
pub(crate) use op::{is_send, is_status, is_unmask, send_op, status_op, unmask_op};
pub use send::{EventPorts, poll_port, send, send_domain_virq, send_global_virq, send_virq, unmask};
pub use table::DomainEvents;
pub use vcpu_info::VcpuEvents;
pub use virq::{GlobalVirqs, is_global};

/// The queues of a domain, as far as its first ports go: for the models.
#[cfg(test)]
pub(crate) fn hash_queues(dom: &crate::domain::Domain, ports: u32, into: &mut impl core::hash::Hasher) {
    dom.events.fifo.hash(ports, into);
}
