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
use pv_abi::ids::GuestVa;
use pv_abi::mmu::MulticallEntry;
use zerocopy::IntoBytes;

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
    // The whole list has been checked: from here on its addresses only go up.
    let mut at = list.address();
    let mut entry = MulticallEntry::default();
    for index in 0..count {
        if index != 0 && cx.m.preempt_pending() {
            return Err(restart_at(&list, index));
        }
        cx.m.copy_from_guest(entry.as_mut_bytes(), GuestVa::new(at)).map_err(|_| Errno::Fault)?;
        let result = match run(cx, &entry) {
            Ok(value) => value,
            Err(Exit::Err(e)) => e.to_ret().cast_unsigned(),
            Err(exit) => return Err(end_early(cx, &list, index, entry, exit)?),
        };
        let result_at = GuestVa::new(at.wrapping_add(RESULT_OFFSET));
        cx.m.copy_to_guest(result_at, result.as_bytes()).map_err(|_| Errno::Fault)?;
        if cx.vcpu.entry.mode() != GuestMode::Kernel {
            return Err(Exit::RegsReplaced);
        }
        at = at.wrapping_add(ENTRY_BYTES);
    }
    Ok(0)
}

/// How the batch ends where an entry did not simply return. Its remaining arguments go back into the list if it is to
/// be made again.
#[cold]
fn end_early<M: Machine>(
    cx: &mut Cx<'_, M>,
    list: &GuestPtr<MulticallEntry>,
    index: u64,
    mut entry: MulticallEntry,
    exit: Exit,
) -> Result<Exit, Errno> {
    Ok(match exit {
        Exit::Restart(rest) => {
            entry.args = rest.0;
            list.write_at(cx.m, index, &entry)?;
            restart_at(list, index)
        }
        Exit::RegsReplaced => {
            cx.regs.rax = 0;
            Exit::RegsReplaced
        }
        other => other,
    })
}

fn run<M: Machine>(cx: &mut Cx<'_, M>, entry: &MulticallEntry) -> HypercallResult {
    match Hypercall::from_raw(entry.op) {
        Some(number) => one(cx, number, &Args(entry.args)),
        None => Err(Exit::Err(Errno::NoSys)),
    }
}

/// Offset of `result` in an entry.
const RESULT_OFFSET: u64 = 8;
/// Bytes of an entry.
const ENTRY_BYTES: u64 = size_of::<MulticallEntry>() as u64;

fn restart_at(list: &GuestPtr<MulticallEntry>, index: u64) -> Exit {
    let done = index.saturating_mul(GuestPtr::<MulticallEntry>::stride());
    let rest = list.count().saturating_sub(index);
    Exit::Restart(Args([list.address().saturating_add(done), rest, 0, 0, 0, 0]))
}
