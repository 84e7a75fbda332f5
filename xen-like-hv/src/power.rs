//! The regular end of the machine's work.

use crate::arch::power;
use crate::boot;
use crate::debug_keys::state::final_audit;
use crate::log::print_line;
use pv_abi::sched::ShutdownReason;

/// dom0 has shut down: tells so on a line that test harnesses look for, then switches off or restarts.
pub(crate) fn domain_ended(reason: u32) {
    let reason = ShutdownReason::from_raw(reason);
    let name = match reason {
        Some(ShutdownReason::Poweroff) => "poweroff",
        Some(ShutdownReason::Reboot) => "reboot",
        Some(ShutdownReason::Suspend) => "suspend",
        Some(ShutdownReason::Watchdog) => "watchdog",
        Some(ShutdownReason::SoftReset) => "soft_reset",
        Some(ShutdownReason::Crash) | None => "crash",
    };
    #[cfg(feature = "stretch")]
    crate::arch::entry::stretch::report();
    // Only an orderly end lets the other vcpus come to rest.
    if boot::options().audit && reason == Some(ShutdownReason::Poweroff) {
        final_audit();
    }
    print_line!("hv: dom0 shut down: reason={name}");
    match reason {
        Some(ShutdownReason::Poweroff) => power::power_off(),
        _ if boot::options().noreboot => {
            print_line!("hv: not restarting, as asked");
            power::power_off()
        }
        _ => power::reboot(),
    }
}
