//! The invariants of frames and page tables as rules on the raw words, written without the code's own audit.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::ids::{DomId, Mfn};
use pv_abi::pte::{Level, Pte, PteFlags};

use super::Broken;
use crate::domain::Domain;
use crate::fake::FakeWorld;
use crate::frame::page_info::CountInfo;
use crate::frame::{FrameState, PageInfo, PageType};
use crate::mm::pte_rules::is_guest_slot;
use crate::port::Frames;

/// A world with the domains in it.
pub(super) struct View<'a> {
    pub(super) w: &'a FakeWorld,
    pub(super) doms: &'a [Arc<Domain>],
    /// Whose tables are loaded on the pcpus.
    pub(super) runs: DomId,
}

impl View<'_> {
    fn info(&self, mfn: Mfn) -> Option<&'static PageInfo> {
        self.w.hv.frames.info(mfn)
    }

    fn all(&self) -> impl Iterator<Item = (Mfn, &'static PageInfo)> + '_ {
        (1..self.w.hv.frames.end().raw()).map(Mfn::new).filter_map(|mfn| Some((mfn, self.info(mfn)?)))
    }

    fn entries(&self, table: Mfn, level: Level) -> impl Iterator<Item = (usize, Pte)> + '_ {
        let words = self.w.m.words(table).iter().enumerate();
        words
            .map(|(n, w)| (n, Pte::from_raw(w.load(Relaxed))))
            .filter(move |(n, pte)| pte.is_present() && is_guest_slot(level, *n))
    }

    /// Tables on the paths of unfinished work.
    fn paths(&self) -> BTreeMap<Mfn, u32> {
        let mut on = BTreeMap::new();
        for dom in self.doms {
            let vcpus: Vec<_> = dom.each_vcpu().collect();
            for slot in vcpus.iter().map(|v| &v.mm.pending).chain([&dom.mm.teardown]) {
                slot.holdings(|mfn, _, _| *on.entry(mfn).or_default() += 1, |_| {});
            }
        }
        on
    }
}

/// Checks every frame.
pub(super) fn frames(v: &View<'_>) -> Vec<Broken> {
    let mut broken = Vec::new();
    let paths = v.paths();
    for (mfn, page) in v.all() {
        for (rule, what) in [
            ("I2", validated_tables_are_in_order(v, mfn, page)),
            ("I4", busy_is_one_work(&paths, mfn, page)),
            ("I5", works_share_nothing(&paths, mfn, page)),
            ("I6", pins_are_references(mfn, page)),
            ("I7", references_have_owners(mfn, page)),
            ("I8", the_hypervisors_are_no_tables(mfn, page)),
            ("I12", clean_frames_are_zero(v, mfn, page)),
        ] {
            broken.extend(what.map(|what| (rule, what)));
        }
    }
    broken.extend(no_stale_translation(v));
    let audit = crate::mm::audit::audit(&v.w.hv.frames, &v.w.m, v.doms, |_| {});
    broken.extend(audit.into_iter().map(|what| ("I3", what)));
    broken
}

fn validated_tables_are_in_order(v: &View<'_>, mfn: Mfn, page: &PageInfo) -> Option<String> {
    let (ty, owner) = (page.type_info(), page.count_info().owner());
    let PageType::Table(level) = ty.ty() else { return None };
    if ty.count() == 0 || !ty.validated() {
        return None;
    }
    v.entries(mfn, level).find_map(|(index, pte)| {
        let child = v.info(pte.mfn())?;
        let (count, use_) = (child.count_info(), child.type_info());
        let in_use = |as_| use_.ty() == as_ && use_.count() != 0 && use_.validated();
        let good = match level.below() {
            Some(below) => in_use(PageType::Table(below)) && count.owner() == owner,
            None if pte.flags().contains(PteFlags::RW) => in_use(PageType::Writable),
            None => count.state() == FrameState::Guest,
        };
        let flags = pte.flags().contains(PteFlags::USER) && !pte.flags().contains(PteFlags::PSE);
        (!good || !flags).then(|| format!("{mfn} {level:?} entry {index} {pte:?}: {count:?} {use_:?}"))
    })
}

fn busy_is_one_work(paths: &BTreeMap<Mfn, u32>, mfn: Mfn, page: &PageInfo) -> Option<String> {
    let ty = page.type_info();
    // In a free block's head the type word is something else.
    let guests = page.count_info().state() == FrameState::Guest;
    let busy = guests && ty.count() != 0 && !ty.validated();
    (busy != paths.contains_key(&mfn)).then(|| format!("{mfn}: busy {busy}, on a path {:?}", paths.get(&mfn)))
}

fn works_share_nothing(paths: &BTreeMap<Mfn, u32>, mfn: Mfn, page: &PageInfo) -> Option<String> {
    let works = paths.get(&mfn).copied().unwrap_or(0);
    let alone = works == 0 || (works == 1 && page.type_info().count() == 1 && page.count_info().count() > 0);
    (!alone).then(|| format!("{mfn}: on {works} paths with {:?}", page.type_info()))
}

fn pins_are_references(mfn: Mfn, page: &PageInfo) -> Option<String> {
    let ty = page.type_info();
    let good = !ty.pinned() || (matches!(ty.ty(), PageType::Table(_)) && ty.count() != 0);
    (!good || ty.locked()).then(|| format!("{mfn}: pinned or locked with {ty:?}"))
}

fn references_have_owners(mfn: Mfn, page: &PageInfo) -> Option<String> {
    let (count, ty) = (page.count_info(), page.type_info());
    let good = match count.state() {
        FrameState::Guest => count.count() >= u64::from(count.allocated()) && count.count() != 0,
        FrameState::Free => count.count() == 0 && !ty.pinned() && !ty.validated(),
        FrameState::Hypervisor => count.count() == 1 && ty.count() == 0,
        FrameState::Reserved | FrameState::Device => count.count() == 0,
    };
    let more_uses = count.state() == FrameState::Guest && ty.count() > count.count();
    (!good || more_uses).then(|| format!("{mfn}: {count:?} {ty:?}"))
}

fn the_hypervisors_are_no_tables(mfn: Mfn, page: &PageInfo) -> Option<String> {
    let (count, ty) = (page.count_info(), page.type_info());
    let own = count.state() == FrameState::Hypervisor || count.special();
    (own && ty.count() != 0 && matches!(ty.ty(), PageType::Table(_))).then(|| format!("{mfn}: {ty:?}"))
}

fn clean_frames_are_zero(v: &View<'_>, mfn: Mfn, page: &PageInfo) -> Option<String> {
    let zero = || v.w.m.words(mfn).iter().all(|w| w.load(Relaxed) == 0) && v.w.m.m2p(mfn) == u64::MAX;
    (page.count_info() == CountInfo::clean() && !zero()).then(|| format!("{mfn}: marked as zeroed"))
}

/// I1 and I12: what any pcpu can still reach is what the frame is used as now.
fn no_stale_translation(v: &View<'_>) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (cpu, cached) in v.w.m.tlb.cached().iter().flatten().enumerate() {
        for &mfn in &cached.writable {
            let Some(page) = v.info(mfn) else { continue };
            let ty = page.type_info();
            if page.count_info().state() == FrameState::Guest
                && ty.count() != 0
                && ty.ty() != PageType::Writable
            {
                broken.push(("I1", format!("pcpu {cpu} can write {mfn}, which is {ty:?}")));
            }
        }
        let mapped = cached.readable.iter().chain(cached.tables.iter().map(|(t, _)| t));
        for &mfn in mapped {
            let Some(count) = v.info(mfn).map(PageInfo::count_info) else { continue };
            let same = count.state() == FrameState::Free || count.owner() == Some(v.runs);
            if !same {
                broken.push(("I12", format!("pcpu {cpu} reaches {mfn}, which is {count:?}")));
            }
        }
        for &(mfn, level) in &cached.tables {
            let Some(page) = v.info(mfn).filter(|p| p.count_info().state() == FrameState::Guest) else {
                continue;
            };
            let ty = page.type_info();
            let same = matches!(ty.ty(), PageType::Table(l) if l.number() == level);
            if ty.count() != 0 && !same {
                broken.push(("I12", format!("pcpu {cpu} walks {mfn} as level {level}, which is {ty:?}")));
            }
        }
    }
    broken
}
