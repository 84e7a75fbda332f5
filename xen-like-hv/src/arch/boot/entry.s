# The first instructions: a multiboot 1 or PVH loader enters here in 32-bit protected mode with paging off.
# Both give a pointer in ebx; they are told apart by the magic value handed on to `start_rust`.

.set IMAGE_BASE, 0xffff82d080000000

# Multiboot 1 with address fields (bit 16): a loader then does not look at the ELF class. Bit 1: memory map wanted; bit 0: modules on page boundaries.
.section .multiboot, "a", @progbits
.balign 4
multiboot_header:
    .long 0x1BADB002, 0x00010003, -(0x1BADB002 + 0x00010003)
    .long multiboot_header, __boot_start
    .long __load_end - IMAGE_BASE
    .long __image_end - IMAGE_BASE
    .long boot_entry_multiboot

# XEN_ELFNOTE_PHYS32_ENTRY (18)
.section .note.Xen, "a", @note
.balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad boot_entry_pvh

.section .boot, "ax", @progbits
.code32
.globl boot_entry_pvh
boot_entry_pvh:
    movl $0x336ec578, %eax
boot_entry_multiboot:
    cli
    cld
    movl %eax, %ebp
    movl $(boot_stack_top - IMAGE_BASE), %esp

    # Without long mode there is nothing to do but say so.
    movl $0x80000000, %eax
    movl %ebx, %esi
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc no_long_mode
    movl %edx, %edi

    # 2048 large pages identity-map the first 4 GiB.
    movl $(boot_l2 - IMAGE_BASE), %ebx
    movl $0x83, %eax
    xorl %edx, %edx
    movl $2048, %ecx
1:  movl %eax, (%ebx)
    movl %edx, 4(%ebx)
    addl $0x200000, %eax
    addl $8, %ebx
    decl %ecx
    jnz 1b

    # Four L3 entries reach them: at 0, and, through slot 262, at the direct map.
    movl $(boot_l2 - IMAGE_BASE + 3), %eax
    movl $(boot_l3_identity - IMAGE_BASE), %ebx
    movl $4, %ecx
1:  movl %eax, (%ebx)
    addl $4096, %eax
    addl $8, %ebx
    decl %ecx
    jnz 1b
    # The image's window: L4 slot 261, L3 entry 322 maps the first GiB.
    movl $(boot_l2 - IMAGE_BASE + 3), boot_l3_image - IMAGE_BASE + 322 * 8

    movl $(boot_l3_identity - IMAGE_BASE + 3), %eax
    movl %eax, boot_l4 - IMAGE_BASE
    movl %eax, boot_l4 - IMAGE_BASE + 262 * 8
    movl $(boot_l3_image - IMAGE_BASE + 3), boot_l4 - IMAGE_BASE + 261 * 8

    movl $(boot_l4 - IMAGE_BASE), %eax
    movl %eax, %cr3
    movl $0x20, %eax                # CR4.PAE
    movl %eax, %cr4
    movl $0xC0000080, %ecx          # EFER
    rdmsr
    orl $0x100, %eax                # LME
    btl $20, %edi
    jnc 1f
    orl $0x800, %eax                # NXE, where CPUID has NX
1:  wrmsr
    movl $0x80010033, %eax          # PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    lgdt boot_gdtr
    ljmp $8, $boot_long_mode

no_long_mode:
    movl $no_long_mode_text, %esi
    movw $0x3f8, %dx
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  hlt
    jmp 2b
no_long_mode_text:
    .asciz "hv: this CPU has no 64-bit mode\r\n"

.code64
boot_long_mode:
    xorl %eax, %eax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movl $16, %eax
    movw %ax, %ss
    movabsq $boot_high, %rax
    jmpq *%rax

.balign 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdtr:
    .word 23
    .long boot_gdt
    .long 0

.section .text.entry, "ax", @progbits
boot_high:
    leaq boot_stack_top(%rip), %rsp
    lgdt boot_gdtr_high(%rip)       # the same descriptors where the final tables map them too
    movl %ebp, %edi                 # magic
    xorl %ebp, %ebp                 # ends the chain of frame pointers
    # esi still holds the loader's pointer
    movl %esi, %esi
    call start_rust
    ud2

.section .data.boot, "aw", @progbits
.balign 8
boot_gdt_high:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdtr_high:
    .word 23
    .quad boot_gdt_high

.section .bss.page_aligned, "aw", @nobits
.balign 4096
.globl boot_l4
boot_l4: .skip 4096
.globl boot_l3_identity
boot_l3_identity: .skip 4096
boot_l3_image: .skip 4096
.globl boot_l2
boot_l2: .skip 4 * 4096
boot_stack: .skip 65536
.globl boot_stack_top
boot_stack_top:
