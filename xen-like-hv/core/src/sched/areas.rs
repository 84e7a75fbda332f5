//! Areas of the guest in which it finds its times: runstate, and a second copy of its clock.
//!
//! The guest names them by virtual address, so they are written on the vcpu's own page tables, when it comes onto a pcpu
//! and when it leaves it. An area that cannot be written is skipped: it is the guest's own fault.

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use pv_abi::ids::{GuestVa, Mfn};
use pv_abi::shared_info::PvclockFlags;
use pv_abi::vcpu::{RUNSTATE_UPDATE, VcpuRunstateInfo};
use zerocopy::IntoBytes;

use crate::entry::GuestMode;
use crate::port::{Clock, Cpu, Frames, GuestMem, PvClockScale};
use crate::vcpu::Vcpu;

/// Where a vcpu's areas are; address 0 is none.
#[derive(Debug, Default)]
pub struct Areas {
    runstate: AtomicU64,
    time: AtomicU64,
    /// The guest wants `XEN_RUNSTATE_UPDATE` in the area while it is written.
    mark_updates: AtomicBool,
    /// Version of the last time published; even.
    time_version: AtomicU32,
    /// The frame of a registered `vcpu_info`, which holds a writable reference; 0 is none.
    info_frame: AtomicU64,
}

impl Areas {
    /// Sets the runstate area; the address has been checked.
    pub fn set_runstate(&self, va: u64) {
        self.runstate.store(va, Relaxed);
    }

    /// Sets the second clock's area; the address has been checked.
    pub fn set_time(&self, va: u64) {
        self.time.store(va, Relaxed);
    }

    /// Switches the update mark on or off (`VMASST_TYPE_runstate_update_flag`).
    pub fn set_mark_updates(&self, on: bool) {
        self.mark_updates.store(on, Relaxed);
    }

    /// The frame of a registered `vcpu_info`.
    #[must_use]
    pub fn info_frame(&self) -> Option<Mfn> {
        Some(self.info_frame.load(Relaxed)).filter(|&raw| raw != 0).map(Mfn::new)
    }

    /// Notes the frame of a registered `vcpu_info`, with its reference.
    pub(crate) fn set_info_frame(&self, mfn: Option<Mfn>) {
        self.info_frame.store(mfn.map_or(0, Mfn::raw), Relaxed);
    }

    /// Hands the frame and its reference to the caller.
    pub(crate) fn take_info_frame(&self) -> Option<Mfn> {
        Some(self.info_frame.swap(0, Relaxed)).filter(|&raw| raw != 0).map(Mfn::new)
    }

    /// Forgets both areas.
    pub fn clear(&self) {
        self.set_runstate(0);
        self.set_time(0);
    }
}

/// Offset of `state_entry_time` in the runstate area.
const ENTRY_TIME: u64 = 8;

/// Does something on the page tables of `v`'s kernel, where those of its user mode are loaded: the areas lie in the
/// kernel's part.
fn on_kernel_tables(m: &impl Cpu, v: &Vcpu, f: impl FnOnce()) {
    let roots = (v.mm.kernel_root(), v.mm.user_root());
    match (v.entry.mode(), roots) {
        (GuestMode::User, (Some(kernel), Some(user))) => {
            m.load_root(kernel);
            f();
            m.load_root(user);
        }
        _ => f(),
    }
}

/// Writes the runstate area of `v`, whose page tables are loaded.
pub fn publish_runstate(m: &(impl GuestMem + Cpu), v: &Vcpu) {
    let va = v.sched.areas.runstate.load(Relaxed);
    if va != 0 {
        on_kernel_tables(m, v, || write_runstate(m, v, va));
    }
}

fn write_runstate(m: &impl GuestMem, v: &Vcpu, va: u64) {
    let mut info = v.sched.runstate.at_last_change();
    let at = GuestVa::new(va);
    if !v.sched.areas.mark_updates.load(Acquire) {
        let _skipped = m.copy_to_guest(at, info.as_bytes());
        return;
    }
    let Some(entry_at) = at.checked_add(ENTRY_TIME) else { return };
    let entry = info.state_entry_time;
    info.state_entry_time = entry | RUNSTATE_UPDATE;
    if m.copy_to_guest(entry_at, info.state_entry_time.as_bytes()).is_err() {
        return;
    }
    if m.copy_to_guest(at, info.as_bytes()).is_ok() {
        let _skipped = m.copy_to_guest(entry_at, entry.as_bytes());
    }
}

/// Bytes of the runstate area.
#[must_use]
pub fn runstate_len() -> u64 {
    u64::try_from(size_of::<VcpuRunstateInfo>()).unwrap_or(u64::MAX)
}

/// `vcpu_time_info` as words after its version, so that both copies are made alike.
fn time_words(version: u32, scale: &PvClockScale) -> [u64; 4] {
    let shift = u64::from(scale.shift.cast_unsigned());
    let flags = u64::from(PvclockFlags::TSC_STABLE.bits());
    [
        u64::from(version),
        scale.tsc_timestamp,
        scale.system_time_ns,
        u64::from(scale.mul) | shift << 32 | flags << 40,
    ]
}

/// Publishes the clock of `v` in its `vcpu_info`; returns the words.
///
/// The version is odd while the other words change, and different from before afterwards; the guest retries on either.
fn store_clock(m: &(impl Frames + Clock), v: &Vcpu) -> [u64; 4] {
    let version = v.sched.areas.time_version.fetch_add(2, Relaxed).wrapping_add(2);
    let words = time_words(version, &m.pvclock_scale());
    v.events.store_time(m, words);
    words
}

/// Publishes the clock of `v`, whose page tables are loaded: in `vcpu_info` and in the second area.
pub fn publish_time(m: &(impl Frames + Clock + GuestMem + Cpu), v: &Vcpu) {
    let words = store_clock(m, v);
    let va = v.sched.areas.time.load(Relaxed);
    if va != 0 {
        on_kernel_tables(m, v, || write_time(m, va, &words));
    }
}

/// Publishes the clock of another vcpu of the calling domain, on the page tables of the caller's kernel.
pub fn publish_time_of_other(m: &(impl Frames + Clock + GuestMem), v: &Vcpu) {
    let words = store_clock(m, v);
    let va = v.sched.areas.time.load(Relaxed);
    if va != 0 {
        write_time(m, va, &words);
    }
}

fn write_time(m: &impl GuestMem, va: u64, words: &[u64; 4]) {
    // The version is the low half of the first word; padding follows.
    let odd = words[0].wrapping_sub(1);
    let at = GuestVa::new(va);
    let Some(rest_at) = at.checked_add(8) else { return };
    if m.copy_to_guest(at, odd.as_bytes()).is_ok() && m.copy_to_guest(rest_at, words[1..].as_bytes()).is_ok()
    {
        let _skipped = m.copy_to_guest(at, words[0].as_bytes());
    }
}
