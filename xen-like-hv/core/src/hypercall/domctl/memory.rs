//! Frames of other domains: the hypercall page, and what frames are used as.

use alloc::sync::Arc;

use pv_abi::domctl::{Domctl, DomctlGetpageframeinfo3, DomctlHypercallInit};
use pv_abi::errno::Errno;
use pv_abi::frame::PAGE_SIZE;
use pv_abi::ids::Mfn;
use pv_abi::pte::Level;

use super::{Done, Outcome, Stopped, not_self};
use crate::cx::Cx;
use crate::domain::Domain;
use crate::frame::PageType;
use crate::hypercall::GuestPtr;
use crate::port::Machine;

/// Most frames asked about at once.
const MAX_FRAMES: u64 = 1024;
/// `XEN_DOMCTL_PFINFO_LTAB_SHIFT`.
const LTAB_SHIFT: u64 = 28;
/// `XEN_DOMCTL_PFINFO_LPINTAB`.
const PINNED: u64 = 1 << 31;
/// `XEN_DOMCTL_PFINFO_XTAB`: no frame of the domain.
const NO_FRAME: u64 = 0xf << LTAB_SHIFT;

/// Fills a frame of the domain with the stubs through which a kernel may call.
pub(super) fn hypercall_init<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, op: &Domctl) -> Outcome {
    let request: DomctlHypercallInit = op.payload();
    let page =
        cx.hv.frames.get_page_writable(cx.m, Mfn::new(request.gmfn), dom.id).map_err(|_| Errno::Inval)?;
    let mut stubs = [0; PAGE_SIZE];
    cx.m.read(page.mfn(), 0, &mut stubs);
    pv_image::hypercall_page::fill(&mut stubs);
    cx.m.write(page.mfn(), 0, &stubs);
    Ok(Done::Quietly)
}

/// Replaces each frame number of a list by what the frame is used as.
pub(super) fn get_page_frame_info<M: Machine>(cx: &Cx<'_, M>, dom: &Arc<Domain>, op: &Domctl) -> Outcome {
    not_self(cx, dom)?;
    let request: DomctlGetpageframeinfo3 = op.payload();
    if request.num > MAX_FRAMES {
        return Err(Stopped::Failed(Errno::TooBig));
    }
    let list = GuestPtr::<u64>::array(request.array, request.num)?;
    for index in 0..request.num {
        let mfn = list.read_at(cx.m, index)?;
        list.write_at(cx.m, index, &use_of(cx, dom, Mfn::new(mfn)))?;
    }
    Ok(Done::Quietly)
}

fn use_of<M: Machine>(cx: &Cx<'_, M>, dom: &Domain, mfn: Mfn) -> u64 {
    let Ok(page) = cx.hv.frames.get_page(mfn, dom.id) else { return NO_FRAME };
    let info = page.info().type_info();
    let level = match info.ty() {
        _ if info.count() == 0 => 0,
        PageType::Table(Level::L1) => 1,
        PageType::Table(Level::L2) => 2,
        PageType::Table(Level::L3) => 3,
        PageType::Table(Level::L4) => 4,
        PageType::None | PageType::SegDesc | PageType::Writable => 0,
    };
    let pin = if info.pinned() { PINNED } else { 0 };
    level << LTAB_SHIFT | pin
}
