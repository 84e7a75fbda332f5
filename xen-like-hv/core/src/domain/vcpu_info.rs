//! Where a vcpu's `vcpu_info` lies: in the shared-info page for the first 32 vcpus, or where the guest registered it.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use pv_abi::errno::Errno;
use pv_abi::frame::LEGACY_MAX_VCPUS;
use pv_abi::ids::Mfn;
use pv_abi::shared_info::VCPU_INFO_SIZE;

use super::Domain;
use crate::cx::Cx;
use crate::frame::FrameTable;
use crate::port::{Frames, Machine};
use crate::sched::publish_time_of_other;
use crate::vcpu::Vcpu;

/// Words of a `vcpu_info`.
const WORDS: usize = VCPU_INFO_SIZE / 8;
/// Word 0: an upcall is pending.
const UPCALL_PENDING: u64 = 1;
/// Word 0: upcalls are masked.
const UPCALL_MASK: u64 = 1 << 8;

/// Places the `vcpu_info` of a new vcpu in the shared-info page, where it has a slot there, with events masked.
pub(super) fn place_initially(m: &impl Frames, dom: &Domain, v: &Vcpu) {
    let index = usize::try_from(v.id.raw()).unwrap_or(usize::MAX);
    if index >= LEGACY_MAX_VCPUS {
        return;
    }
    let offset = index * VCPU_INFO_SIZE;
    if let Some(word) = m.words(dom.shared_info).get(offset / 8) {
        word.store(UPCALL_MASK, SeqCst);
    }
    v.events.set_info(dom.shared_info, u64::try_from(offset).unwrap_or(0));
}

/// Moves the `vcpu_info` of `v` to `offset` of frame `mfn` of the calling domain, for good. `offset` is aligned and the
/// area does not cross the frame. Whatever was pending is looked at again: the guest gets an upcall with every
/// selector bit set, so that nothing is lost between the two places.
///
/// # Errors
/// `EINVAL` where it was moved before, the vcpu is neither the caller nor down, or the frame is not a writable one of the
/// domain's.
pub fn relocate<M: Machine>(
    cx: &Cx<'_, M>,
    v: &Arc<Vcpu>,
    mfn: u64,
    offset: u32,
    down: bool,
) -> Result<(), Errno> {
    let _one_at_a_time = cx.dom.slow.lock();
    if v.sched.areas.info_frame().is_some() {
        return Err(Errno::Inval);
    }
    if !down && !Arc::ptr_eq(v, cx.vcpu) {
        return Err(Errno::Inval);
    }
    let page = cx.hv.frames.get_page_writable(cx.m, Mfn::new(mfn), cx.dom.id).map_err(|_| Errno::Inval)?;
    let new = page.mfn();
    copy(cx.m, v, new, offset);
    v.sched.areas.set_info_frame(Some(page.into_raw()));
    v.events.set_info(new, u64::from(offset));
    mark_all_pending(cx.m, new, offset);
    publish_time_of_other(cx.m, v);
    cx.m.request_exit_work();
    Ok(())
}

fn word_index(offset: u32) -> usize {
    usize::try_from(offset / 8).unwrap_or(usize::MAX)
}

fn copy(m: &impl Frames, v: &Vcpu, to: Mfn, offset: u32) {
    let first = word_index(offset);
    let old = v.events.info_location();
    for n in 0..WORDS {
        let value = match old {
            Some((mfn, at)) => {
                m.words(mfn).get(word_index(at).saturating_add(n)).map_or(0, |w| w.load(SeqCst))
            }
            None if n == 0 => UPCALL_MASK,
            None => 0,
        };
        if let Some(w) = m.words(to).get(first.saturating_add(n)) {
            w.store(value, SeqCst);
        }
    }
}

fn mark_all_pending(m: &impl Frames, mfn: Mfn, offset: u32) {
    let first = word_index(offset);
    let words = m.words(mfn);
    if let Some(selector) = words.get(first.saturating_add(1)) {
        selector.store(u64::MAX, SeqCst);
    }
    if let Some(word) = words.get(first) {
        word.fetch_or(UPCALL_PENDING, SeqCst);
    }
}

/// Gives back the frame that the guest registered, when the vcpu will not run again; its `vcpu_info` is nowhere then.
pub(super) fn release(frames: &FrameTable, v: &Vcpu) {
    if let Some(mfn) = v.sched.areas.take_info_frame() {
        v.events.clear_info();
        drop(frames.adopt_writable(mfn));
    }
}
