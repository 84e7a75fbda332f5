    // HYPERVISOR_multicall, a handler like the others but for the language: RDI the list, ESI the count, R9 the context. A
    // batch is made for what an entry costs, so an entry goes from the list into the registers of its handler and its answer back
    // in one piece. What ends a batch early is `hv_core::hypercall::multicall`'s affair, where it is told what the rules are.
    //
    // RBX: the entry. R12: the handlers. R13: the context. R14D: entries that have no result yet.
    .balign 64
    .globl multicall_in_words
    multicall_in_words:
        push rbp
        mov rbp, rsp
        push rbx
        push r12
        push r13
        push r14
        mov rbx, rdi
        mov r14d, esi
        mov r13, r9
        lea r12, [rip + BATCHED_HYPERCALLS]
        test r14d, r14d
        jz multicall_done
        // The list as a whole: all of it in the lower half, or all of it behind the hypervisor's area (I15).
        mov rax, r14
        shl rax, 6
        dec rax
        add rax, rbx
        jc multicall_fault
        shr rax, 47
        jz multicall_read
        mov rax, rbx
        shr rax, {hypervisor_shift}
        cmp eax, {hypervisor_top}
        jbe multicall_fault
    multicall_read:
        STAC_SITE
    multicall_next:
        MAY_FAULT multicall_fault
        mov rax, [rbx]
        MAY_FAULT multicall_fault
        mov rdi, [rbx + 16]
        MAY_FAULT multicall_fault
        mov rsi, [rbx + 24]
        MAY_FAULT multicall_fault
        mov rdx, [rbx + 32]
        MAY_FAULT multicall_fault
        mov rcx, [rbx + 40]
        MAY_FAULT multicall_fault
        mov r8, [rbx + 48]
        CLAC_SITE
        cmp rax, {numbers}
        jae multicall_unknown
        // The limit once more, for a CPU that has guessed the branch.
        and eax, {numbers} - 1
    multicall_dispatch:
        mov r9, r13
        call [r12 + rax * 8]
        test rdx, rdx
        jnz multicall_parked
        STAC_SITE
        MAY_FAULT multicall_fault
        mov [rbx + 8], rax
        add rbx, 64
        dec r14d
        test r14b, {look_up_every} - 1
        jnz multicall_next
        CLAC_SITE
        test r14d, r14d
        jz multicall_done
        call multicall_preempt_pending
        test eax, eax
        jz multicall_read
        mov rdi, rbx
        mov rsi, r14
        mov rdx, r13
        call multicall_preempted
        jmp multicall_end

    // The last number of the table stands for no call.
    multicall_unknown:
        mov eax, {numbers} - 1
        jmp multicall_dispatch

    multicall_parked:
        mov rdi, rbx
        mov rsi, r14
        mov rdx, r13
        call multicall_ends_early
        jmp multicall_end

    multicall_fault:
        CLAC_SITE
        mov rax, {efault}
        xor edx, edx
        jmp multicall_end

    multicall_done:
        xor eax, eax
        xor edx, edx
    multicall_end:
        pop r14
        pop r13
        pop r12
        pop rbx
        pop rbp
        ret
