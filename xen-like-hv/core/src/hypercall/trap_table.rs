//! `HYPERVISOR_set_trap_table`: the guest's handlers of exceptions and of `int n`.
//!
//! Restart: between entries, with the pointer moved on. The list has no count; an entry with address 0 ends it, and a
//! list that never ends is preempted like any other long work.

use pv_abi::errno::Errno;
use pv_abi::trap::TrapInfo;

use super::GuestPtr;
use crate::cx::Cx;
use crate::error::{Args, Exit, HypercallResult};
use crate::port::Machine;
use crate::regs::is_canonical;

/// The hypercall: `(entries)`; a null pointer removes all handlers.
///
/// # Errors
/// `EFAULT`; `EINVAL` for an address that is not canonical. Entries before the wrong one are in force.
pub fn set_trap_table<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let mut at = args.get(0);
    if at == 0 {
        cx.vcpu.entry.traps.iter().for_each(crate::entry::TrapGate::clear);
        return Ok(0);
    }
    let mut first = true;
    loop {
        if !first && cx.m.preempt_pending() {
            return Err(Exit::Restart(Args([at, 0, 0, 0, 0, 0])));
        }
        first = false;
        let info = GuestPtr::<TrapInfo>::new(at)?.read(cx.m)?;
        if info.address == 0 {
            return Ok(0);
        }
        if !is_canonical(info.address) {
            return Err(Errno::Inval.into());
        }
        if let Some(gate) = cx.vcpu.entry.trap(info.vector) {
            gate.set(info.address, info.cs | 3, info.flags);
        }
        at = at.checked_add(GuestPtr::<TrapInfo>::stride()).ok_or(Errno::Fault)?;
    }
}
