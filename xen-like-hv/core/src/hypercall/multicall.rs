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
//!
//! The image has the loop in assembly (`batch.s`), with the two ends of this file; [`multicall`] is the same for other machines.

use pv_abi::errno::Errno;
use pv_abi::mmu::MulticallEntry;

use super::guest_ptr::{CheckedList, Record};
use super::{Table, handler_of};
use crate::cx::Cx;
use crate::error::{Args, Exit, Reply};
use crate::port::Machine;

/// The hypercall, as a handler of the table: `(entries, count)`.
///
/// `EFAULT` where the list cannot be read or a result cannot be written; the entries before that one were carried out.
pub(super) extern "C" fn multicall<M: Machine>(
    list: u64,
    count: u64,
    _: u64,
    _: u64,
    _: u64,
    cx: &mut Cx<'_, M>,
) -> Reply {
    run(cx, list, count & 0xffff_ffff).unwrap_or_else(Reply::errno)
}

fn run<M: Machine>(cx: &mut Cx<'_, M>, list: u64, count: u64) -> Result<Reply, Errno> {
    let mut list = CheckedList::<WORDS>::new(list, count)?;
    while let Some(entry) = list.first() {
        let words = cx.m.read_words(entry.part::<0, 7>()).map_err(|_| Errno::Fault)?;
        let [op, _result, a, b, c, d, e] = words;
        let reply = handler_of(&Table::<M>::BATCHED, op)(a, b, c, d, e, cx);
        if reply.parked != 0 {
            return Ok(ends_early(entry.address().raw(), list.left(), cx));
        }
        cx.m.write_words(entry.part::<RESULT, 1>(), &[reply.value]).map_err(|_| Errno::Fault)?;
        list.advance();
        if list.left().is_multiple_of(LOOK_UP_EVERY) && list.left() != 0 && cx.m.preempt_pending() {
            return Ok(preempted(list.address().raw(), list.left(), cx));
        }
    }
    Ok(Reply::value(0))
}

/// How the batch ends where the entry at `at`, one of `left` that have no result, did not simply return. Its remaining
/// arguments go back into the list if it is to be made again.
#[cold]
pub fn ends_early<M: Machine>(at: u64, left: u64, cx: &mut Cx<'_, M>) -> Reply {
    match cx.exit {
        Exit::Restart(Args([a, b, c, d, e, _])) => {
            let list = CheckedList::<WORDS>::new(at, left);
            let entry: Option<Record<WORDS>> = list.ok().and_then(|list| list.first());
            let again = [a, b, c, d, e];
            match entry.map(|entry| cx.m.write_words(entry.part::<ARGUMENTS, 5>(), &again)) {
                Some(Ok(())) => preempted(at, left, cx),
                _ => Reply::errno(Errno::Fault),
            }
        }
        Exit::RegsReplaced => {
            cx.regs.rax = 0;
            Reply::REPLACED
        }
        Exit::Err(_) | Exit::Crash(_) => Reply::PARKED,
    }
}

/// The batch goes on at the entry at `at`, the first of `left`, after what is urgent.
#[cold]
pub fn preempted<M: Machine>(at: u64, left: u64, cx: &mut Cx<'_, M>) -> Reply {
    cx.exit = Exit::Restart(Args([at, left, 0, 0, 0, 0]));
    Reply::PARKED
}

/// Words of an entry: operation, result, six arguments, of which no call takes the last.
const WORDS: usize = 8;
const _: () = assert!(size_of::<MulticallEntry>() == 8 * WORDS);
/// The word of the result.
const RESULT: usize = 1;
/// The first word of the arguments.
const ARGUMENTS: usize = 2;
/// Entries between two looks at what is urgent, a power of two; a long entry looks by itself.
pub const LOOK_UP_EVERY: u64 = 8;
