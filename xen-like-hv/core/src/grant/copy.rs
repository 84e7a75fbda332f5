//! `GNTTABOP_copy`: bytes from page to page, each end a granted frame or one of the caller's own.

use pv_abi::frame::PAGE_SIZE;
use pv_abi::grant::{GntcopyFlags, GnttabCopy, GnttabCopyPtr, GrantStatus};
use pv_abi::ids::{DomId, GrantRef, Mfn};

use super::active::{self, Uses};
use super::granter::LastGranter;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::frame::LeafRef;
use crate::port::Machine;

/// A claimed end of a copy; must go through [`End::release`].
struct End<'t> {
    held: LeafRef<'t>,
    /// The grant, if it is one.
    grant: Option<(&'t Domain, GrantRef)>,
    uses: Uses,
}

impl End<'_> {
    #[inline(always)]
    fn release<M: Machine>(self, cx: &Cx<'_, M>) {
        match self.grant {
            Some((granter, gref)) => active::release(cx.m, granter, gref, self.uses, Some(self.held)),
            None => self.held.put(),
        }
    }
}

/// Where in its page an end begins.
#[inline(always)]
fn in_page(ptr: &GnttabCopyPtr, len: u16) -> Result<usize, GrantStatus> {
    let (offset, len) = (usize::from(ptr.offset), usize::from(len));
    if offset + len > PAGE_SIZE { Err(GrantStatus::BadCopyArg) } else { Ok(offset) }
}

/// The entry that an end names: the low half of the union, the other half is not part of it.
#[inline(always)]
fn reference(ptr: &GnttabCopyPtr) -> Option<GrantRef> {
    u32::try_from(ptr.u & 0xffff_ffff).ok().map(GrantRef::new)
}

/// The end in a page that is granted to the caller.
#[inline(always)]
fn claim<'t, M: Machine>(
    cx: &Cx<'t, M>,
    granter: &'t Domain,
    ptr: &GnttabCopyPtr,
    uses: Uses,
) -> Result<End<'t>, GrantStatus> {
    let gref = reference(ptr).ok_or(GrantStatus::BadGntref)?;
    let held = active::claim(&cx.hv.frames, cx.m, granter, gref, cx.dom.id, uses)?;
    Ok(End { held, grant: Some((granter, gref)), uses })
}

/// The end in a page of the caller's own, by its frame.
#[inline(always)]
fn hold<'t, M: Machine>(cx: &Cx<'t, M>, ptr: &GnttabCopyPtr, uses: Uses) -> Result<End<'t>, GrantStatus> {
    if DomId::new(ptr.domid) != DomId::SELF {
        // Without a grant only one's own frames.
        return Err(GrantStatus::PermissionDenied);
    }
    let held = cx.hv.frames.get_leaf(cx.m, Mfn::new(ptr.u), cx.dom.id, uses.writes());
    Ok(End { held: held.map_err(|_| GrantStatus::BadPage)?, grant: None, uses })
}

/// The domain whose grant an end names.
#[inline(always)]
fn granter_of<'s, M: Machine>(
    cx: &Cx<'s, M>,
    last: &'s mut LastGranter,
    ptr: &GnttabCopyPtr,
) -> Result<&'s Domain, GrantStatus> {
    let id = DomId::new(ptr.domid);
    if id == DomId::SELF { Ok(cx.dom) } else { last.named(cx, id).map(|dom| &**dom) }
}

/// One copy from a grant to a frame of the caller's own, which is what back ends do most, where nothing is in the way; fills in
/// the status. `false`: nothing has been done, and [`copy_one`] tells.
#[inline(always)]
pub(super) fn copy_at_once<M: Machine>(cx: &Cx<'_, M>, last: &mut LastGranter, op: &mut GnttabCopy) -> bool {
    const ENDS: GntcopyFlags = GntcopyFlags::SOURCE_GREF.union(GntcopyFlags::DEST_GREF);
    let usual = GntcopyFlags::from_bits_retain(op.flags) & ENDS == GntcopyFlags::SOURCE_GREF;
    if !usual || DomId::new(op.dest.domid) != DomId::SELF {
        return false;
    }
    let (Ok(from), Ok(to)) = (in_page(&op.source, op.len), in_page(&op.dest, op.len)) else { return false };
    let Ok(granter) = granter_of(cx, last, &op.source) else { return false };
    let Some(gref) = reference(&op.source) else { return false };
    let (frames, me) = (&cx.hv.frames, cx.dom.id);
    let Some(dest) = frames.get_leaf_at_once(Mfn::new(op.dest.u), me, true) else { return false };
    let Some(source) = active::claim_at_once(frames, cx.m, granter, gref, me, Uses::READ) else {
        dest.put();
        return false;
    };
    cx.m.copy(source.mfn(), from, dest.mfn(), to, usize::from(op.len));
    active::release(cx.m, granter, gref, Uses::READ, Some(source));
    dest.put();
    op.status = GrantStatus::Okay.raw();
    true
}

/// The granters that the ends of the copies of a call have named.
#[derive(Debug, Default)]
pub(super) struct Ends {
    source: LastGranter,
    dest: LastGranter,
}

/// One `GNTTABOP_copy`; fills in the status.
#[inline(always)]
pub(super) fn copy_one<M: Machine>(cx: &Cx<'_, M>, ends: &mut Ends, op: &mut GnttabCopy) {
    op.status = match try_copy(cx, ends, op) {
        Ok(()) => GrantStatus::Okay,
        Err(status) => status,
    }
    .raw();
}

#[inline(always)]
fn try_copy<M: Machine>(cx: &Cx<'_, M>, ends: &mut Ends, op: &GnttabCopy) -> Result<(), GrantStatus> {
    let offsets = (in_page(&op.source, op.len)?, in_page(&op.dest, op.len)?);
    let flags = GntcopyFlags::from_bits_retain(op.flags);
    let from_grant = flags.contains(GntcopyFlags::SOURCE_GREF);
    let to_grant = flags.contains(GntcopyFlags::DEST_GREF);
    // From or to a frame of one's own is what back ends do.
    if from_grant && !to_grant {
        let granter = granter_of(cx, &mut ends.source, &op.source)?;
        let source = claim(cx, granter, &op.source, Uses::READ)?;
        let dest = hold(cx, &op.dest, Uses::WRITE);
        return copy_between(cx, op.len, offsets, source, dest);
    }
    if to_grant && !from_grant {
        let granter = granter_of(cx, &mut ends.dest, &op.dest)?;
        let source = hold(cx, &op.source, Uses::READ)?;
        let dest = claim(cx, granter, &op.dest, Uses::WRITE);
        return copy_between(cx, op.len, offsets, source, dest);
    }
    copy_alike(cx, ends, op, offsets, from_grant)
}

/// Both ends are grants, or both are frames of the caller.
#[inline(never)]
fn copy_alike<M: Machine>(
    cx: &Cx<'_, M>,
    ends: &mut Ends,
    op: &GnttabCopy,
    offsets: (usize, usize),
    grants: bool,
) -> Result<(), GrantStatus> {
    if !grants {
        let source = hold(cx, &op.source, Uses::READ)?;
        return copy_between(cx, op.len, offsets, source, hold(cx, &op.dest, Uses::WRITE));
    }
    let from = granter_of(cx, &mut ends.source, &op.source)?;
    let to = granter_of(cx, &mut ends.dest, &op.dest)?;
    let source = claim(cx, from, &op.source, Uses::READ)?;
    copy_between(cx, op.len, offsets, source, claim(cx, to, &op.dest, Uses::WRITE))
}

/// Gives a granted source back, with the references that its token let go of: there is no destination.
#[cold]
#[inline(never)]
fn back_out<M: Machine>(cx: &Cx<'_, M>, granter: &Domain, gref: GrantRef, uses: Uses, frame: Mfn) {
    active::release(cx.m, granter, gref, uses, cx.hv.frames.adopt_leaf(frame, uses.writes()));
}

/// Copies from one end to the other, and gives both back.
#[inline(always)]
fn copy_between<M: Machine>(
    cx: &Cx<'_, M>,
    len: u16,
    (from, to): (usize, usize),
    source: End<'_>,
    dest: Result<End<'_>, GrantStatus>,
) -> Result<(), GrantStatus> {
    let dest = match dest {
        Ok(dest) => dest,
        Err(status) => {
            match source.grant {
                Some((granter, gref)) => back_out(cx, granter, gref, source.uses, source.held.into_raw()),
                None => source.held.put(),
            }
            return Err(status);
        }
    };
    cx.m.copy(source.held.mfn(), from, dest.held.mfn(), to, usize::from(len));
    dest.release(cx);
    source.release(cx);
    Ok(())
}
