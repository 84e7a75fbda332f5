//! `HYPERVISOR_console_io`: the machine's console.
//!
//! For dom0. Other domains may write where the hypervisor was started with `guest_loglvl=all`, and then at a rate that
//! the console limits; they have a console of their own, a ring that dom0 reads.

use pv_abi::console::ConsoleIoOp;
use pv_abi::errno::Errno;

use super::GuestPtr;
use crate::access;
use crate::cx::Cx;
use crate::error::{Args, Exit, HypercallResult};
use crate::port::Machine;

/// Bytes copied at a time.
const CHUNK: usize = 256;

/// The hypercall: `(operation, count, buffer)`.
///
/// # Errors
/// `EPERM` for domains that may not, `EFAULT` for a buffer that cannot be accessed, `E2BIG` for a read whose result would
/// not fit, `ENOSYS` for an unknown operation.
#[inline(always)]
pub fn console_io<M: Machine>(cx: &mut Cx<'_, M>, args: &Args) -> HypercallResult {
    let op = ConsoleIoOp::from_raw(args.low32(0));
    let may_write = op == Some(ConsoleIoOp::Write) && guests_may_write(cx);
    if !may_write {
        access::control(cx.dom)?;
    }
    match op {
        Some(ConsoleIoOp::Write) => write(cx, args),
        Some(ConsoleIoOp::Read) => read(cx, args),
        None => Err(Errno::NoSys.into()),
    }
}

fn guests_may_write<M: Machine>(cx: &Cx<'_, M>) -> bool {
    cx.hv.platform.command_line.split_whitespace().any(|word| word == "guest_loglvl=all")
}

fn write<M: Machine>(cx: &Cx<'_, M>, args: &Args) -> HypercallResult {
    let count = u64::from(args.low32(1));
    let buffer = GuestPtr::<u8>::array(args.get(2), count)?;
    let mut done = 0_u64;
    let mut chunk = [0_u8; CHUNK];
    while done < count {
        if done != 0 && cx.m.preempt_pending() {
            let rest = args.get(2).saturating_add(done);
            return Err(Exit::Restart(Args([args.get(0), count - done, rest, 0, 0, 0])));
        }
        let len = usize::try_from(count - done).unwrap_or(CHUNK).min(CHUNK);
        let part = &mut chunk[..len];
        buffer.read_slice(cx.m, done, part)?;
        cx.m.guest_write(cx.dom.id, part);
        done = done.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
    }
    Ok(0)
}

fn read<M: Machine>(cx: &Cx<'_, M>, args: &Args) -> HypercallResult {
    let count = args.low32(1);
    if i32::try_from(count).is_err() {
        return Err(Errno::TooBig.into());
    }
    let buffer = GuestPtr::<u8>::array(args.get(2), u64::from(count))?;
    let mut chunk = [0_u8; CHUNK];
    let want = usize::try_from(count).unwrap_or(CHUNK).min(CHUNK);
    let got = cx.m.read_input(&mut chunk[..want]);
    buffer.write_slice(cx.m, 0, &chunk[..got])?;
    Ok(u64::try_from(got).unwrap_or(0))
}
