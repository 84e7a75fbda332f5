//! Exceptions of user mode arrive in the guest's kernel with the vector, error code and address of the hardware, and
//! user mode goes on with its registers where the kernel says.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_guest_kernel::Context;
use pv_guest_kernel::arch::user::UserExit;
use test_guests::user::{CODE, DATA, Program};
use test_guests::{Claim, ensure_eq};

test_guests::claim!(user_mode_faults_reach_the_kernel);

/// One instruction, and what it must raise.
struct Case {
    name: &'static str,
    code: &'static [u8],
    vector: u8,
    error: u64,
    address: Option<u64>,
    /// How far behind the start rip stands.
    advance: u64,
}

/// User mode; a write; the page is there; an instruction fetch.
const USER: u64 = 4;
const WRITE: u64 = 2;
const PRESENT: u64 = 1;

const CASES: [Case; 9] = [
    Case { name: "ud2", code: &[0x0f, 0x0b], vector: 6, error: 0, address: None, advance: 0 },
    Case { name: "int3", code: &[0xcc], vector: 3, error: 0, address: None, advance: 1 },
    Case { name: "int 0x80", code: &[0xcd, 0x80], vector: 0x80, error: 0, address: None, advance: 2 },
    Case {
        name: "div by zero",
        code: &[0x31, 0xc9, 0xf7, 0xf1],
        vector: 0,
        error: 0,
        address: None,
        advance: 2,
    },
    Case { name: "hlt", code: &[0xf4], vector: 13, error: 0, address: None, advance: 0 },
    Case { name: "cli", code: &[0xfa], vector: 13, error: 0, address: None, advance: 0 },
    // mov [0x600000], eax: nothing is mapped there
    Case {
        name: "write nowhere",
        code: &[0x89, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00],
        vector: 14,
        error: USER | WRITE,
        address: Some(0x60_0000),
        advance: 0,
    },
    // mov [0x400000], eax: the code page is read-only
    Case {
        name: "write to code",
        code: &[0x89, 0x04, 0x25, 0x00, 0x00, 0x40, 0x00],
        vector: 14,
        error: USER | WRITE | PRESENT,
        address: Some(CODE),
        advance: 0,
    },
    // mov eax, [0xffffffff80001000]: kernel memory
    Case {
        name: "read the kernel",
        code: &[0x8b, 0x04, 0x25, 0x00, 0x10, 0x00, 0x80],
        vector: 14,
        error: USER,
        address: Some(0xffff_ffff_8000_1000),
        advance: 0,
    },
];

/// `mov [0x500000], rax; ud2`
const GO_ON: [u8; 10] = [0x48, 0x89, 0x04, 0x25, 0x00, 0x00, 0x50, 0x00, 0x0f, 0x0b];

fn user_mode_faults_reach_the_kernel(_: &'static Context) -> Claim {
    let mut program = Program::new(&[0x0f, 0x0b])?;
    for case in &CASES {
        program.load(case.code)?;
        program.registers.rbx = 0x1234_5678_9abc_def0;
        let exit = program.run();
        let UserExit::Exception { vector, error, address } = exit else {
            return Err(test_guests::Trouble::Failure(test_guests::format!("{}: {exit:?}", case.name)));
        };
        ensure_eq!((vector, error), (case.vector, case.error), "vector and error code of {}", case.name);
        if let Some(expected) = case.address {
            ensure_eq!(address, expected, "the address of {}", case.name);
        }
        ensure_eq!(program.registers.rip, CODE + case.advance, "rip of {}", case.name);
        ensure_eq!(program.registers.rbx, 0x1234_5678_9abc_def0, "rbx of {}", case.name);
    }
    program.load(&GO_ON)?;
    program.registers.rax = 4711;
    let _ = program.run();
    ensure_eq!(program.data()?, 4711, "what user mode wrote at {DATA:#x}");
    Ok(())
}
