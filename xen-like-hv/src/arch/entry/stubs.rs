//! The first and the last instructions of every visit to the hypervisor.
//!
//! Frame layout, from low to high addresses: `UserRegs` (R15 … RDI, error code and vector, then the five words of
//! IRETQ). At an entry from a guest it lies in `CpuInfo` (see [`super::cpu_info`]); RSP then points at `CpuInfo` itself,
//! one word below, which also keeps calls 16-byte aligned.
//!
//! The SYSCALL stubs exist once per pcpu, because SYSCALL brings no stack and the hypervisor owns no segment base: each
//! names its own stack block by address.
//!
//! Instructions at which a guest's operand may fault are listed in `.fixup_table` with the place to go on at. The
//! three-byte no-operations listed in `.stac_sites` and `.clac_sites` become STAC and CLAC where the CPU has SMAP.
#![expect(unsafe_code, reason = "entry and exit are assembly")]

use core::arch::global_asm;
use core::mem::offset_of;

use hv_core::entry::{Gate, TrapGate, VcpuEntry};
use hv_core::error::Reply;
use hv_core::hypercall::guest_ptr::{HYPERVISOR_SHIFT, HYPERVISOR_TOP};
use hv_core::mm::VcpuMm;
use hv_core::regs::TRAP_SYSCALL;
use hv_core::{Cx, UserRegs};
use pv_abi::errno::Errno;
use pv_abi::hypercall::Hypercall;
use pv_abi::shared_info::VCPU_INFO_CR2;
use pv_abi::trap::{EMULATE_PREFIX, IretFlags};
use pv_abi::vm_assist::VmAssist;

use super::cpu_info::{CpuInfo, REGS_END_FROM_TOP, STACK_SIZE};
use crate::arch::mm::tlb::CLOCK;
use crate::machine::Metal;
use crate::percpu::PerCpu;

/// Pcpus for which SYSCALL stubs exist.
pub(crate) const MAX_STUBS: usize = 64;
/// Bytes between two SYSCALL stubs.
const SYSCALL_STUB_BYTES: usize = 64;
/// Bytes between two vector stubs.
const VECTOR_STUB_BYTES: usize = 16;

/// The first four of its five bytes.
const EMULATE_PREFIX_WORD: u32 = {
    let [a, b, c, d, _] = EMULATE_PREFIX;
    u32::from_le_bytes([a, b, c, d])
};

/// Whether stretches are measured.
const STRETCH: usize = if cfg!(feature = "stretch") { 1 } else { 0 };

global_asm!(
    include_str!("macros.s"),
    r#"
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
        // rsp is &CpuInfo.regs. A trap leaves AC as it was, and ring 3 may have set it.
        CLAC_SITE
        sub rsp, 8
        STRETCH_BEGIN mov eax, {numbers}
        lea rdi, [rsp + {cx}]
        call guest_trap
        test eax, eax
        jz exit_live
    .globl exit_to_guest
    // The frame is complete and the registers are the hypervisor's.
    exit_to_guest:
        cmp dword ptr [rsp + {work}], 0
        jne exit_slow
        mov rax, [rsp + {upcall_word}]
        cmp word ptr [rax], 1
        je exit_slow
    exit_checked:
        LOAD_CALLEE_SAVED {regs}
    exit_live_checked:
        STRETCH_END
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
        LOAD_SCRATCH {regs}
        mov rax, [rsp + {regs} + {rax}]
        mov r11, [rsp + {regs} + {rflags}]
        mov rsp, [rsp + {regs} + {rsp_}]
        sysretq

    // A frame meant for SYSRET (RCX and R11 are dead) that must go by IRETQ.
    exit_by_iret_fresh:
        mov r11, [rsp + {regs} + {rflags}]
        mov [rsp + {regs} + {r11}], r11
        mov [rsp + {regs} + {rcx}], rcx
    exit_by_iret:
        LOAD_SCRATCH {regs}
        mov rax, [rsp + {regs} + {rax}]
        mov r11, [rsp + {regs} + {r11}]
        mov rcx, [rsp + {regs} + {rcx}]
        add rsp, {regs} + {rip}
    .globl guest_iretq
    guest_iretq:
        iretq

    exit_slow:
        xor ebp, ebp
        call exit_work
        // Not back to the upcall's check: one upcall per exit. A guest can keep its pending byte set and its mask clear
        // for ever, from another vcpu or by having no handler, and this pcpu would never leave.
        cmp dword ptr [rsp + {work}], 0
        jne exit_slow
        jmp exit_checked

    // The frame is complete but for the callee-saved registers, which are the guest's still.
    exit_live:
        cmp dword ptr [rsp + {work}], 0
        jne exit_live_slow
        mov rax, [rsp + {upcall_word}]
        cmp word ptr [rax], 1
        jne exit_live_checked
        lea rdi, [rsp + {cx}]
        call guest_upcall
        test eax, eax
        jnz exit_parked
        // One upcall per exit, as above.
        cmp dword ptr [rsp + {work}], 0
        je exit_live_checked
    exit_live_slow:
        SAVE_CALLEE_SAVED {regs}
        jmp exit_slow

    // What ends the visit in another way than by a word in RAX is in Cx.exit. It may want to show all registers.
    exit_parked:
        SAVE_CALLEE_SAVED {regs}
        lea rdi, [rsp + {cx}]
        call guest_parked
        jmp exit_live

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
        mov [rip + stack_blocks + {stack_size} * cpu + {rsp_slot}], rsp
        lea rsp, [rip + stack_blocks + {stack_size} * cpu + {cpu_info}]
        jmp syscall_entry_64
        .set cpu, cpu + 1
    .endr

    // rsp is &CpuInfo. The frame gets what the handler's ABI may change; the callee-saved registers stay where they are,
    // and what is the same for every SYSCALL is filled in only where somebody looks at it.
    .macro SAVE_SYSCALL
        mov [rsp + {regs} + {rip}], rcx
        mov [rsp + {regs} + {rflags}], r11
        mov [rsp + {regs} + 56], r10
        mov [rsp + {regs} + 64], r9
        mov [rsp + {regs} + 72], r8
        mov [rsp + {regs} + {rax}], rax
        mov [rsp + {regs} + {rdx}], rdx
        mov [rsp + {regs} + 104], rsi
        mov [rsp + {regs} + 112], rdi
    .endm

    .balign 64
    syscall_entry_64:
        cmp rax, [rsp + {hypercall_limit}]
        jae syscall_other_entry
        cmp eax, {iret}
        je iret_entry
    syscall_table_entry:
        SAVE_SYSCALL
        STRETCH_BEGIN and eax, {numbers} - 1
        // The limit once more, for a CPU that has guessed the branch.
        and eax, {numbers} - 1
        // RDI, RSI, RDX and R8 are in the places of the handler's first arguments already.
        mov rcx, r10
        lea r9, [rsp + {cx}]
        lea r10, [rip + HYPERCALLS]
    .globl syscall_dispatch
    syscall_dispatch:
        call [r10 + rax * 8]
    .globl syscall_exit
    syscall_exit:
        test rdx, rdx
        jnz syscall_parked
        cmp dword ptr [rsp + {work}], 0
        jne syscall_exit_live
        mov rcx, [rsp + {upcall_word}]
        cmp word ptr [rcx], 1
        je upcall_bounce
        mov rcx, [rsp + {regs} + {rip}]
        mov r11, rcx
        shl r11, 16
        sar r11, 16
        cmp r11, rcx
        jne syscall_exit_live
        STRETCH_END
        LOAD_SCRATCH {regs}
        mov r11, [rsp + {regs} + {rflags}]
        mov rsp, [rsp + {regs} + {rsp_}]
        sysretq

    syscall_exit_live:
        mov [rsp + {regs} + {rax}], rax
        COMPLETE_SYSCALL
        jmp exit_live

    syscall_parked:
        cmp edx, {regs_replaced}
        je exit_live
        COMPLETE_SYSCALL
        jmp exit_parked

    // From user mode, or a number that is not in the table.
    syscall_other:
        SAVE_SYSCALL
        COMPLETE_SYSCALL
        lea rdi, [rsp + {cx}]
        call guest_syscall
        test eax, eax
        jz exit_live
        jmp exit_parked

    // SYSCALL from compatibility mode: one stub per pcpu.
    .balign 64
    .globl syscall_compat_stubs
    syscall_compat_stubs:
    .set cpu, 0
    .rept {max_stubs}
        .balign 64
        mov [rip + stack_blocks + {stack_size} * cpu + {rsp_slot}], rsp
        lea rsp, [rip + stack_blocks + {stack_size} * cpu + {rsp_slot}]
        jmp syscall_entry_32
        .set cpu, cpu + 1
    .endr

    .balign 16
    syscall_entry_32:
        mov qword ptr [rsp + 8], {ss}
        push r11
        push {cs32}
        push rcx
        sub rsp, 8
        mov dword ptr [rsp + 4], {trap_syscall}
        PUSH_REGS
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
        sub rsp, 8
        call guest_sysenter
        jmp exit_to_guest

    // Copies between guest and hypervisor: rdi to, rsi from, rdx bytes. Returns the bytes that were not copied. A fault
    // makes it return early.
    .balign 16
    .globl guest_copy
    guest_copy:
        mov rcx, rdx
        shr rcx, 3
        and edx, 7
        STAC_SITE
        MAY_FAULT guest_copy_fault_words
        rep movsq
        mov ecx, edx
        MAY_FAULT guest_copy_fault_bytes
        rep movsb
        CLAC_SITE
        xor eax, eax
        ret
    guest_copy_fault_words:
        CLAC_SITE
        lea rax, [rdx + rcx * 8]
        ret
    guest_copy_fault_bytes:
        CLAC_SITE
        mov rax, rcx
        ret

    // Loads GS with edi between two SWAPGS, so that the hidden base takes the descriptor's. Returns 0, or 1 after a
    // fault (GS is then null).
    .balign 16
    .globl load_user_gs
    load_user_gs:
        xor eax, eax
        swapgs
        MAY_FAULT load_user_gs_fault
        mov gs, edi
    1:  swapgs
        ret
    load_user_gs_fault:
        xor edi, edi
        mov gs, edi
        mov eax, 1
        jmp 1b

    // Loads a data selector (edi: 0 DS, 1 ES, 2 FS; esi: selector). Returns 0, or 1 after a fault.
    .balign 16
    .globl load_data_segment
    load_data_segment:
        xor eax, eax
        cmp edi, 1
        je 2f
        ja 3f
        MAY_FAULT load_data_segment_fault
        mov ds, esi
        ret
    2:
        MAY_FAULT load_data_segment_fault
        mov es, esi
        ret
    3:
        MAY_FAULT load_data_segment_fault
        mov fs, esi
        ret
    load_data_segment_fault:
        mov eax, 1
        ret

    // RDMSR that may fault: edi the index, rsi where the value goes. Returns 0, or 1 after a fault.
    .balign 16
    .globl read_msr_safe
    read_msr_safe:
        mov ecx, edi
        MAY_FAULT read_msr_fault
        rdmsr
        mov [rsi], eax
        mov [rsi + 4], edx
        xor eax, eax
        ret
    read_msr_fault:
        mov eax, 1
        ret

    // Goes on in rsi, which does not return, on the stack that ends at rdi.
    .balign 16
    .globl switch_stack
    switch_stack:
        mov rsp, rdi
        xor ebp, ebp
        call rsi
        ud2

    "#,
    include_str!("short.s"),
    include_str!("batch.s"),
    "    .text",
    regs = const offset_of!(CpuInfo, regs),
    work = const offset_of!(CpuInfo, work),
    upcall_word = const offset_of!(CpuInfo, upcall_word),
    cx = const offset_of!(CpuInfo, cx),
    hypercall_limit = const offset_of!(CpuInfo, hypercall_limit),
    numbers = const hv_core::hypercall::NUMBERS,
    look_up_every = const hv_core::hypercall::multicall::LOOK_UP_EVERY,
    efault = const Errno::Fault.to_ret(),
    regs_replaced = const hv_core::error::REGS_REPLACED,
    regs_end_from_top = const REGS_END_FROM_TOP,
    stack_mask = const STACK_SIZE - 1,
    cs = const offset_of!(UserRegs, cs),
    rip = const offset_of!(UserRegs, rip),
    rflags = const offset_of!(UserRegs, rflags),
    rsp_ = const offset_of!(UserRegs, rsp),
    r11 = const offset_of!(UserRegs, r11),
    rcx = const offset_of!(UserRegs, rcx),
    rdx = const offset_of!(UserRegs, rdx),
    rax = const offset_of!(UserRegs, rax),
    error_code = const offset_of!(UserRegs, error_code),
    ss_ = const offset_of!(UserRegs, ss),
    entry_vector = const offset_of!(UserRegs, entry_vector),
    trap_syscall = const TRAP_SYSCALL,
    ss = const hv_core::regs::GUEST_SS,
    cs64 = const hv_core::regs::GUEST_CS64,
    cs32 = const hv_core::regs::GUEST_CS32,
    user_flags = const hv_core::regs::RFLAGS_IF | hv_core::regs::RFLAGS_FIXED,
    rflags_if = const hv_core::regs::RFLAGS_IF,
    rflags_iopl = const hv_core::regs::RFLAGS_IOPL,
    not_for_handlers = const !hv_core::regs::NOT_FOR_HANDLERS.cast_signed(),
    not_for_guests = const !hv_core::regs::NOT_FOR_GUESTS.cast_signed(),
    iret = const Hypercall::Iret.raw(),
    in_syscall = const IretFlags::IN_SYSCALL.bits(),
    emulate_prefix = const EMULATE_PREFIX_WORD,
    hypervisor_shift = const HYPERVISOR_SHIFT,
    hypervisor_top = const HYPERVISOR_TOP,
    entry = const offset_of!(CpuInfo, entry),
    traps = const offset_of!(CpuInfo, traps),
    mm = const offset_of!(CpuInfo, mm),
    assists = const offset_of!(CpuInfo, assists),
    record = const offset_of!(CpuInfo, record),
    last_flush = const offset_of!(PerCpu, last_flush),
    flush_clock = sym CLOCK,
    kernel_root = const VcpuMm::KERNEL_ROOT,
    user_root = const VcpuMm::USER_ROOT,
    in_user_mode = const VcpuEntry::IN_USER_MODE,
    kernel_sp = const offset_of!(VcpuEntry, kernel_sp),
    iopl = const offset_of!(VcpuEntry, iopl),
    iopl_assist = const 1_u32 << VmAssist::ArchitecturalIopl.raw(),
    nmi_pending = const offset_of!(VcpuEntry, nmi_pending),
    nmi_masked = const offset_of!(VcpuEntry, nmi_masked),
    event_gate = const offset_of!(VcpuEntry, event),
    syscall_gate = const offset_of!(VcpuEntry, syscall),
    trap_gate_size = const size_of::<TrapGate>(),
    gate_shift = const Gate::ADDRESS_SHIFT,
    gate_masks = const Gate::MASKS,
    gate_kernel = const Gate::KERNEL_MAY_RAISE,
    gate_user = const Gate::USER_MAY_RAISE,
    cr2 = const VCPU_INFO_CR2,
    max_stubs = const MAX_STUBS,
    stretch = const STRETCH,
    stack_size = const STACK_SIZE,
    rsp_slot = const STACK_SIZE - REGS_END_FROM_TOP - 16,
    cpu_info = const STACK_SIZE - size_of::<CpuInfo>(),
);

// SAFETY: the symbols are defined above, and the site tables by the linker script; the functions have these types.
#[expect(improper_ctypes, reason = "the context goes through assembly from Rust to Rust")]
unsafe extern "C" {
    static vector_stubs: u8;
    static syscall_stubs: u8;
    static syscall_compat_stubs: u8;
    static sysenter_entry: u8;
    static guest_iretq: u8;
    static short_iretq: u8;
    static breakpoint_entry: u8;
    static invalid_opcode_entry: u8;
    static page_fault_entry: u8;
    static int80_entry: u8;
    static __clac_sites_start: u64;
    static __clac_sites_end: u64;
    static __stac_sites_start: u64;
    static __stac_sites_end: u64;
    /// Copies bytes between guest and hypervisor; returns what is left.
    pub(crate) fn guest_copy(dst: *mut u8, src: *const u8, len: usize) -> usize;
    /// Loads the user GS selector; returns 0 or 1.
    pub(crate) fn load_user_gs(selector: u32) -> u32;
    /// Loads a data selector; returns 0 or 1.
    pub(crate) fn load_data_segment(which: u32, selector: u32) -> u32;
    /// Reads an MSR; returns 0 or 1.
    pub(crate) fn read_msr_safe(index: u32, value: *mut u64) -> u32;
    /// `HYPERVISOR_multicall`, as the table has it.
    pub(crate) safe fn multicall_in_words(
        list: u64,
        count: u64,
        c: u64,
        d: u64,
        e: u64,
        cx: &mut Cx<'_, Metal>,
    ) -> Reply;
    fn switch_stack(end: u64, to: extern "C" fn() -> !) -> !;
}

fn address(symbol: *const u8) -> u64 {
    u64::try_from(symbol.expose_provenance()).unwrap_or(0)
}

/// Where a vector arrives: its stub, or the short way of those that guests raise most.
pub(crate) fn vector_entry(vector: usize) -> u64 {
    match vector {
        3 => address(&raw const breakpoint_entry),
        6 => address(&raw const invalid_opcode_entry),
        14 => address(&raw const page_fault_entry),
        0x80 => address(&raw const int80_entry),
        _ => address(&raw const vector_stubs) + (vector * VECTOR_STUB_BYTES) as u64,
    }
}

/// Where a pcpu's SYSCALL (64-bit, compatibility) and SYSENTER arrive.
pub(crate) fn system_call_entries(cpu: usize) -> [u64; 3] {
    let offset = (cpu.min(MAX_STUBS - 1) * SYSCALL_STUB_BYTES) as u64;
    [
        address(&raw const syscall_stubs) + offset,
        address(&raw const syscall_compat_stubs) + offset,
        address(&raw const sysenter_entry),
    ]
}

/// Whether it is an IRETQ that returns to a guest.
pub(crate) fn is_guest_iretq(rip: u64) -> bool {
    rip == address(&raw const short_iretq) || rip == address(&raw const guest_iretq)
}

/// Puts STAC and CLAC where they are needed. Called while the image is still writable, before the final page tables.
pub(crate) fn patch_smap(smap: bool) {
    if smap {
        patch(&raw const __stac_sites_start, &raw const __stac_sites_end, 0xcb);
        patch(&raw const __clac_sites_start, &raw const __clac_sites_end, 0xca);
    }
}

fn patch(start: *const u64, end: *const u64, last_byte: u8) {
    for index in 0..(end.addr() - start.addr()) / 8 {
        // SAFETY: the linker script puts the addresses of three-byte no-operations between the two symbols; the boot
        // tables map them writable, and no other CPU runs.
        unsafe {
            let at = usize::try_from(start.add(index).read()).unwrap_or(0);
            core::ptr::with_exposed_provenance_mut::<[u8; 3]>(at).write_unaligned([0x0f, 0x01, last_byte]);
        }
    }
}

/// Goes on in `to` on another stack, for good.
///
/// # Safety
/// `end` must be the end of an unused, mapped stack, 16-byte aligned; nothing on the present stack may be needed.
pub(crate) unsafe fn switch_to(end: u64, to: extern "C" fn() -> !) -> ! {
    // SAFETY: the caller vouches for the stack.
    unsafe { switch_stack(end, to) }
}
