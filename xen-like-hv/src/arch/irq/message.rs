//! Vectors for messages of devices. A message goes to the boot processor, like the lines of guests.

use super::ioapic::{self, MAX_GSIS};
use crate::percpu;
use core::sync::atomic::Ordering;
use hv_core::port::Message;

/// Pirqs: lines and messages together share the room for what has arrived ([`percpu::PerCpu::pirq_pending`]).
pub(crate) const MAX_PIRQS: u32 = MAX_GSIS;

/// Where a message is an interrupt (SDM volume 3, section 11.11.1): the destination's id follows at bit 12, one pcpu by its
/// id, and all other bits are 0.
const ADDRESS: u64 = 0xfee0_0000;
const DESTINATION_SHIFT: u32 = 12;
/// Largest id of a local APIC that an address has room for; 255 is all of them.
const MAX_DESTINATION: u32 = 254;

/// Gives a pirq a vector; what its device is to write where, by which the interrupt is edge-triggered and fixed.
pub(crate) fn open(pirq: u32) -> Option<Message> {
    let destination = percpu::record(0).apic_id.load(Ordering::Relaxed);
    if destination > MAX_DESTINATION || pirq >= MAX_PIRQS {
        return None;
    }
    let data = ioapic::open_vector(pirq)?;
    Some(Message { address: ADDRESS | u64::from(destination) << DESTINATION_SHIFT, data })
}

/// Takes the vector of a pirq back.
pub(crate) fn close(pirq: u32) {
    ioapic::close_vector(pirq);
}
