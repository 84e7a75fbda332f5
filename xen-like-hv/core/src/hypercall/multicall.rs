//! `HYPERVISOR_multicall`: several calls for the price of one entry.
//!
//! Each entry is read once and carried out before the next is read, so that an entry may depend on what an earlier one
//! did. Its result is written into it before the next begins.
//!
//! Restart: between entries, where something urgent waits, the list pointer and the count in the registers are moved on
//! by what is done. An entry that is itself preempted gets its remaining arguments written back into the list and is the
//! first one of the restarted batch.
//!
//! An entry that leaves the guest's kernel (`iret`) ends the batch: what follows was never meant to be called by user
//! mode (XSA-213).

use pv_abi::errno::Errno;
use pv_abi::hypercall::Hypercall;
use pv_abi::mmu::MulticallEntry;

use super::{GuestPtr, one};
use crate::cx::Cx;
use crate::entry::GuestMode;
use crate::error::{Args, Exit, HypercallResult};
use crate::port::Machine;

/// The hypercall: `(entries, count)`.
///
/// # Errors
/// `EFAULT` where the list cannot be read or a result cannot be written; the entries before that one were carried out.
pub fn multicall<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let count = u64::from(args.low32(1));
    let list = GuestPtr::<MulticallEntry>::array(args.get(0), count)?;
    for index in 0..count {
        if index != 0 && cx.m.preempt_pending() {
            return Err(restart_at(&list, index));
        }
        let mut entry = list.read_at(cx.m, index)?;
        match run(cx, &entry) {
            Ok(value) => entry.result = value,
            Err(Exit::Err(e)) => entry.result = e.to_ret().cast_unsigned(),
            Err(Exit::Restart(rest)) => {
                entry.args = rest.0;
                list.write_at(cx.m, index, &entry)?;
                return Err(restart_at(&list, index));
            }
            Err(Exit::RegsReplaced) => {
                cx.regs.rax = 0;
                return Err(Exit::RegsReplaced);
            }
            Err(crash @ Exit::Crash(_)) => return Err(crash),
        }
        write_result(cx.m, &list, index, entry.result)?;
        if cx.vcpu.entry.mode() != GuestMode::Kernel {
            return Err(Exit::RegsReplaced);
        }
    }
    Ok(0)
}

fn run<M: Machine>(cx: &mut Cx<'_, M>, entry: &MulticallEntry) -> HypercallResult {
    match Hypercall::from_raw(entry.op) {
        Some(number) => one(cx, number, &Args(entry.args)),
        None => Err(Exit::Err(Errno::NoSys)),
    }
}

/// Offset of `result` in an entry.
const RESULT_OFFSET: u64 = 8;

fn write_result(
    m: &impl Machine,
    list: &GuestPtr<MulticallEntry>,
    index: u64,
    result: u64,
) -> Result<(), Errno> {
    let at = index
        .checked_mul(GuestPtr::<MulticallEntry>::stride())
        .and_then(|o| o.checked_add(list.address()))
        .and_then(|a| a.checked_add(RESULT_OFFSET))
        .ok_or(Errno::Fault)?;
    GuestPtr::<u64>::new(at)?.write(m, &result)
}

fn restart_at(list: &GuestPtr<MulticallEntry>, index: u64) -> Exit {
    let done = index.saturating_mul(GuestPtr::<MulticallEntry>::stride());
    let rest = list.count().saturating_sub(index);
    Exit::Restart(Args([list.address().saturating_add(done), rest, 0, 0, 0, 0]))
}
