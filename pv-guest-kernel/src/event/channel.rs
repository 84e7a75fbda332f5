//! A port and what can be done with it.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use pv_abi::evtchn::{
    BindPirqFlags, EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi, EvtchnBindPirq, EvtchnBindVcpu,
    EvtchnBindVirq, EvtchnClose, EvtchnSend, EvtchnStatus, EvtchnUnmask, VirqKind,
};
use pv_abi::ids::{DomId, EvtchnPort, VcpuId};

use super::hold::{self, Bits};
use super::{Handler, Sink};
use crate::hypercall::typed::evtchn;
use crate::hypercall::{Errno, Result};
use crate::sync::Masked;
use crate::time;

/// A bound event channel. Dropping it closes the port, unless it was [adopted](adopt).
pub struct EventChannel {
    port: EvtchnPort,
    sink: &'static Sink,
    close_on_drop: AtomicBool,
}

/// What the hypervisor says about a port.
pub type Status = EvtchnStatus;

/// Notifies the other end of `port`.
#[inline]
pub(super) fn send(port: EvtchnPort) -> Result {
    evtchn(EvtchnSend { port: port.raw() }).map(drop)
}

/// Makes a port by `call` and takes possession of it. Events are masked meanwhile, so that one that comes in at once finds
/// its owner.
fn bind(vcpu: VcpuId, call: impl FnOnce() -> Result<u32>) -> Result<EventChannel> {
    let _masked = Masked::new();
    let port = EvtchnPort::new(call()?);
    // Queues could have more ports than this kernel has places for.
    let Some(sink) = super::register(port, vcpu) else {
        let _ = evtchn(EvtchnClose { port: port.raw() });
        return Err(Errno::Range);
    };
    let channel = EventChannel { port, sink, close_on_drop: AtomicBool::new(true) };
    // A port may still be masked from an earlier use.
    channel.unmask();
    Ok(channel)
}

/// What the hypervisor says about a port of ours.
pub fn status(port: EvtchnPort) -> Result<Status> {
    evtchn(EvtchnStatus { dom: DomId::SELF.raw(), port: port.raw(), ..EvtchnStatus::default() })
}

/// A port that `remote` may connect to.
pub fn alloc_unbound(remote: DomId) -> Result<EventChannel> {
    bind(VcpuId::new(0), || alloc_unbound_for(DomId::SELF, remote).map(EvtchnPort::raw))
}

/// Makes a port in `owner` that `remote` may connect to. For a toolstack; for oneself use [`alloc_unbound`].
pub fn alloc_unbound_for(owner: DomId, remote: DomId) -> Result<EvtchnPort> {
    let argument = EvtchnAllocUnbound { dom: owner.raw(), remote_dom: remote.raw(), port: 0 };
    evtchn(argument).map(|done| EvtchnPort::new(done.port))
}

/// Connects to the port that `remote` left for us.
pub fn bind_interdomain(remote: DomId, remote_port: EvtchnPort) -> Result<EventChannel> {
    let argument = EvtchnBindInterdomain {
        remote_dom: remote.raw(),
        remote_port: remote_port.raw(),
        ..EvtchnBindInterdomain::default()
    };
    bind(VcpuId::new(0), || evtchn(argument).map(|done| done.local_port))
}

/// A port for a virtual interrupt line of `vcpu`. Lines that exist once per domain take vcpu 0.
pub fn bind_virq(line: VirqKind, vcpu: VcpuId) -> Result<EventChannel> {
    let argument = EvtchnBindVirq { virq: line.raw(), vcpu: vcpu.raw(), port: 0 };
    bind(vcpu, || evtchn(argument).map(|done| done.port))
}

/// A port that notifies `vcpu` when anybody in this domain sends to it.
pub fn bind_ipi(vcpu: VcpuId) -> Result<EventChannel> {
    bind(vcpu, || evtchn(EvtchnBindIpi { vcpu: vcpu.raw(), port: 0 }).map(|done| done.port))
}

/// A port for a physical interrupt line.
pub fn bind_pirq(pirq: u32, flags: BindPirqFlags) -> Result<EventChannel> {
    let argument = EvtchnBindPirq { pirq, flags: flags.bits(), port: 0 };
    bind(VcpuId::new(0), || evtchn(argument).map(|done| done.port))
}

/// Takes over a port that exists already (start_info names two). It stays open when the channel is dropped.
pub fn adopt(port: EvtchnPort) -> Result<EventChannel> {
    let channel = bind(VcpuId::new(0), || Ok(port.raw()))?;
    channel.close_on_drop.store(false, Ordering::Relaxed);
    Ok(channel)
}

/// A port's bits in the shared page, or its event word.
struct Own(EvtchnPort);

impl Bits for Own {
    #[inline]
    fn is_pending(&self) -> bool {
        super::is_port_pending(self.0)
    }

    #[inline]
    fn set_mask(&self, masked: bool) {
        super::set_port_mask(self.0, masked);
    }

    #[inline]
    fn clear_pending(&self) -> bool {
        super::clear_pending(self.0)
    }
}

impl EventChannel {
    /// The port's number.
    #[must_use]
    pub const fn port(&self) -> EvtchnPort {
        self.port
    }

    /// Notifies the other end.
    pub fn notify(&self) -> Result {
        send(self.port)
    }

    /// Waits for the next event. Events that arrived since the last wait count as one.
    pub async fn wait(&self) {
        self.wait_after(true).await;
    }

    /// As [`wait`](Self::wait), for a port that is [held](Self::hold_until_waited): `worked` tells whether there was anything
    /// to do since the last wait. A peer whose events bring no work, again and again, has to wait for the next look.
    pub async fn wait_after(&self, worked: bool) {
        let hold = &self.sink.hold;
        if hold.is_on() {
            if let Some(delay) = hold.turn_ended(worked) {
                time::sleep(delay).await;
            }
            if !self.try_take() && !self.open_or_take() {
                self.sink.notify.wait().await;
            }
            hold.wait_ended();
        } else {
            self.sink.notify.wait().await;
        }
    }

    /// From now on the port is masked from each delivery until somebody [waits](Self::wait) for the next.
    ///
    /// For ports of others who are not trusted: however often they send, each turn of the task that serves the port costs one
    /// upcall at most. Otherwise some vcpus that only send can keep this one in its upcall for ever. Waiting costs no hypercall.
    pub fn hold_until_waited(&self) {
        self.sink.hold.begin();
    }

    /// Opens the port, unless an event waits behind the mask: that is taken then.
    fn open_or_take(&self) -> bool {
        let taken = hold::open_or_take(&Own(self.port));
        if taken {
            self.sink.hold.count();
        }
        taken
    }

    /// Whether an event has arrived since the last wait; if so it is taken.
    pub fn try_take(&self) -> bool {
        self.sink.notify.try_take()
    }

    /// Runs `handler` at every event, with events masked. It replaces the one before.
    pub fn set_handler(&self, handler: impl Fn(EvtchnPort) + Send + Sync + 'static) {
        let handler: Handler = Arc::new(handler);
        let old = self.sink.handler.lock().replace(handler);
        drop(old);
    }

    /// No delivery for this port until [`unmask`](Self::unmask); tells whether it was masked before.
    pub fn mask(&self) -> bool {
        super::set_port_mask(self.port, true)
    }

    /// Opens the port. What came in meanwhile is delivered.
    pub fn unmask(&self) {
        super::set_port_mask(self.port, false);
        if super::is_port_pending(self.port) {
            // The selector bit may be lost, or the place in a queue: the hypervisor makes up for it, but with bitmaps
            // only for a port that it finds masked. A delivery that came in between is merely repeated.
            super::set_port_mask(self.port, true);
            let _ = evtchn(EvtchnUnmask { port: self.port.raw() });
        }
    }

    /// Whether an event is pending and not taken yet. Useful with events masked, after [`crate::sched::poll`].
    #[must_use]
    pub fn is_pending(&self) -> bool {
        super::is_port_pending(self.port)
    }

    /// Has another vcpu notified from now on.
    pub fn bind_vcpu(&self, vcpu: VcpuId) -> Result {
        let argument = EvtchnBindVcpu { port: self.port.raw(), vcpu: vcpu.raw() };
        evtchn(argument)?;
        super::set_owner(self.port, vcpu);
        self.unmask();
        Ok(())
    }

    /// Has the port's events handled before those of ports with a larger number: 0 to 15, 7 at first. ENOSYS with
    /// two-level events, which know no priorities.
    pub fn set_priority(&self, priority: u32) -> Result {
        super::fifo::set_priority(self.port, priority)
    }

    /// What the hypervisor says about the port.
    pub fn status(&self) -> Result<Status> {
        status(self.port)
    }

    /// Keeps the port and its handler for ever.
    pub fn leak(self) -> EvtchnPort {
        let port = self.port;
        core::mem::forget(self);
        port
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        super::unregister(self.sink);
        if self.close_on_drop.load(Ordering::Relaxed) {
            let _ = evtchn(EvtchnClose { port: self.port.raw() });
        }
    }
}
