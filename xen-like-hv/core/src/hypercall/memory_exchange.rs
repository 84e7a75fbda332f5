//! `XENMEM_exchange`: frames for frames, to get contiguous or low ones.
//!
//! One chunk at a time: as many input extents as make one output extent, or the other way round. A chunk is done in
//! full or not at all; between chunks the call can stop, with its progress in `nr_exchanged`.

use alloc::vec::Vec;
use core::mem::offset_of;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::memory::XenMemoryExchange;

use super::GuestPtr;
use super::memory::target;
use super::memory_reservation::{address_bits, max_order, name_frames};
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Args, Exit, HypercallResult};
use crate::frame::FrameTable;
use crate::port::Machine;

/// A checked request.
struct Exchange {
    input: GuestPtr<u64>,
    output: GuestPtr<u64>,
    in_order: u32,
    out_order: u32,
    /// Input extents of one chunk, and output extents.
    in_chunk: u64,
    out_chunk: u64,
    address_bits: u32,
}

/// `XENMEM_exchange`.
///
/// # Errors
/// `EFAULT`: the argument or a list (XSA-29, XSA-212). `EINVAL`: sizes that do not match, a frame that is in use.
/// `EPERM`: an order that is too large, another's memory. `ESRCH`. `ENOMEM`.
pub(super) fn exchange<M: Machine>(cx: &Cx<'_, M>, args: &Args) -> HypercallResult {
    let arg = args.get(1);
    let request = GuestPtr::<XenMemoryExchange>::new(arg)?.read(cx.m)?;
    let plan = check(cx, &request)?;
    let dom = target(cx, DomId::new(request.in_.domid))?;
    let chunks = request.in_.nr_extents / plan.in_chunk;
    let first = request.nr_exchanged / plan.in_chunk;
    for chunk in first..chunks {
        if chunk != first && cx.m.preempt_pending() {
            write_progress(cx, arg, chunk * plan.in_chunk)?;
            return Err(Exit::Restart(*args));
        }
        if let Err(e) = exchange_chunk(cx, &dom, &plan, chunk) {
            write_progress(cx, arg, chunk * plan.in_chunk)?;
            return Err(Exit::Err(e));
        }
    }
    write_progress(cx, arg, request.in_.nr_extents)?;
    Ok(0)
}

fn check<M: Machine>(cx: &Cx<'_, M>, x: &XenMemoryExchange) -> Result<Exchange, Errno> {
    let (i, o) = (&x.in_, &x.out);
    if i.extent_order.max(o.extent_order) > max_order(cx.dom) {
        return Err(Errno::Perm);
    }
    let frames = |extents: u64, order: u32| extents.checked_mul(1 << order).ok_or(Errno::Inval);
    let same_size = frames(i.nr_extents, i.extent_order)? == frames(o.nr_extents, o.extent_order)?;
    if !same_size || i.domid != o.domid || x.nr_exchanged > i.nr_extents {
        return Err(Errno::Inval);
    }
    let (in_chunk, out_chunk) = if i.extent_order <= o.extent_order {
        (1 << (o.extent_order - i.extent_order), 1)
    } else {
        (1, 1 << (i.extent_order - o.extent_order))
    };
    Ok(Exchange {
        input: GuestPtr::array(i.extent_start, i.nr_extents)?,
        output: GuestPtr::array(o.extent_start, o.nr_extents)?,
        in_order: i.extent_order,
        out_order: o.extent_order,
        in_chunk,
        out_chunk,
        address_bits: address_bits(o.mem_flags)?,
    })
}

fn write_progress<M: Machine>(cx: &Cx<'_, M>, arg: u64, done: u64) -> Result<(), Errno> {
    let offset = u64::try_from(offset_of!(XenMemoryExchange, nr_exchanged)).map_err(|_| Errno::Inval)?;
    GuestPtr::<u64>::new(arg.checked_add(offset).ok_or(Errno::Fault)?)?.write(cx.m, &done)
}

/// Frames taken and frames got: what is left in it when it is dropped goes back where it came from.
struct Undo<'a> {
    frames: &'a FrameTable,
    dom: &'a Domain,
    order: u32,
    stolen: Vec<Mfn>,
    fresh: Vec<Mfn>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for mfn in self.stolen.drain(..) {
            self.frames.return_stolen(&self.dom.mem, mfn);
            release_if_dying(self.frames, self.dom, mfn);
        }
        for mfn in self.fresh.drain(..) {
            self.frames.free_unowned(mfn, self.order);
        }
    }
}

fn exchange_chunk<M: Machine>(
    cx: &Cx<'_, M>,
    dom: &Domain,
    plan: &Exchange,
    chunk: u64,
) -> Result<(), Errno> {
    let order = plan.out_order;
    let mut undo = Undo { frames: &cx.hv.frames, dom, order, stolen: Vec::new(), fresh: Vec::new() };
    steal_inputs(cx, &mut undo, plan, chunk)?;
    let first_out = chunk.checked_mul(plan.out_chunk).ok_or(Errno::Inval)?;
    let mut pfns = Vec::new();
    let count = usize::try_from(plan.out_chunk).map_err(|_| Errno::Inval)?;
    if memory_is_short!() {
        return Err(Errno::NoMem);
    }
    undo.fresh.try_reserve_exact(count).map_err(|_| Errno::NoMem)?;
    pfns.try_reserve_exact(count).map_err(|_| Errno::NoMem)?;
    for k in 0..plan.out_chunk {
        pfns.push(plan.output.read_at(cx.m, first_out + k)?);
        undo.fresh.push(cx.hv.frames.alloc_unowned(cx.m, order, plan.address_bits)?);
    }
    // Nothing fails from here on but the writes to the guest's list.
    for mfn in undo.stolen.drain(..) {
        cx.hv.frames.free_stolen(mfn);
    }
    let mut written = Ok(());
    for ((mfn, pfn), k) in undo.fresh.drain(..).zip(pfns).zip(first_out..) {
        cx.hv.frames.assign_unowned(&dom.mem, mfn, order);
        name_frames(cx, mfn, pfn, order);
        written = written.and(plan.output.write_at(cx.m, k, &mfn.raw()));
        for n in 0..1_u64 << order {
            release_if_dying(&cx.hv.frames, dom, Mfn::new(mfn.raw() + n));
        }
    }
    written
}

/// A teardown may be over already and would not see a frame that comes now (XSA-159).
fn release_if_dying(frames: &FrameTable, dom: &Domain, mfn: Mfn) {
    if dom.mem.is_dying()
        && let Ok(page) = frames.get_page(mfn, dom.id)
    {
        frames.release(&page);
    }
}

fn steal_inputs<M: Machine>(
    cx: &Cx<'_, M>,
    undo: &mut Undo<'_>,
    plan: &Exchange,
    chunk: u64,
) -> Result<(), Errno> {
    let frames = usize::try_from(plan.in_chunk << plan.in_order).map_err(|_| Errno::Inval)?;
    if memory_is_short!() {
        return Err(Errno::NoMem);
    }
    undo.stolen.try_reserve_exact(frames).map_err(|_| Errno::NoMem)?;
    let first = chunk.checked_mul(plan.in_chunk).ok_or(Errno::Inval)?;
    for k in first..first + plan.in_chunk {
        let base = plan.input.read_at(cx.m, k)?;
        for n in 0..1_u64 << plan.in_order {
            let mfn = Mfn::new(base.checked_add(n).ok_or(Errno::Inval)?);
            cx.hv.frames.steal(&undo.dom.mem, mfn)?;
            undo.stolen.push(mfn);
        }
    }
    Ok(())
}
