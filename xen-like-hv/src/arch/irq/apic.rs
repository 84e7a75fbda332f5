//! The local APIC, through MSRs (x2APIC) where that is possible, else through its page.
//!
//! Register numbers are those of the memory page divided by 16, which is also how x2APIC numbers its MSRs (Intel SDM
//! volume 3, table 11-6).
#![expect(unsafe_code, reason = "device registers and MSRs")]

use super::vectors;
use crate::arch::cpu::regs::{rdmsr, wrmsr};
use crate::arch::mm;
use crate::percpu;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const MSR_APIC_BASE: u32 = 0x1b;
const MSR_X2APIC: u32 = 0x800;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;

const ID: u32 = 0x02;
const VERSION: u32 = 0x03;
const TASK_PRIORITY: u32 = 0x08;
const EOI: u32 = 0x0b;
const DESTINATION_FORMAT: u32 = 0x0e;
const SPURIOUS: u32 = 0x0f;
const ERROR_STATUS: u32 = 0x28;
const COMMAND: u32 = 0x30;
const COMMAND_HIGH: u32 = 0x31;
const LVT_TIMER: u32 = 0x32;
const LVT_THERMAL: u32 = 0x33;
const LVT_PERFORMANCE: u32 = 0x34;
const LVT_LINT0: u32 = 0x35;
const LVT_LINT1: u32 = 0x36;
const LVT_ERROR: u32 = 0x37;
const TIMER_INITIAL: u32 = 0x38;
const TIMER_CURRENT: u32 = 0x39;
const TIMER_DIVIDE: u32 = 0x3e;

const MASKED: u32 = 1 << 16;
const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_INIT: u32 = 5 << 8;
const DELIVERY_STARTUP: u32 = 6 << 8;
const LEVEL_ASSERT: u32 = 1 << 14;
const BUSY: u32 = 1 << 12;
/// `TIMER_DIVIDE`: count every clock.
const DIVIDE_BY_1: u32 = 0xb;
/// `LVT_TIMER`: compare with the time stamp counter.
const TIMER_TSC_DEADLINE: u32 = 2 << 17;

static X2APIC: AtomicBool = AtomicBool::new(false);
/// Address of the mapped page.
static PAGE: AtomicU64 = AtomicU64::new(0);

/// Chooses the mode and maps the page if it is needed. Called once, before [`enable`].
pub(crate) fn init(page_at: u64, use_x2apic: bool) {
    // Firmware that has gone over to x2APIC mode leaves no way back but a reset.
    // SAFETY: the feature check has found a local APIC, so the register is there.
    let use_x2apic = use_x2apic || unsafe { rdmsr(MSR_APIC_BASE) } & BASE_X2APIC != 0;
    X2APIC.store(use_x2apic, Ordering::Relaxed);
    if !use_x2apic {
        PAGE.store(mm::map_device(page_at, mm::layout::PAGE), Ordering::Relaxed);
    }
}

/// Whether the APIC can be used.
pub(crate) fn is_ready() -> bool {
    is_x2apic() || PAGE.load(Ordering::Relaxed) != 0
}

/// Whether x2APIC mode is used.
pub(crate) fn is_x2apic() -> bool {
    X2APIC.load(Ordering::Relaxed)
}

fn page_register(register: u32) -> *mut u32 {
    let address = PAGE.load(Ordering::Relaxed) + u64::from(register) * 16;
    with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}

fn read(register: u32) -> u32 {
    if is_x2apic() {
        // SAFETY: in x2APIC mode the APIC's registers are these MSRs; those read here have no side effects.
        let value = unsafe { rdmsr(MSR_X2APIC + register) };
        return u32::try_from(value & 0xffff_ffff).unwrap_or(0);
    }
    // SAFETY: the page is mapped as device memory for ever.
    unsafe { page_register(register).read_volatile() }
}

fn write(register: u32, value: u32) {
    if is_x2apic() {
        // SAFETY: as in `read`; values written here follow the manual.
        unsafe { wrmsr(MSR_X2APIC + register, u64::from(value)) }
    } else {
        // SAFETY: as in `read`.
        unsafe { page_register(register).write_volatile(value) }
    }
}

/// Brings this pcpu's APIC into service: interrupts on, timer and inputs masked.
pub(crate) fn enable() {
    // SAFETY: enabling the APIC and choosing its mode as the boot processor did.
    unsafe {
        let base = rdmsr(MSR_APIC_BASE) | BASE_ENABLE;
        wrmsr(MSR_APIC_BASE, if is_x2apic() { base | BASE_X2APIC } else { base });
    }
    if !is_x2apic() {
        write(DESTINATION_FORMAT, u32::MAX);
    }
    write(TASK_PRIORITY, 0);
    // In x2APIC mode a write to an entry that is not there faults. Entries are counted from 0; the fifth is that of the
    // performance counters, the sixth the thermal sensor's.
    let last_entry = read(VERSION) >> 16 & 0xff;
    for (number, register) in [(0, LVT_TIMER), (1, LVT_LINT0), (4, LVT_PERFORMANCE), (5, LVT_THERMAL)] {
        if number <= last_entry {
            write(register, MASKED);
        }
    }
    write(LVT_LINT1, DELIVERY_NMI);
    write(LVT_ERROR, vectors::ERROR);
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(TIMER_INITIAL, 0);
    write(SPURIOUS, 1 << 8 | vectors::SPURIOUS);
}

/// This pcpu's APIC id.
pub(crate) fn id() -> u32 {
    let raw = read(ID);
    if is_x2apic() { raw } else { raw >> 24 }
}

/// Ends the handling of an interrupt.
pub(crate) fn acknowledge() {
    write(EOI, 0);
}

/// Reads and clears the error register.
pub(crate) fn error_status() -> u32 {
    write(ERROR_STATUS, 0);
    read(ERROR_STATUS)
}

/// Sends an interrupt to the APIC with id `to`.
fn command(to: u32, what: u32) {
    if is_x2apic() {
        // What the target is to see must be visible before the interrupt: MSR writes to the APIC do not order stores.
        core::sync::atomic::fence(Ordering::SeqCst);
        // SAFETY: sends an interrupt; the fence instruction orders it behind earlier stores.
        unsafe {
            core::arch::x86_64::_mm_mfence();
            core::arch::x86_64::_mm_lfence();
            wrmsr(MSR_X2APIC + COMMAND, u64::from(to) << 32 | u64::from(what));
        }
        return;
    }
    while read(COMMAND) & BUSY != 0 {
        core::hint::spin_loop();
    }
    write(COMMAND_HIGH, to << 24);
    write(COMMAND, what);
}

/// Sends a vector to a pcpu.
pub(crate) fn send(cpu: usize, vector: u32) {
    command(percpu::record(cpu).apic_id.load(Ordering::Relaxed), vector | LEVEL_ASSERT);
}

/// Sends an NMI to a pcpu.
pub(crate) fn send_nmi(cpu: usize) {
    command(percpu::record(cpu).apic_id.load(Ordering::Relaxed), DELIVERY_NMI | LEVEL_ASSERT);
}

/// Sends INIT to the APIC with id `to`.
pub(crate) fn send_init(to: u32) {
    command(to, DELIVERY_INIT | LEVEL_ASSERT);
}

/// Sends the start-up message: execution begins at `page` × 4096 in real mode.
pub(crate) fn send_startup(to: u32, page: u8) {
    command(to, DELIVERY_STARTUP | LEVEL_ASSERT | u32::from(page));
}

/// Readies the timer: `by_tsc` compares with the time stamp counter, otherwise it counts down once.
pub(crate) fn timer_setup(by_tsc: bool) {
    write(LVT_TIMER, vectors::TIMER | if by_tsc { TIMER_TSC_DEADLINE } else { 0 });
}

/// Starts the count-down, or stops it with 0.
pub(crate) fn timer_count(count: u32) {
    write(TIMER_INITIAL, count);
}

/// What is left of the count-down.
pub(crate) fn timer_left() -> u32 {
    read(TIMER_CURRENT)
}

/// Lets the timer count without an interrupt, for calibration.
pub(crate) fn timer_free_run() {
    write(LVT_TIMER, MASKED | vectors::TIMER);
    write(TIMER_INITIAL, u32::MAX);
}
