//! IO-APICs: the way of device interrupts to a pcpu and vector.
#![expect(unsafe_code, reason = "device registers")]

use super::vectors;
use crate::arch::mm;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use hv_core::acpi::Madt;
use hv_core::bounded::Bounded;
use hv_sync::{SpinLock, rank};

/// Most global system interrupts, and most numbers of interrupts that have a vector: those of messages are behind those of
/// lines.
pub(crate) const MAX_GSIS: u32 = 256;

const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;
const ENTRY_MASKED: u32 = 1 << 16;
const ENTRY_LEVEL: u32 = 1 << 15;
const ENTRY_ACTIVE_LOW: u32 = 1 << 13;
const NO_GSI: u32 = u32::MAX;

/// One controller: where its two registers are mapped, which interrupts it has.
#[derive(Clone, Copy, Debug, Default)]
struct Controller {
    at: u64,
    registers: u64,
    gsi_base: u32,
    pins: u32,
}

static CONTROLLERS: SpinLock<Bounded<Controller, 16>> = SpinLock::new(
    rank::IRQ_CONTROLLER,
    Bounded::new(Controller { at: 0, registers: 0, gsi_base: 0, pins: 0 }),
);

/// The vector of each interrupt, 0 for none, and the interrupt of each vector; bits of what each is.
static VECTOR: [AtomicU8; MAX_GSIS as usize] = [const { AtomicU8::new(0) }; MAX_GSIS as usize];
static GSI: [AtomicU32; 256] = [const { AtomicU32::new(NO_GSI) }; 256];
static FLAGS: [AtomicU8; MAX_GSIS as usize] = [const { AtomicU8::new(0) }; MAX_GSIS as usize];
const FLAG_LEVEL: u8 = 1;
const FLAG_CONSOLE: u8 = 2;

impl Controller {
    fn register(&self, offset: u64) -> *mut u32 {
        with_exposed_provenance_mut(usize::try_from(self.registers + offset).unwrap_or(0))
    }

    fn read(&self, index: u32) -> u32 {
        // SAFETY: the page is mapped as device memory for ever; the lock keeps index and data together.
        unsafe {
            self.register(0).write_volatile(index);
            self.register(0x10).read_volatile()
        }
    }

    fn write(&self, index: u32, value: u32) {
        // SAFETY: as in `read`.
        unsafe {
            self.register(0).write_volatile(index);
            self.register(0x10).write_volatile(value);
        }
    }

    /// The index of the low half of an interrupt's entry.
    fn entry(&self, gsi: u32) -> Option<u32> {
        gsi.checked_sub(self.gsi_base).filter(|&pin| pin < self.pins).map(|pin| FIRST_ENTRY + 2 * pin)
    }
}

/// Maps every controller and masks every pin.
pub(crate) fn init(madt: &Madt) {
    let mut controllers = CONTROLLERS.lock();
    for found in madt.io_apics.as_slice() {
        let registers = mm::map_device(found.at & !0xfff, mm::layout::PAGE) + (found.at & 0xfff);
        let mut controller = Controller { at: found.at, registers, gsi_base: found.gsi_base, pins: 0 };
        controller.pins = (controller.read(VERSION) >> 16 & 0xff) + 1;
        for pin in 0..controller.pins {
            // With the right trigger from the start: a line that is up while its masked entry says "edge" would not be
            // seen when the entry changes to "level".
            let signal = firmware_signal(madt, found.gsi_base + pin);
            controller.write(FIRST_ENTRY + 2 * pin, ENTRY_MASKED | signal.entry_bits());
        }
        log::info!(
            "IO-APIC {}: interrupts {} to {}",
            found.id,
            found.gsi_base,
            found.gsi_base + controller.pins - 1
        );
        if controllers.push(controller).is_err() {
            log::warn!("IO-APIC {} is one too many", found.id);
        }
    }
}

/// How an interrupt signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal {
    /// By level, not by edge.
    pub(crate) level: bool,
    /// Low is active.
    pub(crate) active_low: bool,
}

impl Signal {
    fn entry_bits(self) -> u32 {
        let level = if self.level { ENTRY_LEVEL } else { 0 };
        let polarity = if self.active_low { ENTRY_ACTIVE_LOW } else { 0 };
        level | polarity
    }
}

/// How the firmware says that an interrupt signals: ISA interrupts by the overrides, else edge and active high; the
/// others level and active low, as PCI's are.
fn firmware_signal(madt: &Madt, gsi: u32) -> Signal {
    let isa = (0..16_u8).map(|irq| madt.isa_to_gsi(irq)).find(|o| o.gsi == gsi);
    let (level, active_low) = isa.map_or((true, true), |o| (o.level, o.active_low));
    Signal { level, active_low }
}

/// How an interrupt is set up to signal: as the firmware says, until it is set up otherwise.
pub(crate) fn signal_of(gsi: u32) -> Option<Signal> {
    let controllers = CONTROLLERS.lock();
    let entry = controllers.as_slice().iter().find_map(|c| c.entry(gsi).map(|e| c.read(e)))?;
    Some(Signal { level: entry & ENTRY_LEVEL != 0, active_low: entry & ENTRY_ACTIVE_LOW != 0 })
}

/// Why an interrupt could not be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteError {
    /// No IO-APIC has it.
    NoSuchInterrupt,
    /// All vectors are in use.
    NoVector,
}

/// Gives an interrupt a vector (the one it has, if it has one) and sends it to an APIC, masked.
pub(crate) fn route(gsi: u32, apic_id: u32, signal: Signal) -> Result<u32, RouteError> {
    let index = usize::try_from(gsi).ok().filter(|&i| i < VECTOR.len()).ok_or(RouteError::NoSuchInterrupt)?;
    let controllers = CONTROLLERS.lock();
    let (controller, entry) = controllers
        .as_slice()
        .iter()
        .find_map(|c| c.entry(gsi).map(|e| (c, e)))
        .ok_or(RouteError::NoSuchInterrupt)?;
    let vector = match VECTOR[index].load(Ordering::Relaxed) {
        0 => take_vector(gsi).ok_or(RouteError::NoVector)?,
        known => u32::from(known),
    };
    VECTOR[index].store(u8::try_from(vector).unwrap_or(0), Ordering::Relaxed);
    if signal.level {
        FLAGS[index].fetch_or(FLAG_LEVEL, Ordering::Relaxed);
    } else {
        FLAGS[index].fetch_and(!FLAG_LEVEL, Ordering::Relaxed);
    }
    controller.write(entry, ENTRY_MASKED | signal.entry_bits());
    // Physical destination: only 8 bits without interrupt remapping.
    controller.write(entry + 1, apic_id << 24);
    controller.write(entry, vector | signal.entry_bits() | ENTRY_MASKED);
    Ok(vector)
}

/// Gives a message a vector.
pub(crate) fn open_vector(number: u32) -> Option<u32> {
    let index = usize::try_from(number).ok().filter(|&i| i < VECTOR.len())?;
    let _controllers = CONTROLLERS.lock();
    if VECTOR[index].load(Ordering::Relaxed) != 0 {
        return None;
    }
    let vector = take_vector(number)?;
    FLAGS[index].store(0, Ordering::Relaxed);
    VECTOR[index].store(u8::try_from(vector).unwrap_or(0), Ordering::Relaxed);
    Some(vector)
}

/// Takes the vector of a message back; an interrupt that is on its way finds nobody.
pub(crate) fn close_vector(number: u32) {
    let Some(place) = usize::try_from(number).ok().and_then(|i| VECTOR.get(i)) else { return };
    let _controllers = CONTROLLERS.lock();
    let vector = usize::from(place.swap(0, Ordering::Relaxed));
    if vector != 0
        && let Some(owner) = GSI.get(vector)
    {
        owner.store(NO_GSI, Ordering::Relaxed);
    }
}

/// Finds a vector for an interrupt; called under the lock.
fn take_vector(gsi: u32) -> Option<u32> {
    // Vectors 0x80 and 0x82 are left to guests: their `int` instructions name them.
    (vectors::FIRST_DEVICE..=vectors::LAST_DEVICE).filter(|v| !matches!(v, 0x80 | 0x82)).find(|&vector| {
        let place = usize::try_from(vector).ok().and_then(|v| GSI.get(v));
        place.is_some_and(|p| p.compare_exchange(NO_GSI, gsi, Ordering::Relaxed, Ordering::Relaxed).is_ok())
    })
}

/// Lets an interrupt through.
pub(crate) fn unmask(gsi: u32) {
    change(gsi, 0);
}

/// Holds an interrupt back.
pub(crate) fn mask(gsi: u32) {
    change(gsi, ENTRY_MASKED);
}

fn change(gsi: u32, mask: u32) {
    let controllers = CONTROLLERS.lock();
    if let Some((controller, entry)) =
        controllers.as_slice().iter().find_map(|c| c.entry(gsi).map(|e| (c, e)))
    {
        let value = controller.read(entry) & !ENTRY_MASKED;
        controller.write(entry, value | mask);
    }
}

/// How many interrupts there are: one more than the highest.
pub(crate) fn gsi_count() -> u32 {
    CONTROLLERS.lock().as_slice().iter().map(|c| c.gsi_base + c.pins).max().unwrap_or(0).min(MAX_GSIS)
}

/// Reads a register of the controller at a machine address, for dom0.
pub(crate) fn read_register(at: u64, index: u32) -> Option<u32> {
    let controllers = CONTROLLERS.lock();
    let controller = controllers.as_slice().iter().find(|c| c.at == at)?;
    (index < FIRST_ENTRY + 2 * controller.pins).then(|| controller.read(index))
}

/// The interrupt that uses a vector.
pub(crate) fn gsi_of(vector: u32) -> Option<u32> {
    let gsi = GSI.get(usize::try_from(vector).ok()?)?.load(Ordering::Relaxed);
    (gsi != NO_GSI).then_some(gsi)
}

fn has_flag(gsi: u32, flag: u8) -> bool {
    usize::try_from(gsi)
        .ok()
        .and_then(|g| FLAGS.get(g))
        .is_some_and(|f| f.load(Ordering::Relaxed) & flag != 0)
}

/// Whether an interrupt signals by level.
pub(crate) fn is_level(gsi: u32) -> bool {
    has_flag(gsi, FLAG_LEVEL)
}

/// Whether an interrupt is the console's.
pub(crate) fn is_console(gsi: u32) -> bool {
    has_flag(gsi, FLAG_CONSOLE)
}

/// Says that an interrupt is the console's.
pub(crate) fn set_console(gsi: u32) {
    if let Some(flags) = usize::try_from(gsi).ok().and_then(|g| FLAGS.get(g)) {
        flags.fetch_or(FLAG_CONSOLE, Ordering::Relaxed);
    }
}
