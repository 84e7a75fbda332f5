//! Keys for the hypervisor itself on the serial console.
//!
//! Input belongs to dom0. Typing Ctrl-A three times gives it to the hypervisor, and back. Each key runs a handler from
//! a table; the parts of the hypervisor register theirs.

use crate::arch::{power, time};
use crate::log::print_line;
use crate::{console, heap, panic, percpu};
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use hv_sync::{SpinLock, rank};

pub(crate) mod state;

const CTRL_A: u8 = 1;
const MAX_KEYS: usize = 32;

/// A key's handler.
pub(crate) type Handler = fn();

#[derive(Clone, Copy)]
struct Key {
    letter: u8,
    what: &'static str,
    run: Handler,
}

static KEYS: SpinLock<[Option<Key>; MAX_KEYS]> = SpinLock::new(rank::CONSOLE_KEYS, [None; MAX_KEYS]);
/// Whether the hypervisor has the input.
static OURS: AtomicBool = AtomicBool::new(false);
/// How many times in a row Ctrl-A was typed.
static IN_A_ROW: AtomicU8 = AtomicU8::new(0);

/// Adds a key, or replaces one.
pub(crate) fn register(letter: u8, what: &'static str, run: Handler) {
    let mut keys = KEYS.lock();
    let known = keys.iter().position(|k| k.is_some_and(|k| k.letter == letter));
    let place = known.or_else(|| keys.iter().position(Option::is_none));
    if let Some(place) = place {
        keys[place] = Some(Key { letter, what, run });
    }
}

/// The keys that need nothing but the image.
pub(crate) fn init() {
    register(b'h', "this help", help);
    register(b'd', "pcpus", show_pcpus);
    register(b'm', "memory of the hypervisor", show_memory);
    register(b'q', "domains and vcpus", state::show_domains);
    register(b'a', "audit of frames, event channels and grants", state::audit);
    register(b't', "time", show_time);
    register(b'R', "restart the machine", restart);
    register(b'C', "crash the hypervisor, to see its panic", crash);
}

/// Looks at what was typed: runs keys, and tells whether there is something new for dom0. Called for the console's work
/// bit, on the pcpu that takes the port's interrupt.
pub(crate) fn poll() -> bool {
    let mut for_dom0 = false;
    while let Some(byte) = console::next_received() {
        if byte != CTRL_A {
            IN_A_ROW.store(0, Ordering::Relaxed);
        } else if IN_A_ROW.fetch_add(1, Ordering::Relaxed) == 2 {
            IN_A_ROW.store(0, Ordering::Relaxed);
            switch();
            continue;
        }
        if OURS.load(Ordering::Relaxed) {
            run(byte);
        } else {
            console::give_to_dom0(byte);
            for_dom0 = true;
        }
    }
    for_dom0
}

fn switch() {
    let ours = !OURS.fetch_xor(true, Ordering::Relaxed);
    let who = if ours { "the hypervisor ('h' for help)" } else { "dom0" };
    print_line!("\nhv: input to {who}; Ctrl-A three times switches");
}

/// Runs a key's handler, outside the lock.
fn run(letter: u8) {
    let key = KEYS.lock().iter().flatten().find(|k| k.letter == letter).copied();
    if let Some(key) = key {
        print_line!("hv: '{}': {}", char::from(letter), key.what);
        (key.run)();
    }
}

fn help() {
    let keys = *KEYS.lock();
    for key in keys.iter().flatten() {
        print_line!("hv:   {} {}", char::from(key.letter), key.what);
    }
}

fn show_pcpus() {
    for cpu in 0..percpu::count() {
        let r = percpu::record(cpu);
        print_line!(
            "hv:   pcpu {cpu}: APIC {:#x}, {} interrupts, {} TLB flushes, deadline {} ns",
            r.apic_id.load(Ordering::Relaxed),
            r.interrupts.load(Ordering::Relaxed),
            r.flushes.served(),
            r.deadline_ns.load(Ordering::Relaxed)
        );
    }
    panic::print_trace(crate::arch::backtrace::frame_pointer());
}

fn show_memory() {
    let (size, used) = heap::usage();
    print_line!("hv:   heap: {used} of {size} bytes in use");
}

fn show_time() {
    print_line!("hv:   {} ns since boot, TSC {} Hz", time::now_ns(), time::tsc_hz());
}

fn restart() {
    power::reboot()
}

fn crash() {
    panic!("asked for by key");
}
