//! SYSCALL in user mode goes to the guest's own handler whatever the registers say; the hypervisor does nothing.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::hypercall::Hypercall;
use pv_guest_kernel::Context;
use pv_guest_kernel::arch::user::UserExit;
use test_guests::user::{CODE, Program};
use test_guests::{Claim, ensure_eq};

test_guests::claim!(user_mode_cannot_issue_a_hypercall);

/// `syscall; ud2`
const SYSCALL: [u8; 4] = [0x0f, 0x05, 0x0f, 0x0b];

fn user_mode_cannot_issue_a_hypercall(_: &'static Context) -> Claim {
    let mut program = Program::new(&SYSCALL)?;
    for number in Hypercall::ALL.iter().map(|call| call.raw()).chain([u64::MAX]) {
        program.load(&SYSCALL)?;
        program.registers.rax = number;
        program.registers.rdi = 2;
        program.registers.rsi = 0xdead_0000;
        ensure_eq!(program.run(), UserExit::Syscall, "how call {number} ended");
        let registers = &program.registers;
        ensure_eq!(registers.rax, number, "rax of call {number}");
        ensure_eq!((registers.rdi, registers.rsi), (2, 0xdead_0000), "the arguments of call {number}");
        ensure_eq!(registers.rip, CODE + 2, "where call {number} returns to");
    }
    Ok(())
}
