//! A user program of a few instructions, for claims about user mode.

use crate::Claim;
use pv_guest_kernel::arch::trap::TrapFrame;
use pv_guest_kernel::arch::user::{UserExit, run, start_registers};
use pv_guest_kernel::memory::Prot;
use pv_guest_kernel::memory::user::UserSpace;

/// Where the program is.
pub const CODE: u64 = 0x40_0000;
/// A page that it may write; its stack ends here as well.
pub const DATA: u64 = 0x50_0000;
/// The end of the stack.
pub const STACK_TOP: u64 = DATA + 0x1000;

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    space: UserSpace,
    /// Its registers.
    pub registers: TrapFrame,
}

impl Program {
    /// Loads machine code into a fresh address space.
    pub fn new(code: &[u8]) -> Claim<Self> {
        let mut space = UserSpace::new()?;
        space.map(CODE, 1, Prot::ReadExecute)?;
        space.map(DATA, 1, Prot::ReadWrite)?;
        space.write(CODE, code)?;
        space.activate()?;
        Ok(Self { space, registers: start_registers(CODE, STACK_TOP) })
    }

    /// A program in an address space that is loaded already.
    #[must_use]
    pub fn around(space: UserSpace, start: u64) -> Self {
        Self { space, registers: start_registers(start, STACK_TOP) }
    }

    /// Writes into its memory.
    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Claim {
        Ok(self.space.write(at, bytes)?)
    }

    /// Runs until something other than an event stops it.
    pub fn run(&mut self) -> UserExit {
        loop {
            let exit = run(&mut self.registers);
            if exit != UserExit::Event {
                return exit;
            }
        }
    }

    /// Starts over with other code.
    pub fn load(&mut self, code: &[u8]) -> Claim {
        self.space.write(CODE, code)?;
        self.registers = start_registers(CODE, STACK_TOP);
        Ok(())
    }

    /// The first eight bytes of its data page.
    pub fn data(&self) -> Claim<u64> {
        let mut bytes = [0; 8];
        self.space.read(DATA, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}
