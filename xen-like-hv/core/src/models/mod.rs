//! Small worlds, explored in full.
//!
//! A [`Scene`] is the real code over the fake machine with a short list of steps that its domains can make. The checker
//! takes every step in every state that it finds, so every order in which two pcpus can come to make them is tried. A
//! state is reached again by making its steps again in a new world; two states are the same where their snapshots are.
//!
//! Each state is checked by rules that bear the ids of the invariants. That a model can fail is shown by the tests that
//! sow a fault into the code (see [`crate::seeded`]) and want the rule that it breaks to be named.

mod events;
mod fifo;
mod grants;
mod rules;
mod tables;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::panic::AssertUnwindSafe;
use core::sync::atomic::Ordering::Relaxed;
use std::collections::HashSet;
use std::hash::DefaultHasher;
use std::sync::Mutex;
use std::{env, println};

use pv_abi::ids::Mfn;

use stateright::{Checker, Model, Property};

use crate::fake::FakeWorld;
use crate::frame::PageInfo;
use crate::port::{CpuMask, Frames, Tlb};
use crate::seeded::{Fault, sow};

/// A broken rule, and how.
pub(super) type Broken = (&'static str, String);

/// A world with a list of steps.
pub(super) trait Scene: Sized {
    /// What it is made from.
    type Spec: Send + Sync + 'static;
    /// Rules by id; each is a property.
    const RULES: &'static [&'static str];
    /// The world at its beginning.
    fn new(spec: &Self::Spec) -> Self;
    /// How many steps the list has.
    fn steps(spec: &Self::Spec) -> u16;
    /// Whether a step can be made now.
    fn enabled(&self, step: u16) -> bool;
    /// Makes it.
    fn make(&mut self, step: u16);
    /// All that what happens next depends on.
    fn snapshot(&self, into: &mut impl Hasher);
    /// What is wrong now. The world is not used afterwards, so this may let it end.
    fn broken(&mut self) -> Vec<Broken>;
    /// A step in words.
    fn describe(spec: &Self::Spec, step: u16) -> String;
}

/// A scene as a model.
struct Replay<S: Scene> {
    spec: Arc<S::Spec>,
    fault: Option<Fault>,
    /// States that have been checked: they are reached on many paths, and checking costs most.
    checked: Mutex<HashSet<(u64, u64)>>,
}

/// How a state was reached first, and what it is.
#[derive(Clone, Debug)]
struct State {
    path: Vec<u16>,
    enabled: Vec<u16>,
    print: (u64, u64),
    broken: Vec<Broken>,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.hash(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl<S: Scene> Replay<S> {
    fn reach(&self, path: Vec<u16>) -> State {
        sow(self.fault);
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let mut scene = S::new(&self.spec);
            for &step in &path {
                scene.make(step);
            }
            let print = print(&scene);
            let enabled: Vec<u16> = (0..S::steps(&self.spec)).filter(|&n| scene.enabled(n)).collect();
            let new = self.checked.lock().is_ok_and(|mut checked| checked.insert(print));
            (print, enabled, if new { scene.broken() } else { Vec::new() })
        }));
        sow(None);
        match outcome {
            Ok((print, enabled, broken)) if broken.is_empty() => State { path, enabled, print, broken },
            Ok((print, _, broken)) => State { path, enabled: Vec::new(), print, broken },
            Err(_) => {
                let last = u64::from(path.last().copied().unwrap_or(0));
                let broken = alloc::vec![("panic", String::from("the code found its own state broken"))];
                State { path, enabled: Vec::new(), print: (u64::MAX, last), broken }
            }
        }
    }
}

/// Two different hashes at once: 128 bits, so that no two states of a run are taken for one.
struct Twice(DefaultHasher, DefaultHasher);

impl Hasher for Twice {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
        self.1.write(bytes);
    }
    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

fn print<S: Scene>(scene: &S) -> (u64, u64) {
    let mut both = Twice(DefaultHasher::new(), DefaultHasher::new());
    0x5bd1_e995_u64.hash(&mut both.1);
    scene.snapshot(&mut both);
    (both.0.finish(), both.1.finish())
}

/// The part of a snapshot that every scene has: frames, what is known of them, and what pcpus have cached.
pub(super) fn snapshot_frames(w: &FakeWorld, pages: &Pages, into: &mut impl Hasher) {
    for (mfn, page) in (0..).map(Mfn::new).zip(pages.table()) {
        (page.count_info().raw(), page.type_info().raw()).hash(into);
        // Of a stamp only this counts: who has not flushed since.
        let stale = |stamp| w.m.stale_since(CpuMask::from_bits(3), stamp).bits();
        Some(page.stamp()).filter(|&stamp| stamp != 0).map(stale).hash(into);
        for (index, word) in w.m.words(mfn).iter().enumerate() {
            let word = word.load(Relaxed);
            if word != 0 {
                (index, word).hash(into);
            }
        }
    }
    for cached in w.m.tlb.cached().iter().flatten() {
        (cached.root, &cached.tables, &cached.readable, &cached.writable).hash(into);
    }
}

impl<S: Scene> Model for Replay<S> {
    type State = State;
    type Action = u16;

    fn init_states(&self) -> Vec<State> {
        alloc::vec![self.reach(Vec::new())]
    }

    fn actions(&self, state: &State, actions: &mut Vec<u16>) {
        actions.extend(&state.enabled);
    }

    fn next_state(&self, last: &State, action: u16) -> Option<State> {
        let mut path = Vec::with_capacity(last.path.len() + 1);
        path.extend(&last.path);
        path.push(action);
        Some(self.reach(path))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        // One property: the report names the rules. Exploration stops at the first broken one.
        alloc::vec![Property::always("every rule holds", |_, state: &State| state.broken.is_empty())]
    }
}

/// What came of an exploration.
struct Explored {
    states: usize,
    /// Steps of the longest shortest path.
    depth: usize,
    /// Whether nothing was left out.
    complete: bool,
    /// The rules broken in the first bad state, with the steps that lead there.
    broken: Vec<Broken>,
    steps: Vec<String>,
}

/// The bound on states for a test run; `MODEL_STATES` (set by `cargo xtask test --long`) raises it.
fn state_limit(usual: usize) -> usize {
    env::var("MODEL_STATES").ok().and_then(|s| s.parse().ok()).map_or(usual, |n: usize| n.max(usual))
}

fn explore<S: Scene + 'static>(spec: S::Spec, fault: Option<Fault>, limit: usize) -> Explored {
    let spec = Arc::new(spec);
    let model = Replay::<S> { spec: spec.clone(), fault, checked: Mutex::default() };
    let checker = model.checker().threads(2).target_state_count(limit).spawn_bfs().join();
    let path = checker.discoveries().into_iter().next().map(|(_, path)| path);
    // The checker has been there, so the state is checked once more for what is wrong with it.
    let again = Replay::<S> { spec: spec.clone(), fault, checked: Mutex::default() };
    let last = path.map(|p| again.reach(p.last_state().path.clone()));
    let steps = last.iter().flat_map(|s| s.path.iter().map(|&n| S::describe(&spec, n)));
    Explored {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        complete: last.is_none() && checker.state_count() < limit,
        broken: last.as_ref().map(|s| s.broken.clone()).unwrap_or_default(),
        steps: steps.collect(),
    }
}

/// Explores a scene that is in order; prints what was explored.
#[track_caller]
fn assert_holds<S: Scene + 'static>(name: &str, spec: S::Spec, usual: usize) {
    let found = explore::<S>(spec, None, state_limit(usual));
    println!(
        "model {name}: {} states, depth {}, {}, rules {}",
        found.states,
        found.depth,
        if found.complete { "complete" } else { "bounded" },
        S::RULES.join(" ")
    );
    assert!(found.broken.is_empty(), "{name}: {:#?} after {:#?}", found.broken, found.steps);
}

/// Panics that a fault leads to are part of the test and say nothing.
fn quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !crate::seeded::any() {
                usual(info);
            }
        }));
    });
}

/// Explores a scene whose code has a fault, and wants one of `rules` to be named.
#[track_caller]
fn assert_caught<S: Scene + 'static>(spec: S::Spec, fault: Fault, rules: &[&str]) {
    quiet();
    let found = explore::<S>(spec, Some(fault), state_limit(200_000));
    let named = found.broken.iter().any(|(rule, _)| rules.contains(rule));
    println!("seeded {fault:?}: caught after {} states by {:?}", found.states, found.broken);
    assert!(named, "{fault:?}: {} states, broken: {:?} after {:#?}", found.states, found.broken, found.steps);
}

std::thread_local! {
    static POOL: core::cell::RefCell<Vec<&'static [PageInfo]>> = const { core::cell::RefCell::new(Vec::new()) };
}

/// A table of reserved frames that goes back to a pool, so that a million worlds do not leak a million tables.
pub(super) struct Pages(&'static [PageInfo]);

impl Pages {
    pub(super) fn new(nr: usize) -> Self {
        let old = POOL.with_borrow_mut(|pool| {
            let at = pool.iter().position(|p| p.len() == nr)?;
            Some(pool.swap_remove(at))
        });
        Self(old.unwrap_or_else(|| {
            let pages: Vec<_> = (0..nr).map(|_| PageInfo::new()).collect();
            Box::leak(pages.into_boxed_slice())
        }))
    }

    pub(super) fn table(&self) -> &'static [PageInfo] {
        self.0
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // A world that ended in a panic may still be referred to: its table stays out of the pool.
        if !std::thread::panicking() {
            self.0.iter().for_each(PageInfo::forget);
            POOL.with_borrow_mut(|pool| pool.push(self.0));
        }
    }
}
