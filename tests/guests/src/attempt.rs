//! Machine code that may fault: any bytes, with any registers, and what came of them.

#![expect(unsafe_code, reason = "runs bytes as code, and sends exceptions to where it wants them")]

use crate::{Claim, Trouble, call};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::mmu::UvmFlags;
use pv_abi::pte::Pte;
use pv_guest_kernel::arch::trap::{self, Handled, TrapFrame};
use pv_guest_kernel::arch::{KERNEL_CS, KERNEL_SS, percpu};
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{Pages, Prot};

/// The registers that code starts with, and those it ends with where it ends by itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "registers are their own description")]
pub struct Regs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

/// An exception that ended code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trap {
    /// Vector, or [`trap::FAILSAFE`].
    pub vector: u8,
    /// Error code, 0 where there is none.
    pub error: u64,
    /// Where.
    pub rip: u64,
    /// Flags at the time.
    pub rflags: u64,
}

global_asm!(
    r#"
    .pushsection .text, "ax", @progbits
    /* test_attempt(registers: rdi, code: rsi, slot: rdx) -> 0, or 1 if an exception ended it. The slot holds RSP meanwhile. */
        .global test_attempt
    test_attempt:
        push rbp
        push rbx
        push r12
        push r13
        push r14
        push r15
        pushfq
        push rdx
        push rdi
        mov [rdx], rsp
        push rsi
        mov rax, [rdi]
        mov rbx, [rdi + 8]
        mov rcx, [rdi + 16]
        mov rdx, [rdi + 24]
        mov rsi, [rdi + 32]
        mov rbp, [rdi + 48]
        mov r8, [rdi + 56]
        mov r9, [rdi + 64]
        mov r10, [rdi + 72]
        mov r11, [rdi + 80]
        mov r12, [rdi + 88]
        mov r13, [rdi + 96]
        mov r14, [rdi + 104]
        mov r15, [rdi + 112]
        mov rdi, [rdi + 40]
        call [rsp]
        add rsp, 8
        push rdi
        mov rdi, [rsp + 8]
        mov [rdi], rax
        mov [rdi + 8], rbx
        mov [rdi + 16], rcx
        mov [rdi + 24], rdx
        mov [rdi + 32], rsi
        mov [rdi + 48], rbp
        mov [rdi + 56], r8
        mov [rdi + 64], r9
        mov [rdi + 72], r10
        mov [rdi + 80], r11
        mov [rdi + 88], r12
        mov [rdi + 96], r13
        mov [rdi + 104], r14
        mov [rdi + 112], r15
        pop rax
        mov [rdi + 40], rax
        xor eax, eax
        jmp 2f
        .global test_attempt_failed
    test_attempt_failed:
        mov eax, 1
    2:  pop rdi
        pop rdx
        mov qword ptr [rdx], 0
        popfq
        cld
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbx
        pop rbp
        ret
    .popsection
    "#
);

// SAFETY: the assembly above defines these symbols.
unsafe extern "C" {
    fn test_attempt(registers: *mut Regs, code: u64, slot: *mut u64) -> u64;
    static test_attempt_failed: [u8; 0];
}

const VCPUS: usize = 32;
/// Exceptions, and the failsafe callback.
const VECTORS: u8 = trap::FAILSAFE + 1;

/// RSP to go back to while an attempt is under way, by vcpu; and the exception that ended the last.
struct Slot {
    rsp: AtomicU64,
    vector: AtomicU64,
    error: AtomicU64,
    rip: AtomicU64,
    rflags: AtomicU64,
}

static SLOTS: [Slot; VCPUS] = [const {
    Slot {
        rsp: AtomicU64::new(0),
        vector: AtomicU64::new(0),
        error: AtomicU64::new(0),
        rip: AtomicU64::new(0),
        rflags: AtomicU64::new(0),
    }
}; VCPUS];

fn slot() -> &'static Slot {
    let vcpu = usize::try_from(percpu::vcpu_id()).unwrap_or(0);
    &SLOTS[vcpu % VCPUS]
}

/// Ends the attempt that is under way on this vcpu.
fn ended(frame: &mut TrapFrame) -> Handled {
    let slot = slot();
    let rsp = slot.rsp.load(Ordering::Relaxed);
    if rsp == 0 {
        return Handled::No;
    }
    slot.vector.store(frame.vector, Ordering::Relaxed);
    slot.error.store(frame.error, Ordering::Relaxed);
    slot.rip.store(frame.rip, Ordering::Relaxed);
    slot.rflags.store(frame.rflags, Ordering::Relaxed);
    frame.rip = (&raw const test_attempt_failed).addr() as u64;
    frame.rsp = rsp;
    // Neither single steps nor any other odd flag outlives the attempt.
    frame.rflags = 0x202;
    // Nor does a code segment that is not the kernel's.
    frame.cs = u64::from(KERNEL_CS & !3);
    frame.ss = u64::from(KERNEL_SS);
    Handled::Resume
}

/// A page that code is put into.
#[derive(Debug)]
pub struct Code {
    page: Pages,
    /// Kept for as long as it is mapped.
    range: Range,
}

impl Code {
    /// A page, and exceptions caught.
    pub fn new() -> Claim<Self> {
        let page = Pages::new(1).ok_or(Trouble::error("no memory for code"))?;
        let range = Range::reserve(1)?;
        let mfn = page.mfn(0).ok_or(Trouble::error("no frame"))?;
        let answer =
            call::update_va_mapping(range.start(), Pte::new(mfn, Prot::ReadExecute.flags()), UvmFlags::ALL);
        call::granted("mapping code", answer)?;
        catch_exceptions();
        Ok(Self { page, range })
    }

    /// Where code starts.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.range.start()
    }

    /// Its writable address.
    #[must_use]
    pub const fn writable(&self) -> u64 {
        self.page.va()
    }

    /// Runs `bytes`, and a `ret` behind them, at the start of the page.
    pub fn run(&self, bytes: &[u8], registers: &mut Regs) -> Result<(), Trap> {
        self.put(0, bytes);
        self.put(bytes.len(), &[0xc3]);
        attempt(self.start(), registers)
    }

    /// Runs `bytes` so that the last one is the last of the page.
    pub fn run_at_end(&self, bytes: &[u8], registers: &mut Regs) -> Result<(), Trap> {
        let offset = 4096 - bytes.len();
        self.put(offset, bytes);
        attempt(self.start() + offset as u64, registers)
    }

    /// The page's frame.
    #[must_use]
    pub fn mfn(&self) -> Option<pv_abi::ids::Mfn> {
        self.page.mfn(0)
    }

    /// Puts bytes into the page.
    pub fn put(&self, offset: usize, bytes: &[u8]) {
        let start = usize::try_from(self.page.va()).unwrap_or(0);
        for (n, byte) in (offset..4096).zip(bytes) {
            let at = core::ptr::with_exposed_provenance_mut::<u8>(start + n);
            // SAFETY: within the page, which is ours; nothing borrows it.
            unsafe { at.write_volatile(*byte) };
        }
    }
}

/// Has exceptions end attempts. Those of no attempt stay a panic.
pub fn catch_exceptions() {
    for vector in 0..VECTORS {
        let _sdk = trap::set_handler(vector, Some(ended));
    }
}

/// Runs the code at `address` until it returns or faults. What the code does to this kernel is the claim's own business.
pub fn attempt(address: u64, registers: &mut Regs) -> Result<(), Trap> {
    let slot = slot();
    // SAFETY: the assembly keeps what the ABI wants kept, and an exception leads back to it. Code that destroys this kernel
    // spoils its own claim and nothing else.
    let failed = unsafe { test_attempt(registers, address, slot.rsp.as_ptr()) };
    if failed == 0 {
        return Ok(());
    }
    Err(Trap {
        vector: u8::try_from(slot.vector.load(Ordering::Relaxed)).unwrap_or(trap::FAILSAFE),
        error: slot.error.load(Ordering::Relaxed),
        rip: slot.rip.load(Ordering::Relaxed),
        rflags: slot.rflags.load(Ordering::Relaxed),
    })
}
