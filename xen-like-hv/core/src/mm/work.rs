//! Validation and devalidation of page tables, as work that can stop anywhere and go on later.
//!
//! A [`Work`] is a path from a root down to the table at which it stands: at most one table of each level. Every
//! table on the path is *busy* (see [`crate::frame::page_info`]) and belongs to this work alone: its type reference
//! and one general reference. How many entries of each hold references is in the path, not in the frame, so there
//! is no partial state that two parties could claim (I5; XSA-299, XSA-309 and XSA-310 were of that kind).
//!
//! Work that stops is parked with the vcpu that began it (see [`super::tables`]), which finishes it before it may do
//! any other page-table work (XSA-264). Who meets a busy table waits by issuing its own call again; it waits for lower
//! levels only, as there are no linear page tables (I14), so two works never wait for each other.
//!
//! Invariants: I2, I3, I5, I9.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::pte::{ENTRIES_PER_TABLE, Level, Pte};

use super::leaf::{self, Rights};
use super::pte_rules::{self, HYPERVISOR_SLOTS};
use crate::access::Privilege;
use crate::frame::flush::{self, Flushed};
use crate::frame::page_info::CountInfo;
use crate::frame::types::{self, TypeGot, TypePut, TypeRefused};
use crate::frame::{FrameTable, PageInfo, PageType};
use crate::port::{Cpu, FrameWords, Frames, Tlb};

/// Entries of an L1 between two preemption checks. Each is a look-up and two counts, so a whole table at once would be the
/// longest stretch of the hypervisor.
const LEAVES_PER_STEP: usize = 128;
/// As many whose references are given up: where a domain has ended each may be the last one, and the frame is freed.
const RELEASES_PER_STEP: usize = 64;

/// What page-table work needs of the machine.
pub trait PtMachine: Frames + Tlb + Cpu {}
impl<T: Frames + Tlb + Cpu> PtMachine for T {}

/// A table on the path. Its first `done` entries hold references.
#[derive(Debug)]
struct Node {
    mfn: Mfn,
    level: Level,
    done: usize,
    /// Proof for [`types::publish`]; taken when the frame was claimed for validation.
    flushed: Option<Flushed>,
}

/// Which way the work goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// Entries are checked, ascending.
    Validate,
    /// References are given up, descending: of a table no longer in use, or of one that failed validation.
    Devalidate(Option<Errno>),
}

/// Unfinished work.
#[derive(Debug)]
pub(crate) struct Work {
    path: [Option<Node>; 4],
    depth: usize,
    direction: Direction,
    root: (Mfn, Level),
    owner: DomId,
    devices: Privilege,
}

/// How long a piece of work may go on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Until something else wants this pcpu.
    UntilPreempted,
    /// A moment: the caller has a table locked, and who waits for that lets nothing else onto his pcpu.
    Brief,
}

impl Patience {
    /// Steps of which the longest takes some microseconds; more than an entry nearly always needs.
    const BRIEF_STEPS: u64 = 32;

    const fn steps(self) -> u64 {
        match self {
            Self::UntilPreempted => u64::MAX,
            Self::Brief => Self::BRIEF_STEPS,
        }
    }
}

/// How far [`Work::run`] came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Finished. After a validation that succeeded the caller has the root's two references.
    Done(Result<(), Errno>),
    /// Something else wants this pcpu, or another vcpu's work stands in the way.
    Stopped,
}

/// What one step did.
enum Step {
    Again,
    Enter(Node),
    Leave,
    Fail(Errno),
    Wait,
}

impl Work {
    /// Work on a frame that the caller has just claimed as a table of `level`, with a general reference.
    pub(crate) fn validate(
        m: &impl PtMachine,
        page: &PageInfo,
        root: (Mfn, Level),
        owner: DomId,
        devices: Privilege,
    ) -> Self {
        let node = claimed(m, page, root.0, root.1);
        Self::new(node, Direction::Validate, root, owner, devices)
    }

    /// Work on a table whose last type reference the caller has just put, with a general reference.
    pub(crate) fn devalidate(root: (Mfn, Level), owner: DomId) -> Self {
        let node = Node { mfn: root.0, level: root.1, done: ENTRIES_PER_TABLE, flushed: None };
        Self::new(node, Direction::Devalidate(None), root, owner, Privilege::Unprivileged)
    }

    fn new(node: Node, direction: Direction, root: (Mfn, Level), owner: DomId, devices: Privilege) -> Self {
        Self { path: [Some(node), None, None, None], depth: 1, direction, root, owner, devices }
    }

    /// The table that the work is for.
    pub(crate) fn root(&self) -> (Mfn, Level) {
        self.root
    }

    /// Owner of its tables.
    pub(crate) fn owner(&self) -> DomId {
        self.owner
    }

    /// Whether it validates: then its success leaves references.
    pub(crate) fn is_validation(&self) -> bool {
        !matches!(self.direction, Direction::Devalidate(None))
    }

    /// Gives a validation up: what it has taken is to be given back.
    pub(crate) fn abandon(&mut self) {
        if self.direction == Direction::Validate {
            self.direction = Direction::Devalidate(Some(Errno::Intr));
        }
    }

    /// The tables on the path with the entries that hold references, for audits.
    pub(crate) fn holdings(&self) -> impl Iterator<Item = (Mfn, Level, usize)> + '_ {
        self.path.iter().flatten().map(|n| (n.mfn, n.level, n.done))
    }

    /// Goes on until it is finished or stopped; at least one step is made, and no more than `patience` allows.
    pub(crate) fn run(&mut self, frames: &FrameTable, m: &impl PtMachine, patience: Patience) -> Progress {
        let mut left = patience.steps();
        loop {
            let Some(node) = self.depth.checked_sub(1).and_then(|d| self.path.get_mut(d)?.as_mut()) else {
                return Progress::Done(match self.direction {
                    Direction::Validate => Ok(()),
                    Direction::Devalidate(failed) => failed.map_or(Ok(()), Err),
                });
            };
            let step = match self.direction {
                Direction::Validate => validate_step(node, frames, m, self.owner, self.devices),
                Direction::Devalidate(_) => devalidate_step(node, frames, m),
            };
            match step {
                Step::Again => {}
                Step::Enter(child) => self.enter(child),
                Step::Leave => {
                    self.leave();
                    self.count_entry(m);
                }
                Step::Fail(e) if seeded!(FailureKeepsEntries) => {
                    self.path.iter_mut().flatten().for_each(|n| n.done = 0);
                    self.direction = Direction::Devalidate(Some(e));
                }
                Step::Fail(e) => self.direction = Direction::Devalidate(Some(e)),
                Step::Wait => return Progress::Stopped,
            }
            left -= 1;
            if self.depth != 0 && (left == 0 || m.preempt_pending()) {
                return Progress::Stopped;
            }
        }
    }

    fn enter(&mut self, child: Node) {
        // Levels strictly descend, so the path never has more than four tables.
        if let Some(slot) = self.path.get_mut(self.depth) {
            *slot = Some(child);
            self.depth += 1;
        }
    }

    fn leave(&mut self) {
        self.depth -= 1;
        if let Some(slot) = self.path.get_mut(self.depth) {
            *slot = None;
        }
    }

    /// After the validation of a table: its references are from now on those of the entry that led to it.
    fn count_entry(&mut self, m: &impl PtMachine) {
        if self.direction != Direction::Validate {
            return;
        }
        if let Some(parent) = self.depth.checked_sub(1).and_then(|d| self.path.get_mut(d)?.as_mut()) {
            if let Some(word) = m.words(parent.mfn).get(parent.done) {
                store_adjusted(word, Pte::from_raw(word.load(Relaxed)), parent.level);
            }
            parent.done += 1;
        }
    }
}

/// A node for a frame that was just claimed. The flush comes before the first look at its entries: until then another
/// pcpu may still write them through a stale translation.
fn claimed(m: &impl PtMachine, page: &PageInfo, mfn: Mfn, level: Level) -> Node {
    Node { mfn, level, done: 0, flushed: Some(flush::before_reuse(m, page.stamp())) }
}

fn validate_step(
    node: &mut Node,
    frames: &FrameTable,
    m: &impl PtMachine,
    owner: DomId,
    devices: Privilege,
) -> Step {
    let result = if node.level == Level::L1 {
        validate_l1(node, frames, m, Rights { frames_of: owner, devices })
    } else {
        validate_upper(node, frames, m, owner)
    };
    match result {
        Ok(Step::Leave) => {
            finish_validation(node, frames, m);
            Step::Leave
        }
        Ok(step) => step,
        Err(e) => Step::Fail(e),
    }
}

/// Entries of an L1 from where the last step stopped, up to the bound of a step.
fn validate_l1(
    node: &mut Node,
    frames: &FrameTable,
    m: &impl PtMachine,
    rights: Rights,
) -> Result<Step, Errno> {
    let words = m.words(node.mfn);
    let least = CountInfo::least_of(rights.frames_of);
    // `done` is the truth about which entries hold references wherever this ends.
    node.done = first_entry(words, node.done);
    let step = words.get(..node.done + LEAVES_PER_STEP).unwrap_or(words);
    while let Some(word) = step.get(node.done) {
        let pte = Pte::from_raw(word.load(Relaxed));
        if pte == Pte::EMPTY {
            node.done = first_entry(words, node.done + 1);
            continue;
        }
        let taken = if pte_rules::is_plain_l1(pte) {
            leaf::get_run(frames, step.get(node.done..).unwrap_or_default(), least)
        } else {
            0
        };
        if taken == 0 {
            validate_leaf(word, pte, frames, m, rights)?;
        }
        node.done += taken.max(1);
    }
    Ok(if node.done == ENTRIES_PER_TABLE { Step::Leave } else { Step::Again })
}

/// An entry of an L1 that is not empty, whatever it is.
fn validate_leaf(
    word: &AtomicU64,
    pte: Pte,
    frames: &FrameTable,
    m: &impl PtMachine,
    rights: Rights,
) -> Result<(), Errno> {
    if !pte.is_present() {
        return pte_rules::check_absent(pte, Level::L1, frames.end());
    }
    let pte = store_adjusted(word, pte, Level::L1);
    match leaf::get(frames, m, pte, rights) {
        Ok(()) => Ok(()),
        Err(refused) => {
            let pte = leaf::read_only(pte, refused)?;
            word.store(pte.raw(), Relaxed);
            leaf::get(frames, m, pte, rights)
        }
    }
}

/// Words that are looked at together where many are expected to be empty.
const GLANCE: usize = 8;

/// Where the next entry may be, from `from` on: whole groups of empty ones are passed over.
#[inline(always)]
fn first_entry(words: &FrameWords, from: usize) -> usize {
    if from.is_multiple_of(GLANCE) { pass_empty(words, from) } else { from }
}

fn pass_empty(words: &FrameWords, from: usize) -> usize {
    let (groups, _) = words.as_chunks::<GLANCE>();
    let empty = groups.iter().skip(from / GLANCE).take_while(|group| are_empty(group)).count();
    from + empty * GLANCE
}

/// The end of the entries below `end`, where groups of empty ones at their end are passed over.
#[inline(always)]
fn entries_end(words: &FrameWords, end: usize) -> usize {
    if end.is_multiple_of(GLANCE) { pass_empty_down(words, end) } else { end }
}

fn pass_empty_down(words: &FrameWords, end: usize) -> usize {
    let (groups, _) = words.as_chunks::<GLANCE>();
    let empty = groups.iter().take(end / GLANCE).rev().take_while(|group| are_empty(group)).count();
    end - empty * GLANCE
}

#[inline(always)]
fn are_empty(group: &[AtomicU64; GLANCE]) -> bool {
    group.iter().fold(0, |all, word| all | word.load(Relaxed)) == 0
}

/// Entries of an upper table up to the next present one.
fn validate_upper(
    node: &mut Node,
    frames: &FrameTable,
    m: &impl PtMachine,
    owner: DomId,
) -> Result<Step, Errno> {
    let words = m.words(node.mfn);
    node.done = first_entry(words, node.done);
    while let Some(word) = words.get(node.done) {
        let pte = Pte::from_raw(word.load(Relaxed));
        if pte == Pte::EMPTY {
            node.done = first_entry(words, node.done + 1);
            continue;
        }
        if pte_rules::is_guest_slot(node.level, node.done) {
            if pte.is_present() {
                return validate_entry(node, frames, m, owner, pte);
            }
            pte_rules::check_absent(pte, node.level, frames.end())?;
        }
        node.done += 1;
    }
    Ok(Step::Leave)
}

/// One present entry: takes the references that it owns, or enters the table that it names.
fn validate_entry(
    node: &mut Node,
    frames: &FrameTable,
    m: &impl PtMachine,
    owner: DomId,
    pte: Pte,
) -> Result<Step, Errno> {
    let level = node.level.below().ok_or(Errno::Inval)?;
    match get_child(frames, m, pte, level, owner)? {
        Child::Held => {
            if let Some(word) = m.words(node.mfn).get(node.done) {
                store_adjusted(word, pte, node.level);
            }
            node.done += 1;
            Ok(Step::Again)
        }
        Child::Claimed(child) => Ok(Step::Enter(child)),
        Child::Busy => Ok(Step::Wait),
    }
}

enum Child {
    Held,
    Claimed(Node),
    Busy,
}

/// Takes the references of an entry of the level above `level`.
fn get_child(
    frames: &FrameTable,
    m: &impl PtMachine,
    pte: Pte,
    level: Level,
    owner: DomId,
) -> Result<Child, Errno> {
    pte_rules::check_upper_flags(pte)?;
    let page = frames.get_page(pte.mfn(), owner)?;
    if frames.is_special(pte.mfn()) {
        return Err(Errno::Inval);
    }
    let child = match types::get(page.info(), PageType::Table(level)) {
        Ok(TypeGot::Held) => Child::Held,
        Ok(TypeGot::Claimed) => Child::Claimed(claimed(m, page.info(), pte.mfn(), level)),
        Err(TypeRefused::Busy) => return Ok(Child::Busy),
        Err(TypeRefused::Mismatch | TypeRefused::Overflow) => return Err(Errno::Inval),
    };
    page.into_raw();
    Ok(child)
}

/// Stores an entry as it is to be, if it is not so; returns it.
fn store_adjusted(word: &AtomicU64, pte: Pte, level: Level) -> Pte {
    let adjusted = pte_rules::adjust(pte, level);
    if adjusted != pte {
        word.store(adjusted.raw(), Relaxed);
    }
    adjusted
}

fn finish_validation(node: &mut Node, frames: &FrameTable, m: &impl PtMachine) {
    if node.level == Level::L4 {
        fill_hypervisor_slots(m, node.mfn);
    }
    if let (Some(page), Some(flushed)) = (frames.info(node.mfn), node.flushed.take()) {
        types::publish(page, flushed);
    }
}

/// Puts the hypervisor's entries into a new L4, over whatever the guest had there.
fn fill_hypervisor_slots(m: &impl PtMachine, root: Mfn) {
    let own = m.hypervisor_l4_entries();
    for (word, entry) in m.words(root).iter().skip(HYPERVISOR_SLOTS.start).zip(own) {
        word.store(entry, Relaxed);
    }
}

fn devalidate_step(node: &mut Node, frames: &FrameTable, m: &impl PtMachine) -> Step {
    // The table is out of use by now, so one reading of the clock serves all its entries.
    let clock = m.flush_clock();
    if node.level == Level::L1 && !put_leaves(node, frames, m, clock) {
        return Step::Again;
    }
    let words = m.words(node.mfn);
    while let Some(index) = entries_end(words, node.done).checked_sub(1) {
        node.done = index;
        if !pte_rules::is_guest_slot(node.level, index) {
            continue;
        }
        let pte = Pte::from_raw(words.get(index).map_or(0, |w| w.load(Relaxed)));
        if let Some(level) = node.level.below().filter(|_| pte.is_present()) {
            return put_child(frames, pte.mfn(), level, clock).map_or(Step::Again, Step::Enter);
        }
    }
    let Some(page) = frames.info(node.mfn) else { return Step::Leave };
    page.note_unmapped(clock);
    types::retire(page);
    frames.put_raw(node.mfn, page);
    Step::Leave
}

/// Gives up the references of the last entries of an L1, up to the bound of a step; whether none are left.
fn put_leaves(node: &mut Node, frames: &FrameTable, m: &impl PtMachine, clock: u64) -> bool {
    let words = m.words(node.mfn);
    node.done = entries_end(words, node.done);
    let start = node.done.saturating_sub(RELEASES_PER_STEP);
    while let Some(step) = words.get(start..node.done).filter(|step| !step.is_empty()) {
        node.done = start + leaf::put_run(frames, step, clock);
        let Some(word) = words.get(start..node.done).and_then(<[_]>::last) else { break };
        let pte = Pte::from_raw(word.load(Relaxed));
        node.done -= 1;
        if pte == Pte::EMPTY {
            node.done = entries_end(words, node.done);
        } else {
            leaf::put(frames, pte, clock);
        }
    }
    node.done == 0
}

/// Gives up the references of a former upper entry; a table that is out of use by that is to be entered.
fn put_child(frames: &FrameTable, mfn: Mfn, level: Level, clock: u64) -> Option<Node> {
    let page = frames.info(mfn)?;
    page.note_unmapped(clock);
    match types::put(page) {
        TypePut::Done => {
            if !seeded!(ChildKeepsReference) {
                frames.put_raw(mfn, page);
            }
            None
        }
        TypePut::Last => Some(Node { mfn, level, done: ENTRIES_PER_TABLE, flushed: None }),
    }
}
