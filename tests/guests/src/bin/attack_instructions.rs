//! Privileged instructions of a guest's kernel, which the hypervisor carries out: registers, ports, extended state
//! (class D4).
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use pv_abi::hypercall::Hypercall as H;
use pv_guest_kernel::Context;
use test_guests::attempt::{Code, Regs};
use test_guests::frames::Frame;
use test_guests::{Claim, call, ensure, ensure_eq};

test_guests::claims! {
    attack_instructions:
    every_model_specific_register_read [253, 333, 351, 269],
    every_model_specific_register_written [193, 253, 269, 333],
    extended_control_register_combinations [54],
    extended_state_with_a_bad_header [53],
    the_fpu_faults_while_task_switched [190, 267],
    string_ports_read_no_memory_of_others [66, 67, 123],
    ports_of_the_hypervisor_are_not_reached [195, 200],
    instructions_at_the_end_of_a_page [186],
    prefixes_and_bytes_of_every_kind [123, 195, 200],
    control_registers_bit_by_bit [190, 202],
}

const RDMSR: [u8; 2] = [0x0f, 0x32];
const WRMSR: [u8; 2] = [0x0f, 0x30];
/// Where registers are: architectural, the hypervisor's, AMD's.
const RANGES: [core::ops::Range<u64>; 6] = [
    0..0x1000,
    0x4000_0000..0x4000_0200,
    0xc000_0080..0xc000_0180,
    0xc001_0000..0xc001_0400,
    0xc001_1000..0xc001_1100,
    0xffff_fff0..0xffff_ffff,
];

fn alive() -> Claim {
    ensure_eq!(call::call(H::XenVersion, [0, 0]) >> 16, 4, "the version afterwards");
    Ok(())
}

fn every_model_specific_register_read(_: &'static Context) -> Claim {
    let code = Code::new()?;
    let mut readable: Vec<u64> = Vec::new();
    for msr in RANGES.into_iter().flatten() {
        let mut registers = Regs { rcx: msr, rax: u64::MAX, rdx: u64::MAX, ..Regs::default() };
        match code.run(&RDMSR, &mut registers) {
            Ok(()) => {
                ensure!(registers.rax >> 32 == 0 && registers.rdx >> 32 == 0, "halves of {msr:#x}");
                readable.push(msr);
            }
            Err(trap) => {
                ensure_eq!((trap.vector, trap.error), (13, 0), "reading {msr:#x}");
            }
        }
    }
    // Energy meters, branch traces, and where the hypervisor is entered: none of a guest's business.
    let secret = [0x1d9, 0x176, 0x175, 0x606, 0x611, 0x619, 0x639, 0x641, 0x64d, 0xc000_0082, 0xc001_029b];
    for msr in secret {
        let mut registers = Regs { rcx: msr, ..Regs::default() };
        let told = code.run(&RDMSR, &mut registers).is_ok() && (registers.rax | registers.rdx) != 0;
        ensure!(!told, "register {msr:#x} reads as {:#x}:{:#x}", registers.rdx, registers.rax);
    }
    ensure!(readable.len() < 200, "{} registers can be read", readable.len());
    alive()
}

fn every_model_specific_register_written(_: &'static Context) -> Claim {
    let code = Code::new()?;
    for msr in RANGES.into_iter().flatten() {
        for value in [u64::MAX, 1 << 47, 0xffff_7fff_ffff_ffff, 0x1234_5678_9abc_def0] {
            if msr == 0xc000_0101 && value == u64::MAX {
                // An address; the kernel's own data hang on this base.
                continue;
            }
            let mut registers =
                Regs { rcx: msr, rax: value & 0xffff_ffff, rdx: value >> 32, ..Regs::default() };
            if let Err(trap) = code.run(&WRMSR, &mut registers) {
                ensure_eq!((trap.vector, trap.error), (13, 0), "writing {msr:#x}");
            } else {
                let base = (0xc000_0100..0xc000_0103).contains(&msr);
                ensure!(!base || value == u64::MAX, "base {msr:#x} took {value:#x}");
            }
        }
    }
    alive()
}

fn extended_control_register_combinations(_: &'static Context) -> Claim {
    let code = Code::new()?;
    let mut registers = Regs::default();
    // CR4.OSXSAVE first, as a kernel does; then xgetbv
    let mut cr4 = Regs::default();
    ensure_eq!(code.run(&[0x0f, 0x20, 0xe0], &mut cr4), Ok(()), "reading CR4");
    let switched = code.run(&[0x0f, 0x22, 0xe0], &mut Regs { rax: cr4.rax | 1 << 18, ..Regs::default() });
    if switched.is_err() || code.run(&[0x0f, 0x01, 0xd0], &mut registers).is_err() {
        return Err(test_guests::Trouble::Skip("this machine has no extended state".into()));
    }
    let before = registers.rax & 0xffff_ffff;
    let set = |value: u64| {
        let mut registers = Regs { rax: value & 0xffff_ffff, rdx: value >> 32, ..Regs::default() };
        code.run(&[0x0f, 0x01, 0xd1], &mut registers).is_ok()
    };
    for value in (0..1024).chain((10..64).map(|bit| 1 | 1 << bit)) {
        let sound = value & 1 == 1
            && (value & 4 == 0 || value & 2 != 0)
            && (value & 0xe0 == 0 || (value & 0xe0 == 0xe0 && value & 4 != 0))
            && (value & 0x18 == 0 || value & 0x18 == 0x18);
        ensure!(!set(value) || sound, "XCR0 took {value:#x}");
    }
    // Lightweight profiling, and registers that do not exist.
    ensure!(!set(1 | 1 << 62), "XCR0 took LWP");
    for rcx in [1, 2, 0xffff_ffff] {
        let mut registers = Regs { rcx, rax: 1, ..Regs::default() };
        ensure!(code.run(&[0x0f, 0x01, 0xd1], &mut registers).is_err(), "XCR{rcx} exists");
    }
    ensure!(set(before), "XCR0 cannot be set back to {before:#x}");
    alive()
}

fn extended_state_with_a_bad_header(_: &'static Context) -> Claim {
    let code = Code::new()?;
    let area = Frame::new()?;
    let clear = |area: &Frame| (0..512).for_each(|n| area.set_word(n, 0));
    for (word, value) in
        [(64, 1 << 63), (64, u64::MAX), (65, 1 << 63), (65, u64::MAX), (66, 1), (70, u64::MAX)]
    {
        clear(&area);
        area.set_word(word, value);
        // xrstor [rbx]; xrstor64 [rbx]
        for bytes in [&[0x0f, 0xae, 0x2b][..], &[0x48, 0x0f, 0xae, 0x2b]] {
            let mut registers = Regs { rbx: area.va(), rax: u64::MAX, rdx: u64::MAX, ..Regs::default() };
            let _faults = code.run(bytes, &mut registers);
        }
    }
    clear(&area);
    // A control word of the vector unit with reserved bits, by fxrstor; at an address that is not aligned.
    area.set_word(3, 0xffff_ffff);
    for at in [0, 1, 8] {
        let _faults = code.run(&[0x0f, 0xae, 0x0b], &mut Regs { rbx: area.va() + at, ..Regs::default() });
    }
    ensure_eq!(code.run(&[0xdb, 0xe3], &mut Regs::default()), Ok(()), "fninit");
    pv_guest_kernel::sched::yield_now();
    alive()
}

fn the_fpu_faults_while_task_switched(_: &'static Context) -> Claim {
    let code = Code::new()?;
    for bytes in [&[0xd9, 0xc0][..], &[0x0f, 0x28, 0xc1], &[0x9b], &[0xdd, 0xc0]] {
        ensure_eq!(call::call(H::FpuTaskswitch, [1]), 0, "setting TS");
        let ended = code.run(bytes, &mut Regs::default());
        let vector = ended.err().map(|trap| trap.vector);
        // WAIT needs MP as well, which a guest may not have.
        ensure!(vector == Some(7) || bytes == [0x9b], "{bytes:02x?} with TS set: {ended:?}");
        ensure_eq!(call::call(H::FpuTaskswitch, [0]), 0, "clearing TS");
        let ended = code.run(bytes, &mut Regs::default());
        ensure!(ended.err().is_none_or(|trap| trap.vector != 7), "{bytes:02x?} with TS clear");
    }
    alive()
}

fn string_ports_read_no_memory_of_others(_: &'static Context) -> Claim {
    let code = Code::new()?;
    let addresses = [
        0xffff_82d0_8000_0000,
        0xffff_8300_0000_0000,
        0xffff_8310_0000_0000,
        0x0000_8000_0000_0000,
        0xffff_7fff_ffff_ffff,
        0xffff_87ff_ffff_ffff,
        0x1000,
        u64::MAX,
    ];
    // outsb, outsd, rep outsb, insb, insd, rep insd, with the address size and with segments
    let forms: [&[u8]; 10] = [
        &[0x6e],
        &[0x6f],
        &[0xf3, 0x6e],
        &[0x6c],
        &[0x6d],
        &[0xf3, 0x6d],
        &[0x67, 0x6e],
        &[0x64, 0x6e],
        &[0x2e, 0x6f],
        &[0x36, 0xf3, 0x6e],
    ];
    for address in addresses {
        for form in forms {
            for count in [1, 0x1_0000_0000, u64::MAX] {
                let mut registers =
                    Regs { rsi: address, rdi: address, rcx: count, rdx: 0x80, ..Regs::default() };
                let ended = code.run(form, &mut registers);
                // With 32-bit addresses some of these are low ones, which are not mapped either.
                ensure!(ended.is_err(), "{form:02x?} at {address:#x} went well");
            }
        }
    }
    alive()
}

fn ports_of_the_hypervisor_are_not_reached(_: &'static Context) -> Claim {
    let code = Code::new()?;
    // Both interrupt controllers, the timer, the ELCR, the debug-exit of test machines: reads and writes must not stop us.
    for port in [0x20_u64, 0x21, 0xa0, 0xa1, 0x40, 0x42, 0x43, 0x4d0, 0x3f8, 0x3f9, 0x3fc] {
        for bytes in [[0xec], [0xed]] {
            let _any = code.run(&bytes, &mut Regs { rdx: port, ..Regs::default() });
        }
        if port != 0x3f8 {
            let _any = code.run(&[0xee], &mut Regs { rdx: port, rax: 0xff, ..Regs::default() });
        }
        alive()?;
    }
    // Accesses that overlap the end of the port space.
    for bytes in [[0xed], [0xef]] {
        let _any = code.run(&bytes, &mut Regs { rdx: 0xffff, ..Regs::default() });
        let _any = code.run(&bytes, &mut Regs { rdx: 0xfffe, ..Regs::default() });
    }
    alive()
}

fn instructions_at_the_end_of_a_page(_: &'static Context) -> Claim {
    let code = Code::new()?;
    // The page behind the code is not mapped; instructions cut off by it fault there, whole ones do not.
    let whole: [&[u8]; 4] =
        [&[0x0f, 0x32], &[0x0f, 0x20, 0xc0], &[0xec], &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2]];
    for bytes in whole {
        for length in 1..=bytes.len() {
            let mut registers = Regs { rcx: 0x277, rdx: 0x80, ..Regs::default() };
            let ended = code.run_at_end(&bytes[..length], &mut registers);
            let Err(trap) = ended else {
                return Err(test_guests::Trouble::Failure(test_guests::format!(
                    "{bytes:02x?} ran off its page"
                )));
            };
            let within = (code.start()..=code.start() + 4096).contains(&trap.rip);
            ensure!(within, "{bytes:02x?} cut to {length}: an exception at {:#x}", trap.rip);
        }
    }
    // Longer than any instruction may be.
    let _faults = code.run(&[0x66; 20], &mut Regs::default());
    alive()
}

/// A small generator, so that every run tries the same.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn prefixes_and_bytes_of_every_kind(context: &'static Context) -> Claim {
    let code = Code::new()?;
    let rounds = if context.command_line().contains("long") { 200_000 } else { 8_000 };
    let mut state = 0x0123_4567_89ab_cdef;
    // Without the lock prefix and the instructions that take it, on which QEMU's own translation gives up.
    let opcodes: [(&[u8], bool); 12] = [
        (&[0xf4], false),
        (&[0x0f, 0x32], false),
        (&[0x0f, 0x20], true),
        (&[0x0f, 0x21], true),
        (&[0x0f, 0x01], true),
        (&[0xe4], true),
        (&[0xec], false),
        (&[0x6e], false),
        (&[0x0f, 0x00], true),
        (&[0x0f, 0x06], false),
        (&[0x0f, 0x0b, 0x78, 0x65, 0x6e], false),
        (&[0xfa], false),
    ];
    for _ in 0..rounds {
        let mut bytes: Vec<u8> = Vec::new();
        for _ in 0..random(&mut state) % 4 {
            let prefixes = [0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x64, 0x36, 0x26, 0x48, 0x4f, 0x40];
            bytes.push(prefixes[usize::try_from(random(&mut state) % 11).unwrap_or(0)]);
        }
        let (opcode, has_operand) = opcodes[usize::try_from(random(&mut state) % 12).unwrap_or(0)];
        bytes.extend(opcode);
        let operand = random(&mut state).to_le_bytes()[0];
        if has_operand {
            bytes.push(operand);
        }
        // Whatever the length was, what follows faults.
        bytes.extend([0x0f, 0x0b].repeat(4));
        // Neither MSR bases nor the console's port, and no address of this kernel's to write to.
        let mut registers =
            Regs { rcx: 0x10, rdx: 0x80, rbx: 0x1000, rdi: 0x1000, rsi: 0x1000, ..Regs::default() };
        registers.rax = random(&mut state) & 0xff;
        // No operand on the stack or beside the code, which some of these instructions would write.
        if operand & 7 != 4 && operand & 0xc7 != 5 {
            let _any = code.run(&bytes, &mut registers);
        }
    }
    alive()
}

fn control_registers_bit_by_bit(_: &'static Context) -> Claim {
    let code = Code::new()?;
    let mut registers = Regs::default();
    ensure_eq!(code.run(&[0x0f, 0x20, 0xc0], &mut registers), Ok(()), "reading CR0");
    let cr0 = registers.rax;
    for bit in 0..64 {
        let _any = code.run(&[0x0f, 0x22, 0xc0], &mut Regs { rax: cr0 ^ 1 << bit, ..Regs::default() });
        let mut registers = Regs::default();
        ensure_eq!(code.run(&[0x0f, 0x20, 0xc0], &mut registers), Ok(()), "reading CR0");
        let changed = (registers.rax ^ cr0) & !8;
        ensure!(changed == 0, "CR0 changed by {changed:#x}");
        let _any = code.run(&[0x0f, 0x22, 0xc0], &mut Regs { rax: cr0, ..Regs::default() });
        ensure_eq!(call::call(H::FpuTaskswitch, [0]), 0, "clearing TS");
    }
    // CR3 of no table, of a table that is no root, of the hypervisor's.
    for cr3 in [0, 0x1000, u64::MAX, 1 << 63, 0x5555_5555_5555_5000] {
        ensure!(
            code.run(&[0x0f, 0x22, 0xd8], &mut Regs { rax: cr3, ..Regs::default() }).is_err(),
            "CR3 took {cr3:#x}"
        );
    }
    // CR2, CR8 and registers that do not exist; debug registers 4 and 5.
    for modrm in [0xd0_u8, 0xc8, 0xe8, 0xf0, 0xf8] {
        let _any = code.run(&[0x0f, 0x22, modrm], &mut Regs { rax: u64::MAX, ..Regs::default() });
        let _any = code.run(&[0x44, 0x0f, 0x22, modrm], &mut Regs { rax: 15, ..Regs::default() });
        let _any = code.run(&[0x0f, 0x23, modrm], &mut Regs { rax: u64::MAX, ..Regs::default() });
        let _any = code.run(&[0x0f, 0x21, modrm], &mut Regs::default());
    }
    for n in 0..4 {
        ensure_eq!(call::call(H::SetDebugreg, [n, 0]), 0, "breakpoint {n}");
    }
    ensure_eq!(call::call(H::SetDebugreg, [7, 0]), 0, "breakpoints off");
    alive()
}
