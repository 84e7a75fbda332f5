# The first steps of the other pcpus: real mode, at the start of a page below 1 MiB to which this is copied.
# The words at `trampoline_data` are filled in in the copy. One pcpu goes through at a time.

.section .rodata.trampoline, "a", @progbits
.balign 16
.globl trampoline_start
.globl trampoline_end
.globl trampoline_data
trampoline_start:
.code16
    cli
    cld
    xorl %ebx, %ebx
    movw %cs, %bx
    movw %bx, %ds
    shll $4, %ebx                   # linear address of the copy
    lgdtl trampoline_gdtr - trampoline_start
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    # A far jump through memory, since the target's linear address is known at run time only.
    ljmpl *(trampoline_jump_32 - trampoline_start)

.code32
trampoline_32:
    movl $16, %eax
    movw %ax, %ds
    movw %ax, %ss
    movl $0x20, %eax                # CR4.PAE
    movl %eax, %cr4
    movl (trampoline_cr3 - trampoline_start)(%ebx), %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx          # EFER: LME and NXE
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl $0x80010033, %eax          # PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    ljmpl *(trampoline_jump_64 - trampoline_start)(%ebx)

.code64
trampoline_64:
    movq (trampoline_stack - trampoline_start)(%rbx), %rsp
    movq (trampoline_entry - trampoline_start)(%rbx), %rax
    movq (trampoline_argument - trampoline_start)(%rbx), %rdi
    xorl %ebp, %ebp
    pushq $0
    jmpq *%rax

.balign 8
trampoline_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff

# What is filled in, in this order (`Fill` in smp.rs).
.balign 8
trampoline_data:
trampoline_gdtr:
    .word 31
    .long 0                         # linear address of trampoline_gdt
    .word 0
trampoline_jump_32:
    .long 0                         # linear address of trampoline_32
    .word 24
    .word 0
trampoline_jump_64:
    .long 0                         # linear address of trampoline_64
    .word 8
    .word 0
trampoline_cr3:
    .quad 0
trampoline_stack:
    .quad 0
trampoline_entry:
    .quad 0
trampoline_argument:
    .quad 0
trampoline_end:

# Offsets of the targets.
.globl trampoline_offsets
.balign 4
trampoline_offsets:
    .long trampoline_gdt - trampoline_start
    .long trampoline_32 - trampoline_start
    .long trampoline_64 - trampoline_start
.text
