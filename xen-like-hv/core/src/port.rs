//! Ports: everything that the core can ask of the machine.
//!
//! A function asks for the narrowest port that serves it (`&impl Tlb`); only hypercall handlers see [`Machine`], the
//! sum of them. The image implements them over the hardware, [`crate::fake`] over vectors.
//!
//! The hypervisor runs with interrupts disabled. An interrupt is taken in the exit loop, when idle, and in the window
//! that [`Cpu::preempt_pending`] opens; its handler sets flags and takes no lock.

use core::fmt;
use core::sync::atomic::AtomicU64;

use pv_abi::ids::{GuestVa, Mfn, PcpuId};
use zerocopy::IntoBytes;

use crate::entry::GuestMode;
use crate::hypercall::guest_ptr::Checked;

/// Words in a frame.
pub const FRAME_WORDS: usize = 512;

/// One frame of RAM as the core sees it: 512 words that others may change at any time.
pub type FrameWords = [AtomicU64; FRAME_WORDS];

/// A set of pcpus, at most 64.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuMask(u64);

impl CpuMask {
    /// No pcpu.
    pub const EMPTY: Self = Self(0);

    /// The set whose bit `n` stands for pcpu `n`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The set of one pcpu; a number past 63 gives the empty set.
    #[must_use]
    pub fn of(cpu: PcpuId) -> Self {
        Self(1_u64.checked_shl(cpu.raw()).unwrap_or(0))
    }

    /// Bit `n` stands for pcpu `n`.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether no pcpu is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `cpu` is in the set.
    #[must_use]
    pub fn contains(self, cpu: PcpuId) -> bool {
        self.0 & Self::of(cpu).0 != 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both sets share.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The set without `cpu`.
    #[must_use]
    pub fn without(self, cpu: PcpuId) -> Self {
        Self(self.0 & !Self::of(cpu).0)
    }

    /// The pcpus of the set, ascending.
    pub fn iter(self) -> impl Iterator<Item = PcpuId> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let n = left.trailing_zeros();
            // Takes the lowest bit off; of an empty set nothing.
            left &= left.wrapping_sub(1);
            (n < 64).then(|| PcpuId::new(n))
        })
    }
}

impl fmt::Debug for CpuMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuMask({:#x})", self.0)
    }
}

/// A guest address that could not be read or written, with the address at which it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub GuestVa);

/// RAM by frame. An `mfn` names a frame that the frame table knows as RAM: whoever calls has looked it up there.
pub trait Frames {
    /// The frame's words. Callers use the atomics; no other reference to guest-writable memory exists.
    fn words(&self, mfn: Mfn) -> &FrameWords;
    /// Fills the frame with zeros.
    fn zero(&self, mfn: Mfn);
    /// Copies `len` bytes between frames; both ranges lie inside their frame.
    fn copy(&self, src: Mfn, src_offset: usize, dst: Mfn, dst_offset: usize, len: usize);
    /// Reads bytes of a frame; the range lies inside it.
    fn read(&self, mfn: Mfn, offset: usize, dst: &mut [u8]);
    /// Writes bytes of a frame; the range lies inside it.
    fn write(&self, mfn: Mfn, offset: usize, src: &[u8]);
    /// The machine-to-physical entry of a frame.
    fn m2p(&self, mfn: Mfn) -> u64;
    /// Sets the machine-to-physical entry of a frame.
    fn set_m2p(&self, mfn: Mfn, pfn: u64);
    /// The hypervisor's own entries 256..=271 of every L4, in order.
    fn hypervisor_l4_entries(&self) -> [u64; 16];
}

/// The current guest's virtual memory, as its kernel may access it on the page tables that are loaded. The range has
/// been checked against the hypervisor's area (see [`crate::hypercall::guest_ptr`]).
pub trait GuestMem {
    /// Copies in. On a fault nothing is to be assumed of `dst`.
    ///
    /// # Errors
    /// [`Fault`] where the guest has no readable page.
    fn copy_from_guest(&self, dst: &mut [u8], src: GuestVa) -> Result<(), Fault>;
    /// Copies out. On a fault a prefix may have been written.
    ///
    /// # Errors
    /// [`Fault`] where the guest has no writable page.
    fn copy_to_guest(&self, dst: GuestVa, src: &[u8]) -> Result<(), Fault>;
    /// Copies in a few words, each read once, ascending: for hot paths with at most [`MOST_WORDS`].
    ///
    /// # Errors
    /// [`Fault`] at `src` where the guest has no readable page.
    #[inline(always)]
    fn read_words<const N: usize>(&self, src: Checked<N>) -> Result<[u64; N], Fault> {
        let mut words = [0_u64; N];
        self.copy_from_guest(words.as_mut_bytes(), src.address())?;
        Ok(words)
    }
    /// Copies out a few words: for hot paths with at most [`MOST_WORDS`].
    ///
    /// # Errors
    /// [`Fault`] at `dst` where the guest has no writable page; some words may have been written.
    #[inline(always)]
    fn write_words<const N: usize>(&self, dst: Checked<N>, words: &[u64; N]) -> Result<(), Fault> {
        self.copy_to_guest(dst.address(), words.as_bytes())
    }
    /// [`copy_from_guest`](Self::copy_from_guest) where the compiler knows the length and it is small.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    fn copy_small_from_guest(&self, dst: &mut [u8], src: GuestVa) -> Result<(), Fault> {
        self.copy_from_guest(dst, src)
    }
    /// [`copy_to_guest`](Self::copy_to_guest) where the compiler knows the length and it is small.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    fn copy_small_to_guest(&self, dst: GuestVa, src: &[u8]) -> Result<(), Fault> {
        self.copy_to_guest(dst, src)
    }
}

/// The most that [`GuestMem::read_words`] and [`GuestMem::write_words`] are used for.
pub const MOST_WORDS: usize = 11;

/// What to drop from a TLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushScope {
    /// Every translation of guests, global ones and paging-structure caches too.
    All,
    /// The translations of one page.
    Page(GuestVa),
}

/// TLB maintenance.
pub trait Tlb {
    /// Flushes on all of `cpus` (this one too where it is in the set) and returns when all have done it.
    fn flush(&self, cpus: CpuMask, scope: FlushScope);
    /// Flushes on this pcpu.
    fn flush_local(&self, scope: FlushScope);
    /// The flush clock: grows with each full flush anywhere. A frame stamped with `t` needs no flush on a pcpu whose
    /// last full flush is later than `t`.
    fn flush_clock(&self) -> u64;
    /// The subset of `cpus` that have had no full flush since `stamp`.
    fn stale_since(&self, cpus: CpuMask, stamp: u64) -> CpuMask;
}

/// Waking other pcpus.
pub trait Notify {
    /// Makes `cpu` pass through its exit loop soon (an IPI; nothing where it is the caller's own: see
    /// [`Cpu::request_exit_work`]).
    fn kick(&self, cpu: PcpuId);
}

/// Time.
pub trait Clock {
    /// Nanoseconds since boot; monotonic and the same on all pcpus.
    fn now_ns(&self) -> u64;
    /// Wall-clock nanoseconds since 1970 at the moment where [`Clock::now_ns`] was 0.
    fn wallclock_base_ns(&self) -> u64;
    /// How the guest's TSC maps to [`Clock::now_ns`]: `(tsc_at, ns_at, mul, shift)` of the pvclock protocol.
    fn pvclock_scale(&self) -> PvClockScale;
    /// Arms this pcpu's timer interrupt for `deadline_ns`, or disarms it.
    fn set_deadline(&self, deadline_ns: Option<u64>);
}

/// One consistent reading for `vcpu_time_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PvClockScale {
    /// TSC at the reading.
    pub tsc_timestamp: u64,
    /// [`Clock::now_ns`] at the reading.
    pub system_time_ns: u64,
    /// `ns = ((tsc << shift) * mul) >> 32`.
    pub mul: u32,
    /// Left shift; negative means right.
    pub shift: i8,
    /// TSC frequency in kHz.
    pub tsc_khz: u32,
}

/// The machine's console.
pub trait Console {
    /// Writes a guest's bytes with their origin; the sink limits the rate of unprivileged domains.
    fn guest_write(&self, dom: pv_abi::ids::DomId, bytes: &[u8]);
    /// Takes up to `dst.len()` bytes that were typed; returns how many.
    fn read_input(&self, dst: &mut [u8]) -> usize;
    /// Copies from the console ring, starting at stream position `from`; returns the bytes copied and the next
    /// position. With `clear` the ring counts as read.
    fn read_ring(&self, from: u64, dst: &mut [u8], clear: RingRead) -> (usize, u64);
}

/// Whether reading the console ring empties it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingRead {
    /// The text stays.
    Keep,
    /// The text read so far is dropped for later readers.
    Clear,
}

/// This pcpu: its number, its pending work, and the register state of the vcpu that runs on it.
pub trait Cpu {
    /// Number of the calling pcpu.
    fn pcpu(&self) -> PcpuId;
    /// All pcpus that are online.
    fn online(&self) -> CpuMask;
    /// Opens a short interrupt window, then tells whether something waits that should not wait for long work.
    fn preempt_pending(&self) -> bool;
    /// Makes this pcpu's next exit to a guest go through the scheduler.
    fn request_resched(&self);
    /// Makes this pcpu's next exit look at pending events.
    fn request_exit_work(&self);

    /// Loads a root page table for the guest.
    fn load_root(&self, root: Mfn);
    /// The running vcpu goes to its other half, `to`: exchanges the live GS base and the hidden one. From now on SYSCALL is
    /// a hypercall, or a system call of user mode.
    fn enter_mode(&self, to: GuestMode);
    /// Sets the live FS base; the address is canonical.
    fn set_fs_base(&self, base: u64);
    /// The live FS base.
    fn fs_base(&self) -> u64;
    /// Sets the live GS base, that of the guest kernel while it runs; the address is canonical.
    fn set_gs_base(&self, base: u64);
    /// The live GS base.
    fn gs_base(&self) -> u64;
    /// Sets the hidden GS base, that of guest user mode while the guest kernel runs; the address is canonical.
    fn set_gs_base_hidden(&self, base: u64);
    /// The hidden GS base.
    fn gs_base_hidden(&self) -> u64;
    /// Loads a selector into GS so that the *hidden* base gets its descriptor's base.
    ///
    /// # Errors
    /// The selector cannot be loaded; GS then holds the null selector.
    fn load_user_gs_selector(&self, selector: u16) -> Result<(), BadSelector>;
    /// Sets or clears CR0.TS for the guest.
    fn set_ts(&self, ts: TaskSwitched);
    /// Loads a debug register; the value has been checked.
    fn write_debug_register(&self, index: u8, value: u64);
    /// Puts frames of checked descriptors into this pcpu's GDT window and sets its limit.
    fn load_gdt(&self, frames: &[Mfn], entries: u32);
    /// Puts frames of checked descriptors into this pcpu's LDT window and loads LDTR; no frames unload it.
    fn load_ldt(&self, frames: &[Mfn], entries: u32);
    /// Sets the bits of CR4 that a guest owns (TSD, DE, FSGSBASE, OSXSAVE).
    fn set_guest_cr4(&self, bits: u64);
}

/// CR0.TS as the guest wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSwitched {
    /// The next FPU instruction raises #NM.
    Set,
    /// FPU instructions run.
    Clear,
}

/// A selector that the CPU would not load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSelector;

/// What emulated privileged instructions reach.
pub trait Privileged {
    /// Reads an MSR; `None` where the CPU has none of that number.
    fn read_msr(&self, index: u32) -> Option<u64>;
    /// Runs CPUID.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Reads a port.
    fn port_in(&self, port: u16, width: PortWidth) -> u32;
    /// Writes a port.
    fn port_out(&self, port: u16, width: PortWidth, value: u32);
    /// Writes back and invalidates the caches.
    fn wbinvd(&self);
    /// Sets XCR0 for the guest; the value has been checked.
    fn set_xcr0(&self, value: u64);
    /// Sets `TSC_AUX` for the guest, where the CPU has it.
    fn set_tsc_aux(&self, value: u32);
    /// The time-stamp counter.
    fn rdtsc(&self) -> u64;
}

/// Width of a port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortWidth {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Word,
    /// 4 bytes.
    Dword,
}

impl PortWidth {
    /// How many bytes.
    #[must_use]
    pub const fn bytes(self) -> u16 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
        }
    }
}

/// Registers of devices, for what the hypervisor itself does to them: their message-signalled interrupts.
pub trait DeviceRegisters {
    /// Reads PCI configuration space: `address` as the address register of mechanism 1 wants it, `offset` 0 to 3 from there;
    /// the access does not cross the four bytes.
    fn config_read(&self, address: u32, offset: u8, width: PortWidth) -> u32;
    /// Writes PCI configuration space.
    fn config_write(&self, address: u32, offset: u8, width: PortWidth, value: u32);
    /// Reads a register at a machine address outside RAM; it does not cross its four bytes.
    fn register_read(&self, at: u64, width: PortWidth) -> u32;
    /// Writes a register at a machine address outside RAM.
    fn register_write(&self, at: u64, width: PortWidth, value: u32);
}

/// What a device writes where to interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Machine address.
    pub address: u64,
    /// Value.
    pub data: u32,
}

/// The interrupt controller, for dom0's devices.
pub trait Interrupts: DeviceRegisters {
    /// Number of global system interrupts.
    fn nr_gsis(&self) -> u32;
    /// Number of pirqs: those from [`Self::nr_gsis`] on are for messages.
    fn nr_pirqs(&self) -> u32;
    /// Gives a pirq that is none of a line a vector; what its device is to send. `None` where all vectors are in use, or
    /// messages cannot reach the pcpu.
    fn open_message(&self, pirq: u32) -> Option<Message>;
    /// Takes the vector of a message back.
    fn close_message(&self, pirq: u32);
    /// Routes a GSI to the pirq path, masked.
    ///
    /// # Errors
    /// The hypervisor uses it itself, or there is no such input.
    fn route_gsi(&self, gsi: u32, config: GsiConfig) -> Result<(), GsiUnavailable>;
    /// Unmasks a routed GSI.
    fn unmask_gsi(&self, gsi: u32);
    /// Masks a routed GSI.
    fn mask_gsi(&self, gsi: u32);
    /// Whether a routed GSI is level-triggered, so that it stays masked until the guest's EOI.
    fn gsi_is_level(&self, gsi: u32) -> bool;
    /// Reads a 32-bit IO-APIC register for dom0: the APIC at `phys_base`, register `index`.
    fn ioapic_read(&self, phys_base: u64, index: u32) -> Option<u32>;
}

/// Trigger and polarity as `PHYSDEVOP_setup_gsi` tells them; `None` keeps what the line has, which ACPI's tables say at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GsiConfig {
    /// Level rather than edge.
    pub level: Option<bool>,
    /// Active low rather than high.
    pub active_low: Option<bool>,
}

/// A GSI that cannot be given to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GsiUnavailable;

/// Ends the machine's work.
pub trait Power {
    /// The privileged domain has shut down for `reason` (ABI value); powers off, reboots or halts. May return on a
    /// fake machine only.
    fn machine_shutdown(&self, reason: u32);
}

/// The whole machine, as a hypercall handler sees it.
pub trait Machine:
    Frames + GuestMem + Tlb + Notify + Clock + Console + Cpu + Privileged + Interrupts + Power + Send + Sync
{
}

impl<T> Machine for T where
    T: Frames
        + GuestMem
        + Tlb
        + Notify
        + Clock
        + Console
        + Cpu
        + Privileged
        + Interrupts
        + Power
        + Send
        + Sync
{
}
