//! The audit of a whole machine: event channels, grants and frames, each recounted from first principles.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::domain::Domain;
use crate::frame::PageType;
use crate::hv::Hypervisor;
use crate::mm::audit::Books;
use crate::port::Machine;
use crate::{evtchn, grant, mm};

/// Checks everything that is counted; returns what is wrong. `domains` must stand still and be all there are.
#[must_use]
pub fn audit<M: Machine>(hv: &Hypervisor, m: &M, domains: &[Arc<Domain>]) -> Vec<String> {
    let mut wrong = evtchn::audit(hv, domains);
    wrong.extend(grant::audit(m, domains));
    wrong.extend(mm::audit::audit(&hv.frames, m, domains, |books| {
        for dom in domains {
            grant::held_frames(dom, |mfn, ty| books.held(mfn, ty));
            registered_areas(dom, books);
            // Control blocks and event words of the FIFO ABI, and the map of lines that want an EOI.
            dom.events.held_frames().for_each(|mfn| books.held(mfn, Some(PageType::Writable)));
        }
    }));
    wrong
}

/// A registered `vcpu_info` keeps its frame writable.
fn registered_areas(dom: &Domain, books: &mut Books) {
    for v in dom.each_vcpu() {
        if let Some(mfn) = v.sched.areas.info_frame() {
            books.held(mfn, Some(PageType::Writable));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::audit;
    use crate::access::Privilege;
    use crate::fake::FakeWorld;
    use pv_abi::ids::DomId;

    #[test]
    fn a_reference_too_many_and_a_type_without_use_are_told() {
        let w = FakeWorld::new(32);
        let (dom, _) = w.add_domain(DomId::new(1), Privilege::Unprivileged, 8);
        let mfn = w.hv.frames.alloc_for(&w.m, &dom.mem, 0, 0).unwrap();
        let domains = [dom.clone()];
        assert!(audit(&w.hv, &w.m, &domains).is_empty());
        let held = w.hv.frames.get_page_writable(&w.m, mfn, dom.id).unwrap();
        let wrong = audit(&w.hv, &w.m, &domains);
        assert!(wrong.iter().any(|what| what.contains("general references")), "{wrong:?}");
        assert!(wrong.iter().any(|what| what.contains("type references")), "{wrong:?}");
        drop(held);
        assert!(audit(&w.hv, &w.m, &domains).is_empty());
    }
}
