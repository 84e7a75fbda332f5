//! Time: the system clock, the wall clock, and waiting.
//!
//! System time is nanoseconds since the hypervisor started. The hypervisor publishes for each vcpu a base and a scale; the
//! time stamp counter does the rest. Timers are kept on vcpu 0, whose one-shot timer is set to the earliest of them.

use alloc::collections::BTreeMap;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use pv_abi::evtchn::VirqKind;
use pv_abi::ids::VcpuId;
use pv_abi::shared_info::VcpuTimeInfo;

use crate::arch::cpu::rdtsc_ordered;
use crate::hypercall::{self, typed};
use crate::sync::IrqLock;
use crate::task::{Either, select};
use crate::{event, shared};

/// The latest time that was handed out, so that no vcpu ever sees time run backwards.
static LATEST: AtomicU64 = AtomicU64::new(0);
/// Who waits for when. The second half of the key tells timers of one instant apart.
static TIMERS: IrqLock<BTreeMap<(u64, u64), Waker>> = IrqLock::new(BTreeMap::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds since the hypervisor started.
#[must_use]
pub fn now_ns() -> u64 {
    let time = read_clock(&shared::vcpu_info().time);
    LATEST.fetch_max(time, Ordering::Relaxed).max(time)
}

/// Reads a vcpu's clock by the version protocol: odd while it is written, changed when it was.
fn read_clock(clock: &VcpuTimeInfo) -> u64 {
    loop {
        let version = clock.version.load(Ordering::Acquire);
        let base = clock.system_time.load(Ordering::Relaxed);
        let stamp = clock.tsc_timestamp.load(Ordering::Relaxed);
        let scale = clock.tsc_to_system_mul.load(Ordering::Relaxed);
        let shift = clock.tsc_shift.load(Ordering::Relaxed);
        let ticks = ticks_since(stamp, rdtsc_ordered());
        fence(Ordering::Acquire);
        if version.is_multiple_of(2) && clock.version.load(Ordering::Relaxed) == version {
            return base.saturating_add(scale_ticks(ticks, scale, shift));
        }
        core::hint::spin_loop();
    }
}

/// Ticks from `stamp` to `now`. The counter of a domain may start anywhere and wrap; only the difference counts, and a
/// counter slightly behind the stamp (another pcpu's) counts as none.
const fn ticks_since(stamp: u64, now: u64) -> u64 {
    let difference = now.wrapping_sub(stamp);
    if difference.cast_signed() < 0 { 0 } else { difference }
}

/// `(ticks << shift) * scale / 2^32`; a negative shift goes right.
fn scale_ticks(ticks: u64, scale: u32, shift: i8) -> u64 {
    let distance = u32::from(shift.unsigned_abs()).min(63);
    let shifted = if shift < 0 { ticks >> distance } else { ticks << distance };
    u64::try_from((u128::from(shifted) * u128::from(scale)) >> 32).unwrap_or(u64::MAX)
}

/// Time since 1970, from the hypervisor's wall clock.
#[must_use]
pub fn wall_clock() -> Duration {
    let info = shared::info();
    loop {
        let version = info.wc_version.load(Ordering::Acquire);
        let low = info.wc_sec.load(Ordering::Relaxed);
        let high = info.wc_sec_hi.load(Ordering::Relaxed);
        let nanoseconds = info.wc_nsec.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if version.is_multiple_of(2) && info.wc_version.load(Ordering::Relaxed) == version {
            // The wall clock is that of system time zero.
            let seconds = (u64::from(high) << 32) | u64::from(low);
            return Duration::from_secs(seconds) + Duration::from_nanos(u64::from(nanoseconds) + now_ns());
        }
        core::hint::spin_loop();
    }
}

/// Binds the timer of vcpu 0.
pub(crate) fn init() -> hypercall::Result {
    // The hypervisor starts with a periodic tick, which nobody here wants.
    let _ = typed::stop_periodic_timer(VcpuId::new(0));
    let channel = event::bind_virq(VirqKind::Timer, VcpuId::new(0))?;
    channel.set_handler(|_| expire());
    channel.leak();
    Ok(())
}

/// Sets the one-shot timer of vcpu 0. A time in the past fires at once.
fn arm(deadline_ns: u64) {
    let result = typed::set_singleshot_timer(VcpuId::new(0), deadline_ns);
    debug_assert!(result.is_ok(), "the timer cannot be set");
}

/// Wakes everybody whose time has come and sets the timer for the next. Runs with events masked.
fn expire() {
    loop {
        let now = now_ns();
        let mut timers = TIMERS.lock();
        let Some(entry) = timers.first_entry() else { return };
        let deadline = entry.key().0;
        if deadline > now {
            drop(timers);
            arm(deadline);
            return;
        }
        let waker = entry.remove();
        drop(timers);
        waker.wake();
    }
}

/// Waits until a time is reached. For tasks on vcpu 0.
#[must_use = "waits only when awaited"]
pub struct Sleep {
    deadline_ns: u64,
    /// Key in the table, once the future has been polled.
    id: Option<u64>,
}

/// Waits until system time reaches `deadline_ns`.
pub const fn sleep_until(deadline_ns: u64) -> Sleep {
    Sleep { deadline_ns, id: None }
}

/// Waits for a time.
pub fn sleep(time: Duration) -> Sleep {
    sleep_until(now_ns().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if now_ns() >= self.deadline_ns {
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let key = (self.deadline_ns, id);
        let mut timers = TIMERS.lock();
        let old = timers.insert(key, cx.waker().clone());
        let is_first = timers.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(timers);
        drop(old);
        if is_first {
            arm(self.deadline_ns);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let old = TIMERS.lock().remove(&(self.deadline_ns, id));
            drop(old);
        }
    }
}

/// The future's result, or `None` if `time` passes first.
pub async fn timeout<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    match select(future, sleep(time)).await {
        Either::Left(value) => Some(value),
        Either::Right(()) => None,
    }
}

/// Blocks this vcpu for a time, whatever it runs and whether or not events are masked. Event handlers run meanwhile if
/// events are open.
pub fn delay(time: Duration) {
    let deadline = now_ns().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    while now_ns() < deadline {
        if crate::sched::poll(&[], Some(deadline)).is_err() {
            core::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{read_clock, scale_ticks, ticks_since};
    use core::sync::atomic::Ordering;
    use pv_abi::shared_info::VcpuTimeInfo;

    #[test]
    fn the_counter_may_start_anywhere_and_wrap() {
        assert_eq!(ticks_since(100, 350), 250);
        assert_eq!(ticks_since(u64::MAX - 9, 40), 50);
        assert_eq!(ticks_since(100, 99), 0);
    }

    #[test]
    fn ticks_are_scaled_both_ways() {
        // 2 GHz: half a nanosecond for each tick, once as a fraction, once as a shift.
        assert_eq!(scale_ticks(4_000_000_000, 1 << 31, 0), 2_000_000_000);
        assert_eq!(scale_ticks(4_000_000_000, u32::MAX, -1), 1_999_999_999);
        assert_eq!(scale_ticks(1000, 1 << 31, 2), 2000);
    }

    #[test]
    fn a_clock_without_scale_stands_still() {
        let clock = VcpuTimeInfo::default();
        clock.system_time.store(77, Ordering::Relaxed);
        assert_eq!(read_clock(&clock), 77);
    }
}
