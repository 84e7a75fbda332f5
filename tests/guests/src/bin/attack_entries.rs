//! Ways into the hypervisor and out of it, with frames, selectors, flags and breakpoints that no sound kernel has
//! (class D3).
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::hypercall::Hypercall as H;
use pv_abi::mmu::{MmuextCmd, UvmFlags};
use pv_abi::pte::Pte;
use pv_guest_kernel::Context;
use pv_guest_kernel::arch::{KERNEL_CS, KERNEL_SS};
use pv_guest_kernel::memory::{Prot, table};
use test_guests::attempt::{Code, Regs, attempt};
use test_guests::frames::{Frame, ext};
use test_guests::{Claim, Trouble, call, ensure, ensure_eq, format};

test_guests::claims! {
    attack_entries:
    a_call_just_below_the_canonical_hole [7, 186],
    frames_with_wrong_addresses [7, 274, 202],
    frames_with_wrong_selectors [40, 42, 274, 298],
    selectors_of_every_number [42, 298],
    flags_at_every_entry [8, 44, 204, 339],
    debug_registers_bit_by_bit [12, 265, 444],
    breakpoints_on_what_the_hypervisor_touches [265, 444],
    a_breakpoint_in_the_shadow_of_mov_ss [260],
    segment_bases_that_are_no_addresses [193],
    instructions_for_bases_follow_the_guests_cr4 [293],
    descriptors_of_every_kind [298],
    descriptor_tables_at_their_limits [298],
}

/// `mov eax, 17; xor edi, edi; syscall`: asks for the version.
const VERSION_CALL: [u8; 9] = [0xb8, 17, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
const VERSION: u64 = 4 << 16 | 17;
/// Addresses that are not canonical, or the hypervisor's.
const NO_ADDRESSES: [u64; 10] = [
    0x0000_8000_0000_0000,
    0x0000_ffff_ffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_0000_0000_0000,
    0xffff_7fff_ffff_ffff,
    0xffff_8000_0000_0000,
    0xffff_82d0_8000_0000,
    0xffff_8300_0000_0000,
    0xffff_87ff_ffff_fff8,
];
/// The last page below the hole.
const LAST_PAGE: u64 = 0x7fff_ffff_f000;

/// The hypervisor is sound if it still answers.
fn alive() -> Claim {
    ensure_eq!(
        call::call(H::XenVersion, [0, 0]).cast_unsigned() >> 16,
        VERSION >> 16,
        "the version afterwards"
    );
    Ok(())
}

fn a_call_just_below_the_canonical_hole(_: &'static Context) -> Claim {
    let code = Code::new()?;
    let mfn = code.mfn().ok_or(Trouble::error("no frame"))?;
    table::l1_entry(table::root(), LAST_PAGE)?;
    let map = |value: Pte| call::update_va_mapping(LAST_PAGE, value, UvmFlags::INVLPG);
    ensure_eq!(map(Pte::new(mfn, Prot::ReadExecute.flags())), 0, "mapping the last page");
    // Instructions that end exactly at the hole: one that returns by SYSRET, then some that are emulated.
    let cases: [&[u8]; 5] = [
        &VERSION_CALL,
        &[0x0f, 0x20, 0xc0],
        &[0xec],
        &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2],
        &[0x0f, 0x32],
    ];
    for bytes in cases {
        let offset = 4096 - bytes.len();
        code.put(offset, bytes);
        let mut registers = Regs { rcx: 0x277, rdx: 0x61, ..Regs::default() };
        let ended = attempt(LAST_PAGE + offset as u64, &mut registers);
        let Err(trap) = ended else {
            return Err(Trouble::Failure(format!("{bytes:02x?} went on at an address that is none")));
        };
        ensure!(trap.rip == 0x0000_8000_0000_0000, "{bytes:02x?}: the exception is at {:#x}", trap.rip);
    }
    ensure_eq!(map(Pte::EMPTY), 0, "unmapping the last page");
    alive()
}

/// Makes an iret frame of registers, and issues the call: SS r8, RSP r9 (its own where 0), RFLAGS r12, CS r13, RIP r14 (behind
/// the call where 0), flags r15.
const IRET: [u8; 48] = [
    0x4d, 0x85, 0xc9, // test r9, r9
    0x75, 0x03, // jnz +3
    0x49, 0x89, 0xe1, // mov r9, rsp
    0x4d, 0x85, 0xf6, // test r14, r14
    0x75, 0x07, // jnz +7
    0x4c, 0x8d, 0x35, 0x1c, 0x00, 0x00, 0x00, // lea r14, [rip + 28]: the end of this
    0x41, 0x50, // push r8
    0x41, 0x51, // push r9
    0x41, 0x54, // push r12
    0x41, 0x55, // push r13
    0x41, 0x56, // push r14
    0x41, 0x57, // push r15
    0x51, // push rcx
    0x41, 0x53, // push r11
    0x50, // push rax
    0xb8, 23, 0, 0, 0, // mov eax, 23
    0x0f, 0x05, // syscall
    0x0f, 0x0b, // ud2: not reached
    0x90, 0x90, 0x90,
];

const KERNEL: u64 = (KERNEL_CS & !3) as u64;
const STACK: u64 = KERNEL_SS as u64;
/// The frame's flag that RCX and R11 need not be restored: the way back is SYSRET.
const IN_SYSCALL: u64 = 1 << 8;

fn good_frame() -> Regs {
    Regs { r8: STACK, r12: 0x202, r13: KERNEL, ..Regs::default() }
}

fn frames_with_wrong_addresses(_: &'static Context) -> Claim {
    let code = Code::new()?;
    for r15 in [0, IN_SYSCALL] {
        ensure_eq!(code.run(&IRET, &mut Regs { r15, ..good_frame() }), Ok(()), "a good frame");
        for address in NO_ADDRESSES {
            let wrong = Regs { r14: address, r15, ..good_frame() };
            ensure!(code.run(&IRET, &mut wrong.clone()).is_err(), "a return to {address:#x} went well");
        }
        // What a frame cannot have: interrupts off, virtual 8086, nested task, every IOPL.
        for flags in [0, 0x2, 0x3002, 0x2_0202, 0x4202, 0x1_0202, 0x4_0202, 0x20_0202, !0x100] {
            let _any = code.run(&IRET, &mut Regs { r12: flags, r15, ..good_frame() });
            // pushfq; pop rax
            let mut registers = Regs::default();
            ensure_eq!(code.run(&[0x9c, 0x58], &mut registers), Ok(()), "reading the flags");
            ensure!(registers.rax & 0x2_0200 == 0x200, "the flags are {:#x} after {flags:#x}", registers.rax);
            pv_guest_kernel::event::unmask();
        }
    }
    alive()
}

fn frames_with_wrong_selectors(_: &'static Context) -> Claim {
    let code = Code::new()?;
    let places = (0..0x20).chain(0x1c00..0x1c20).chain([0xff, 0x1000, 0x1fff]);
    for selector in places.map(|index: u64| index << 3) {
        // The 32-bit code selector cuts the stack pointer, and a kernel without a stack is crashed.
        let compatible = selector == 0xe020;
        for low in 0..8 {
            // A code selector of ring 3 means user mode, which this kernel has none of.
            if low & 3 != 3 && !compatible {
                let _any = code.run(&IRET, &mut Regs { r13: selector | low, ..good_frame() });
            }
            let _any = code.run(&IRET, &mut Regs { r8: selector | low, ..good_frame() });
            let high = Regs { r8: STACK | 0xffff << 16, r13: KERNEL | 0xabcd << 32, ..good_frame() };
            let _any = code.run(&IRET, &mut high.clone());
        }
    }
    ensure_eq!(code.run(&IRET, &mut good_frame()), Ok(()), "a good frame afterwards");
    alive()
}

fn selectors_of_every_number(_: &'static Context) -> Claim {
    let code = Code::new()?;
    // mov ds, ax; mov es, ax; mov fs, ax
    for bytes in [[0x8e, 0xd8], [0x8e, 0xc0], [0x8e, 0xe0]] {
        let step = if bytes[1] == 0xd8 { 8 } else { 0x58 };
        for selector in (0..0x1_0000_u64).step_by(step) {
            let _any = code.run(&bytes, &mut Regs { rax: selector | 3, ..Regs::default() });
        }
        ensure_eq!(code.run(&bytes, &mut Regs::default()), Ok(()), "the null selector");
    }
    // The selector of user mode's GS goes through a call.
    for selector in (0..0x1_0000_u64).step_by(0x10) {
        let _any = call::call(H::SetSegmentBase, [3, selector | 3]);
    }
    ensure_eq!(call::call(H::SetSegmentBase, [3, 0]), 0, "the null selector for user mode's GS");
    alive()
}

/// TF, NT, AC, RF, ID, DF, OF, VIF and VIP.
const FLAGS: [u64; 9] = [0x100, 0x4000, 0x4_0000, 0x1_0000, 0x20_0000, 0x400, 0x800, 0x8_0000, 0x10_0000];

fn flags_at_every_entry(_: &'static Context) -> Claim {
    let code = Code::new()?;
    // A call; SYSENTER; ud2; int3; int 0x82; div by zero; hlt; rdmsr; cpuid forced; a page fault; in
    let entries: [&[u8]; 11] = [
        &VERSION_CALL,
        &[0x0f, 0x34],
        &[0x0f, 0x0b],
        &[0xcc],
        &[0xcd, 0x82],
        &[0x31, 0xc9, 0xf7, 0xf1],
        &[0xf4],
        &[0x0f, 0x32],
        &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2],
        &[0x8b, 0x04, 0x25, 0x00, 0x10, 0x00, 0x00],
        &[0xec],
    ];
    for entry in entries {
        for flags in FLAGS.iter().copied().chain([0x4100, 0x4_4100, 0x3000, 0x3d_4d00]) {
            // pushfq; or [rsp], rbx; popfq; the entry
            let mut bytes = [0x90_u8; 24];
            bytes[..6].copy_from_slice(&[0x9c, 0x48, 0x09, 0x1c, 0x24, 0x9d]);
            bytes[6..6 + entry.len()].copy_from_slice(entry);
            let mut registers = Regs { rbx: flags, rcx: 0x10, rdx: 0x80, ..Regs::default() };
            let _any = code.run(&bytes, &mut registers);
            alive()?;
        }
    }
    Ok(())
}

fn set_dr(n: u64, value: u64) -> i64 {
    call::call(H::SetDebugreg, [n, value])
}

fn debug_registers_bit_by_bit(_: &'static Context) -> Claim {
    const GENERAL_DETECT: u64 = 1 << 13;
    for bit in 0..64 {
        let value = 1_u64 << bit;
        let answer = set_dr(7, value);
        let now = call::call(H::GetDebugreg, [7]).cast_unsigned();
        ensure!(now & GENERAL_DETECT == 0, "general detect is on after bit {bit}");
        ensure!(now >> 32 == 0, "DR7 is {now:#x} after bit {bit}, answered {answer}");
        let _any = set_dr(6, value);
        ensure_eq!(set_dr(7, 0), 0, "breakpoints off");
    }
    for n in 0..4 {
        for address in NO_ADDRESSES {
            call::refused_somehow("a breakpoint outside of the guest", set_dr(n, address))?;
        }
    }
    for n in [4, 5, 8, 9, 0xffff_ffff, u64::MAX] {
        let _any = set_dr(n, u64::MAX);
        alive()?;
    }
    Ok(())
}

/// DR7: breakpoint 0 on, on reads and writes of eight bytes.
const WATCH_ALL: u64 = 1 | 3 << 16 | 2 << 18;

fn breakpoints_on_what_the_hypervisor_touches(_: &'static Context) -> Claim {
    let code = Code::new()?;
    let text = [b' '; 8];
    let mut done = 0_u32;
    let updates = [pv_abi::mmu::MmuUpdate { ptr: 1, val: 0 }];
    for address in [call::address(&text), call::address(&updates), call::address_mut(&mut done)] {
        ensure_eq!(set_dr(0, address & !7), 0, "a breakpoint");
        ensure_eq!(set_dr(7, WATCH_ALL), 0, "switching it on");
        // Read and written by the hypervisor while it serves a call.
        let mut registers = Regs {
            rax: 1,
            rdi: call::address(&updates),
            rsi: 1,
            rdx: call::address_mut(&mut done),
            r10: 0x7ff0,
            ..Regs::default()
        };
        let _any = code.run(&[0x0f, 0x05], &mut registers);
        let mut registers = Regs { rax: 18, rdi: 0, rsi: 8, rdx: call::address(&text), ..Regs::default() };
        let _any = code.run(&[0x0f, 0x05], &mut registers);
        ensure_eq!(set_dr(7, 0), 0, "switching it off");
    }
    // The stack that an exception's frame is pushed to: below the one of the code.
    let stack = Frame::new()?;
    for offset in (0..64).step_by(8) {
        ensure_eq!(set_dr(0, stack.va() + 4000 - offset), 0, "a breakpoint");
        ensure_eq!(set_dr(7, WATCH_ALL), 0, "switching it on");
        // mov rsp, rbx; ud2
        let _any = code
            .run(&[0x48, 0x89, 0xdc, 0x0f, 0x0b], &mut Regs { rbx: stack.va() + 4000, ..Regs::default() });
        ensure_eq!(set_dr(7, 0), 0, "switching it off");
    }
    alive()
}

fn a_breakpoint_in_the_shadow_of_mov_ss(_: &'static Context) -> Claim {
    let code = Code::new()?;
    let data = Frame::new()?;
    data.set_word(0, STACK);
    ensure_eq!(set_dr(0, data.va()), 0, "a breakpoint");
    // mov ss, [rbx], then what enters the hypervisor
    for next in [[0x0f, 0x05], [0xcc, 0x90], [0x0f, 0x0b], [0xcd, 0x82], [0x0f, 0x34], [0xf4, 0x90]] {
        ensure_eq!(set_dr(7, WATCH_ALL), 0, "switching it on");
        let mut registers = Regs { rax: 17, rbx: data.va(), ..Regs::default() };
        let _any = code.run(&[0x8e, 0x13, next[0], next[1]], &mut registers);
        ensure_eq!(set_dr(7, 0), 0, "switching it off");
        alive()?;
    }
    Ok(())
}

fn segment_bases_that_are_no_addresses(_: &'static Context) -> Claim {
    let code = Code::new()?;
    for bit in 47..64 {
        for value in [1_u64 << bit, !(1_u64 << bit), 0xffff_8000_0000_0000 ^ 1 << bit] {
            let canonical = value >> 47 == 0 || value >> 47 == 0x1_ffff;
            if canonical {
                continue;
            }
            for which in 0..3 {
                call::refused_somehow(
                    "a base that is no address",
                    call::call(H::SetSegmentBase, [which, value]),
                )?;
            }
            // wrmsr of FS, GS and the hidden GS base
            for msr in 0xc000_0100..0xc000_0103 {
                let mut registers =
                    Regs { rcx: msr, rax: value & 0xffff_ffff, rdx: value >> 32, ..Regs::default() };
                ensure!(code.run(&[0x0f, 0x30], &mut registers).is_err(), "wrmsr {msr:#x} took {value:#x}");
            }
        }
    }
    alive()
}

fn instructions_for_bases_follow_the_guests_cr4(_: &'static Context) -> Claim {
    const FSGSBASE: u64 = 1 << 16;
    let code = Code::new()?;
    let mut registers = Regs::default();
    // mov rax, cr4
    ensure_eq!(code.run(&[0x0f, 0x20, 0xe0], &mut registers), Ok(()), "reading CR4");
    let cr4 = registers.rax;
    for wanted in [cr4 & !FSGSBASE, cr4 | FSGSBASE, cr4 & !FSGSBASE] {
        // mov cr4, rax; rdfsbase rbx
        if code.run(&[0x0f, 0x22, 0xe0], &mut Regs { rax: wanted, ..Regs::default() }).is_err() {
            continue;
        }
        let worked = code.run(&[0xf3, 0x48, 0x0f, 0xae, 0xc3], &mut Regs::default()).is_ok();
        ensure_eq!(worked, wanted & FSGSBASE != 0, "RDFSBASE with CR4 {wanted:#x}");
    }
    let _restored = code.run(&[0x0f, 0x22, 0xe0], &mut Regs { rax: cr4, ..Regs::default() });
    // Bits of CR0 and CR4 that are the hypervisor's do not change.
    for bit in 0..64 {
        let _any = code.run(&[0x0f, 0x22, 0xe0], &mut Regs { rax: cr4 ^ 1 << bit, ..Regs::default() });
        let _any = code.run(&[0x0f, 0x22, 0xe0], &mut Regs { rax: cr4, ..Regs::default() });
        alive()?;
    }
    Ok(())
}

fn descriptors_of_every_kind(_: &'static Context) -> Claim {
    let table = Frame::read_only()?;
    ensure_eq!(ext(MmuextCmd::SetLdt.raw(), table.va(), 512), 0, "an LDT");
    // Its first use makes it a table of descriptors: mov ds, ax with a selector of the LDT
    let code = Code::new()?;
    let _faults = code.run(&[0x8e, 0xd8], &mut Regs { rax: 0x7, ..Regs::default() });
    let at = table.mfn().raw() << 12 | 0x18;
    for access in 0..256_u64 {
        for flags in 0..16_u64 {
            let value = access << 40 | flags << 52 | 0xf_0000_0000_ffff;
            let answer = call::call(H::UpdateDescriptor, [at, value]);
            let now = table.word(3);
            // Of the system types only the one that nothing can load; of the others only those of ring 3.
            let (present, kind, ring) = (now >> 47 & 1 == 1, now >> 40 & 0x1f, now >> 45 & 3);
            ensure!(
                !present || kind == 0 || (kind >= 0x10 && ring == 3),
                "descriptor {value:#x}: {answer}, {now:#x}"
            );
            let _any = code.run(&[0x8e, 0xd8], &mut Regs { rax: 0x1f, ..Regs::default() });
        }
    }
    for wrong in [at | 1, at | 4, at ^ 1 << 40, u64::MAX, 0] {
        call::refused_somehow("a descriptor elsewhere", call::call(H::UpdateDescriptor, [wrong, 0]))?;
    }
    ensure_eq!(code.run(&[0x8e, 0xd8], &mut Regs::default()), Ok(()), "the null selector");
    ensure_eq!(call::call(H::UpdateDescriptor, [at, 0]), 0, "an empty descriptor");
    ensure_eq!(ext(MmuextCmd::SetLdt.raw(), 0, 0), 0, "no LDT");
    alive()
}

fn descriptor_tables_at_their_limits(_: &'static Context) -> Claim {
    let table = Frame::read_only()?;
    let frames = [table.mfn().raw(); 16];
    let list = call::address(&frames);
    for entries in [14 * 512 + 1, 8192, 1 << 16, u64::from(u32::MAX), u64::MAX] {
        call::refused_somehow("a GDT too large", call::call(H::SetGdt, [list, entries]))?;
    }
    for list in [0xffff_8300_0000_0000, 0x1000, 0x8000_0000_0000, !7] {
        call::refused_somehow("a GDT of frames nowhere", call::call(H::SetGdt, [list, 512]))?;
    }
    for frame in [0x5555_5555_5555_5555, u64::MAX, 1, 0] {
        let frames = [frame];
        call::refused_somehow("a GDT in no frame", call::call(H::SetGdt, [call::address(&frames), 512]))?;
    }
    let good =
        [(table.va(), 8193), (table.va() + 8, 8), (0xffff_8300_0000_0000, 1), (!0xfff, 8192), (1 << 47, 1)];
    for (at, entries) in good {
        call::refused_somehow("an LDT that cannot be", ext(MmuextCmd::SetLdt.raw(), at, entries))?;
    }
    // A page that is not there, or may be written, is no LDT when it is used.
    let code = Code::new()?;
    let writable = Frame::new()?;
    for at in [writable.va(), 0x7000_0000_0000] {
        let _maybe = ext(MmuextCmd::SetLdt.raw(), at, 512);
        let loaded = code.run(&[0x8e, 0xd8], &mut Regs { rax: 0xf, ..Regs::default() });
        ensure!(loaded.is_err(), "a selector of an LDT at {at:#x} was loaded");
    }
    ensure_eq!(ext(MmuextCmd::SetLdt.raw(), 0, 0), 0, "no LDT");
    alive()
}
