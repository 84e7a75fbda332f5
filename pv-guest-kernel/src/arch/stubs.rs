//! Entry stubs: every way by which the hypervisor enters the kernel after the first instruction.
//!
//! A bounce frame holds, from the stack pointer upwards, rcx, r11, an error code for some vectors, rip, cs, rflags, rsp
//! and ss; the failsafe frame has ds, es, fs and gs after r11. Each stub turns its frame into one [`TrapFrame`]
//! (`super::trap`), whose upper part is exactly the frame that the iret hypercall takes. The way back is always that
//! hypercall: it restores the registers and the event mask in one step, so an event that arrives meanwhile is delivered
//! by the hypervisor on the way out, and the race between unmasking and returning does not exist.

use core::arch::global_asm;

global_asm!(
    r#"
    /* A stub: \slot names the entry, \err says whether the frame carries an error code. */
    .macro PV_TRAP slot, err
        .p2align 4
    pv_trap_\slot:
        pop rcx
        pop r11
        .if \err == 0
        push 0
        .endif
        push rcx
        push r11
        push rax
        push \slot
        jmp pv_trap_common
    .endm

    .pushsection .text, "ax", @progbits
    PV_TRAP 0, 0
    PV_TRAP 1, 0
    PV_TRAP 2, 0
    PV_TRAP 3, 0
    PV_TRAP 4, 0
    PV_TRAP 5, 0
    PV_TRAP 6, 0
    PV_TRAP 7, 0
    PV_TRAP 8, 1
    PV_TRAP 9, 0
    PV_TRAP 10, 1
    PV_TRAP 11, 1
    PV_TRAP 12, 1
    PV_TRAP 13, 1
    PV_TRAP 14, 1
    PV_TRAP 15, 0
    PV_TRAP 16, 0
    PV_TRAP 17, 1
    PV_TRAP 18, 0
    PV_TRAP 19, 0
    PV_TRAP 128, 0      /* int 0x80 */
    PV_TRAP 256, 0      /* event upcall */
    PV_TRAP 258, 0      /* SYSCALL from user mode */

        .p2align 4
    pv_trap_257:        /* failsafe: drop the saved selectors, they are what could not be loaded */
        mov rcx, [rsp]
        mov r11, [rsp + 8]
        add rsp, 48
        push 0
        push rcx
        push r11
        push rax
        push 257

    pv_trap_common:
        push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        push rdi
        push rsi
        push rdx
        push r8
        push r9
        push r10
        cld
        mov rdi, rsp
        call {dispatch}
        mov rdi, rsp

        /* Resume the frame at rdi. Events are masked, so nothing else uses the memory below it meanwhile. */
    pv_resume:
        mov rsp, rdi
        pop r10
        pop r9
        pop r8
        pop rdx
        pop rsi
        pop rdi
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        add rsp, 8
        mov qword ptr [rsp + 24], 0     /* no VGCF_in_syscall: rcx and r11 are restored too */
        mov eax, 23
        syscall
        ud2

        /* pv_user_enter(frame: rdi, saved_rsp: rsi): leaves to user mode; comes back through pv_user_leave. */
        .global pv_user_enter
    pv_user_enter:
        push rbp
        push rbx
        push r12
        push r13
        push r14
        push r15
        mov [rsi], rsp
        jmp pv_resume

        /* pv_user_leave(saved_rsp: rdi): drops the trap stack and returns from pv_user_enter. */
        .global pv_user_leave
    pv_user_leave:
        mov rsp, rdi
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbx
        pop rbp
        ret
    .popsection

    .pushsection .rodata, "a", @progbits
        .p2align 3
        .global PV_TRAP_ENTRIES
    PV_TRAP_ENTRIES:    /* (vector, address) pairs; the last three are the callbacks */
    .macro PV_ENTRY slot
        .quad \slot, pv_trap_\slot
    .endm
    .irp slot, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,128,256,257,258
        PV_ENTRY \slot
    .endr
    .popsection
    "#,
    dispatch = sym super::trap::dispatch,
);

/// How many entries [`PV_TRAP_ENTRIES`] has.
pub(super) const ENTRY_COUNT: usize = 24;

/// Vector (or slot above 255) and address of one stub.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) slot: u64,
    pub(super) address: u64,
}

// SAFETY: assembly or the linker script defines these symbols, with these types.
unsafe extern "C" {
    static PV_TRAP_ENTRIES: [Entry; ENTRY_COUNT];
    fn pv_user_enter(frame: *mut super::trap::TrapFrame, saved_rsp: *mut u64);
    fn pv_user_leave(saved_rsp: u64) -> !;
}

/// All entry stubs.
pub(super) fn entries() -> &'static [Entry] {
    // SAFETY: a constant table in read-only memory, defined above with this very length.
    unsafe { &PV_TRAP_ENTRIES }
}

/// Leaves to user mode with the registers of `frame`; returns when something called [`user_leave`].
///
/// # Safety
/// Events must be masked, `frame` must describe user mode (cs with RPL 3) and the kernel stack for traps must not be the
/// present one.
pub(super) unsafe fn user_enter(frame: *mut super::trap::TrapFrame, saved_rsp: *mut u64) {
    // SAFETY: the caller's promises are the routine's.
    unsafe { pv_user_enter(frame, saved_rsp) }
}

/// Returns from the [`user_enter`] that stored `saved_rsp`.
///
/// # Safety
/// That call must be under way on this vcpu, and the caller must be on the trap stack, which is abandoned.
pub(super) unsafe fn user_leave(saved_rsp: u64) -> ! {
    // SAFETY: as promised by the caller.
    unsafe { pv_user_leave(saved_rsp) }
}
