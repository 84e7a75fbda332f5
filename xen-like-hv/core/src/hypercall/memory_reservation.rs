//! Reservations: giving a domain frames and taking them back, extent by extent.
//!
//! All three calls return how many extents are done. A list that cannot be read, an order that is too large, a domain
//! that does not exist end the call there, without an errno: that is the ABI.

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::memory::{MEMOP_EXTENT_SHIFT, MemFlags, MemoryOp, XenMemoryReservation};

use super::GuestPtr;
use super::memory::target;
use crate::access::Privilege;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Args, Exit, HypercallResult};
use crate::port::Machine;

/// Largest order that an ordinary domain may ask for (XSA-31): 2 MiB.
const MAX_ORDER: u32 = 9;
/// Largest order that a control domain may ask for: 4 MiB.
const MAX_ORDER_CONTROL: u32 = 10;

/// Largest order that `dom` may ask for.
pub(super) fn max_order(dom: &Domain) -> u32 {
    match dom.privilege {
        Privilege::Control => MAX_ORDER_CONTROL,
        Privilege::Unprivileged => MAX_ORDER,
    }
}

/// The width in `mem_flags`, and whether what else is asked for can be had: there is one memory node, 0.
///
/// # Errors
/// `EINVAL`: another node (XSA-231), a width below a frame's.
pub(super) fn address_bits(mem_flags: u32) -> Result<u32, Errno> {
    let flags = MemFlags::from_bits_retain(mem_flags);
    let node = (flags & MemFlags::NODE).bits() >> 8;
    let bits = (flags & MemFlags::ADDRESS_BITS).bits();
    if node > 1 || flags.contains(MemFlags::VNODE) || (bits != 0 && bits <= 12) {
        return Err(Errno::Inval);
    }
    Ok(bits)
}

struct Request {
    list: GuestPtr<u64>,
    has_list: bool,
    order: u32,
    address_bits: u32,
}

/// `XENMEM_increase_reservation`, `XENMEM_decrease_reservation`, `XENMEM_populate_physmap`.
///
/// # Errors
/// `EPERM`: another domain's memory.
pub(super) fn reservation<M: Machine>(cx: &Cx<'_, M>, op: MemoryOp, start: u64, arg: u64) -> HypercallResult {
    let Some(r) = GuestPtr::<XenMemoryReservation>::new(arg).and_then(|p| p.read(cx.m)).ok() else {
        return Ok(start);
    };
    if r.nr_extents > u64::MAX >> MEMOP_EXTENT_SHIFT || start >= r.nr_extents {
        return Ok(start);
    }
    let dom = match target(cx, DomId::new(r.domid)) {
        Ok(dom) => dom,
        Err(Errno::Srch) => return Ok(start),
        Err(e) => return Err(Exit::Err(e)),
    };
    let (Ok(address_bits), Ok(list)) =
        (address_bits(r.mem_flags), GuestPtr::<u64>::array(r.extent_start, r.nr_extents))
    else {
        return Ok(start);
    };
    let pod = MemFlags::from_bits_retain(r.mem_flags).contains(MemFlags::POPULATE_ON_DEMAND);
    if r.extent_order > max_order(cx.dom) || pod {
        return Ok(start);
    }
    let request = Request { list, has_list: r.extent_start != 0, order: r.extent_order, address_bits };
    for i in start..r.nr_extents {
        if i != start && cx.m.preempt_pending() {
            let command = u64::from(op.raw()) | i << MEMOP_EXTENT_SHIFT;
            return Err(Exit::Restart(Args([command, arg, 0, 0, 0, 0])));
        }
        let done = match op {
            MemoryOp::IncreaseReservation => increase(cx, &dom, &request, i),
            MemoryOp::PopulatePhysmap => populate(cx, &dom, &request, i),
            _ => decrease(cx, &dom, &request, i),
        };
        if done.is_err() {
            return Ok(i);
        }
    }
    Ok(r.nr_extents)
}

fn increase<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, request: &Request, i: u64) -> Result<(), Errno> {
    let mfn = cx.hv.frames.alloc_for(cx.m, &dom.mem, request.order, request.address_bits)?;
    if request.has_list {
        request.list.write_at(cx.m, i, &mfn.raw())?;
    }
    Ok(())
}

fn populate<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, request: &Request, i: u64) -> Result<(), Errno> {
    let pfn = request.list.read_at(cx.m, i)?;
    let mfn = cx.hv.frames.alloc_for(cx.m, &dom.mem, request.order, request.address_bits)?;
    name_frames(cx, mfn, pfn, request.order);
    request.list.write_at(cx.m, i, &mfn.raw())
}

/// Sets the machine-to-physical entries of an extent.
pub(super) fn name_frames<M: Machine>(cx: &Cx<'_, M>, mfn: Mfn, pfn: u64, order: u32) {
    for k in 0..1_u64 << order {
        cx.m.set_m2p(Mfn::new(mfn.raw() + k), pfn.wrapping_add(k));
    }
}

/// Takes an extent back. A frame that is still mapped or pinned stays until that ends (XSA-252: nothing is unpinned
/// here).
fn decrease<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, request: &Request, i: u64) -> Result<(), Errno> {
    let first = request.list.read_at(cx.m, i)?;
    for k in 0..1_u64 << request.order {
        let mfn = Mfn::new(first.checked_add(k).ok_or(Errno::Inval)?);
        // Nearly always nobody else uses it.
        if !cx.hv.frames.release_unused(&dom.mem, mfn) {
            let page = cx.hv.frames.get_page(mfn, dom.id)?;
            if !cx.hv.frames.release(&page) {
                return Err(Errno::Inval);
            }
        }
    }
    Ok(())
}
