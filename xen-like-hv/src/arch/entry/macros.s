    // What the stubs and the short ways share.

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

    // What a function of the ABI leaves as it was.
    .macro LOAD_CALLEE_SAVED base
        mov r15, [rsp + \base]
        mov r14, [rsp + \base + 8]
        mov r13, [rsp + \base + 16]
        mov r12, [rsp + \base + 24]
        mov rbp, [rsp + \base + 32]
        mov rbx, [rsp + \base + 40]
    .endm

    .macro SAVE_CALLEE_SAVED base
        mov [rsp + \base], r15
        mov [rsp + \base + 8], r14
        mov [rsp + \base + 16], r13
        mov [rsp + \base + 24], r12
        mov [rsp + \base + 32], rbp
        mov [rsp + \base + 40], rbx
    .endm

    // What it may change, but for RAX, RCX and R11, which have a part in the way out.
    .macro LOAD_SCRATCH base
        mov r10, [rsp + \base + 56]
        mov r9,  [rsp + \base + 64]
        mov r8,  [rsp + \base + 72]
        mov rdx, [rsp + \base + 96]
        mov rsi, [rsp + \base + 104]
        mov rdi, [rsp + \base + 112]
    .endm

    .macro CLAC_SITE
    .Lclac_\@:
        .byte 0x0f, 0x1f, 0x00
        .pushsection .clac_sites, "a", @progbits
        .quad .Lclac_\@
        .popsection
    .endm

    .macro STAC_SITE
    .Lstac_\@:
        .byte 0x0f, 0x1f, 0x00
        .pushsection .stac_sites, "a", @progbits
        .quad .Lstac_\@
        .popsection
    .endm

    // The instruction that follows may fault; execution then goes on at `to`.
    .macro MAY_FAULT to
    .Lfault_\@:
        .pushsection .fixup_table, "a", @progbits
        .quad .Lfault_\@, \to
        .popsection
    .endm

    // With the feature `stretch` (see `stretch.rs`): a stretch begins, caused by the number in `cause`; it ends. Both keep
    // all registers but flags.
    .macro STRETCH_BEGIN cause:vararg
    .if {stretch}
        push rax
        push rdx
        \cause
        mov [rip + STRETCH_CAUSE], rax
        rdtsc
        shl rdx, 32
        or rax, rdx
        mov [rip + STRETCH_STARTED], rax
        pop rdx
        pop rax
    .endif
    .endm

    .macro STRETCH_END
    .if {stretch}
        push rax
        push rcx
        push rdx
        rdtsc
        shl rdx, 32
        or rax, rdx
        mov rdx, [rip + STRETCH_STARTED]
        test rdx, rdx
        jz .Lno_stretch_\@
        mov qword ptr [rip + STRETCH_STARTED], 0
        sub rax, rdx
        mov rdx, [rip + STRETCH_CAUSE]
        lea rcx, [rip + STRETCH_LONGEST]
        cmp rax, [rcx + rdx * 8]
        jbe .Lno_stretch_\@
        mov [rcx + rdx * 8], rax
    .Lno_stretch_\@:
        pop rdx
        pop rcx
        pop rax
    .endif
    .endm

    // Fills in what every SYSCALL has in common.
    .macro COMPLETE_SYSCALL
        mov rcx, [rsp + {regs} + {rip}]
        mov [rsp + {regs} + {rcx}], rcx
        mov rcx, [rsp + {regs} + {rflags}]
        mov [rsp + {regs} + {r11}], rcx
        mov qword ptr [rsp + {regs} + {cs}], {cs64}
        mov qword ptr [rsp + {regs} + {ss_}], {ss}
        mov dword ptr [rsp + {regs} + {entry_vector}], {trap_syscall}
    .endm
