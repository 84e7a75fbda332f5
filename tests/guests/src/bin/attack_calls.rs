//! Memory operations, event channels, timers and grants with arguments at and past every limit (classes D5, D6, D7, D9).
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;
use pv_abi::evtchn::{EvtchnAllocUnbound, EvtchnBindVirq, EvtchnClose, EvtchnOp, VirqKind};
use pv_abi::hypercall::Hypercall as H;
use pv_abi::ids::DomId;
use pv_abi::memory::{MemoryOp, XenMemAcquireResource, XenMemoryReservation};
use pv_guest_kernel::Context;
use pv_guest_kernel::hypercall::Errno;
use test_guests::frames::{Frame, current_reservation, exchange, memory_op, reservation};
use test_guests::{Claim, Trouble, call, ensure, ensure_eq, format};

test_guests::claims! {
    attack_calls:
    handles_that_point_into_the_hypervisor [29, 212, 382],
    handles_that_wrap_or_end_nowhere [29, 212, 215],
    orders_and_counts_past_every_limit [31, 125, 158, 385],
    nodes_and_flags_that_do_not_exist [14, 231],
    resources_of_every_kind_and_size [334, 382, 502],
    exchanges_that_cannot_be [159, 212],
    timers_at_the_end_of_time [20],
    more_ports_than_there_are [317, 338, 344, 496],
    ports_of_every_number [47, 221, 296, 343],
    vcpu_information_everywhere [327],
    vcpus_initialised_with_nonsense [193, 296],
    version_answers_leak_nothing [122, 132],
    unprivileged_operations_of_every_number [77, 87, 127, 492, 499],
    every_hypercall_number_with_nonsense [454, 111],
}

/// Addresses that are the hypervisor's, or nobody's.
const NO_MEMORY: [u64; 9] = [
    0xffff_8000_0000_0000,
    0xffff_8100_0000_0000,
    0xffff_82d0_8000_0000,
    0xffff_82d0_c001_0000,
    0xffff_8300_0000_0000,
    0xffff_87ff_ffff_ff00,
    0x0000_8000_0000_0000,
    0xffff_7fff_ffff_ffff,
    0x8000_0000_0000_0000,
];

/// Every call that takes a structure: number of the call, and its sub-operations where it has some.
const WITH_STRUCTURES: [(H, u64); 11] = [
    (H::MemoryOp, 32),
    (H::GrantTableOp, 14),
    (H::EventChannelOp, 16),
    (H::SchedOp, 8),
    (H::PhysdevOp, 34),
    (H::XenVersion, 12),
    (H::VcpuOp, 16),
    (H::VmAssist, 2),
    (H::ConsoleIo, 3),
    (H::NmiOp, 3),
    (H::PlatformOp, 1),
];

/// Operations that end this domain or put it to sleep, which is no attack.
fn ends_the_guest(call: H, op: u64) -> bool {
    match call {
        // block, shutdown, poll, remote_shutdown, shutdown_code, watchdog
        H::SchedOp => (1..=6).contains(&op),
        // down; the calling vcpu would not come back
        H::VcpuOp => op == 2 || op == 0 || op == 10,
        // reset closes the console's and the timer's ports
        H::EventChannelOp => op == 10,
        H::ConsoleIo => op == 0,
        _ => false,
    }
}

fn alive() -> Claim {
    ensure_eq!(call::call(H::XenVersion, [0, 0]) >> 16, 4, "the version afterwards");
    Ok(())
}

fn handles_that_point_into_the_hypervisor(_: &'static Context) -> Claim {
    let m2p_before = call::load(0xffff_8000_0000_0000 + 8);
    for (call, operations) in WITH_STRUCTURES {
        for op in (0..operations).filter(|op| !ends_the_guest(call, *op)) {
            for address in NO_MEMORY {
                // The handle as the second, the third and the first argument.
                let _any = call::call(call, [op, address, 1]);
                let _any = call::call(call, [op, 0, address]);
                let _any = call::call(call, [address, op, address]);
            }
        }
    }
    for address in NO_MEMORY {
        for (what, answer) in [
            ("mmu_update", call::call(H::MmuUpdate, [address, 1, 0, 0x7ff0])),
            ("mmuext_op", call::call(H::MmuextOp, [address, 1, 0, 0x7ff0])),
            ("multicall", call::call(H::Multicall, [address, 1])),
            ("set_gdt", call::call(H::SetGdt, [address, 512])),
            ("set_trap_table", call::call(H::SetTrapTable, [address])),
            ("callback_op", call::call(H::CallbackOp, [0, address])),
        ] {
            call::refused_somehow(&format!("{what} with a list at {address:#x}"), answer)?;
        }
        // The count of what was done.
        let list = [pv_abi::mmu::MmuextOp { cmd: 6, ..Default::default() }];
        let _any = call::call(H::MmuextOp, [call::address(&list), 1, address, 0x7ff0]);
        let nested = [address; 4];
        let _any = call::call(H::MemoryOp, [9, call::address(&nested[..])]);
    }
    ensure_eq!(call::load(0xffff_8000_0000_0000 + 8), m2p_before, "a word of the M2P");
    alive()
}

fn handles_that_wrap_or_end_nowhere(_: &'static Context) -> Claim {
    let page = Frame::new()?;
    for offset in [4095, 4092, 4088, 4080, 4064] {
        for (call, operations) in WITH_STRUCTURES {
            for op in (0..operations).filter(|op| !ends_the_guest(call, *op)) {
                let _any = call::call(call, [op, page.va() + offset, 1]);
            }
        }
    }
    for count in [1 << 28, 1 << 31, 1 << 32, 1 << 59, 1 << 60, (1 << 60) + 1, u64::MAX] {
        for address in [page.va(), u64::MAX - 15, 0x7fff_ffff_fff0, !0xfff] {
            for call in [H::MmuUpdate, H::MmuextOp] {
                let _any = call::call(call, [address, count, 0, 0x7ff0]);
            }
            let _any = call::call(H::Multicall, [address, count]);
            let _any = call::call(H::GrantTableOp, [4, address, count]);
            let _any = call::call(H::ConsoleIo, [1, count, address]);
        }
    }
    alive()
}

fn orders_and_counts_past_every_limit(_: &'static Context) -> Claim {
    let before = current_reservation()?;
    let mut list = vec![0_u64; 64];
    for op in [MemoryOp::IncreaseReservation, MemoryOp::PopulatePhysmap, MemoryOp::DecreaseReservation] {
        for order in (12..64).chain([255, 0x8000_0000, u32::MAX]) {
            for count in [1, 2, 1 << 20, 1 << 32, u64::MAX >> 8, u64::MAX] {
                let mut argument =
                    XenMemoryReservation { extent_order: order, nr_extents: count, ..reservation(&mut list) };
                let answer = memory_op(op, &mut argument);
                ensure!(answer <= 0, "{op:?} of order {order} gave {answer}");
            }
        }
    }
    ensure_eq!(current_reservation()?, before, "the reservation afterwards");
    // Past the limit by one: what is there is given, the rest refused, and given back. More than the machine has free.
    let mut list = vec![0_u64; 8192];
    let got = memory_op(MemoryOp::IncreaseReservation, &mut reservation(&mut list));
    let got = usize::try_from(got).map_err(|_| Trouble::Failure("an error instead of a count".into()))?;
    ensure_eq!(current_reservation()?, before + got as u64, "the reservation with what was given");
    let again = memory_op(MemoryOp::IncreaseReservation, &mut reservation(&mut [0; 512][..]));
    ensure!(got == list.len() || again <= 512, "{again} more where only {got} were");
    let mut list: Vec<u64> = list.into_iter().take(got).collect();
    let returned = memory_op(MemoryOp::DecreaseReservation, &mut reservation(&mut list));
    ensure_eq!(usize::try_from(returned), Ok(got), "frames given back");
    // A restarted call's mark is not a guest's to set to its own good: a start behind the end, in the number's high bits.
    for start in [1, 63, 64, 1 << 20, u64::MAX >> 6] {
        let mut few = [0_u64; 2];
        let args = [start << 6, call::address_mut(&mut reservation(&mut few))];
        let _any = call::call(H::MemoryOp, args);
    }
    alive()
}

fn nodes_and_flags_that_do_not_exist(_: &'static Context) -> Claim {
    let before = current_reservation()?;
    for bit in 0..32 {
        let mut list = [0_u64];
        let mut argument = XenMemoryReservation { mem_flags: 1 << bit, ..reservation(&mut list) };
        if memory_op(MemoryOp::IncreaseReservation, &mut argument) == 1 {
            let mut argument = reservation(&mut list);
            ensure_eq!(memory_op(MemoryOp::DecreaseReservation, &mut argument), 1, "giving back");
        }
    }
    for flags in [0xff00, 0xff00 | 1 << 17, 1 << 16, u32::MAX, 0x7f00, 0x0200] {
        let mut list = [0_u64];
        let mut argument = XenMemoryReservation { mem_flags: flags, ..reservation(&mut list) };
        if memory_op(MemoryOp::PopulatePhysmap, &mut argument) == 1 {
            let mut argument = reservation(&mut list);
            ensure_eq!(memory_op(MemoryOp::DecreaseReservation, &mut argument), 1, "giving back");
        }
    }
    ensure_eq!(current_reservation()?, before, "the reservation afterwards");
    alive()
}

fn resources_of_every_kind_and_size(_: &'static Context) -> Claim {
    let mut list = [0_u64; 64];
    for kind in 0..4_u16 {
        for id in [0, 1, 2, u32::MAX] {
            for (nr_frames, frame) in
                [(1, 0), (64, 0), (65, 0), (u32::MAX, 0), (1, 63), (1, 64), (1, u64::MAX), (2, 1 << 32)]
            {
                for domid in [DomId::SELF.raw(), 0x7123, 0x7ff2, 0] {
                    for frame_list in [call::address_mut(&mut list[..]), 0, 0xffff_8300_0000_0000, 0x1000] {
                        let mut argument = XenMemAcquireResource {
                            domid,
                            kind,
                            id,
                            nr_frames,
                            frame,
                            frame_list,
                            ..XenMemAcquireResource::default()
                        };
                        let _any = memory_op(MemoryOp::AcquireResource, &mut argument);
                    }
                }
            }
        }
    }
    for op in [MemoryOp::GetVnumainfo, MemoryOp::ReservedDeviceMemoryMap, MemoryOp::AddToPhysmapBatch] {
        let mut words = [u64::MAX; 16];
        let _any = memory_op(op, &mut words[..]);
    }
    alive()
}

fn exchanges_that_cannot_be(_: &'static Context) -> Claim {
    let before = current_reservation()?;
    let mut own = [0_u64; 4];
    for (given, taken) in [
        (&mut [u64::MAX, 0][..], &mut [0_u64, 0][..]),
        (&mut [0x5555_5555_5555_5555, 1], &mut [0, 0]),
        (&mut [1, 1], &mut [0, 0]),
    ] {
        call::refused_somehow("exchanging what is not one's own", exchange(given, taken).0)?;
    }
    for (in_order, out_order, count) in
        [(0, 63, 1), (63, 0, 1), (9, 0, 1), (0, 9, 512), (0, 0, u64::MAX), (0, 1, 3), (32, 32, 1 << 32)]
    {
        let at = call::address_mut(&mut own[..]);
        for exchanged in [0, 1, u64::MAX] {
            let list = |order| XenMemoryReservation {
                extent_start: at,
                nr_extents: count,
                extent_order: order,
                domid: DomId::SELF.raw(),
                ..XenMemoryReservation::default()
            };
            let mut argument = pv_abi::memory::XenMemoryExchange {
                in_: list(in_order),
                out: list(out_order),
                nr_exchanged: exchanged,
            };
            call::refused_somehow("an exchange of odd sizes", memory_op(MemoryOp::Exchange, &mut argument))?;
        }
    }
    ensure_eq!(current_reservation()?, before, "the reservation afterwards");
    alive()
}

fn timers_at_the_end_of_time(_: &'static Context) -> Claim {
    for deadline in [1, 2, u64::MAX, 1 << 63, (1 << 63) - 1, (1 << 63) + 1, u64::MAX - 1000, 1 << 50] {
        let _any = call::call(H::SetTimerOp, [deadline]);
        for op in [6, 8] {
            let argument = [deadline, 0];
            // set_periodic_timer; set_singleshot_timer, with and without "only in the future"
            let _any = call::call(H::VcpuOp, [op, 0, call::address(&argument)]);
            let argument = [deadline, 1];
            let _any = call::call(H::VcpuOp, [op, 0, call::address(&argument)]);
        }
        pv_guest_kernel::sched::yield_now();
    }
    for period in [1, 999_999, 1_000_000] {
        let _any = call::call(H::VcpuOp, [6, 0, call::address(&[period, 0_u64])]);
    }
    ensure_eq!(call::call(H::VcpuOp, [7, 0, 0]), 0, "stopping the periodic timer");
    ensure_eq!(call::call(H::SetTimerOp, [0]), 0, "no timer");
    alive()
}

fn evtchn<T>(op: EvtchnOp, argument: &mut T) -> i64 {
    call::call(H::EventChannelOp, [u64::from(op.raw()), call::address_mut(argument)])
}

fn more_ports_than_there_are(_: &'static Context) -> Claim {
    let mut ports: Vec<u32> = Vec::new();
    loop {
        let mut argument =
            EvtchnAllocUnbound { dom: DomId::SELF.raw(), remote_dom: DomId::SELF.raw(), port: 0 };
        let answer = evtchn(EvtchnOp::AllocUnbound, &mut argument);
        if answer != 0 {
            // The ABI's number of ports, or the hypervisor's memory for them, is used up.
            ensure!(
                [Errno::NoSpc, Errno::NoMem].map(Errno::to_ret).contains(&answer),
                "the last port: {answer}"
            );
            break;
        }
        ensure!(argument.port < 131_072, "port {} of an ABI with 131072", argument.port);
        ports.push(argument.port);
    }
    for virq in 0..24 {
        let mut argument = EvtchnBindVirq { virq, vcpu: 0, port: 0 };
        if evtchn(EvtchnOp::BindVirq, &mut argument) == 0 {
            ports.push(argument.port);
        }
    }
    for port in &ports {
        ensure_eq!(evtchn(EvtchnOp::Close, &mut EvtchnClose { port: *port }), 0, "closing port {port}");
        call::refused_somehow("closing twice", evtchn(EvtchnOp::Close, &mut EvtchnClose { port: *port }))?;
    }
    // What failed for want of a port holds no line.
    let mut argument = EvtchnBindVirq { virq: VirqKind::Debug.raw(), vcpu: 0, port: 0 };
    ensure_eq!(evtchn(EvtchnOp::BindVirq, &mut argument), 0, "a line afterwards");
    ensure_eq!(evtchn(EvtchnOp::Close, &mut EvtchnClose { port: argument.port }), 0, "closing it");
    ensure!(ports.len() > 4000, "{} ports could be had", ports.len());
    alive()
}

fn ports_of_every_number(_: &'static Context) -> Claim {
    let numbers = [0, 4095, 4096, 4097, 131_071, 131_072, 1 << 30, 1 << 31, u32::MAX, 3000];
    for port in numbers {
        for (op, words) in [(3, 1), (4, 1), (9, 1), (5, 6)] {
            // close, send, unmask, status: of ports that are not bound
            let mut argument = [port; 6];
            if op == 5 {
                argument = [u32::from(DomId::SELF.raw()), port, 0, 0, 0, 0];
            }
            let answer = call::call(H::EventChannelOp, [op, call::address_mut(&mut argument[..])]);
            // Unmasking says nothing of whether a port is bound.
            ensure!(
                answer != 0 || op == 5 || op == 9,
                "operation {op} ({words} words) on port {port} worked"
            );
        }
        let mut bind = [port, u32::MAX];
        call::refused_somehow(
            "binding a port to no vcpu",
            call::call(H::EventChannelOp, [8, call::address_mut(&mut bind[..])]),
        )?;
        let mut interdomain = [u32::from(DomId::SELF.raw()), port, 0];
        call::refused_somehow(
            "connecting to a port that nobody left",
            call::call(H::EventChannelOp, [0, call::address_mut(&mut interdomain[..])]),
        )?;
        // sched_op poll with one such port; a deadline long past
        let ports = [port];
        let mut poll = [call::address(&ports), 1, 1];
        let _any = call::call(H::SchedOp, [3, call::address_mut(&mut poll[..])]);
    }
    for (dom, remote) in
        [(0x7123_u16, 0), (DomId::SELF.raw(), 0x7123), (0x7ff2, 0x7ff2), (0, 0x7ff1), (0x7ff4, 0)]
    {
        let mut argument = EvtchnAllocUnbound { dom, remote_dom: remote, port: 0 };
        if evtchn(EvtchnOp::AllocUnbound, &mut argument) == 0 {
            ensure_eq!(evtchn(EvtchnOp::Close, &mut EvtchnClose { port: argument.port }), 0, "closing it");
        }
    }
    for vcpu in [1, 31, 32, 33, 128, 8192, u32::MAX] {
        let mut ipi = [vcpu, 0];
        call::refused_somehow(
            "an IPI to no vcpu",
            call::call(H::EventChannelOp, [7, call::address_mut(&mut ipi[..])]),
        )?;
        let mut virq = [0, vcpu, 0];
        call::refused_somehow(
            "a line of no vcpu",
            call::call(H::EventChannelOp, [1, call::address_mut(&mut virq[..])]),
        )?;
    }
    alive()
}

fn vcpu_information_everywhere(_: &'static Context) -> Claim {
    let page = Frame::new()?;
    let register = |mfn: u64, offset: u32| {
        let argument = [mfn, u64::from(offset)];
        call::call(H::VcpuOp, [10, 0, call::address(&argument)])
    };
    for offset in (1..8).chain(4033..4096).chain([4096, 8192, 1 << 31, u32::MAX]) {
        call::refused_somehow("information across the end of its page", register(page.mfn().raw(), offset))?;
    }
    for mfn in [0, 1, u64::MAX, 1 << 40, 0x5555_5555_5555_5555] {
        call::refused_somehow("information in no frame", register(mfn, 0))?;
    }
    let table = Frame::read_only()?;
    ensure_eq!(table.ext(pv_abi::mmu::MmuextCmd::PinL1Table), 0, "pinning");
    call::refused_somehow("information in a page table", register(table.mfn().raw(), 0))?;
    ensure_eq!(table.ext(pv_abi::mmu::MmuextCmd::UnpinTable), 0, "unpinning");
    // Areas by address, which the hypervisor writes when it likes.
    for op in [5, 13] {
        for address in NO_MEMORY {
            let _any = call::call(H::VcpuOp, [op, 0, call::address(&[address])]);
            pv_guest_kernel::sched::yield_now();
        }
        let _none = call::call(H::VcpuOp, [op, 0, call::address(&[0_u64])]);
    }
    alive()
}

fn vcpus_initialised_with_nonsense(_: &'static Context) -> Claim {
    let mut context = vec![u64::MAX; 1024];
    for round in 0..200_u64 {
        for (n, word) in (0..).zip(context.iter_mut()) {
            *word = (round * 0x9e37_79b9_7f4a_7c15 + n).rotate_left(u32::try_from(n % 64).unwrap_or(0))
                * (round % 3);
        }
        for vcpu in [0, 1, 32, 1 << 31] {
            let answer = call::call(H::VcpuOp, [0, vcpu, call::address(&context[..])]);
            ensure!(answer != 0, "vcpu {vcpu} was initialised with nonsense");
        }
    }
    for vcpu in [1, 2, 31, 8192, u64::from(u32::MAX)] {
        for op in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13] {
            let _any = call::call(H::VcpuOp, [op, vcpu, call::address(&context[..])]);
        }
    }
    alive()
}

fn version_answers_leak_nothing(_: &'static Context) -> Claim {
    const CANARY: u8 = 0xa5;
    // Bytes that each answer may have; what is behind them must stay.
    for (op, length) in [(1, 16), (2, 144), (3, 1024), (4, 64), (5, 8), (6, 8), (8, 16), (9, 1024)] {
        let mut buffer = vec![CANARY; 4096];
        let answer = call::call(H::XenVersion, [op, call::address_mut(&mut buffer[..])]);
        if answer < 0 {
            continue;
        }
        ensure!(buffer[length..].iter().all(|byte| *byte == CANARY), "operation {op} wrote past its end");
        if [1, 2, 3, 4, 9].contains(&op) {
            // Texts: all that is behind the end of a text is zero, up to the next field.
            let ends: &[usize] = if op == 2 { &[64, 80, 112, 144] } else { &[length] };
            let mut start = 0;
            for field_end in ends {
                let text = &buffer[start..*field_end];
                start = *field_end;
                let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
                let rest_is_zero = text[end..].iter().all(|byte| *byte == 0);
                let rest_is_ours = text[end..].iter().skip(1).all(|byte| *byte == CANARY);
                ensure!(rest_is_zero || rest_is_ours, "operation {op} leaves bytes behind a text");
            }
        }
    }
    Ok(())
}

fn unprivileged_operations_of_every_number(context: &'static Context) -> Claim {
    // Wrong versions of the interfaces, and every command with nonsense: dom0 may ask, but not for its own end.
    for call in [H::Domctl, H::Sysctl, H::PlatformOp] {
        for command in (0..96_u32).chain([1000, u32::MAX]) {
            for version in [0, 0x15, 0x14, u32::MAX] {
                let mut words = vec![0_u32; 64];
                (words[0], words[1]) = (command, version);
                words[2] = if context.is_dom0() { 0x7123 } else { 0 };
                // Power off and sleep states are what platform_op is for.
                if call == H::PlatformOp && [45, 51, 61].contains(&command) {
                    continue;
                }
                let answer = call::call(call, [call::address_mut(&mut words[..])]);
                ensure!(context.is_dom0() || answer < 0, "{call:?} {command} worked for a guest");
            }
        }
    }
    alive()
}

fn every_hypercall_number_with_nonsense(_: &'static Context) -> Claim {
    // Numbers that are not in the table, with bits that a shift or a table look-up might lose.
    for number in
        (41..48).chain(57..300).chain([1 << 31, 1 << 32, (1 << 32) + 17, 1 << 63, u64::MAX, u64::MAX - 37])
    {
        let answer = call::number(number, [u64::MAX; 5]);
        call::refused(&format!("call {number:#x}"), answer, Errno::NoSys)?;
    }
    alive()
}
