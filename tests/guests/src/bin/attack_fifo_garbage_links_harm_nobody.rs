//! Garbage in event words and control blocks (links to anywhere and in circles, ports marked as queued that are not, ports
//! that are busy for ever, ready bits without a queue) neither stops the hypervisor nor loses events of a kernel that keeps the
//! protocol afterwards; another vcpu that changes the words all the time does not hold up a send.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use pv_abi::evtchn::{EventWord, EvtchnExpandArray, EvtchnInitControl, EvtchnOp, EvtchnReset, EvtchnUnmask};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, VcpuId};
use pv_guest_kernel::event::{self, Abi, EventChannel};
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::memory::SharedPages;
use pv_guest_kernel::{Context, hypercall, sched, smp};
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claim!(attack_fifo_garbage_links_harm_nobody);

const PORTS: usize = 24;
const ROUNDS: u32 = 300;
const LINKED: u32 = EventWord::LINKED.bits();
const BUSY: u32 = EventWord::BUSY.bits();

static STOP: AtomicBool = AtomicBool::new(false);
static CHANGES: AtomicU64 = AtomicU64::new(0);

fn op<T>(op: EvtchnOp, mut argument: T) -> i64 {
    call::call(Hypercall::EventChannelOp, [u64::from(op.raw()), call::address_mut(&mut argument)])
}

/// Booted with `events=2l`: the pages are the attacker's own, and the kernel works on as soon as it has reset them.
fn attack_fifo_garbage_links_harm_nobody(_: &'static Context) -> Claim {
    if event::abi() != Abi::TwoLevel {
        return Err(Trouble::error("the kernel uses FIFO events already"));
    }
    // From here on no event is handled: the kernel looks at bitmaps, and there are none.
    event::mask();
    let mut channels: Vec<EventChannel> = Vec::new();
    for _ in 0..PORTS {
        channels.push(event::bind_ipi(VcpuId::new(0))?);
    }
    let pages: &'static SharedPages =
        alloc::boxed::Box::leak(alloc::boxed::Box::new(SharedPages::new(2).ok_or(Errno::NoMem)?));
    let control_gfn = pages.mfn(0).ok_or(Errno::Inval)?.raw();
    let control = EvtchnInitControl { control_gfn, ..EvtchnInitControl::default() };
    call::granted("a control block", op(EvtchnOp::InitControl, control))?;
    // The page of event words is the control block's too: each write to one is garbage for the other.
    for gfn in [pages.mfn(1).ok_or(Errno::Inval)?.raw(), control_gfn] {
        call::granted("event words", op(EvtchnOp::ExpandArray, EvtchnExpandArray { array_gfn: gfn }))?;
    }
    let restless = smp::vcpu_count() > 1;
    if restless {
        smp::start(VcpuId::new(1), move || never_still(pages))?;
        while CHANGES.load(Ordering::Relaxed) == 0 {
            sched::yield_now();
        }
    }
    storm(pages, &channels)?;
    STOP.store(true, Ordering::Relaxed);
    call::granted("reset", op(EvtchnOp::Reset, EvtchnReset { dom: DomId::SELF.raw() }))?;
    channels.into_iter().for_each(|channel| {
        channel.leak();
    });
    event::unmask();
    the_kernel_works_on()
}

fn storm(pages: &SharedPages, channels: &[EventChannel]) -> Claim {
    let mut random = 0x2545_f491_u32;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random
    };
    for round in 0..ROUNDS {
        for (n, channel) in channels.iter().enumerate() {
            let port = channel.port().raw();
            let value = match round % 6 {
                // To itself; in a circle of two; out of the array; queued by nobody; busy for ever; anything.
                0 => LINKED | port,
                1 => LINKED | port ^ 1,
                2 => LINKED | 0x1_ffff,
                3 => LINKED,
                4 => BUSY | LINKED | port,
                _ => next(),
            };
            poke(pages, 1, port as usize, value);
            if n % 5 == 0 {
                poke(pages, 0, (next() % 18) as usize, next());
            }
            channel.notify()?;
            if round % 3 == 0 {
                call::granted("unmask", op(EvtchnOp::Unmask, EvtchnUnmask { port }))?;
            }
        }
        // Some words are taken off as a kernel would, so that ports are linked behind garbage.
        for channel in channels.iter().step_by(2) {
            poke(pages, 1, channel.port().raw() as usize, 0);
            channel.notify()?;
        }
    }
    Ok(())
}

fn poke(pages: &SharedPages, page: usize, index: usize, value: u32) {
    let words: &[AtomicU32; 1024] = pages.area().view(page * 4096);
    words[index % 1024].store(value, Ordering::Relaxed);
}

/// Changes the words of all ports and the control block without an end.
fn never_still(pages: &'static SharedPages) {
    let mut value = 0_u32;
    while !STOP.load(Ordering::Relaxed) {
        for index in 0..64 {
            value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            poke(pages, 1, index, value | LINKED);
            poke(pages, 0, index % 18, value);
        }
        CHANGES.fetch_add(1, Ordering::Relaxed);
    }
}

/// Two-level events work again, and so do FIFO events of a kernel that begins anew.
fn the_kernel_works_on() -> Claim {
    let channel = event::bind_ipi(VcpuId::new(0))?;
    for _ in 0..50 {
        channel.notify()?;
        hypercall::raw::nothing();
        ensure!(channel.try_take(), "an event was lost after the garbage");
    }
    let status = channel.status()?;
    ensure_eq!(status.status, 5, "the status of an IPI");
    Ok(())
}
