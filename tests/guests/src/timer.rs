//! The timer's virtual interrupt line, taken over from the SDK.

use crate::call;
use crate::{Claim, Trouble};
use pv_abi::evtchn::{EvtchnOp, EvtchnStat, EvtchnStatus, VirqKind};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, EvtchnPort};
use pv_guest_kernel::event::{self, EventChannel};

/// Ports that are looked at; the SDK binds its line when it starts.
const PORTS: u32 = 64;

/// The port of vcpu 0's timer, with the SDK's handler taken off: nothing of the SDK may sleep from now on.
pub fn take() -> Claim<EventChannel> {
    for port in 1..PORTS {
        let mut status = EvtchnStatus { dom: DomId::SELF.raw(), port, ..EvtchnStatus::default() };
        let args = [u64::from(EvtchnOp::Status.raw()), call::address_mut(&mut status)];
        let known = call::call(Hypercall::EventChannelOp, args) == 0;
        let is_timer = status.status == EvtchnStat::Virq.raw() && status.u0 == VirqKind::Timer.raw();
        if known && is_timer && status.vcpu == 0 {
            return event::adopt(EvtchnPort::new(port))
                .map_err(|_| Trouble::error("the timer's port cannot be taken over"));
        }
    }
    Err(Trouble::error("the timer has no port"))
}
