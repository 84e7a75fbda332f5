//! Areas of the guest in which it finds its times: runstate, and a second copy of its clock.
//!
//! The guest names them by virtual address, so they are written on the vcpu's own page tables, when it comes onto a pcpu
//! and when it leaves it. An area that cannot be written is skipped: it is the guest's own fault.

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use pv_abi::ids::GuestVa;
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

/// Publishes the clock of `v`, whose page tables are loaded: in `vcpu_info` and in the second area.
///
/// The version is odd while the other words change, and different from before afterwards; the guest retries on either.
pub fn publish_time(m: &(impl Frames + Clock + GuestMem + Cpu), v: &Vcpu) {
    let areas = &v.sched.areas;
    let scale = m.pvclock_scale();
    let version = areas.time_version.load(Relaxed).wrapping_add(2);
    areas.time_version.store(version, Relaxed);
    let words = time_words(version, &scale);
    v.events.store_time(m, words);
    let va = areas.time.load(Relaxed);
    if va != 0 {
        on_kernel_tables(m, v, || write_time(m, va, version, &words));
    }
}

fn write_time(m: &impl GuestMem, va: u64, version: u32, words: &[u64; 4]) {
    let odd = version.wrapping_sub(1);
    let at = GuestVa::new(va);
    let Some(rest_at) = at.checked_add(8) else { return };
    if m.copy_to_guest(at, odd.as_bytes()).is_ok() && m.copy_to_guest(rest_at, words[1..].as_bytes()).is_ok()
    {
        let _skipped = m.copy_to_guest(at, version.as_bytes());
    }
}
