//! The first instructions.
//!
//! The builder leaves RSI = virtual address of start_info and one page of stack. The kernel moves to a stack of its own
//! and goes on in Rust; that page of stack is given to the frame allocator later on.

/// Bytes of the boot stack. dom0 runs everything on it, so it is generous; a guard page lies below.
pub(crate) const BOOT_STACK_BYTES: usize = 256 * 1024;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    r#"
    .pushsection .text.start, "ax", @progbits
    .global _start
    .type _start, @function
    _start:
        .reloc ., R_X86_64_NONE, pv_guest_notes     /* brings the notes into the link */
        cld
        lea rsp, [rip + {stack} + {size}]
        xor ebp, ebp
        mov rdi, rsi
        call {rust_start}
        ud2
    .size _start, . - _start
    .popsection
    "#,
    stack = sym BOOT_STACK,
    size = const BOOT_STACK_BYTES,
    rust_start = sym crate::boot::rust_start,
);

/// A stack as it lies in memory: page-aligned so that its first page can become a guard.
#[repr(C, align(4096))]
pub(crate) struct Stack<const N: usize>(core::cell::UnsafeCell<[u8; N]>);

// SAFETY: nobody borrows the bytes; they are only ever used through a stack pointer.
unsafe impl<const N: usize> Sync for Stack<N> {}

impl<const N: usize> Stack<N> {
    /// An empty stack.
    pub(crate) const fn new() -> Self {
        Self(core::cell::UnsafeCell::new([0; N]))
    }

    /// Address of the lowest byte.
    pub(crate) fn bottom(&self) -> u64 {
        self.0.get().addr() as u64
    }

    /// Address just above the highest byte: the first stack pointer.
    pub(crate) fn top(&self) -> u64 {
        self.bottom() + N as u64
    }
}

/// The stack of vcpu 0.
pub(crate) static BOOT_STACK: Stack<BOOT_STACK_BYTES> = Stack::new();

/// The stack on which vcpu 0 takes traps from user mode.
pub(crate) static TRAP_STACK: Stack<{ 32 * 1024 }> = Stack::new();

/// On the host nothing starts, but the code is checked all the same.
#[cfg(not(target_os = "none"))]
const _: extern "C" fn(*const pv_abi::start_info::StartInfo) -> ! = crate::boot::rust_start;
