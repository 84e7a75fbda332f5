    // The short ways between a guest's kernel and what it interrupts: no call, no register saved but those in use.
    // See docs/decisions/0051-bounces-without-a-call.md.
    //
    // RSP is CpuInfo in all of them. What is rare they leave to the stubs, which begin again from the registers as they
    // were; so nothing but words below the guest's stack pointer may have changed before the last look.
    //
    // Words of a guest are touched from the lowest up. GUEST_ADDRESS has refused a lowest address in the hypervisor's area,
    // and below that area addresses are not canonical and fault: no frame can reach into it (I15).

    // To \bad where the address in \reg lies in the hypervisor's area, which is all that has these upper 21 bits.
    .macro GUEST_ADDRESS reg, scratch, scratch_low, bad
        mov \scratch, \reg
        shr \scratch, {hypervisor_shift}
        cmp \scratch_low, {hypervisor_top}
        je \bad
    .endm

    .macro SAVE_SHORT
        mov [rsp + {regs} + {rax}], rax
        mov [rsp + {regs} + {rcx}], rcx
        mov [rsp + {regs} + {rdx}], rdx
        mov [rsp + {regs} + {r11}], r11
    .endm

    // The other registers that a function may change.
    .macro SAVE_REST
        mov [rsp + {regs} + 56], r10
        mov [rsp + {regs} + 64], r9
        mov [rsp + {regs} + 72], r8
        mov [rsp + {regs} + 104], rsi
        mov [rsp + {regs} + 112], rdi
    .endm

    // Loads the root at the machine address \root, as `tlb::load_guest_root` does where a guest's root is loaded already.
    .macro LOAD_ROOT root, scratch, scratch_low
        mov \scratch_low, 1
        lock xadd [rip + {flush_clock}], \scratch
        inc \scratch
        mov cr3, \root
        mov \root, [rsp + {record}]
        xchg [\root + {last_flush}], \scratch
    .endm

    // The vcpu goes from user mode to its kernel; to \none where that has no root. RCX and RDX are lost.
    .macro ENTER_KERNEL none
        mov rcx, [rsp + {mm}]
        mov rcx, [rcx + {kernel_root}]
        shl rcx, 12
        jz \none
        LOAD_ROOT rcx, rdx, edx
        mov rcx, [rsp + {entry}]
        mov byte ptr [rcx + {in_user_mode}], 0
        mov qword ptr [rsp + {hypercall_limit}], {numbers}
        swapgs
    .endm

    // The other way, to the root in RCX. RCX and R11 are lost.
    .macro LEAVE_KERNEL
        LOAD_ROOT rcx, r11, r11d
        mov rcx, [rsp + {entry}]
        mov byte ptr [rcx + {in_user_mode}], 1
        mov qword ptr [rsp + {hypercall_limit}], 0
        swapgs
    .endm

    // Flags of a guest as its kernel sees them, in \flags: with the virtual IOPL where it has asked for that.
    .macro SHOW_IOPL flags, scratch
        mov \scratch, [rsp + {assists}]
        test dword ptr [\scratch], {iopl_assist}
        jz .Lno_iopl_\@
        mov \scratch, [rsp + {entry}]
        or \flags, [\scratch + {iopl}]
    .Lno_iopl_\@:
    .endm

    // The flags with which a handler of the guest starts.
    .macro HANDLER_FLAGS reg
        mov \reg, [rsp + {regs} + {rflags}]
        and \reg, {not_for_handlers}
        or \reg, {user_flags}
    .endm

    // RAX: where the frame goes, checked. R11: the gate. \at: offset of RIP in the frame, 16 or, behind an error code, 24.
    // Leaves RDX at vcpu_info and the new stack pointer in the registers.
    .macro LAY_FRAME mode, at
        STAC_SITE
        .ifc \mode, user
        mov rcx, [rsp + {regs} + {rcx}]
        .endif
        MAY_FAULT bounce_refused
        mov [rax], rcx
        mov rcx, [rsp + {regs} + {r11}]
        MAY_FAULT bounce_refused
        mov [rax + 8], rcx
        .if \at == 24
        mov ecx, [rsp + {regs} + {error_code}]
        .ifc \mode, kernel
        // The guest's kernel runs in ring 3 and shall not notice.
        and ecx, ~4
        .endif
        MAY_FAULT bounce_refused
        mov [rax + 16], rcx
        .endif
        mov rcx, [rsp + {regs} + {rip}]
        MAY_FAULT bounce_refused
        mov [rax + \at], rcx
        movzx ecx, word ptr [rsp + {regs} + {cs}]
        .ifc \mode, kernel
        and ecx, 0xfffc
        .endif
        MAY_FAULT bounce_refused
        mov [rax + \at + 8], ecx
        mov rdx, [rsp + {upcall_word}]
        xor ecx, ecx
        cmp byte ptr [rdx + 1], 0
        setne cl
        MAY_FAULT bounce_refused
        mov [rax + \at + 12], ecx
        // IF is set while a guest runs: it becomes the opposite of the event mask.
        shl ecx, 9
        xor rcx, [rsp + {regs} + {rflags}]
        SHOW_IOPL rcx, rdx
        MAY_FAULT bounce_refused
        mov [rax + \at + 16], rcx
        mov rcx, [rsp + {regs} + {rsp_}]
        MAY_FAULT bounce_refused
        mov [rax + \at + 24], rcx
        movzx ecx, word ptr [rsp + {regs} + {ss_}]
        MAY_FAULT bounce_refused
        mov [rax + \at + 32], rcx
        CLAC_SITE
        mov [rsp + {regs} + {rsp_}], rax
        mov rdx, [rsp + {upcall_word}]
    .endm

    // To the handler of the gate in R11, with vcpu_info at RDX. Unpacking the gate makes the address canonical, whatever the
    // gate holds: SYSRET cannot fault. Upcalls are not looked at: a bounce opens none.
    .macro ENTER_HANDLER
        test r11b, {gate_masks}
        jz .Lkeep_\@
        mov byte ptr [rdx + 1], 1
    .Lkeep_\@:
        mov rcx, r11
        sar rcx, {gate_shift}
        cmp dword ptr [rsp + {work}], 0
        jne bounce_exit_live
        STRETCH_END
        HANDLER_FLAGS r11
        mov rax, [rsp + {regs} + {rax}]
        mov rdx, [rsp + {regs} + {rdx}]
        mov rsp, [rsp + {regs} + {rsp_}]
        sysretq
    .endm

    // The stack for a frame of so many bytes, into RAX; RDX is lost.
    .macro STACK_OF_KERNEL bytes, bad
        mov rax, [rsp + {regs} + {rsp_}]
        and rax, -16
        sub rax, \bytes
        GUEST_ADDRESS rax, rdx, edx, \bad
    .endm

    .macro STACK_FOR_USER bytes, bad
        mov rdx, [rsp + {entry}]
        mov rax, [rdx + {kernel_sp}]
        and rax, -16
        sub rax, \bytes
        GUEST_ADDRESS rax, rdx, edx, \bad
    .endm

    // From an exception of a guest to RSP at CpuInfo, its registers in use saved. \at as above: with an error code the CPU
    // has pushed one word more.
    .macro TRAP_BEGIN at, own
        test byte ptr [rsp + \at - 8], 3
        jz \own
        lea rsp, [rsp - {regs} - {error_code} + \at - 24]
        // A trap leaves AC as it was, and ring 3 may have set it.
        CLAC_SITE
        STRETCH_BEGIN mov eax, {numbers}
        SAVE_SHORT
    .endm

    // The bounce itself. \kernel_bit and \user_bit: what the gate must have set if an instruction of the guest names it.
    .macro TRAP_BOUNCE vector, at, slow, kernel_bit=0, user_bit=0
        mov r11, [rsp + {traps}]
        mov r11, [r11 + {trap_gate_size} * \vector]
        test r11, r11
        jz \slow
        cmp qword ptr [rsp + {hypercall_limit}], 0
        je .Luser_\@
        .if \kernel_bit
        test r11b, \kernel_bit
        jz \slow
        .endif
        STACK_OF_KERNEL \at+40, \slow
        LAY_FRAME kernel, \at
        ENTER_HANDLER
    .Luser_\@:
        .if \user_bit
        test r11b, \user_bit
        jz \slow
        .endif
        STACK_FOR_USER \at+40, \slow
        ENTER_KERNEL \slow
        LAY_FRAME user, \at
        ENTER_HANDLER
    .endm

    // Everything as the CPU left it, and on to the stub that calls.
    .macro TRAP_SLOW vector, at
        mov rax, [rsp + {regs} + {rax}]
        mov rcx, [rsp + {regs} + {rcx}]
        mov rdx, [rsp + {regs} + {rdx}]
        mov r11, [rsp + {regs} + {r11}]
        lea rsp, [rsp + {regs} + {error_code} + 24 - \at]
        TRAP_OWN \vector, \at
    .endm

    .macro TRAP_OWN vector, at
        .if \at == 16
        push 0
        .endif
        mov dword ptr [rsp + 4], \vector
        jmp trap_entry
    .endm

    .balign 64
    .globl page_fault_entry
    page_fault_entry:
        TRAP_BEGIN 24, page_fault_own
        // A page that is there may be a page table, or a stale translation.
        test byte ptr [rsp + {regs} + {error_code}], 1
        jnz page_fault_slow
        // Before a word of the guest is touched: an access that is tried again behind a stale translation changes CR2.
        mov rdx, cr2
        mov rax, [rsp + {upcall_word}]
        mov [rax + {cr2}], rdx
    page_fault_bounce:
        TRAP_BOUNCE 14, 24, page_fault_slow
    page_fault_slow:
        TRAP_SLOW 14, 24
    page_fault_own:
        TRAP_OWN 14, 24

    .balign 64
    .globl invalid_opcode_entry
    invalid_opcode_entry:
        TRAP_BEGIN 16, invalid_opcode_own
        // The prefix that asks for emulation is an invalid opcode too: its first four of five bytes.
        mov rdx, [rsp + {regs} + {rip}]
        GUEST_ADDRESS rdx, rax, eax, invalid_opcode_slow
        STAC_SITE
        MAY_FAULT invalid_opcode_unread
        cmp dword ptr [rdx], {emulate_prefix}
        CLAC_SITE
        je invalid_opcode_slow
    invalid_opcode_bounce:
        TRAP_BOUNCE 6, 16, invalid_opcode_slow
    invalid_opcode_unread:
        CLAC_SITE
    invalid_opcode_slow:
        TRAP_SLOW 6, 16
    invalid_opcode_own:
        TRAP_OWN 6, 16

    .balign 64
    .globl breakpoint_entry
    breakpoint_entry:
        TRAP_BEGIN 16, breakpoint_own
    breakpoint_bounce:
        TRAP_BOUNCE 3, 16, breakpoint_slow, {gate_kernel}, {gate_user}
    breakpoint_slow:
        TRAP_SLOW 3, 16
    breakpoint_own:
        TRAP_OWN 3, 16

    .balign 64
    .globl int80_entry
    int80_entry:
        TRAP_BEGIN 16, int80_own
    int80_bounce:
        TRAP_BOUNCE 0x80, 16, int80_slow, {gate_kernel}, {gate_user}
    int80_slow:
        TRAP_SLOW 0x80, 16
    int80_own:
        TRAP_OWN 0x80, 16

    // SYSCALL with a number that is not below the limit. From user mode it is a system call: to the kernel's callback, with
    // what SYSCALL has made of RCX and R11.
    .balign 64
    syscall_other_entry:
        cmp qword ptr [rsp + {hypercall_limit}], 0
        jne syscall_other
        mov [rsp + {regs} + {rip}], rcx
        mov [rsp + {regs} + {rflags}], r11
        mov [rsp + {regs} + {rax}], rax
        mov [rsp + {regs} + {rdx}], rdx
        STRETCH_BEGIN and eax, {numbers} - 1
        mov r11, [rsp + {entry}]
        mov rax, [r11 + {kernel_sp}]
        mov r11, [r11 + {syscall_gate}]
        and rax, -16
        sub rax, 56
        GUEST_ADDRESS rax, rdx, edx, syscall_bounce_slow
        test r11, r11
        jz syscall_bounce_slow
    syscall_bounce:
        ENTER_KERNEL syscall_bounce_slow
        mov rcx, [rsp + {regs} + {rip}]
        STAC_SITE
        MAY_FAULT syscall_refused
        mov [rax], rcx
        MAY_FAULT syscall_refused
        mov [rax + 16], rcx
        mov rcx, [rsp + {regs} + {rflags}]
        MAY_FAULT syscall_refused
        mov [rax + 8], rcx
        MAY_FAULT syscall_refused
        mov dword ptr [rax + 24], {cs64}
        mov rdx, [rsp + {upcall_word}]
        xor ecx, ecx
        cmp byte ptr [rdx + 1], 0
        setne cl
        MAY_FAULT syscall_refused
        mov [rax + 28], ecx
        shl ecx, 9
        xor rcx, [rsp + {regs} + {rflags}]
        SHOW_IOPL rcx, rdx
        MAY_FAULT syscall_refused
        mov [rax + 32], rcx
        mov rcx, [rsp + {regs} + {rsp_}]
        MAY_FAULT syscall_refused
        mov [rax + 40], rcx
        MAY_FAULT syscall_refused
        mov qword ptr [rax + 48], {ss}
        CLAC_SITE
        mov [rsp + {regs} + {rsp_}], rax
        mov rdx, [rsp + {upcall_word}]
        ENTER_HANDLER
    syscall_bounce_slow:
        mov rcx, [rsp + {regs} + {rip}]
        mov r11, [rsp + {regs} + {rflags}]
        mov rax, [rsp + {regs} + {rax}]
        mov rdx, [rsp + {regs} + {rdx}]
        jmp syscall_other

    // An upcall on the way out of a hypercall: RAX its answer, RCX at vcpu_info, whose mask is clear. What else a function may
    // change is in the frame.
    .balign 16
    upcall_bounce:
        mov rdx, [rsp + {entry}]
        cmp byte ptr [rdx + {nmi_pending}], 0
        jne syscall_exit_live
        mov r11, [rdx + {event_gate}]
        test r11, r11
        jz syscall_exit_live
        mov r9, [rsp + {regs} + {rsp_}]
        mov rdi, r9
        and rdi, -16
        sub rdi, 56
        GUEST_ADDRESS rdi, rsi, esi, syscall_exit_live
        mov rsi, [rsp + {regs} + {rip}]
        mov r8, [rsp + {regs} + {rflags}]
        SHOW_IOPL r8, rdx
        STAC_SITE
        MAY_FAULT upcall_refused
        mov [rdi], rsi
        MAY_FAULT upcall_refused
        mov [rdi + 8], r8
        MAY_FAULT upcall_refused
        mov [rdi + 16], rsi
        MAY_FAULT upcall_refused
        mov qword ptr [rdi + 24], {cs64} - 3
        MAY_FAULT upcall_refused
        mov [rdi + 32], r8
        MAY_FAULT upcall_refused
        mov [rdi + 40], r9
        MAY_FAULT upcall_refused
        mov qword ptr [rdi + 48], {ss}
        CLAC_SITE
        mov byte ptr [rcx + 1], 1
        mov [rsp + {regs} + {rsp_}], rdi
        mov rcx, r11
        sar rcx, {gate_shift}
        STRETCH_END
        HANDLER_FLAGS r11
        LOAD_SCRATCH {regs}
        mov rsp, [rsp + {regs} + {rsp_}]
        sysretq
    // The long way tries again and tells.
    upcall_refused:
        CLAC_SITE
        jmp syscall_exit_live

    // After a bounce something waits. RCX: the handler; RAX, RDX and the new stack pointer are in the frame.
    bounce_exit_live:
        cld
        HANDLER_FLAGS r11
        mov [rsp + {regs} + {rip}], rcx
        mov [rsp + {regs} + {rcx}], rcx
        mov [rsp + {regs} + {rflags}], r11
        mov [rsp + {regs} + {r11}], r11
        mov qword ptr [rsp + {regs} + {cs}], {cs64}
        mov qword ptr [rsp + {regs} + {ss_}], {ss}
        mov dword ptr [rsp + {regs} + {entry_vector}], {trap_syscall}
        SAVE_REST
        jmp exit_live

    // The kernel's stack does not take the frame: nobody is left to tell.
    syscall_refused:
        COMPLETE_SYSCALL
    bounce_refused:
        CLAC_SITE
        cld
        SAVE_REST
        SAVE_CALLEE_SAVED {regs}
        lea rdi, [rsp + {cx}]
        call guest_bounce_refused
        jmp exit_to_guest

    // HYPERVISOR_iret as a call of its own. The frame: RAX, R11, RCX, flags, RIP, CS, RFLAGS, RSP, SS; RCX and R11 are free
    // until they come out of it. Selectors get RPL 3, IF is set, IOPL and VM are cleared (I18).
    .balign 64
    iret_entry:
        STRETCH_BEGIN mov eax, {iret}
        mov [rsp + {regs} + {rcx}], rcx
        mov rax, [rsp + {regs} + {rsp_}]
        GUEST_ADDRESS rax, r11, r11d, iret_again
        STAC_SITE
        // The lowest word is used last, but has to be the first that is touched.
        MAY_FAULT iret_again
        test [rax], al
        MAY_FAULT iret_again
        mov rcx, [rax + 32]
        mov [rsp + {regs} + {rip}], rcx
        MAY_FAULT iret_again
        mov rcx, [rax + 56]
        mov [rsp + {regs} + {rsp_}], rcx
        MAY_FAULT iret_again
        movzx ecx, word ptr [rax + 64]
        or ecx, 3
        mov [rsp + {regs} + {ss_}], rcx
        MAY_FAULT iret_again
        mov ecx, [rax + 48]
        mov r11, [rsp + {assists}]
        test dword ptr [r11], {iopl_assist}
        jnz iret_iopl
    1:
        test ecx, {rflags_if}
        setz r11b
        and ecx, {not_for_guests}
        or ecx, {user_flags}
        mov [rsp + {regs} + {rflags}], rcx
        mov rcx, [rsp + {entry}]
        mov byte ptr [rcx + {nmi_masked}], 0
        mov rcx, [rsp + {upcall_word}]
        mov [rcx + 1], r11b
        cmp word ptr [rcx], 1
        je iret_again
        cmp dword ptr [rsp + {work}], 0
        jne iret_again
        MAY_FAULT iret_again
        movzx ecx, word ptr [rax + 40]
        mov r11d, ecx
        or ecx, 3
        mov [rsp + {regs} + {cs}], rcx
        cmp ecx, r11d
        je iret_to_user
        MAY_FAULT iret_again
        test byte ptr [rax + 25], {in_syscall} >> 8
        jnz iret_in_syscall
        MAY_FAULT iret_again
        mov rcx, [rax + 16]
        MAY_FAULT iret_again
        mov r11, [rax + 8]
        MAY_FAULT iret_again
        mov rax, [rax]
        CLAC_SITE
        STRETCH_END
        add rsp, {regs} + {rip}
    .globl short_iretq
    short_iretq:
        iretq

    iret_iopl:
        push rcx
        and ecx, {rflags_iopl}
        mov r11, [rsp + 8 + {entry}]
        mov [r11 + {iopl}], rcx
        pop rcx
        jmp 1b

    // Something waits, or the frame is not in order: the stub calls the hypercall, which reads the frame again.
    iret_again:
        CLAC_SITE
        mov [rsp + {regs} + {rsp_}], rax
        mov rcx, [rsp + {regs} + {rcx}]
        mov r11d, {user_flags}
        mov eax, {iret}
        jmp syscall_table_entry

    iret_in_syscall:
        MAY_FAULT iret_again
        mov rax, [rax]
        CLAC_SITE
        // RCX and R11 are dead and get what SYSRET leaves in them, by whichever instruction the guest is left. SYSRET takes a
        // RIP that is canonical and the flat selector only.
    iret_by_sysret:
        mov rcx, [rsp + {regs} + {rip}]
        mov r11, rcx
        shl r11, 16
        sar r11, 16
        cmp r11, rcx
        mov r11, [rsp + {regs} + {rflags}]
        jne 2f
        cmp word ptr [rsp + {regs} + {cs}], {cs64}
        jne 2f
        STRETCH_END
        mov rsp, [rsp + {regs} + {rsp_}]
        sysretq
    2:
        STRETCH_END
        add rsp, {regs} + {rip}
        jmp short_iretq

    // To user mode, on whose tables the frame may not be mapped. RCX: the root.
    iret_to_user:
        mov rcx, [rsp + {mm}]
        mov rcx, [rcx + {user_root}]
        shl rcx, 12
        jz iret_again
        MAY_FAULT iret_again
        test byte ptr [rax + 25], {in_syscall} >> 8
        jnz 3f
        MAY_FAULT iret_again
        mov r11, [rax + 16]
        mov [rsp + {regs} + {rcx}], r11
        MAY_FAULT iret_again
        mov r11, [rax + 8]
        mov [rsp + {regs} + {r11}], r11
        MAY_FAULT iret_again
        mov rax, [rax]
        CLAC_SITE
        LEAVE_KERNEL
        mov rcx, [rsp + {regs} + {rcx}]
        mov r11, [rsp + {regs} + {r11}]
        STRETCH_END
        add rsp, {regs} + {rip}
        jmp short_iretq
    3:
        MAY_FAULT iret_again
        mov rax, [rax]
        CLAC_SITE
        LEAVE_KERNEL
        jmp iret_by_sysret
