//! What a guest sees at its gates: bounce frames, iret, callbacks, descriptor tables.
//!
//! A guest's kernel and its user processes both run at ring 3 (ring compression); [`VcpuEntry::mode`] tells which of
//! the two runs. Whatever the hardware delivers to ring 0 on a guest's behalf is turned into a *bounce*: a frame on
//! the guest kernel's stack and a jump to the handler that the kernel registered.
//!
//! The image does the most frequent bounces, and the way back from them, without calling this: what changes in [`bounce`] or
//! [`iret`] has to change in its `short.s` too.
//!
//! | file | holds |
//! |---|---|
//! | [`bounce`] | building the frame |
//! | [`iret`] | the way back, as a hypercall |
//! | [`trap`] | exceptions: who gets them, in which form |
//! | [`exit`] | what is delivered just before the guest goes on |
//! | [`descriptors`] | GDT, LDT and single descriptors |
//! | [`context`] | registers of a vcpu that does not run |
//!
//! Invariants: I15 (stack pushes are range-checked), I18 (RIP is canonical before SYSRET, selectors have RPL 3).

use alloc::boxed::Box;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use hv_sync::{SpinLock, rank};

pub mod bounce;
pub mod context;
pub mod descriptors;
pub mod exit;
pub mod iret;
pub mod trap;

#[cfg(test)]
mod tests;

pub use context::SavedContext;

use crate::port::{Cpu, CpuMask};
use crate::vcpu::Vcpu;

/// Which half of a guest runs on a vcpu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestMode {
    /// The guest's kernel, on its own page tables.
    Kernel,
    /// A guest process, on the user page tables.
    User,
}

/// Whether a gate masks event delivery while its handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventMasking {
    /// `evtchn_upcall_mask` is set on entry.
    Mask,
    /// It is left as it is.
    Keep,
}

/// A registered entry point: address and masking, in one word. 0 is none.
///
/// The word has room for the 48 bits of an address that say something; whoever takes it out repeats the highest of them.
/// So no gate can hold an address that is not canonical (I18).
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Gate(AtomicU64);

impl Gate {
    /// Where the address begins.
    pub const ADDRESS_SHIFT: u32 = 16;
    /// Bit: event delivery is masked while the handler runs.
    pub const MASKS: u64 = 1 << 0;
    /// Bit, of gates of the trap table: the guest's kernel may name it in an instruction.
    pub const KERNEL_MAY_RAISE: u64 = 1 << 1;
    /// Bit, of gates of the trap table: user mode may name it in an instruction.
    pub const USER_MAY_RAISE: u64 = 1 << 2;

    /// Registers the entry point; the address is canonical.
    pub fn set(&self, address: u64, masking: EventMasking) {
        self.store(address, if masking == EventMasking::Mask { Self::MASKS } else { 0 });
    }

    fn store(&self, address: u64, bits: u64) {
        let word = if address == 0 { 0 } else { address << Self::ADDRESS_SHIFT | bits };
        self.0.store(word, Relaxed);
    }

    /// Removes the entry point.
    pub fn clear(&self) {
        self.0.store(0, Relaxed);
    }

    /// The entry point, where there is one.
    #[must_use]
    pub fn get(&self) -> Option<(u64, EventMasking)> {
        let word = self.0.load(Relaxed);
        let masking = if word & Self::MASKS != 0 { EventMasking::Mask } else { EventMasking::Keep };
        match (word.cast_signed() >> Self::ADDRESS_SHIFT).cast_unsigned() {
            0 => None,
            address => Some((address, masking)),
        }
    }
}

/// One entry of the virtual trap table. The image's entry code reads the gate, which comes first.
#[repr(C)]
#[derive(Debug, Default)]
pub struct TrapGate {
    gate: Gate,
    selector: AtomicU16,
    flags: AtomicU8,
}

/// Bits of `trap_info.flags`: the lowest ring that may raise it by an instruction.
const FLAGS_DPL: u8 = 3;
/// Bit of `trap_info.flags`: events are masked.
const FLAGS_MASK: u8 = 4;

impl TrapGate {
    /// Registers a handler. `flags` are those of `trap_info`: bits 0–1 the lowest ring that may raise it by `int n`,
    /// bit 2 masks events.
    pub fn set(&self, address: u64, selector: u16, flags: u8) {
        self.flags.store(flags & (FLAGS_DPL | FLAGS_MASK), Relaxed);
        self.selector.store(selector, Relaxed);
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        let bits = bit(flags & FLAGS_MASK != 0, Gate::MASKS)
            | bit(flags & FLAGS_DPL >= 1, Gate::KERNEL_MAY_RAISE)
            | bit(flags & FLAGS_DPL == 3, Gate::USER_MAY_RAISE);
        self.gate.store(address, bits);
    }

    /// Removes the handler.
    pub fn clear(&self) {
        self.gate.clear();
        self.flags.store(0, Relaxed);
    }

    /// The handler, where there is one.
    #[must_use]
    pub fn get(&self) -> Option<(u64, EventMasking)> {
        self.gate.get()
    }

    /// The flags as in `trap_info`.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.flags.load(Relaxed)
    }

    /// The code selector that the guest named.
    #[must_use]
    pub fn selector(&self) -> u16 {
        self.selector.load(Relaxed)
    }

    /// Whether `int n` from `mode` may raise it.
    #[must_use]
    pub fn permits(&self, mode: GuestMode) -> bool {
        let ring = if mode == GuestMode::Kernel { 1 } else { 3 };
        self.flags() & FLAGS_DPL >= ring
    }
}

/// Gates, callbacks, mode and descriptor tables of a vcpu. Written by its own hypercalls, or by the toolstack while
/// the vcpu is paused; read by the pcpu that runs it.
#[derive(Debug)]
pub struct VcpuEntry {
    in_user_mode: AtomicBool,
    /// The virtual trap table, 256 entries.
    pub traps: Box<[TrapGate]>,
    /// Event upcall.
    pub event: Gate,
    /// Failsafe: return to the guest failed.
    pub failsafe: Gate,
    /// SYSCALL from 64-bit user mode.
    pub syscall: Gate,
    /// SYSCALL from 32-bit user mode.
    pub syscall32: Gate,
    /// SYSENTER from user mode.
    pub sysenter: Gate,
    /// Kernel stack for entries from user mode.
    pub kernel_sp: AtomicU64,
    /// Its selector.
    pub kernel_ss: AtomicU64,
    /// The virtual IOPL, in the position of RFLAGS.IOPL (bits 12–13).
    pub iopl: AtomicU64,
    /// Whether the guest has set its CR0.TS.
    pub task_switched: AtomicBool,
    /// Bits of CR4 that the guest owns, as it set them.
    pub cr4: AtomicU64,
    /// DR0–DR3, DR6 and DR7 as the guest sees them.
    pub debug: [AtomicU64; 8],
    /// XCR0 as the guest set it.
    pub xcr0: AtomicU64,
    /// `TSC_AUX` as the guest set it: what RDTSCP says of where it ran.
    pub tsc_aux: AtomicU32,
    /// A virtual NMI waits.
    pub nmi_pending: AtomicBool,
    /// A virtual NMI handler runs, until the next iret.
    pub nmi_masked: AtomicBool,
    /// Descriptor tables.
    pub tables: SpinLock<descriptors::DescriptorTables>,
}

impl Default for VcpuEntry {
    fn default() -> Self {
        Self {
            in_user_mode: AtomicBool::new(false),
            traps: (0..256).map(|_| TrapGate::default()).collect(),
            event: Gate::default(),
            failsafe: Gate::default(),
            syscall: Gate::default(),
            syscall32: Gate::default(),
            sysenter: Gate::default(),
            kernel_sp: AtomicU64::new(0),
            kernel_ss: AtomicU64::new(0),
            iopl: AtomicU64::new(0),
            task_switched: AtomicBool::new(false),
            cr4: AtomicU64::new(0),
            debug: core::array::from_fn(|i| {
                AtomicU64::new(match i {
                    6 => 0xffff_0ff0,
                    7 => 0x400,
                    _ => 0,
                })
            }),
            xcr0: AtomicU64::new(1),
            tsc_aux: AtomicU32::new(0),
            nmi_pending: AtomicBool::new(false),
            nmi_masked: AtomicBool::new(false),
            tables: SpinLock::new(rank::VCPU, descriptors::DescriptorTables::default()),
        }
    }
}

impl VcpuEntry {
    /// Offset of the byte that tells the mode, for the image's entry code: 1 is user mode.
    pub const IN_USER_MODE: usize = core::mem::offset_of!(Self, in_user_mode);

    /// Which half of the guest runs.
    #[must_use]
    pub fn mode(&self) -> GuestMode {
        if self.in_user_mode.load(Relaxed) { GuestMode::User } else { GuestMode::Kernel }
    }

    /// Notes the mode of a vcpu that does not run.
    pub fn set_mode(&self, mode: GuestMode) {
        self.in_user_mode.store(mode == GuestMode::User, Relaxed);
    }

    /// The gate of a vector.
    #[must_use]
    pub fn trap(&self, vector: u8) -> Option<&TrapGate> {
        self.traps.get(usize::from(vector))
    }
}

/// Why a guest cannot go on: its own state does not allow what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestBroken(pub &'static str);

/// Goes from the running half of the guest to the other: page tables and GS bases.
///
/// # Errors
/// There are no user page tables.
pub fn switch_mode(m: &impl Cpu, vcpu: &Vcpu, to: GuestMode) -> Result<(), GuestBroken> {
    let root = match to {
        GuestMode::Kernel => vcpu.mm.kernel_root(),
        GuestMode::User => vcpu.mm.user_root(),
    };
    let root = root.ok_or(GuestBroken("switch to user mode without user page tables"))?;
    vcpu.entry.set_mode(to);
    m.enter_mode(to);
    m.load_root(root);
    Ok(())
}

/// The pcpus on which state of this vcpu may be live.
#[must_use]
pub fn running_on(vcpu: &Vcpu) -> CpuMask {
    vcpu.sched.running_on()
}
