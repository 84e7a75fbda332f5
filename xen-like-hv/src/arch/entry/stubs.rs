//! The first and the last instructions of every visit to the hypervisor.
//!
//! Frame layout, from low to high addresses: `UserRegs` (R15 … RDI, error code and vector, then the five words of
//! IRETQ). At an entry from a guest it lies in `CpuInfo` (see [`super::cpu_info`]); RSP then points at `CpuInfo` itself,
//! one word below, which also keeps calls 16-byte aligned.
//!
//! The SYSCALL stubs exist once per pcpu, because SYSCALL brings no stack and the hypervisor owns no segment base: each
//! names its own stack slot by address.
#![expect(unsafe_code, reason = "entry and exit are assembly")]

use core::arch::global_asm;
use core::mem::offset_of;

use hv_core::UserRegs;
use hv_core::regs::TRAP_SYSCALL;

use super::cpu_info::CpuInfo;

/// Pcpus for which SYSCALL stubs exist.
pub(crate) const MAX_STUBS: usize = 64;
/// Bytes between two SYSCALL stubs.
pub(crate) const SYSCALL_STUB_BYTES: usize = 64;
/// Bytes between two vector stubs.
pub(crate) const VECTOR_STUB_BYTES: usize = 16;

global_asm!(
    r#"
    .macro PUSH_REGS
        push rdi
        push rsi
        push rdx
        push rcx
        push rax
        push r8
        push r9
        push r10
        push r11
        push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
    .endm

    .macro LOAD_REGS base
        mov r15, [rsp + \base]
        mov r14, [rsp + \base + 8]
        mov r13, [rsp + \base + 16]
        mov r12, [rsp + \base + 24]
        mov rbp, [rsp + \base + 32]
        mov rbx, [rsp + \base + 40]
        mov r10, [rsp + \base + 56]
        mov r9,  [rsp + \base + 64]
        mov r8,  [rsp + \base + 72]
        mov rax, [rsp + \base + 80]
        mov rdx, [rsp + \base + 96]
        mov rsi, [rsp + \base + 104]
        mov rdi, [rsp + \base + 112]
    .endm

    .section .text.entry, "ax", @progbits

    // One stub per vector. #DF #TS #NP #SS #GP #PF #AC #CP #VC #SX push an error code themselves.
    .balign 16
    .globl vector_stubs
    vector_stubs:
    .set vector, 0
    .rept 256
        .balign 16
        .if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != 17 && vector != 21 && vector != 29 && vector != 30
        push 0
        .endif
        mov dword ptr [rsp + 4], vector
        .if vector == 1
        jmp debug_entry
        .else
        .if vector == 2 || vector == 8 || vector == 18
        jmp ist_entry
        .else
        jmp trap_entry
        .endif
        .endif
        .set vector, vector + 1
    .endr

    .balign 16
    .globl trap_entry
    trap_entry:
        cld
        PUSH_REGS
        test byte ptr [rsp + {cs}], 3
        jz trap_from_hypervisor
        // rsp is &CpuInfo.regs
        cmp byte ptr [rip + smap_in_use], 0
        je 1f
        clac
    1:  mov rdi, rsp
        sub rsp, 8
        xor ebp, ebp
        call guest_trap
    .globl exit_to_guest
    exit_to_guest:
        cmp dword ptr [rsp + {work}], 0
        jne exit_slow
        mov rax, [rsp + {upcall_word}]
        cmp word ptr [rax], 1
        je exit_slow
        test dword ptr [rsp + {regs} + {entry_vector}], {trap_syscall}
        jz exit_by_iret
        // SYSRET with a RIP that is not canonical faults at ring 0 on the guest's stack (XSA-7).
        mov rcx, [rsp + {regs} + {rip}]
        mov r11, rcx
        shl r11, 16
        sar r11, 16
        cmp r11, rcx
        jne exit_by_iret_fresh
        cmp word ptr [rsp + {regs} + {cs}], {cs64}
        jne exit_by_iret_fresh
        LOAD_REGS {regs}
        mov r11, [rsp + {regs} + {rflags}]
        mov rsp, [rsp + {regs} + {rsp_}]
        sysretq

    // A frame meant for SYSRET (RCX and R11 are dead) that must go by IRETQ.
    exit_by_iret_fresh:
        mov r11, [rsp + {regs} + {rflags}]
        mov [rsp + {regs} + {r11}], r11
        mov [rsp + {regs} + {rcx}], rcx
    exit_by_iret:
        LOAD_REGS {regs}
        mov r11, [rsp + {regs} + {r11}]
        mov rcx, [rsp + {regs} + {rcx}]
        add rsp, {regs} + {rip}
    .globl guest_iretq
    guest_iretq:
        iretq

    exit_slow:
        lea rdi, [rsp + {regs}]
        xor ebp, ebp
        call exit_work
        jmp exit_to_guest

    // An exception or interrupt while the hypervisor runs. The handler returns 0 to go on where it happened, or the
    // CpuInfo from which to leave to the guest instead.
    trap_from_hypervisor:
        mov rdi, rsp
        mov rbp, rsp
        and rsp, -16
        call hypervisor_trap
        mov rsp, rbp
        test rax, rax
        jz 2f
        mov rsp, rax
        jmp exit_to_guest
    2:  jmp return_to_hypervisor

    return_to_hypervisor:
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        pop r11
        pop r10
        pop r9
        pop r8
        pop rax
        pop rcx
        pop rdx
        pop rsi
        pop rdi
        add rsp, 8
        iretq

    // NMI, double fault, machine check: on a stack of their own, whatever was interrupted.
    .balign 16
    ist_entry:
        cld
        PUSH_REGS
        mov rdi, rsp
        mov rbp, rsp
        and rsp, -16
        call ist_trap
        mov rsp, rbp
        jmp return_to_hypervisor

    // #DB comes on its own stack. From a guest the frame is carried over to CpuInfo and dealt with as any trap.
    .balign 16
    debug_entry:
        cld
        test byte ptr [rsp + 16], 3
        jnz 3f
        PUSH_REGS
        mov rdi, rsp
        mov rbp, rsp
        and rsp, -16
        call hypervisor_debug
        mov rsp, rbp
        jmp return_to_hypervisor
    3:  push rax
        push rcx
        mov rax, rsp
        or rax, {stack_mask}
        sub rax, {regs_end_from_top} - 1
        // rax: just behind CpuInfo.regs; copy ss, rsp, rflags, cs, rip, code
        mov rcx, [rsp + 56]
        mov [rax - 8], rcx
        mov rcx, [rsp + 48]
        mov [rax - 16], rcx
        mov rcx, [rsp + 40]
        mov [rax - 24], rcx
        mov rcx, [rsp + 32]
        mov [rax - 32], rcx
        mov rcx, [rsp + 24]
        mov [rax - 40], rcx
        mov rcx, [rsp + 16]
        mov [rax - 48], rcx
        pop rcx
        xchg rax, [rsp]
        pop rsp
        sub rsp, 48
        jmp trap_entry

    // SYSCALL from 64-bit code: one stub per pcpu.
    .balign 64
    .globl syscall_stubs
    syscall_stubs:
    .set cpu, 0
    .rept {max_stubs}
        .balign 64
        mov [rip + syscall_scratch + 8 * cpu], rsp
        mov rsp, [rip + syscall_stacks + 8 * cpu]
        push {ss}
        push qword ptr [rip + syscall_scratch + 8 * cpu]
        jmp syscall_entry_64
        .set cpu, cpu + 1
    .endr

    .balign 16
    syscall_entry_64:
        push r11
        push {cs64}
        push rcx
        sub rsp, 8
        mov dword ptr [rsp + 4], {trap_syscall}
        PUSH_REGS
        mov rdi, rsp
        sub rsp, 8
        call guest_syscall
        jmp exit_to_guest

    // SYSCALL from compatibility mode: one stub per pcpu.
    .balign 64
    .globl syscall_compat_stubs
    syscall_compat_stubs:
    .set cpu, 0
    .rept {max_stubs}
        .balign 64
        mov [rip + syscall_scratch + 8 * cpu], rsp
        mov rsp, [rip + syscall_stacks + 8 * cpu]
        push {ss}
        push qword ptr [rip + syscall_scratch + 8 * cpu]
        jmp syscall_entry_32
        .set cpu, cpu + 1
    .endr

    .balign 16
    syscall_entry_32:
        push r11
        push {cs32}
        push rcx
        sub rsp, 8
        mov dword ptr [rsp + 4], {trap_syscall}
        PUSH_REGS
        mov rdi, rsp
        sub rsp, 8
        call guest_syscall_compat
        jmp exit_to_guest

    // SYSENTER: MSR_IA32_SYSENTER_ESP is the address behind CpuInfo.regs. RIP and RSP of the caller are lost, as the
    // instruction has it. Flags are made clean first: SYSENTER keeps TF, NT and AC.
    .balign 16
    .globl sysenter_entry
    sysenter_entry:
        push {ss}
        push 0
        push {user_flags}
        push 2
        popfq
        push 3
        push 0
        sub rsp, 8
        mov dword ptr [rsp + 4], {trap_syscall}
        PUSH_REGS
        mov rdi, rsp
        sub rsp, 8
        call guest_sysenter
        jmp exit_to_guest

    // Copies between guest and hypervisor: rdi to, rsi from, rdx bytes. Returns the bytes that were not copied. A fault
    // in the range makes it return early.
    .balign 16
    .globl guest_copy
    guest_copy:
        mov rcx, rdx
        shr rcx, 3
        and edx, 7
    .globl guest_copy_words
    guest_copy_words:
        rep movsq
        mov ecx, edx
    .globl guest_copy_bytes
    guest_copy_bytes:
        rep movsb
        xor eax, eax
        ret
    .globl guest_copy_fault_words
    guest_copy_fault_words:
        lea rax, [rdx + rcx * 8]
        ret
    .globl guest_copy_fault_bytes
    guest_copy_fault_bytes:
        mov rax, rcx
        ret

    // Loads GS with edi between two SWAPGS, so that the hidden base takes the descriptor's. Returns 0, or 1 after a fault
    // (GS is then null).
    .balign 16
    .globl load_user_gs
    load_user_gs:
        xor eax, eax
        swapgs
    .globl load_user_gs_at
    load_user_gs_at:
        mov gs, edi
    1:  swapgs
        ret
    .globl load_user_gs_fault
    load_user_gs_fault:
        xor edi, edi
        mov gs, edi
        mov eax, 1
        jmp 1b

    // Loads a data selector (edi: 0 DS, 1 ES, 2 FS; esi: selector). A selector that does not load becomes null.
    .balign 16
    .globl load_data_segment
    load_data_segment:
        xor eax, eax
        cmp edi, 1
        je 2f
        ja 3f
    .globl load_ds_at
    load_ds_at:
        mov ds, esi
        ret
    2:
    .globl load_es_at
    load_es_at:
        mov es, esi
        ret
    3:
    .globl load_fs_at
    load_fs_at:
        mov fs, esi
        ret
    .globl load_data_segment_fault
    load_data_segment_fault:
        mov eax, 1
        ret

    // RDMSR and WRMSR that may fault: ecx is in edi, the value in rsi. Return 1 after a fault.
    .balign 16
    .globl read_msr_safe
    read_msr_safe:
        mov ecx, edi
    .globl read_msr_at
    read_msr_at:
        rdmsr
        mov [rsi], eax
        mov [rsi + 4], edx
        xor eax, eax
        ret
    .globl msr_fault
    msr_fault:
        mov eax, 1
        ret

    .section .data.entry, "aw", @progbits
    .balign 64
    .globl syscall_stacks
    syscall_stacks: .fill {max_stubs}, 8, 0
    .globl syscall_scratch
    syscall_scratch: .fill {max_stubs}, 8, 0
    .globl smap_in_use
    smap_in_use: .byte 0
    .text
    "#,
    regs = const offset_of!(CpuInfo, regs),
    work = const offset_of!(CpuInfo, work),
    upcall_word = const offset_of!(CpuInfo, upcall_word),
    regs_end_from_top = const super::cpu_info::REGS_END_FROM_TOP,
    stack_mask = const super::cpu_info::STACK_SIZE - 1,
    cs = const offset_of!(UserRegs, cs),
    rip = const offset_of!(UserRegs, rip),
    rflags = const offset_of!(UserRegs, rflags),
    rsp_ = const offset_of!(UserRegs, rsp),
    r11 = const offset_of!(UserRegs, r11),
    rcx = const offset_of!(UserRegs, rcx),
    entry_vector = const offset_of!(UserRegs, entry_vector),
    trap_syscall = const TRAP_SYSCALL,
    ss = const hv_core::regs::GUEST_SS,
    cs64 = const hv_core::regs::GUEST_CS64,
    cs32 = const hv_core::regs::GUEST_CS32,
    user_flags = const hv_core::regs::RFLAGS_IF | hv_core::regs::RFLAGS_FIXED,
    max_stubs = const MAX_STUBS,
);

// SAFETY: the symbols are defined above; those used as data are only addressed, or accessed as the types below.
unsafe extern "C" {
    /// 256 stubs of [`VECTOR_STUB_BYTES`].
    pub(crate) static vector_stubs: [u8; 256 * VECTOR_STUB_BYTES];
    /// [`MAX_STUBS`] stubs of [`SYSCALL_STUB_BYTES`].
    pub(crate) static syscall_stubs: [u8; MAX_STUBS * SYSCALL_STUB_BYTES];
    /// [`MAX_STUBS`] stubs of [`SYSCALL_STUB_BYTES`].
    pub(crate) static syscall_compat_stubs: [u8; MAX_STUBS * SYSCALL_STUB_BYTES];
    /// Address of the SYSENTER entry.
    pub(crate) static sysenter_entry: u8;
    /// The IRETQ that returns to a guest.
    pub(crate) static guest_iretq: u8;
    pub(crate) static guest_copy_words: u8;
    pub(crate) static guest_copy_bytes: u8;
    pub(crate) static guest_copy_fault_words: u8;
    pub(crate) static guest_copy_fault_bytes: u8;
    pub(crate) static load_user_gs_at: u8;
    pub(crate) static load_user_gs_fault: u8;
    pub(crate) static load_ds_at: u8;
    pub(crate) static load_es_at: u8;
    pub(crate) static load_fs_at: u8;
    pub(crate) static load_data_segment_fault: u8;
    pub(crate) static read_msr_at: u8;
    pub(crate) static msr_fault: u8;
    /// Stack of each pcpu's SYSCALL stub: the address behind `CpuInfo.regs`.
    pub(crate) static syscall_stacks: [core::sync::atomic::AtomicU64; MAX_STUBS];
    /// Whether traps from guests have to clear RFLAGS.AC (SMAP is on).
    pub(crate) static smap_in_use: core::sync::atomic::AtomicU8;
    /// Copies bytes between guest and hypervisor; returns what is left.
    pub(crate) fn guest_copy(dst: *mut u8, src: *const u8, len: usize) -> usize;
    /// Loads the user GS selector; returns 0 or 1.
    pub(crate) fn load_user_gs(selector: u32) -> u32;
    /// Loads a data selector; returns 0 or 1.
    pub(crate) fn load_data_segment(which: u32, selector: u32) -> u32;
    /// Reads an MSR; returns 0 or 1.
    pub(crate) fn read_msr_safe(index: u32, value: *mut u64) -> u32;
}
