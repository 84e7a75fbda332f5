//! Frames of the hypervisor that a privileged domain may name: grant tables of other domains, the
//! machine-to-physical table.

use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::memory::{
    MemResource, RESOURCE_GRANT_TABLE_ID_SHARED, XenMachphysMfnList, XenMemAcquireResource,
};
use pv_abi::pte::{Pte, PteFlags};

use super::GuestPtr;
use crate::access;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::error::{Exit, HypercallResult};
use crate::grant;
use crate::port::Machine;

/// Most frames of one call.
const MAX_FRAMES: u32 = 64;

/// `XENMEM_acquire_resource`: the machine frames of a resource of another domain.
///
/// # Errors
/// `EFAULT`; `EINVAL`: padding, a range past the end; `ESRCH`; `EPERM`; `EOPNOTSUPP`: another kind of resource.
pub(super) fn acquire_resource<M: Machine>(cx: &Cx<'_, M>, arg: u64) -> HypercallResult {
    let ptr = GuestPtr::<XenMemAcquireResource>::new(arg)?;
    let mut r = ptr.read(cx.m)?;
    if r.pad != 0 {
        return Err(Exit::Err(Errno::Inval));
    }
    access::control(cx.dom)?;
    let dom = cx.hv.domains.get(DomId::new(r.domid)).ok_or(Errno::Srch)?;
    if dom.id == cx.dom.id {
        return Err(Exit::Err(Errno::Perm));
    }
    if MemResource::from_raw(r.kind) != Some(MemResource::GrantTable)
        || r.id != RESOURCE_GRANT_TABLE_ID_SHARED
    {
        return Err(Exit::Err(Errno::OpNotSupp));
    }
    if r.frame_list == 0 {
        if r.nr_frames != 0 {
            return Err(Exit::Err(Errno::Inval));
        }
        r.nr_frames = u32::try_from(dom.grants.max_frames()).unwrap_or(u32::MAX);
        ptr.write(cx.m, &r)?;
        return Ok(0);
    }
    if r.nr_frames > MAX_FRAMES {
        return Err(Exit::Err(Errno::TooBig));
    }
    let list = GuestPtr::<u64>::array(r.frame_list, u64::from(r.nr_frames))?;
    for k in 0..r.nr_frames {
        let index =
            r.frame.checked_add(u64::from(k)).and_then(|i| usize::try_from(i).ok()).ok_or(Errno::Inval)?;
        let mfn = grant_frame(cx, &dom, index)?;
        list.write_at(cx.m, u64::from(k), &mfn.raw())?;
    }
    Ok(0)
}

/// Frame `index` of a domain's grant table, which grows up to there.
fn grant_frame<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, index: usize) -> Result<Mfn, Errno> {
    let wanted = index.checked_add(1).ok_or(Errno::Inval)?;
    grant::grow(&cx.hv.frames, cx.m, dom, wanted)?;
    dom.grants.frame(index).ok_or(Errno::Inval)
}

/// `XENMEM_machphys_mfn_list`: the first frame of each 2 MiB of the machine-to-physical table, 0 where there is none.
///
/// # Errors
/// `EFAULT`.
pub(super) fn machphys_mfn_list<M: Machine>(cx: &Cx<'_, M>, arg: u64) -> HypercallResult {
    let ptr = GuestPtr::<XenMachphysMfnList>::new(arg)?;
    let mut request = ptr.read(cx.m)?;
    // 2 MiB of the table stand for 2^18 frames.
    let needed = u32::try_from(cx.hv.frames.end().raw().div_ceil(1 << 18)).map_err(|_| Errno::Inval)?;
    let n = needed.min(request.max_extents);
    let list = GuestPtr::<u64>::array(request.extent_start, u64::from(n))?;
    for k in 0..u64::from(n) {
        let mfn = m2p_frame(cx, k).map_or(0, Mfn::raw);
        list.write_at(cx.m, k, &mfn)?;
    }
    request.nr_extents = n;
    ptr.write(cx.m, &request)?;
    Ok(0)
}

/// The first frame of 2 MiB number `k` of the table, in the hypervisor's own tables: its first L4 slot.
fn m2p_frame<M: Machine>(cx: &Cx<'_, M>, k: u64) -> Option<Mfn> {
    let l4e = Pte::from_raw(*cx.m.hypervisor_l4_entries().first()?);
    let l3e = hypervisor_entry(cx, l4e, k >> 9)?;
    let l2e = hypervisor_entry(cx, l3e, k & 511)?;
    if l2e.flags().contains(PteFlags::PSE) {
        return Some(l2e.mfn());
    }
    hypervisor_entry(cx, l2e, 0).map(Pte::mfn)
}

fn hypervisor_entry<M: Machine>(cx: &Cx<'_, M>, upper: Pte, index: u64) -> Option<Pte> {
    let large = upper.flags().contains(PteFlags::PSE);
    if !upper.is_present() || large || !cx.hv.frames.is_ram(upper.mfn()) {
        return None;
    }
    let word = cx.m.words(upper.mfn()).get(usize::try_from(index).ok()?)?;
    Some(Pte::from_raw(word.load(Relaxed))).filter(|p| p.is_present())
}
