//! `HYPERVISOR_multicall`: several calls for the price of one entry.
//!
//! Each entry is read once and carried out before the next is read, so that an entry may depend on what an earlier one
//! did. Its result is written into it before the next begins.
//!
//! Restart: between entries (every eighth), where something urgent waits, the list pointer and the count in the registers are moved on
//! by what is done. An entry that is itself preempted gets its remaining arguments written back into the list and is the
//! first one of the restarted batch.
//!
//! An entry that leaves the guest's kernel (`iret`, the only call that can) ends the batch: what follows was never meant
//! to be called by user mode (XSA-213).

use pv_abi::errno::Errno;
use pv_abi::mmu::MulticallEntry;

use super::guest_ptr::{CheckedList, Record};
use super::{Table, handler_of};
use crate::cx::Cx;
use crate::error::{Args, Exit, HypercallResult};
use crate::port::Machine;

/// The hypercall: `(entries, count)`.
///
/// # Errors
/// `EFAULT` where the list cannot be read or a result cannot be written; the entries before that one were carried out.
#[inline(always)]
pub fn multicall<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let mut list = CheckedList::new(args.get(0), u64::from(args.low32(1)))?;
    while let Some(entry) = list.first() {
        let words = cx.m.read_words(entry.part::<0, 7>()).map_err(|_| Errno::Fault)?;
        let [op, _result, a, b, c, d, e] = words;
        let reply = handler_of(&Table::<M>::BATCHED, op)(a, b, c, d, e, cx);
        if reply.parked != 0 {
            return Err(end_early(cx, entry, &list, words)?);
        }
        cx.m.write_words(entry.part::<RESULT, 1>(), &[reply.value]).map_err(|_| Errno::Fault)?;
        list.advance();
        if list.left().is_multiple_of(LOOK_UP_EVERY) && list.left() != 0 && cx.m.preempt_pending() {
            return Err(restart_at(&list));
        }
    }
    Ok(0)
}

/// How the batch ends where an entry did not simply return. Its remaining arguments go back into the list if it is to
/// be made again.
#[cold]
fn end_early<M: Machine>(
    cx: &mut Cx<'_, M>,
    entry: Record<WORDS>,
    list: &CheckedList<WORDS>,
    words: [u64; 7],
) -> Result<Exit, Errno> {
    Ok(match cx.exit {
        Exit::Restart(Args([a, b, c, d, e, _])) => {
            let [op, result, ..] = words;
            let again = [op, result, a, b, c, d, e];
            cx.m.write_words(entry.part::<0, 7>(), &again).map_err(|_| Errno::Fault)?;
            restart_at(list)
        }
        Exit::RegsReplaced => {
            cx.regs.rax = 0;
            Exit::RegsReplaced
        }
        other => other,
    })
}

/// Words of an entry: operation, result, six arguments, of which no call takes the last.
const WORDS: usize = 8;
const _: () = assert!(size_of::<MulticallEntry>() == 8 * WORDS);
/// The word of the result.
const RESULT: usize = 1;
/// Entries between two looks at what is urgent; a long entry looks by itself.
const LOOK_UP_EVERY: u64 = 8;

fn restart_at(list: &CheckedList<WORDS>) -> Exit {
    Exit::Restart(Args([list.address().raw(), list.left(), 0, 0, 0, 0]))
}
