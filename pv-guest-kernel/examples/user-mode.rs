//! Runs code in user mode: an address space of its own, system calls, a fault that the kernel mends, an instruction that
//! is not allowed. Kernel and user run at the same ring; the hypervisor tells them apart by the page tables.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_guest_kernel::arch::user::{self, UserExit};
use pv_guest_kernel::hypercall::{Errno, Result};
use pv_guest_kernel::memory::Prot;
use pv_guest_kernel::memory::user::UserSpace;
use pv_guest_kernel::{Context, println};

pv_guest_kernel::entry!(kernel);

const CODE: u64 = 0x40_0000;
const STACK: u64 = 0x7fff_ffff_0000;
const MISSING: u64 = 0x1234_5000;

/// System call 1 with argument 7; a write to a page that is not there; system call 2 with what was read back there;
/// HLT, which user mode must not do.
const PROGRAM: &[u8] = &[
    0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
    0xbf, 0x07, 0x00, 0x00, 0x00, // mov edi, 7
    0x0f, 0x05, // syscall
    0xbb, 0x00, 0x50, 0x34, 0x12, // mov ebx, 0x12345000
    0xc7, 0x03, 0x2a, 0x00, 0x00, 0x00, // mov dword ptr [rbx], 42
    0x8b, 0x3b, // mov edi, [rbx]
    0xb8, 0x02, 0x00, 0x00, 0x00, // mov eax, 2
    0x0f, 0x05, // syscall
    0xf4, // hlt
];

fn kernel(_context: &'static Context) {
    match run() {
        Ok(()) => println!("user mode: done"),
        Err(error) => println!("user mode failed: {error}"),
    }
}

fn run() -> Result {
    let mut space = UserSpace::new()?;
    space.map(CODE, 1, Prot::ReadExecute)?;
    space.map(STACK, 1, Prot::ReadWrite)?;
    space.write(CODE, PROGRAM)?;
    space.activate()?;
    let mut registers = user::start_registers(CODE, STACK + 4096);
    loop {
        match user::run(&mut registers) {
            UserExit::Event => {}
            UserExit::Syscall => println!("system call {}, argument {}", registers.rax, registers.rdi),
            UserExit::Exception { vector: 14, error, address } if address == MISSING => {
                println!("page fault at {address:#x}, error {error:#x}: mapping the page");
                space.map(MISSING, 1, Prot::ReadWrite)?;
            }
            UserExit::Exception { vector: 13, .. } => {
                println!("general protection at {:#x}: the end", registers.rip);
                break;
            }
            other => {
                println!("not expected: {other:?}");
                return Err(Errno::Fault);
            }
        }
    }
    let mut value = [0; 4];
    space.read(MISSING, &mut value)?;
    println!("user memory holds {}", u32::from_le_bytes(value));
    Ok(())
}
