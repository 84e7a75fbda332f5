//! Recounts all references and types of frames from first principles: from page-table entries, pins, base pointers,
//! descriptor tables and unfinished work. For tests after every step, and for the debug key.
//!
//! What other rooms hold (grants, registered areas) they tell by a callback.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::ids::{DomId, Mfn};
use pv_abi::pte::{ENTRIES_PER_TABLE, Level, Pte, PteFlags};

use super::pte_rules;
use super::tables::PendingSlot;
use crate::domain::Domain;
use crate::frame::{FrameState, FrameTable, PageType};
use crate::port::Frames;

/// What a frame should have.
#[derive(Debug, Default)]
struct Expected {
    general: u64,
    /// Uses by type; one kind at most may be there.
    uses: Vec<(PageType, u64)>,
    /// How many works have it on their path.
    works: u32,
}

/// The recount.
#[derive(Debug, Default)]
pub struct Books {
    frames: BTreeMap<Mfn, Expected>,
}

impl Books {
    /// Somebody holds a general reference, and one as `ty` where that is given.
    pub fn held(&mut self, mfn: Mfn, ty: Option<PageType>) {
        let e = self.frames.entry(mfn).or_default();
        e.general += 1;
        let Some(ty) = ty else { return };
        match e.uses.iter_mut().find(|(t, _)| *t == ty) {
            Some((_, n)) => *n += 1,
            None => e.uses.push((ty, 1)),
        }
    }

    /// The first `n` entries of a table hold what they name.
    fn entries(&mut self, table: &FrameTable, m: &impl Frames, mfn: Mfn, level: Level, n: usize) {
        for (index, word) in m.words(mfn).iter().enumerate().take(n) {
            let pte = Pte::from_raw(word.load(Relaxed));
            if !pte.is_present() || !pte_rules::is_guest_slot(level, index) {
                continue;
            }
            let device = table.info(pte.mfn()).is_none_or(|p| p.count_info().state() == FrameState::Device);
            match level.below() {
                Some(below) => self.held(pte.mfn(), Some(PageType::Table(below))),
                None if device => {}
                None => {
                    let writable = pte.flags().contains(PteFlags::RW);
                    self.held(pte.mfn(), writable.then_some(PageType::Writable));
                }
            }
        }
    }

    fn slot(&mut self, table: &FrameTable, m: &impl Frames, slot: &PendingSlot, root_level: PageType) {
        let mut path = Vec::new();
        let mut held = Vec::new();
        slot.holdings(|mfn, level, n| path.push((mfn, level, n)), |mfn| held.push(mfn));
        for (mfn, level, n) in path {
            self.held(mfn, Some(PageType::Table(level)));
            self.entries(table, m, mfn, level, n);
            self.frames.entry(mfn).or_default().works += 1;
        }
        for mfn in held {
            let ty = table.info(mfn).map_or(root_level, |p| p.type_info().ty());
            self.held(mfn, Some(ty));
        }
    }
}

/// Checks the frames of `domains`, which must stand still and be all there are; returns what is wrong. `others` adds
/// what other rooms hold.
#[must_use]
pub fn audit(
    frames: &FrameTable,
    m: &impl Frames,
    domains: &[Arc<Domain>],
    others: impl FnOnce(&mut Books),
) -> Vec<String> {
    let mut books = Books::default();
    let mut wrong = Vec::new();
    others(&mut books);
    for dom in domains {
        count_domain(frames, m, dom, &mut books, &mut wrong);
    }
    for dom in domains {
        dom.mem.for_each(|mfn| {
            let expected = books.frames.remove(&mfn).unwrap_or_default();
            check_frame(frames, dom.id, mfn, &expected, &mut wrong);
        });
    }
    for (mfn, e) in books.frames {
        wrong.push(format!("{mfn}: referenced, but no domain's: {e:?}"));
    }
    if frames.leaks() != 0 {
        wrong.push(format!("{} table references were dropped", frames.leaks()));
    }
    frames.audit_heap(&mut wrong);
    wrong
}

fn count_domain(
    frames: &FrameTable,
    m: &impl Frames,
    dom: &Arc<Domain>,
    books: &mut Books,
    wrong: &mut Vec<String>,
) {
    for v in dom.each_vcpu() {
        for root in [v.mm.kernel_root(), v.mm.user_root()].into_iter().flatten() {
            books.held(root, Some(PageType::Table(Level::L4)));
        }
        books.slot(frames, m, &v.mm.pending, PageType::None);
        let tables = v.entry.tables.lock();
        for mfn in tables.gdt_frames().iter().chain(tables.ldt_frames()) {
            books.held(*mfn, Some(PageType::SegDesc));
        }
    }
    books.slot(frames, m, &dom.mm.teardown, PageType::None);
    let mut counted = (0, 0);
    dom.mem.for_each(|mfn| {
        let Some(page) = frames.info(mfn) else { return };
        let (count, ty) = (page.count_info(), page.type_info());
        if count.special() {
            counted.1 += 1;
        } else {
            counted.0 += 1;
        }
        if count.allocated() {
            let shared = count.special().then(|| ty.ty());
            books.held(mfn, shared);
        }
        if ty.pinned() {
            books.held(mfn, Some(ty.ty()));
        }
        if let (PageType::Table(level), true) = (ty.ty(), ty.count() != 0 && ty.validated()) {
            books.entries(frames, m, mfn, level, ENTRIES_PER_TABLE);
        }
    });
    if counted != (dom.mem.tot_pages(), dom.mem.special_pages()) {
        wrong.push(format!("{}: has {counted:?} frames, accounts for {:?}", dom.id, dom.mem));
    }
}

fn check_frame(frames: &FrameTable, owner: DomId, mfn: Mfn, expected: &Expected, wrong: &mut Vec<String>) {
    let Some(page) = frames.info(mfn) else { return };
    let (count, ty) = (page.count_info(), page.type_info());
    let mut say =
        |what: &str| wrong.push(format!("{owner} {mfn}: {what}: {count:?} {ty:?} against {expected:?}"));
    if count.owner() != Some(owner) {
        say("another's frame on the list");
    }
    if count.count() != expected.general {
        say("general references");
    }
    let (kind, uses) = match expected.uses.as_slice() {
        [] => (ty.ty(), 0),
        [(kind, n)] => (*kind, *n),
        _ => return say("two types at once"),
    };
    if ty.count() != uses || (uses != 0 && ty.ty() != kind) {
        say("type references");
    }
    if ty.count() != 0 && ty.validated() == (expected.works != 0) {
        say("validated and on a work's path, or neither");
    }
    if expected.works > 1 {
        say("on the path of two works");
    }
    if ty.locked() {
        say("locked");
    }
}
