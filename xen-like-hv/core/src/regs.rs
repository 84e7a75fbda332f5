//! The register frame of a guest, as the entry stubs build it.

use pv_abi::ids::GuestVa;

/// General registers and the return frame. The image's entry stubs push exactly this layout: the last five words are
/// what IRETQ takes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "registers by their names")]
pub struct UserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// Error code of the exception that led here.
    pub error_code: u32,
    /// What led here: a vector, or one of [`TRAP_SYSCALL`] and its kin, which select the way back.
    pub entry_vector: u32,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// Bit of `entry_vector`: the guest entered by SYSCALL, so RCX and R11 are dead and SYSRET may return.
pub const TRAP_SYSCALL: u32 = 0x100;

/// Trap flag.
pub const RFLAGS_TF: u64 = 1 << 8;
/// Interrupt flag.
pub const RFLAGS_IF: u64 = 1 << 9;
/// I/O privilege level, two bits.
pub const RFLAGS_IOPL: u64 = 3 << 12;
/// Nested task.
pub const RFLAGS_NT: u64 = 1 << 14;
/// Resume flag.
pub const RFLAGS_RF: u64 = 1 << 16;
/// Virtual-8086 mode.
pub const RFLAGS_VM: u64 = 1 << 17;
/// Alignment check.
pub const RFLAGS_AC: u64 = 1 << 18;
/// The bit that always reads 1.
pub const RFLAGS_FIXED: u64 = 1 << 1;

/// Flags with which no handler of a guest starts.
pub const NOT_FOR_HANDLERS: u64 = RFLAGS_TF | RFLAGS_VM | RFLAGS_RF | RFLAGS_NT | RFLAGS_AC;
/// Flags that no guest ever has.
pub const NOT_FOR_GUESTS: u64 = RFLAGS_IOPL | RFLAGS_VM;

/// Flat 64-bit code of guests (`FLAT_KERNEL_CS`), RPL 3.
pub const GUEST_CS64: u64 = 0xe033;
/// Flat data and stack of guests (`FLAT_KERNEL_SS`), RPL 3.
pub const GUEST_SS: u64 = 0xe02b;
/// Flat 32-bit code of guests, RPL 3.
pub const GUEST_CS32: u64 = 0xe023;

impl UserRegs {
    /// A general register by its number in instructions; there are 16.
    pub fn general_mut(&mut self, n: u8) -> Option<&mut u64> {
        Some(match n {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            4 => &mut self.rsp,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            15 => &mut self.r15,
            _ => return None,
        })
    }

    /// The instruction pointer as an address.
    #[must_use]
    pub const fn ip(&self) -> GuestVa {
        GuestVa::new(self.rip)
    }

    /// The stack pointer as an address.
    #[must_use]
    pub const fn sp(&self) -> GuestVa {
        GuestVa::new(self.rsp)
    }
}

/// Whether `addr` is canonical with 48 address bits.
#[must_use]
pub const fn is_canonical(addr: u64) -> bool {
    let top = addr >> 47;
    top == 0 || top == 0x1_ffff
}
