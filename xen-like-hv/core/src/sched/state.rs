//! What the scheduler knows of a vcpu.
//!
//! | flags and pauses | in a runqueue | `pcpu` | state | left by |
//! |---|---|---|---|---|
//! | some | no | none | blocked or offline | the last flag or pause goes: [`Scheduler::wake`](super::Scheduler::wake) |
//! | none | yes | none | runnable | chosen; a flag or pause comes |
//! | none | no | pcpu | running | preempted, or a flag or pause comes: the next choice on that pcpu |
//! | any | any | pcpu | just left | its registers are saved: [`Scheduler::context_saved`](super::Scheduler::context_saved) |
//!
//! Flags and pause counts are changed by anybody; everything else is written under the lock of the runqueue that
//! `home` names, and `home` itself under the lock of the queue that is left.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use pv_abi::ids::PcpuId;

use super::areas::Areas;
use super::heap::NOWHERE;
use super::policy::DEFAULT_WEIGHT;
use super::runstate::RunstateClock;
use super::timers::VcpuTimers;
use crate::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize};
use crate::port::CpuMask;

/// Why a vcpu must not run; it runs when none is set.
pub mod flags {
    /// Not brought up, or taken down.
    pub const DOWN: u32 = 1 << 0;
    /// Waits for an event.
    pub const BLOCKED: u32 = 1 << 1;
    /// Its domain is paused, shut down or dying.
    pub const DOMAIN_PAUSED: u32 = 1 << 2;
}

const NO_PCPU: u32 = u32::MAX;

/// Polls nothing.
pub(crate) const POLL_NONE: i64 = 0;
/// Polls several ports.
pub(crate) const POLL_MANY: i64 = -1;

/// So many short runs in a row make a vcpu one whose runs are short.
pub(super) const SHORT_RUNS: u32 = 4;

/// A vcpu as the scheduler sees it.
#[derive(Debug)]
pub struct VcpuSched {
    flags: AtomicU32,
    pauses: AtomicU32,
    home: AtomicU32,
    running_on: AtomicU32,
    pub(super) slot: AtomicUsize,
    pub(super) key: AtomicU64,
    weight: AtomicU32,
    hard: AtomicU64,
    soft: AtomicU64,
    pub(super) yielding: AtomicBool,
    /// How often in a row it has given the pcpu up by itself within its least time.
    pub(super) short_runs: AtomicU32,
    /// [`POLL_NONE`], [`POLL_MANY`], or the one port plus one. Written by the vcpu itself and by whoever wakes it.
    poll: AtomicI64,
    /// Affinity that `SCHEDOP_pin_override` replaced; 0 is none.
    pub(crate) pinned_from: AtomicU64,
    /// Time in each state.
    pub runstate: RunstateClock,
    /// Its timers.
    pub timers: VcpuTimers,
    /// Areas that the guest registered.
    pub areas: Areas,
    /// Whether its first context has been set.
    pub initialised: AtomicBool,
    /// Whether somebody is setting its context.
    context_busy: AtomicBool,
}

impl Default for VcpuSched {
    fn default() -> Self {
        Self {
            flags: AtomicU32::new(flags::DOWN),
            pauses: AtomicU32::new(0),
            home: AtomicU32::new(0),
            running_on: AtomicU32::new(NO_PCPU),
            slot: AtomicUsize::new(NOWHERE),
            key: AtomicU64::new(0),
            weight: AtomicU32::new(DEFAULT_WEIGHT),
            hard: AtomicU64::new(u64::MAX),
            soft: AtomicU64::new(u64::MAX),
            yielding: AtomicBool::new(false),
            short_runs: AtomicU32::new(0),
            poll: AtomicI64::new(POLL_NONE),
            pinned_from: AtomicU64::new(0),
            runstate: RunstateClock::default(),
            timers: VcpuTimers::default(),
            areas: Areas::default(),
            initialised: AtomicBool::new(false),
            context_busy: AtomicBool::new(false),
        }
    }
}

impl VcpuSched {
    /// Whether nothing keeps it from running.
    #[must_use]
    pub fn is_runnable(&self) -> bool {
        self.flags.load(SeqCst) == 0 && self.pauses.load(SeqCst) == 0
    }

    /// The reasons that keep it from running, pauses aside.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.flags.load(SeqCst)
    }

    /// Sets reasons; whether any was new.
    pub(crate) fn set_flags(&self, bits: u32) -> bool {
        self.flags.fetch_or(bits, SeqCst) & bits != bits
    }

    /// Clears reasons; whether any was set.
    pub(crate) fn clear_flags(&self, bits: u32) -> bool {
        self.flags.fetch_and(!bits, SeqCst) & bits != 0
    }

    /// Makes the caller the only one who sets its context; `false` where somebody else does.
    pub(crate) fn claim_context(&self) -> bool {
        !self.context_busy.swap(true, SeqCst)
    }

    /// Ends what [`VcpuSched::claim_context`] began.
    pub(crate) fn release_context(&self) {
        self.context_busy.store(false, SeqCst);
    }

    /// One more reason to stand still.
    pub(crate) fn add_pause(&self) {
        self.pauses.fetch_add(1, SeqCst);
    }

    /// One reason less; `false` where there was none.
    pub(crate) fn drop_pause(&self) -> bool {
        self.pauses.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok()
    }

    /// The pcpu whose runqueue lock protects it.
    #[must_use]
    pub fn home(&self) -> PcpuId {
        PcpuId::new(self.home.load(Acquire))
    }

    pub(super) fn set_home(&self, pcpu: PcpuId) {
        self.home.store(pcpu.raw(), SeqCst);
    }

    /// The pcpu that has its registers: it runs there, or has just left and is not saved yet.
    #[must_use]
    pub fn pcpu(&self) -> Option<PcpuId> {
        match self.running_on.load(Acquire) {
            NO_PCPU => None,
            n => Some(PcpuId::new(n)),
        }
    }

    /// Whether `pcpu` has its registers and it waits for nothing: on the caller's own pcpu it looks for events by itself
    /// before its guest goes on. Who polls waits too.
    #[inline]
    pub(crate) fn is_awake_on(&self, pcpu: PcpuId) -> bool {
        self.running_on.load(Acquire) == pcpu.raw() && self.flags.load(SeqCst) & flags::BLOCKED == 0
    }

    /// [`VcpuSched::pcpu`] as a set.
    #[must_use]
    pub fn running_on(&self) -> CpuMask {
        self.pcpu().map_or(CpuMask::EMPTY, CpuMask::of)
    }

    pub(crate) fn set_pcpu(&self, pcpu: Option<PcpuId>) {
        self.running_on.store(pcpu.map_or(NO_PCPU, PcpuId::raw), SeqCst);
    }

    /// It has left the pcpu: by itself soon after it came, or not.
    pub(super) fn note_run(&self, short: bool) {
        let runs = if short { self.short_runs.load(Relaxed).saturating_add(1) } else { 0 };
        self.short_runs.store(runs, Relaxed);
    }

    pub(super) fn is_queued(&self) -> bool {
        self.slot.load(Relaxed) != NOWHERE
    }

    /// Its share of processor time in relation to others.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Sets its share.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight.max(1), Relaxed);
    }

    /// The pcpus it may run on.
    #[must_use]
    pub fn hard_affinity(&self) -> CpuMask {
        CpuMask::from_bits(self.hard.load(Relaxed))
    }

    pub(super) fn store_hard_affinity(&self, mask: CpuMask) {
        self.hard.store(mask.bits(), SeqCst);
    }

    /// The pcpus it prefers; kept for the tools, not used by the policy.
    #[must_use]
    pub fn soft_affinity(&self) -> CpuMask {
        CpuMask::from_bits(self.soft.load(Relaxed))
    }

    /// Sets the pcpus it prefers.
    pub fn set_soft_affinity(&self, mask: CpuMask) {
        self.soft.store(mask.bits(), Relaxed);
    }

    /// What it polls for: nothing, [`POLL_MANY`], or one port plus one.
    pub(crate) fn poll_state(&self) -> i64 {
        self.poll.load(SeqCst)
    }

    /// Begins a poll of several ports.
    pub(super) fn begin_poll(&self) {
        self.poll.store(POLL_MANY, SeqCst);
    }

    /// Narrows a poll down to `state`; `false` where it was ended meanwhile.
    pub(super) fn narrow_poll(&self, state: i64) -> bool {
        self.poll.compare_exchange(POLL_MANY, state, SeqCst, SeqCst).is_ok()
    }

    /// Ends a poll; whether there was one.
    pub(super) fn end_poll(&self) -> bool {
        self.poll.load(SeqCst) != POLL_NONE && self.poll.swap(POLL_NONE, SeqCst) != POLL_NONE
    }
}
