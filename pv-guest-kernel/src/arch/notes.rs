//! The ELF notes by which a domain builder recognises the kernel.
//!
//! Numbers and value types are those of `elfnote.h`. There is no HYPERCALL_PAGE note: the SDK issues `syscall` itself.
//! There is no INIT_P2M note either, so the p2m list lies in the first region, where it is mapped from the start.

use core::arch::global_asm;

global_asm!(
    r#"
    .macro PV_NOTE_BEGIN type, size
        .p2align 2
        .long 4, \size, \type
        .asciz "Xen"
    .endm
    .macro PV_NOTE_NUMBER type, value
        PV_NOTE_BEGIN \type, 8
        .quad \value
    .endm

    .pushsection .note.Xen, "a", @note
        .global pv_guest_notes
    pv_guest_notes:
        PV_NOTE_BEGIN 6, 16                     /* GUEST_OS */
        .asciz "pv-guest-kernel"
        PV_NOTE_BEGIN 7, 4                      /* GUEST_VERSION */
        .asciz "0.1"
        PV_NOTE_BEGIN 8, 8                      /* LOADER */
        .asciz "generic"
        PV_NOTE_BEGIN 5, 8                      /* XEN_VERSION */
        .asciz "xen-3.0"
        PV_NOTE_BEGIN 9, 4                      /* PAE_MODE */
        .asciz "yes"
        PV_NOTE_NUMBER 3, 0xffffffff80000000    /* VIRT_BASE */
        PV_NOTE_NUMBER 4, 0                     /* PADDR_OFFSET */
        PV_NOTE_NUMBER 1, _start                /* ENTRY */
        PV_NOTE_NUMBER 12, 0xffff800000000000   /* HV_START_LOW */
        PV_NOTE_BEGIN 13, 16                    /* L1_MFN_VALID: mask and value of a present entry */
        .quad 1, 1
        PV_NOTE_BEGIN 10, 44                    /* FEATURES */
        .asciz "!writable_page_tables|pae_pgdir_above_4gb"
        .p2align 2
        PV_NOTE_BEGIN 17, 4                     /* SUPPORTED_FEATURES: writable_page_tables 0, pae_pgdir_above_4gb 4, dom0 11 */
        .long 0x811
    .popsection
    "#
);
