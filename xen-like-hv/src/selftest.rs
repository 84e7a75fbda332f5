//! `selftest` on the command line: checks of the boot stage that only the running machine can make.

use crate::arch::irq::ipi;
use crate::arch::mm::{boot_alloc, tables};
use crate::arch::time::{self, timer};
use crate::arch::{cpu::regs, power};
use crate::percpu::{self, softirq};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

/// One check.
type Check = fn() -> bool;

/// Runs all checks, tells the result on one line and ends the machine.
pub(crate) fn run() -> ! {
    let checks: [(&str, Check); 6] = [
        ("the clock goes on", clock),
        ("the timer fires in time", timer_fires),
        ("a flush reaches every pcpu", flush),
        ("the heap gives back what it gave", heap),
        ("the M2P keeps what is stored", m2p),
        ("the frame table is cleared and has RAM behind it", frame_table),
    ];
    let mut failed = 0;
    for (claim, check) in checks {
        let held = check();
        failed += usize::from(!held);
        log::info!("selftest: {claim}: {}", if held { "yes" } else { "NO" });
    }
    if failed == 0 {
        log::info!("VERDICT: SUCCESS")
    } else {
        log::error!("VERDICT: FAILURE {failed} checks")
    }
    power::power_off()
}

fn clock() -> bool {
    let start = time::now_ns();
    let mut last = start;
    for _ in 0..100_000 {
        let now = time::now_ns();
        if now < last {
            return false;
        }
        last = now;
    }
    last > start
}

fn timer_fires() -> bool {
    let start = time::now_ns();
    let due = start + 20_000_000;
    timer::set_deadline_ns(Some(due));
    while percpu::take_work() & softirq::TIMER == 0 {
        regs::interrupt_window();
        if time::now_ns() > start + 5_000_000_000 {
            return false;
        }
    }
    let late = time::now_ns();
    log::info!("selftest: due after 20000 us, came after {} us", (late - start) / 1000);
    // Calibration may be off by a little in either direction, an emulator may be late.
    late + 1_000_000 >= due
}

fn flush() -> bool {
    let before: Vec<u64> = (0..percpu::count()).map(|c| percpu::record(c).flushes.served()).collect();
    for _ in 0..100 {
        ipi::flush_on(percpu::all_mask());
    }
    let own = percpu::this_cpu();
    (0..percpu::count()).filter(|&c| c != own).all(|c| percpu::record(c).flushes.served() >= before[c] + 100)
}

fn heap() -> bool {
    let (_, used) = crate::heap::usage();
    let free = boot_alloc::free_bytes();
    let small: Vec<Vec<u8>> =
        (1..200).map(|n| Vec::from_iter((0..n * 37).map(|b: u32| b.to_le_bytes()[0]))).collect();
    let mut large: Vec<u8> = Vec::new();
    let got_large = large.try_reserve(5 << 20).is_ok();
    // An allocation that nobody looks at is left out by the compiler, and then always succeeds.
    core::hint::black_box(&mut large);
    let mut huge: Vec<u8> = Vec::new();
    let refused = huge.try_reserve(usize::MAX >> 8).is_err();
    core::hint::black_box(&mut huge);
    let took = boot_alloc::free_bytes() < free;
    let intact = small.iter().all(|v| v.iter().zip(0u32..).all(|(&b, n)| b == n.to_le_bytes()[0]));
    drop((small, large));
    got_large
        && refused
        && took
        && intact
        && crate::heap::usage().1 == used
        && boot_alloc::free_bytes() == free
}

fn m2p() -> bool {
    let last = tables::frame_count() - 1;
    let keeps = |mfn: u64| {
        tables::m2p_word(mfn).is_some_and(|word| {
            let before = word.swap(mfn ^ 0x5a, Relaxed);
            word.swap(before, Relaxed) == mfn ^ 0x5a && before == u64::MAX
        })
    };
    keeps(0x100) && keeps(last) && tables::m2p_word(1 << 40).is_none()
}

fn frame_table() -> bool {
    let records = tables::frame_table();
    records.len() as u64 == tables::frame_count()
        && tables::bytes().1 >= records.len() as u64 * size_of_val(&records[0]) as u64
}
