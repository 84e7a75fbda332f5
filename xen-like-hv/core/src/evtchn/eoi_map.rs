//! The page in which a domain reads which of its physical lines want an explicit end of interrupt
//! (`PHYSDEVOP_pirq_eoi_gmfn_v1`, `_v2`): one bit for each line.
//!
//! | state | by | then |
//! |---|---|---|
//! | none | `pirq_eoi_gmfn` | shared, for good: the frame stays the domain's, and writable |
//! | shared | a line is bound | its bit says whether the line is level-triggered |
//! | shared | the domain's end | none |
//!
//! The hypervisor writes the bits and never reads them: what the guest writes there deceives the guest alone. It can ask for
//! fewer EOIs than its lines need; they stay masked then.

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicBool, AtomicU64};

use pv_abi::errno::Errno;
use pv_abi::ids::Mfn;

use super::pirq;
use crate::domain::Domain;
use crate::frame::FrameTable;
use crate::hv::Hypervisor;
use crate::port::{Cpu, Frames, Interrupts, Tlb};

/// What an EOI does besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EoiMapVersion {
    /// It unmasks the line's port too.
    V1,
    /// Nothing.
    V2,
}

/// A domain's page.
#[derive(Debug, Default)]
pub(super) struct EoiMap {
    /// The frame, held by a writable reference; 0 is none, as a frame number means none.
    frame: AtomicU64,
    /// Whether an EOI unmasks the port.
    unmasks: AtomicBool,
}

impl EoiMap {
    /// The frame, where there is one.
    pub(super) fn frame(&self) -> Option<Mfn> {
        Some(self.frame.load(SeqCst)).filter(|&raw| raw != 0).map(Mfn::new)
    }

    /// Whether an EOI unmasks the port.
    pub(super) fn unmasks(&self) -> bool {
        self.unmasks.load(SeqCst)
    }

    /// Tells the guest whether a line wants an EOI. A line past the page has no bit and is not given out.
    pub(super) fn tell(&self, m: &impl Frames, pirq: u32, needs_eoi: bool) {
        let Some(mfn) = self.frame() else { return };
        let Some(word) = usize::try_from(pirq / 64).ok().and_then(|n| m.words(mfn).get(n)) else { return };
        let bit = 1 << (pirq % 64);
        if needs_eoi {
            word.fetch_or(bit, SeqCst);
        } else {
            word.fetch_and(!bit, SeqCst);
        }
    }
}

/// `PHYSDEVOP_pirq_eoi_gmfn_v1` and `_v2`: shares a frame of the domain's own, once. Lines that are bound already get
/// their bits; the others' stay as the guest left them until they are bound.
///
/// # Errors
/// `EINVAL` where the frame is not a writable one of the domain's; `EBUSY` where it shares one already.
pub fn register(
    hv: &Hypervisor,
    m: &(impl Frames + Interrupts + Tlb + Cpu),
    dom: &Domain,
    gmfn: u64,
    version: EoiMapVersion,
) -> Result<(), Errno> {
    let page = hv.frames.get_page_writable(m, Mfn::new(gmfn), dom.id).map_err(|_| Errno::Inval)?;
    let map = &dom.events.eoi_map;
    if map.frame.compare_exchange(0, page.mfn().raw(), SeqCst, SeqCst).is_err() {
        return Err(Errno::Busy);
    }
    // The domain owns the reference now.
    let _held = page.into_raw();
    if version == EoiMapVersion::V1 {
        map.unmasks.store(true, SeqCst);
    }
    pirq::tell_all(hv, m, dom);
    Ok(())
}

/// Gives the frame back, when the domain's ports are closed for good.
pub(super) fn release(frames: &FrameTable, dom: &Domain) {
    let raw = dom.events.eoi_map.frame.swap(0, SeqCst);
    if raw != 0 {
        drop(frames.adopt_writable(Mfn::new(raw)));
    }
}

#[cfg(test)]
mod tests {
    use super::{EoiMapVersion, register};
    use crate::evtchn::tests::Test;
    use crate::evtchn::{destroy, pirq};
    use crate::port::Frames;
    use core::sync::atomic::Ordering::SeqCst;
    use pv_abi::errno::Errno;
    use pv_abi::ids::Mfn;

    fn frame(t: &Test, dom: usize) -> Mfn {
        t.world.hv.frames.alloc_for(t.m(), &t.doms[dom].0.mem, 0, 0).unwrap()
    }

    fn share(t: &Test, dom: usize, mfn: Mfn, version: EoiMapVersion) -> Result<(), Errno> {
        register(&t.world.hv, t.m(), &t.doms[dom].0, mfn.raw(), version)
    }

    fn bits(t: &Test, mfn: Mfn) -> u64 {
        t.m().words(mfn)[0].load(SeqCst)
    }

    #[test]
    fn level_lines_want_an_eoi_and_the_page_says_so() {
        let t = Test::new();
        let (hv, dom0) = (&t.world.hv, &t.doms[0].0);
        let bound = |pirq| {
            pirq::map(hv, t.m(), dom0, pirq).unwrap();
            pirq::bind_pirq(hv, t.m(), dom0, pirq).unwrap()
        };
        bound(17);
        let page = frame(&t, 0);
        t.m().words(page)[0].store(1 << 5 | 1 << 9, SeqCst);
        assert_eq!(share(&t, 0, page, EoiMapVersion::V2), Ok(()));
        assert_eq!(
            bits(&t, page),
            1 << 5 | 1 << 9 | 1 << 17,
            "a line bound before; the guest's own bits stay"
        );
        bound(5);
        bound(18);
        assert_eq!(bits(&t, page), 1 << 9 | 1 << 17 | 1 << 18, "5 is edge-triggered");
        t.audit();
    }

    #[test]
    fn one_page_of_the_domains_own_until_it_ends() {
        let t = Test::new();
        let (own, another, theirs) = (frame(&t, 1), frame(&t, 1), frame(&t, 2));
        for wrong in [theirs, Mfn::new(1 << 30), t.doms[0].0.shared_info] {
            assert_eq!(share(&t, 1, wrong, EoiMapVersion::V2), Err(Errno::Inval), "{wrong}");
        }
        assert_eq!(share(&t, 1, own, EoiMapVersion::V2), Ok(()));
        assert_eq!(share(&t, 1, own, EoiMapVersion::V2), Err(Errno::Busy));
        assert_eq!(share(&t, 1, another, EoiMapVersion::V1), Err(Errno::Busy));
        t.audit();
        assert!(t.world.hv.frames.is_held_writable(own, t.doms[1].0.id), "no page table can be made of it");
        assert!(
            !t.world.hv.frames.is_held_writable(another, t.doms[1].0.id),
            "what was refused is given back"
        );
        assert_eq!(destroy(&t.world.hv, t.m(), &t.doms[1].0), Ok(()));
        assert!(!t.world.hv.frames.is_held_writable(own, t.doms[1].0.id));
        t.audit();
    }

    #[test]
    fn version_1_unmasks_the_port_with_the_eoi() {
        for (version, delivered) in [(EoiMapVersion::V1, true), (EoiMapVersion::V2, false)] {
            let t = Test::new();
            let (hv, dom0) = (&t.world.hv, &t.doms[0].0);
            let page = frame(&t, 0);
            share(&t, 0, page, version).unwrap();
            pirq::map(hv, t.m(), dom0, 17).unwrap();
            let port = pirq::bind_pirq(hv, t.m(), dom0, 17).unwrap().raw();
            t.set_mask(0, port);
            pirq::fired(hv, t.m(), 17);
            assert_eq!(pirq::eoi(hv, t.m(), dom0, 17), Ok(()));
            assert_eq!(t.masked(0, port), !delivered);
            assert_eq!(pirq::eoi(hv, t.m(), dom0, 18), Err(Errno::Inval));
        }
    }
}
