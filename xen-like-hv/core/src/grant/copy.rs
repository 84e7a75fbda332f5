//! `GNTTABOP_copy`: bytes from page to page, each end a granted frame or one of the caller's own.

use pv_abi::frame::PAGE_SIZE;
use pv_abi::grant::{GntcopyFlags, GnttabCopy, GnttabCopyPtr, GrantStatus};
use pv_abi::ids::{DomId, GrantRef, Mfn};

use super::active::{self, Access, Held, Purposes};
use super::granter::LastGranter;
use crate::cx::Cx;
use crate::domain::Domain;
use crate::port::Machine;

/// How an end names its page.
#[derive(Clone, Copy)]
enum Named {
    Grant(GrantRef),
    Frame(Mfn),
}

/// A claimed end of a copy; must go through [`End::release`].
struct End<'t> {
    domain: &'t Domain,
    gref: Option<GrantRef>,
    held: Held<'t>,
    access: Access,
}

impl End<'_> {
    fn release<M: Machine>(self, cx: &Cx<'_, M>) {
        match self.gref {
            Some(gref) => {
                let held = Some(self.held);
                active::release(cx.m, self.domain, gref, Purposes::HOST, self.access, held);
            }
            None => drop(self.held),
        }
    }
}

fn in_page(ptr: &GnttabCopyPtr, len: u16) -> Result<usize, GrantStatus> {
    let (offset, len) = (usize::from(ptr.offset), usize::from(len));
    if offset + len > PAGE_SIZE { Err(GrantStatus::BadCopyArg) } else { Ok(offset) }
}

fn named(ptr: &GnttabCopyPtr, is_gref: bool) -> Result<Named, GrantStatus> {
    if !is_gref {
        return Ok(Named::Frame(Mfn::new(ptr.u)));
    }
    // The reference is the low half of the union; the other half is not part of it.
    let gref = u32::try_from(ptr.u & 0xffff_ffff).map_err(|_| GrantStatus::BadGntref)?;
    Ok(Named::Grant(GrantRef::new(gref)))
}

/// The domain whose frame an end is.
fn domain_of<'s, M: Machine>(
    cx: &Cx<'s, M>,
    granters: &'s mut LastGranter,
    ptr: &GnttabCopyPtr,
    named: Named,
) -> Result<&'s Domain, GrantStatus> {
    let id = DomId::new(ptr.domid);
    match named {
        _ if id == DomId::SELF => Ok(cx.dom),
        Named::Grant(_) => granters.named(cx, id).map(|dom| &**dom),
        // Without a grant only one's own frames.
        Named::Frame(_) => Err(GrantStatus::PermissionDenied),
    }
}

fn claim<'t, M: Machine>(
    cx: &Cx<'t, M>,
    domain: &'t Domain,
    named: Named,
    access: Access,
) -> Result<End<'t>, GrantStatus> {
    let frames = &cx.hv.frames;
    let (held, gref) = match named {
        Named::Grant(gref) => {
            (active::claim(frames, cx.m, domain, gref, cx.dom.id, Purposes::HOST, access)?, Some(gref))
        }
        Named::Frame(mfn) => (active::hold(frames, cx.m, mfn, domain.id, access)?, None),
    };
    Ok(End { domain, gref, held, access })
}

/// The granters that the ends of the copies of a call have named.
#[derive(Debug, Default)]
pub(super) struct Ends {
    source: LastGranter,
    dest: LastGranter,
}

/// One `GNTTABOP_copy`; fills in the status.
pub(super) fn copy_one<M: Machine>(cx: &Cx<'_, M>, ends: &mut Ends, op: &mut GnttabCopy) {
    op.status = match try_copy(cx, ends, op) {
        Ok(()) => GrantStatus::Okay,
        Err(status) => status,
    }
    .raw();
}

fn try_copy<M: Machine>(cx: &Cx<'_, M>, ends: &mut Ends, op: &GnttabCopy) -> Result<(), GrantStatus> {
    let flags = GntcopyFlags::from_bits_retain(op.flags);
    let from = in_page(&op.source, op.len)?;
    let to = in_page(&op.dest, op.len)?;
    let source = named(&op.source, flags.contains(GntcopyFlags::SOURCE_GREF))?;
    let dest = named(&op.dest, flags.contains(GntcopyFlags::DEST_GREF))?;
    let source_domain = domain_of(cx, &mut ends.source, &op.source, source)?;
    let dest_domain = domain_of(cx, &mut ends.dest, &op.dest, dest)?;
    let source = claim(cx, source_domain, source, Access::Read)?;
    let dest = match claim(cx, dest_domain, dest, Access::Write) {
        Ok(dest) => dest,
        Err(status) => {
            source.release(cx);
            return Err(status);
        }
    };
    cx.m.copy(source.held.mfn(), from, dest.held.mfn(), to, usize::from(op.len));
    dest.release(cx);
    source.release(cx);
    Ok(())
}
