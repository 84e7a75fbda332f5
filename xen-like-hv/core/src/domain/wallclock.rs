//! The wall clock in a domain's shared-info page: the time of day at system time 0.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use pv_abi::shared_info::SHARED_INFO_WC_VERSION;

use super::Domain;
use crate::hv::Hypervisor;
use crate::port::{Clock, Frames};

const NS_PER_S: i128 = 1_000_000_000;
/// Word of `wc_version` and `wc_sec`; the next one has `wc_nsec` and `wc_sec_hi`.
const VERSION_WORD: usize = SHARED_INFO_WC_VERSION / 8;

/// Nanoseconds since 1970 at system time 0, as dom0 has set it last.
fn base_ns(hv: &Hypervisor, m: &impl Clock) -> i128 {
    let delta = i128::from(hv.domains.wallclock_delta_ns.load(Relaxed));
    i128::from(m.wallclock_base_ns()) + delta
}

/// Sets the time of day: `epoch_ns` since 1970 at system time `system_ns`. All domains are told.
pub fn set(hv: &Hypervisor, m: &(impl Clock + Frames), epoch_ns: u64, system_ns: u64) {
    let base = i128::from(epoch_ns) - i128::from(system_ns);
    let delta = base - i128::from(m.wallclock_base_ns());
    hv.domains.wallclock_delta_ns.store(i64::try_from(delta).unwrap_or(0), SeqCst);
    for dom in hv.domains.all() {
        publish(hv, m, &dom);
    }
}

/// Writes the wall clock into a domain's shared-info page. `wc_version` is odd while the other fields change.
pub fn publish(hv: &Hypervisor, m: &(impl Clock + Frames), dom: &Domain) {
    let slow = dom.slow.lock();
    if dom.is_dead() {
        return;
    }
    let ns = (base_ns(hv, m) + i128::from(slow.time_offset_s) * NS_PER_S).max(0);
    let seconds = u64::try_from(ns / NS_PER_S).unwrap_or(0);
    let rest = u64::try_from(ns % NS_PER_S).unwrap_or(0);
    let words = m.words(dom.shared_info);
    let (Some(first), Some(second)) = (words.get(VERSION_WORD), words.get(VERSION_WORD + 1)) else { return };
    let version = (first.load(Relaxed) & 0xffff_ffff) | 1;
    first.store(version | (seconds & 0xffff_ffff) << 32, SeqCst);
    second.store(rest | (seconds >> 32) << 32, SeqCst);
    first.store((version + 1) & 0xffff_ffff | (seconds & 0xffff_ffff) << 32, SeqCst);
}
