//! Events to oneself.

use crate::stubs::EventStub;
use core::sync::atomic::Ordering;
use pv_abi::evtchn::{EvtchnAllocUnbound, EvtchnClose, EvtchnOp, EvtchnSend, EvtchnStatus, EvtchnUnmask};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, VcpuId};
use pv_guest_kernel::event::{self, EventChannel};
use pv_guest_kernel::shared;
use test_guests::meter::Meter;
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

pub(crate) fn measure(meter: &Meter) -> Claim {
    let own = test_guests::own_domain()?;
    let offered = event::alloc_unbound(own)?;
    let near = event::bind_interdomain(own, offered.port())?;
    masked(meter, &near, &offered)?;
    let pending = |name: &str| meter.row(name, 1, || send(&near));
    // Its bit is set since the row before.
    offered.mask();
    send(&near)?;
    pending("event_send_pending")?;
    unmask(meter, &offered)?;
    upcall(meter, "event_send_with_upcall", &near, &offered)?;
    let ipi = event::bind_ipi(VcpuId::new(0))?;
    upcall(meter, "ipi_to_self_with_upcall", &ipi, &ipi)?;
    through_sdk(meter, &ipi)?;
    meter.row("event_status", 1, || {
        let mut argument =
            EvtchnStatus { dom: DomId::SELF.raw(), port: ipi.port().raw(), ..EvtchnStatus::default() };
        operate(EvtchnOp::Status, &mut argument)
    })?;
    meter.row("event_alloc_and_close", 1, || {
        let mut made = EvtchnAllocUnbound { dom: DomId::SELF.raw(), remote_dom: own.raw(), port: 0 };
        operate(EvtchnOp::AllocUnbound, &mut made)?;
        operate(EvtchnOp::Close, &mut EvtchnClose { port: made.port })
    })
}

#[inline(always)]
fn operate<T>(op: EvtchnOp, argument: &mut T) -> Claim {
    call::succeed(Hypercall::EventChannelOp, [u64::from(op.raw()), call::address_mut(argument)])
}

#[inline(always)]
fn send(channel: &EventChannel) -> Claim {
    operate(EvtchnOp::Send, &mut EvtchnSend { port: channel.port().raw() })
}

/// The word of a port in a bitmap of the shared page, and its bit.
fn place(channel: &EventChannel) -> Claim<(usize, u64)> {
    let port = channel.port().raw();
    let word = usize::try_from(port / 64).map_err(|_| Trouble::error("a port beyond the table"))?;
    Ok((word, 1 << (port % 64)))
}

/// Nobody is told: the bit is set and that is all.
fn masked(meter: &Meter, near: &EventChannel, far: &EventChannel) -> Claim {
    let (word, bit) = place(far)?;
    let pending = shared::info().evtchn_pending.get(word).ok_or(Trouble::error("no such port"))?;
    far.mask();
    meter.row("event_send_masked", 1, || {
        pending.fetch_and(!bit, Ordering::Relaxed);
        send(near)
    })?;
    ensure!(!meter.wants("event_send_masked") || far.is_pending(), "the event does not wait");
    Ok(())
}

/// The hypercall that opens a port with an event waiting, while the vcpu takes none.
fn unmask(meter: &Meter, far: &EventChannel) -> Claim {
    let (word, bit) = place(far)?;
    let mask = shared::info().evtchn_mask.get(word).ok_or(Trouble::error("no such port"))?;
    let was_masked = event::mask();
    let done = meter.row("event_unmask_pending", 1, || {
        mask.fetch_or(bit, Ordering::Relaxed);
        shared::vcpu_info().evtchn_pending_sel.store(0, Ordering::Relaxed);
        shared::vcpu_info().evtchn_upcall_pending.store(0, Ordering::Relaxed);
        operate(EvtchnOp::Unmask, &mut EvtchnUnmask { port: far.port().raw() })
    });
    if !was_masked {
        // What other ports had to say was wiped away above.
        shared::vcpu_info().evtchn_pending_sel.store(u64::MAX, Ordering::SeqCst);
        shared::vcpu_info().evtchn_upcall_pending.store(1, Ordering::SeqCst);
        event::unmask();
    }
    done
}

/// There and back: the hypercall, the upcall into a stub, and its iret.
fn upcall(meter: &Meter, name: &str, near: &EventChannel, far: &EventChannel) -> Claim {
    if !meter.wants(name) {
        return Ok(());
    }
    far.unmask();
    let stub = EventStub::new(far.port())?;
    let mut sent = 0;
    meter.row(name, 1, || {
        sent += 1;
        send(near)
    })?;
    ensure_eq!(stub.seen(), sent, "upcalls of {name}");
    Ok(())
}

/// The same as the SDK's users have it.
fn through_sdk(meter: &Meter, ipi: &EventChannel) -> Claim {
    ipi.unmask();
    meter.row("event_to_self_through_sdk", 1, || {
        ipi.notify()?;
        ensure!(ipi.try_take(), "an event that did not come");
        Ok(())
    })
}
