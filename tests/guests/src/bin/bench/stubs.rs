//! Entry points as short as they can be, so that what is measured is the hypervisor's part and not the SDK's.
//!
//! Each stub gets the frame that the hypervisor bounces (rcx, r11, an error code for some vectors, rip, cs, rflags, rsp,
//! ss), turns it into the frame of the iret hypercall and issues that.

#![expect(unsafe_code, reason = "entry points in assembly, and words that they share with Rust")]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use pv_abi::callback::{CallbackFlags, CallbackOp, CallbackRegister, CallbackType};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::EvtchnPort;
use pv_abi::trap::TrapInfo;
use pv_guest_kernel::arch::{KERNEL_CS, KERNEL_SS};
use pv_guest_kernel::hypercall::{self, raw};
use pv_guest_kernel::memory::Pages;
use pv_guest_kernel::shared;
use test_guests::{Claim, Trouble, call, ensure_eq};

global_asm!(
    r#"
    .macro BENCH_IRET flags     /* rcx and r11 as they were; the rest of the frame is on the stack */
        push \flags
        push rcx
        push r11
        push rax
        mov eax, 23
    .endm

    .pushsection .text, "ax", @progbits
        .p2align 4
        .global bench_event
    bench_event:                /* takes the one event that is measured and counts it */
        pop rcx
        pop r11
        push 0
        push rcx
        push r11
        push rax
        mov rax, [rip + {vcpu_info}]
        mov byte ptr [rax], 0
        mov qword ptr [rax + 8], 0
        mov rax, [rip + {word}]
        mov rcx, [rip + {bit}]
        lock btr [rax], rcx
        inc qword ptr [rip + {seen}]
        mov eax, 23
        syscall

        .p2align 4
        .global bench_syscall
    bench_syscall:              /* a system call that does nothing */
        pop rcx
        pop r11
        BENCH_IRET 0x100
        syscall

        .p2align 4
        .global bench_int80
    bench_int80:
        pop rcx
        pop r11
        BENCH_IRET 0
        syscall

        .p2align 4
        .global bench_invalid_opcode
    bench_invalid_opcode:       /* the kernel's is skipped, a user's ends the loop in user mode */
        test byte ptr [rsp + 24], 3
        jnz 2f
        pop rcx
        pop r11
        add qword ptr [rsp], 2
        BENCH_IRET 0
        syscall
    2:
        mov rsp, [rip + {stack}]
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        ret

        .p2align 4
        .global bench_page_fault
    bench_page_fault:           /* skips the instruction */
        pop rcx
        pop r11
        mov qword ptr [rsp], 0
        push rcx
        push r11
        push rax
        mov rax, [rip + {skip}]
        add [rsp + 32], rax
        mov eax, 23
        syscall

        /* bench_user(frame: rdi, rounds: rsi): runs a loop of user mode that counts ebx down and ends with ud2 */
        .global bench_user
    bench_user:
        push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        mov [rip + {stack}], rsp
        mov rbx, rsi
        mov rsp, rdi
        mov eax, 23
        syscall

        .global bench_ud2
    bench_ud2:
        ud2
        ret
        .global bench_int3
    bench_int3:
        int3
        ret
        .global bench_load
    bench_load:
        mov eax, [rdi]
        ret
    .popsection
    "#,
    vcpu_info = sym VCPU_INFO,
    word = sym WORD,
    bit = sym BIT,
    seen = sym SEEN,
    stack = sym STACK,
    skip = sym SKIP,
);

// SAFETY: the assembly above and the SDK's define these symbols, with these types.
unsafe extern "C" {
    static bench_event: [u8; 0];
    static bench_syscall: [u8; 0];
    static bench_int80: [u8; 0];
    static bench_invalid_opcode: [u8; 0];
    static bench_page_fault: [u8; 0];
    static PV_TRAP_ENTRIES: [[u64; 2]; SDK_ENTRIES];
    fn bench_user(frame: *mut u64, rounds: u64);
    fn bench_ud2();
    fn bench_int3();
    fn bench_load(address: u64);
}

/// How many entry points the SDK has, and which of them takes events.
const SDK_ENTRIES: usize = 24;
const SDK_EVENT: u64 = 256;

static VCPU_INFO: AtomicU64 = AtomicU64::new(0);
static WORD: AtomicU64 = AtomicU64::new(0);
static BIT: AtomicU64 = AtomicU64::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);
static STACK: AtomicU64 = AtomicU64::new(0);
static SKIP: AtomicU64 = AtomicU64::new(0);

/// Events of this vcpu go to the stub, which takes those of one port. The SDK's upcall is back when this is dropped.
#[derive(Debug)]
pub(crate) struct EventStub(());

impl EventStub {
    /// Takes the upcall over for a port.
    pub(crate) fn new(port: EvtchnPort) -> Claim<Self> {
        let info = shared::info();
        let word = usize::try_from(port.raw() / 64).ok().and_then(|word| info.evtchn_pending.get(word));
        let word = word.ok_or(Trouble::error("a port beyond the table"))?;
        VCPU_INFO.store(call::address(shared::vcpu_info()), Ordering::Relaxed);
        WORD.store(call::address(word), Ordering::Relaxed);
        BIT.store(u64::from(port.raw() % 64), Ordering::Relaxed);
        SEEN.store(0, Ordering::Relaxed);
        // Only its address is used.
        register(CallbackType::Event, (&raw const bench_event).addr() as u64)?;
        Ok(Self(()))
    }

    /// Events that were taken.
    pub(crate) fn seen(&self) -> u64 {
        SEEN.load(Ordering::Relaxed)
    }
}

impl Drop for EventStub {
    fn drop(&mut self) {
        // SAFETY: a constant table.
        let entries = unsafe { &PV_TRAP_ENTRIES };
        let sdk = entries.iter().find(|[slot, _]| *slot == SDK_EVENT).map_or(0, |[_, address]| *address);
        let registered = register(CallbackType::Event, sdk);
        debug_assert!(registered.is_ok(), "the SDK's upcall is not back");
        // What came in for other ports meanwhile is still pending, but nobody was told.
        shared::vcpu_info().evtchn_pending_sel.store(u64::MAX, Ordering::SeqCst);
        shared::vcpu_info().evtchn_upcall_pending.store(1, Ordering::SeqCst);
        raw::nothing();
    }
}

fn register(kind: CallbackType, address: u64) -> Claim {
    let argument = CallbackRegister {
        kind: kind.raw(),
        flags: CallbackFlags::MASK_EVENTS.bits(),
        address,
        ..CallbackRegister::default()
    };
    let args = [u64::from(CallbackOp::Register.raw()), call::address(&argument)];
    ensure_eq!(call::call(Hypercall::CallbackOp, args), 0, "registering {kind:?}");
    Ok(())
}

/// Exceptions and system calls go to the stubs from now on; kernel entries from user mode take a stack of their own.
pub(crate) fn take_traps() -> Claim {
    const MASK_EVENTS: u8 = 4;
    const FROM_USER: u8 = 3;
    let gate = |vector: u8, flags: u8, stub: *const [u8; 0]| TrapInfo {
        vector,
        flags: MASK_EVENTS | flags,
        cs: KERNEL_CS,
        address: stub.addr() as u64,
        ..TrapInfo::default()
    };
    hypercall::set_trap_table(&[
        gate(3, FROM_USER, &raw const bench_int80),
        gate(6, 0, &raw const bench_invalid_opcode),
        gate(14, 0, &raw const bench_page_fault),
        gate(0x80, FROM_USER, &raw const bench_int80),
        TrapInfo::default(),
    ])?;
    register(CallbackType::Syscall, (&raw const bench_syscall).addr() as u64)?;
    let stack = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let top = stack.va() + 4096;
    core::mem::forget(stack);
    let args = [u64::from(KERNEL_SS), top];
    ensure_eq!(call::call(Hypercall::StackSwitch, args), 0, "the stack");
    Ok(())
}

/// Runs a loop of user mode at `rip` so many times; see the assembly for what it has to look like.
pub(crate) fn user_loop(rip: u64, rsp: u64, rounds: u64, instruction_bytes: u64) {
    const EVENTS_MASKED: u64 = 0x002;
    SKIP.store(instruction_bytes, Ordering::Relaxed);
    let (cs, ss) = (u64::from(KERNEL_CS), u64::from(KERNEL_SS));
    let mut frame = [0, 0, 0, 0, rip, cs, EVENTS_MASKED, rsp, ss];
    // SAFETY: the frame is one of user mode, which has no kernel memory, and the stubs bring the kernel back here with
    // its saved registers.
    unsafe { bench_user(frame.as_mut_ptr(), rounds) }
}

/// An invalid opcode in the kernel, skipped by the stub.
#[inline]
pub(crate) fn invalid_opcode() {
    // SAFETY: the stub skips the instruction and keeps all registers.
    unsafe { bench_ud2() }
}

/// A breakpoint in the kernel, which the stub returns from.
#[inline]
pub(crate) fn breakpoint() {
    // SAFETY: the stub keeps all registers.
    unsafe { bench_int3() }
}

/// A load from an address without a page, skipped by the stub.
#[inline]
pub(crate) fn page_fault(address: u64) {
    const LOAD_BYTES: u64 = 2;
    SKIP.store(LOAD_BYTES, Ordering::Relaxed);
    // SAFETY: the stub skips the load and keeps all registers.
    unsafe { bench_load(address) }
}
