//! For an ordinary domain: every control call, every device operation, and every way to another's memory is refused,
//! whatever the version it claims and whatever its structure holds.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec;
use pv_abi::hypercall::Hypercall as H;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::memory::{MemoryOp, XenMemoryReservation};
use pv_abi::pte::Pte;
use pv_guest_kernel::Context;
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{pfn_of, table};
use test_guests::frames::{RW, memory_op};
use test_guests::{Claim, Trouble, call, ensure, format};

test_guests::claim!(control_calls_are_refused);

fn control_calls_are_refused(context: &'static Context) -> Claim {
    if context.is_dom0() {
        return Err(Trouble::Skip("the claim is about an ordinary domain".into()));
    }
    calls_of_other_kinds_of_guests()?;
    xsa_127_and_492_and_499_control_calls()?;
    xsa_13_and_16_and_21_and_83_and_87_and_360_interrupt_lines()?;
    memory_of_others()?;
    ports()
}

/// What is for guests with hardware virtualisation (and their device models), and what an ordinary domain has no business
/// with: kexec, security modules, Argo, performance counters, the hypervisor's own file system.
fn calls_of_other_kinds_of_guests() -> Claim {
    const HVM_OP: u64 = 34;
    const OTHERS: [u64; 7] = [27, 37, 38, 39, 40, 41, 42];
    /// DOMID_SELF.
    const SELF: u32 = 0x7ff0;
    // Parameters, interrupts, memory types, page tables, altp2m, upcall vectors; not the time of day (6), which Xen tells.
    for op in [0_u64, 1, 2, 3, 4, 5, 7, 8, 9, 14, 15, 17, 21, 22, 23, 25] {
        let mut words = [SELF, 0, 0, 0, 0, 0, 0, 0];
        let answer = call::number(HVM_OP, [op, call::address_mut(&mut words[..]), 0, 0, 0]);
        call::refused_somehow(&format!("hvm_op {op}"), answer)?;
    }
    for number in OTHERS {
        for op in [0_u64, 1, 2, 3, 4] {
            let mut words = [SELF, 0, 0, 0, 0, 0, 0, 0];
            let at = call::address_mut(&mut words[..]);
            call::refused_somehow(&format!("call {number}, {op}"), call::number(number, [op, at, at, 0, 0]))?;
        }
    }
    Ok(())
}

fn xsa_127_and_492_and_499_control_calls() -> Claim {
    for (number, versions) in
        [(H::Domctl, [0x15, 0x14]), (H::Sysctl, [0x15, 0x14]), (H::PlatformOp, [0x0300_0000, 0])]
    {
        for command in (0..100_u32).chain([1000, u32::MAX]) {
            for (version, domain) in
                versions.into_iter().flat_map(|v| [(v, 0_u32), (v, 0x7ff0), (v, 1), (v, 2)])
            {
                let mut words = vec![0_u32; 64];
                (words[0], words[1], words[2]) = (command, version, domain);
                let answer = call::call(number, [call::address_mut(&mut words[..])]);
                ensure!(answer < 0, "{number:?} {command} worked");
            }
        }
    }
    Ok(())
}

fn xsa_13_and_16_and_21_and_83_and_87_and_360_interrupt_lines() -> Claim {
    // All operations but the end of an interrupt that is none, and the rights of one's own port accesses.
    for op in (0..36_u64).filter(|op| ![6, 7, 12].contains(op)) {
        for value in [0_u32, 1, 4, 15, 16, 255, 256, 1 << 16, u32::MAX] {
            let mut words = [value; 16];
            let answer = call::call(H::PhysdevOp, [op, call::address_mut(&mut words[..])]);
            let harmless = op == 5 || op == 4 || op == 3;
            ensure!(answer < 0 || harmless, "physdev_op {op} with {value:#x} answered {answer}");
        }
    }
    for pirq in [0_u32, 1, 4, 9, 16, 255, 1 << 20, u32::MAX] {
        let mut bind = [pirq, 0, 0];
        let answer = call::call(H::EventChannelOp, [2, call::address_mut(&mut bind[..])]);
        call::refused_somehow(&format!("binding interrupt {pirq}"), answer)?;
    }
    Ok(())
}

fn memory_of_others() -> Claim {
    let place = Range::reserve(1)?;
    place.entry(0)?;
    let mut tried = 0_u32;
    for mfn in (0..0x3_0000_u64).step_by(13).filter(|mfn| pfn_of(Mfn::new(*mfn)).is_none()) {
        let answer = call::update_va_mapping(place.start(), Pte::from_raw(mfn << 12 | RW), 0);
        ensure!(answer != 0, "frame {mfn:#x} was mapped");
        tried += 1;
    }
    ensure!(tried > 1000, "{tried} frames were tried");
    // Devices, through every owner that a guest can name.
    for owner in [0_u64, 1, 2, 0x7ff1, 0x7ff2, 0x7ff4, 0x7123] {
        for mfn in [0xfee00_u64, 0xfec00, 0xb8, 0xfebf0, 0x100, 0x1000] {
            let args = [place.start(), mfn << 12 | RW, 0, owner];
            let answer = call::call(H::UpdateVaMappingOtherdomain, args);
            ensure!(answer != 0, "frame {mfn:#x} of {owner:#x} was mapped");
        }
        let mut list = [0_u64];
        let mut argument = XenMemoryReservation {
            extent_start: call::address_mut(&mut list),
            nr_extents: 1,
            domid: u16::try_from(owner).unwrap_or(0),
            ..XenMemoryReservation::default()
        };
        let own = test_guests::own_domain()?.raw();
        if owner != u64::from(own) {
            for op in
                [MemoryOp::IncreaseReservation, MemoryOp::PopulatePhysmap, MemoryOp::DecreaseReservation]
            {
                let answer = memory_op(op, &mut argument);
                ensure!(answer <= 0, "{op:?} for {owner:#x} answered {answer}");
            }
        }
    }
    ensure!(table::walk(place.start()).is_none(), "a refused mapping is there all the same");
    let mut shutdown = [u32::from(DomId::DOM0.raw()), 0];
    call::refused_somehow(
        "shutting dom0 down",
        call::call(H::SchedOp, [4, call::address_mut(&mut shutdown[..])]),
    )
}

/// Ports of the machine: neither a process nor this kernel reaches one.
fn ports() -> Claim {
    use test_guests::attempt::{Code, Regs};
    let code = Code::new()?;
    for port in
        (0..0x1_0000_u64).step_by(0x55).chain([0xcf8, 0xcfc, 0x64, 0x604, 0xb004, 0x3f8, 0x70, 0x71, 0x4d0])
    {
        // in al, dx reads as an empty bus or faults; out dx, al must do nothing
        let mut registers = Regs { rdx: port, ..Regs::default() };
        if code.run(&[0xec], &mut registers).is_ok() {
            ensure!(
                registers.rax & 0xff == 0xff || port & 0xfff8 == 0xcf8,
                "port {port:#x} reads {:#x}",
                registers.rax
            );
        }
        let _any = code.run(&[0xee], &mut Regs { rdx: port, rax: 0xfe, ..Regs::default() });
    }
    Ok(())
}
