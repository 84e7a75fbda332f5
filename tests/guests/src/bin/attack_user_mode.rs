//! A process that tries what only kernels may, on every way into the hypervisor (class D3, D4).
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_guest_kernel::Context;
use pv_guest_kernel::arch::user::UserExit;
use pv_guest_kernel::memory::Prot;
use pv_guest_kernel::memory::user::UserSpace;
use test_guests::user::{CODE, DATA, Program, STACK_TOP};
use test_guests::{Claim, ensure, ensure_eq};

test_guests::claims! {
    attack_user_mode:
    instructions_of_kernels_are_refused [105, 106, 110],
    every_software_interrupt [106, 259, 446],
    far_branches_to_every_selector [110],
    returns_to_rings_that_are_not_theirs [7, 110],
    odd_flags_on_every_entry [8, 44, 204, 259, 339],
    a_system_call_just_below_the_canonical_hole [7],
    the_hypervisors_memory_is_not_theirs [254],
}

/// Loads a program, runs it to its first stop.
fn stop_of(program: &mut Program, code: &[u8]) -> Claim<UserExit> {
    program.load(code)?;
    Ok(program.run())
}

/// It must end by an exception, with the program at the instruction or behind it.
fn refused(program: &mut Program, what: &str, code: &[u8]) -> Claim {
    let exit = stop_of(program, code)?;
    ensure!(matches!(exit, UserExit::Exception { .. }), "{what}: {exit:?}");
    let rip = program.registers.rip;
    ensure!((CODE..CODE + 0x1000).contains(&rip), "{what}: the exception is at {rip:#x}");
    Ok(())
}

fn instructions_of_kernels_are_refused(_: &'static Context) -> Claim {
    let mut program = Program::new(&[0x0f, 0x0b])?;
    let cases: [(&str, &[u8]); 27] = [
        ("hlt", &[0xf4]),
        ("cli", &[0xfa]),
        ("sti", &[0xfb]),
        ("lgdt", &[0x0f, 0x01, 0x14, 0x24]),
        ("lidt", &[0x0f, 0x01, 0x1c, 0x24]),
        ("lmsw", &[0x0f, 0x01, 0xf0]),
        ("lldt", &[0x0f, 0x00, 0xd0]),
        ("ltr", &[0x0f, 0x00, 0xd8]),
        ("mov cr0, rax", &[0x0f, 0x22, 0xc0]),
        ("mov rax, cr0", &[0x0f, 0x20, 0xc0]),
        ("mov cr3, rax", &[0x0f, 0x22, 0xd8]),
        ("mov rax, cr3", &[0x0f, 0x20, 0xd8]),
        ("mov cr4, rax", &[0x0f, 0x22, 0xe0]),
        ("mov dr7, rax", &[0x0f, 0x23, 0xf8]),
        ("mov rax, dr7", &[0x0f, 0x21, 0xf8]),
        ("wrmsr", &[0x0f, 0x30]),
        ("rdmsr", &[0x0f, 0x32]),
        ("invlpg", &[0x0f, 0x01, 0x3c, 0x24]),
        ("wbinvd", &[0x0f, 0x09]),
        ("invd", &[0x0f, 0x08]),
        ("clts", &[0x0f, 0x06]),
        ("swapgs", &[0x0f, 0x01, 0xf8]),
        ("xsetbv", &[0x0f, 0x01, 0xd1]),
        ("in al, dx", &[0xec]),
        ("out dx, al", &[0xee]),
        ("outsb", &[0x6e]),
        ("sysexit", &[0x0f, 0x35]),
    ];
    for (what, code) in cases {
        refused(&mut program, what, code)?;
    }
    // vmcall, vmmcall, monitor, mwait, rsm, getsec, skinit, stgi: wherever the processor knows them.
    for code in [[0xc1_u8, 0], [0xd9, 0], [0xc8, 0], [0xc9, 0], [0xde, 0], [0xdc, 0]] {
        let _any = stop_of(&mut program, &[0x0f, 0x01, code[0], 0x0f, 0x0b])?;
    }
    Ok(())
}

fn every_software_interrupt(_: &'static Context) -> Claim {
    let mut program = Program::new(&[0x0f, 0x0b])?;
    for vector in 0..=255_u8 {
        let exit = stop_of(&mut program, &[0xcd, vector, 0x0f, 0x0b])?;
        let UserExit::Exception { vector: raised, error, .. } = exit else {
            return Err(test_guests::Trouble::Failure(test_guests::format!("int {vector:#x}: {exit:?}")));
        };
        let gate = [3, 4, 0x80].contains(&vector);
        let wanted = if gate { vector } else { 13 };
        // The error code names the gate; QEMU's own emulation counts gates of sixteen bytes in it.
        let named = [3, 4].map(|shift| u64::from(vector) << shift | 2);
        ensure!(
            raised == wanted && (gate || named.contains(&error)),
            "int {vector:#x}: {raised}, {error:#x}"
        );
    }
    Ok(())
}

fn far_branches_to_every_selector(_: &'static Context) -> Claim {
    let mut program = Program::new(&[0x0f, 0x0b])?;
    for index in (0..0x40_u64).chain(0x1c00..0x1c10) {
        for low in 0..8 {
            // push selector; push address; retfq, to memory that is not theirs
            let selector = u32::try_from(index << 3 | low).unwrap_or(0).to_le_bytes();
            let mut code = [
                0x68,
                selector[0],
                selector[1],
                selector[2],
                selector[3],
                0x68,
                0,
                0x10,
                0,
                0x80,
                0x48,
                0xcb,
            ];
            let exit = stop_of(&mut program, &code)?;
            ensure!(matches!(exit, UserExit::Exception { .. }), "retf to {:#x}: {exit:?}", index << 3 | low);
            // The same by iretq: ss, rsp, flags first.
            code[11] = 0xcf;
            let _any = stop_of(&mut program, &[&[0x6a, 0, 0x6a, 0, 0x6a, 2], &code[..]].concat())?;
        }
    }
    Ok(())
}

fn returns_to_rings_that_are_not_theirs(_: &'static Context) -> Claim {
    let mut program = Program::new(&[0x0f, 0x0b])?;
    // The hypervisor's own selectors, as it would have them, and none.
    for selector in [0xe008_u64, 0xe010, 0xe018, 0x08, 0x10, 0xe038, 0xe039] {
        program.load(&[0x48, 0xcf])?;
        program.registers.rsp = DATA + 0x800;
        let mut frame = [0; 40];
        for (place, value) in frame.chunks_mut(8).zip([CODE, selector, 0x3202, STACK_TOP, selector + 8]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        program.write(DATA + 0x800, &frame)?;
        let exit = program.run();
        ensure!(matches!(exit, UserExit::Exception { .. }), "iretq to {selector:#x}: {exit:?}");
    }
    Ok(())
}

fn odd_flags_on_every_entry(_: &'static Context) -> Claim {
    let mut program = Program::new(&[0x0f, 0x0b])?;
    let entries: [[u8; 2]; 8] = [
        [0x0f, 0x05],
        [0x0f, 0x34],
        [0xcd, 0x80],
        [0xcc, 0x90],
        [0x0f, 0x0b],
        [0xcd, 0x82],
        [0xf4, 0x90],
        [0xf7, 0xf1],
    ];
    for entry in entries {
        for flags in
            [0x100, 0x4000, 0x4_0000, 0x1_0000, 0x20_0000, 0x400, 0x4100, 0x4_4100, 0x3000, 0x3d_4d00]
        {
            // pushfq; or [rsp], rbx; popfq; the entry; ud2
            let code = [&[0x9c, 0x48, 0x09, 0x1c, 0x24, 0x9d][..], &entry, &[0x0f, 0x0b]].concat();
            program.load(&code)?;
            program.registers.rbx = flags;
            program.registers.rcx = 0;
            let first = program.run();
            ensure!(first != UserExit::Event, "an entry with flags {flags:#x}");
            // The flags the kernel sees never have interrupts off or a mode that is not a process's.
            let seen = program.registers.rflags;
            ensure!(seen & 0x2_0200 == 0x200, "the kernel sees flags {seen:#x} after {flags:#x}");
            let _second = program.run();
        }
    }
    Ok(())
}

fn a_system_call_just_below_the_canonical_hole(_: &'static Context) -> Claim {
    const LAST: u64 = 0x7fff_ffff_f000;
    let mut space = UserSpace::new()?;
    space.map(LAST, 1, Prot::ReadExecute)?;
    space.map(DATA, 1, Prot::ReadWrite)?;
    space.write(LAST + 0xffe, &[0x0f, 0x05])?;
    space.activate()?;
    let mut program = Program::around(space, LAST + 0xffe);
    ensure_eq!(program.run(), UserExit::Syscall, "the call");
    ensure_eq!(program.registers.rip, 0x8000_0000_0000, "where it goes on");
    // Going on there must end in the process, not in the hypervisor.
    let exit = program.run();
    ensure!(matches!(exit, UserExit::Exception { .. } | UserExit::BadSegment), "going on: {exit:?}");
    for rip in [0xffff_8000_0000_0000, 0xffff_82d0_8000_0000, 0x8000_0000_0000_0000, u64::MAX] {
        program.registers.rip = rip;
        program.registers.rcx = rip;
        let exit = program.run();
        ensure!(matches!(exit, UserExit::Exception { .. } | UserExit::BadSegment), "{rip:#x}: {exit:?}");
    }
    Ok(())
}

fn the_hypervisors_memory_is_not_theirs(_: &'static Context) -> Claim {
    let mut program = Program::new(&[0x0f, 0x0b])?;
    // mov rax, [rbx]; mov [rbx], rax; jmp rbx
    for code in [[0x48, 0x8b, 0x03], [0x48, 0x89, 0x03], [0xff, 0xe3, 0x90]] {
        for address in
            [0xffff_82d0_8000_0000, 0xffff_8300_0000_0000, 0xffff_8310_0000_0000, 0xffff_8100_0000_0000]
        {
            program.load(&code)?;
            program.registers.rbx = address;
            let exit = program.run();
            let fault = matches!(exit, UserExit::Exception { vector: 14, .. });
            ensure!(fault, "{code:02x?} at {address:#x}: {exit:?}");
        }
    }
    Ok(())
}
