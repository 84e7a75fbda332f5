//! Recounts all references and types of frames from first principles: from page-table entries, pins, base pointers,
//! descriptor tables and unfinished work. For tests after every step, for the debug key, and at the machine's end.
//!
//! The frame table is looked at a slice at a time, so that the memory which the recount needs has a bound. What other
//! rooms hold (grants, registered areas) they tell by a callback.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::ids::{DomId, Mfn};
use pv_abi::pte::{ENTRIES_PER_TABLE, Level, Pte, PteFlags};

use super::pte_rules;
use super::tables::PendingSlot;
use crate::domain::Domain;
use crate::frame::{FrameState, FrameTable, PageType};
use crate::port::Frames;

/// Frames of a slice.
const SLICE: u64 = 1 << 15;
/// Complaints that are kept; a broken invariant tends to show in many places.
const MAX_COMPLAINTS: usize = 64;

/// What a frame should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Expected {
    general: u32,
    /// Uses, and as what.
    uses: u32,
    ty: Option<PageType>,
    /// Somebody else uses it as something else.
    mixed: bool,
    /// How many works have it on their path.
    works: u32,
}

/// The recount of one slice.
#[derive(Debug)]
pub struct Books {
    slice: Range<u64>,
    frames: Vec<Expected>,
}

impl Books {
    /// Empty books for a slice; `None` where there is no memory for them.
    fn new(slice: Range<u64>) -> Option<Self> {
        let len = usize::try_from(slice.end - slice.start).ok()?;
        let mut frames = Vec::new();
        frames.try_reserve_exact(len).ok()?;
        frames.resize(len, Expected::default());
        Some(Self { slice, frames })
    }

    fn of(&mut self, mfn: Mfn) -> Option<&mut Expected> {
        let index = mfn.raw().checked_sub(self.slice.start)?;
        self.frames.get_mut(usize::try_from(index).ok()?)
    }

    /// Somebody holds a general reference, and one as `ty` where that is given.
    pub fn held(&mut self, mfn: Mfn, ty: Option<PageType>) {
        let Some(e) = self.of(mfn) else { return };
        e.general += 1;
        let Some(ty) = ty else { return };
        e.uses += 1;
        e.mixed |= e.ty.is_some_and(|other| other != ty);
        e.ty = Some(ty);
    }

    /// The first `n` entries of a table hold what they name.
    fn entries(&mut self, table: &FrameTable, m: &impl Frames, mfn: Mfn, level: Level, n: usize) {
        for (index, word) in m.words(mfn).iter().enumerate().take(n) {
            let pte = Pte::from_raw(word.load(Relaxed));
            if !pte.is_present() || !pte_rules::is_guest_slot(level, index) {
                continue;
            }
            match level.below() {
                Some(below) => self.held(pte.mfn(), Some(PageType::Table(below))),
                None if !self.slice.contains(&pte.mfn().raw()) => {}
                None if table
                    .info(pte.mfn())
                    .is_none_or(|p| p.count_info().state() == FrameState::Device) => {}
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
            if let Some(e) = self.of(mfn) {
                e.works += 1;
            }
        }
        for mfn in held {
            let ty = table.info(mfn).map_or(root_level, |p| p.type_info().ty());
            self.held(mfn, Some(ty));
        }
    }

    /// What is expected of a frame; from now on nothing is.
    fn take(&mut self, mfn: Mfn) -> Option<Expected> {
        self.of(mfn).map(core::mem::take)
    }

    /// Frames of which something is still expected.
    fn rest(&self) -> impl Iterator<Item = (Mfn, &Expected)> {
        let all = (self.slice.start..).map(Mfn::new).zip(&self.frames);
        all.filter(|(_, e)| **e != Expected::default())
    }
}

/// Checks the frames of `domains`, which must stand still and be all there are; returns what is wrong. `others` adds
/// what other rooms hold, once for each slice.
#[must_use]
pub fn audit(
    frames: &FrameTable,
    m: &impl Frames,
    domains: &[Arc<Domain>],
    others: impl Fn(&mut Books),
) -> Vec<String> {
    let mut wrong = Vec::new();
    let end = frames.end().raw();
    let mut start = 0;
    while start < end {
        let slice = start..end.min(start + SLICE);
        start = slice.end;
        let Some(mut books) = Books::new(slice) else {
            wrong.push("no memory for the recount".into());
            break;
        };
        others(&mut books);
        domains.iter().for_each(|dom| count_domain(frames, m, dom, &mut books));
        check_slice(frames, domains, &mut books, &mut wrong);
    }
    domains.iter().for_each(|dom| check_account(frames, dom, &mut wrong));
    if frames.leaks() != 0 {
        wrong.push(format!("{} table references were dropped", frames.leaks()));
    }
    frames.audit_heap(&mut wrong);
    wrong
}

fn check_slice(frames: &FrameTable, domains: &[Arc<Domain>], books: &mut Books, wrong: &mut Vec<String>) {
    for dom in domains {
        dom.mem.for_each(|mfn| {
            if let Some(expected) = books.take(mfn).filter(|_| wrong.len() < MAX_COMPLAINTS) {
                check_frame(frames, dom.id, mfn, &expected, wrong);
            }
        });
    }
    for (mfn, e) in books.rest().take(MAX_COMPLAINTS) {
        wrong.push(format!("{mfn}: referenced, but no domain's: {e:?}"));
    }
}

fn count_domain(frames: &FrameTable, m: &impl Frames, dom: &Arc<Domain>, books: &mut Books) {
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
    dom.mem.for_each(|mfn| {
        let Some(page) = frames.info(mfn) else { return };
        let (count, ty) = (page.count_info(), page.type_info());
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
}

/// The domain's account says how many frames it has.
fn check_account(frames: &FrameTable, dom: &Domain, wrong: &mut Vec<String>) {
    let mut counted = (0, 0);
    dom.mem.for_each(|mfn| {
        if frames.info(mfn).is_some_and(|page| page.count_info().special()) {
            counted.1 += 1;
        } else {
            counted.0 += 1;
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
    if count.count() != u64::from(expected.general) {
        say("general references");
    }
    if expected.mixed {
        return say("two types at once");
    }
    let (kind, uses) = (expected.ty.unwrap_or(ty.ty()), u64::from(expected.uses));
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
