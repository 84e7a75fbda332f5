//! Counts the same operations while a machine grows: more domains, more event channels, more grant frames.
//!
//! `axis=domains|channels|frames|pcpus` on the command line says what grows; for `pcpus` the machine has to differ from run
//! to run, and `have=N` says how many it has. Rows are `BENCH OPERATION@AXIS=N operations instructions nanoseconds`.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::vec::Vec;
use pv_abi::domctl::DomctlCreatedomain;
use pv_abi::evtchn::{EvtchnAllocUnbound, EvtchnClose, EvtchnOp, EvtchnSend};
use pv_abi::grant::{
    GntcopyFlags, GntmapFlags, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef, GnttabOp, GnttabUnmapGrantRef,
};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, GrantRef, VcpuId};
use pv_abi::mmu::{MmuextCmd, UvmFlags};
use pv_abi::pte::Pte;
use pv_abi::sched::SchedOp;
use pv_guest_kernel::event::{self, EventChannel};
use pv_guest_kernel::grant::{Access, GrantedPages};
use pv_guest_kernel::hypercall::{mmu, raw};
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{Pages, Prot, SharedPages};
use pv_guest_kernel::privileged::control;
use pv_guest_kernel::{Context, time};
use test_guests::meter::Meter;
use test_guests::{Claim, Trouble, call, ensure, ensure_eq};

test_guests::claim!(operations_are_measured_while_the_machine_grows);

const DOMAINS: [usize; 4] = [1, 10, 100, 1000];
const CHANNELS: [usize; 6] = [10, 50, 200, 1000, 2000, 4000];
const FRAMES: [usize; 4] = [1, 4, 16, 64];
/// Grants of a frame of the table.
const GRANTS_PER_FRAME: usize = 512;
/// A time that does not come while this runs.
const FAR_NS: u64 = 3_600_000_000_000;

fn operations_are_measured_while_the_machine_grows(context: &'static Context) -> Claim {
    let meter = Meter::new(context)?;
    let work = Work::new()?;
    match context.option("axis") {
        Some("pcpus") => work.measure(&meter, &format!("pcpus={}", context.option("have").unwrap_or("?"))),
        Some("domains") => domains(&meter, &work),
        Some("channels") => channels(&meter, &work),
        Some("frames") => frames(&meter, work),
        _ => Err(Trouble::error("axis=domains|channels|frames|pcpus is missing")),
    }
}

/// Domains that are there, each with a vcpu and an event channel to this one, and do nothing.
fn domains(meter: &Meter, work: &Work) -> Claim {
    let own = test_guests::own_domain()?;
    let mut have = 0;
    for wanted in DOMAINS {
        while have < wanted {
            let params = DomctlCreatedomain {
                max_vcpus: 1,
                max_evtchn_port: u32::MAX,
                max_grant_frames: 4,
                max_maptrack_frames: 4,
                grant_opts: 1,
                ..DomctlCreatedomain::default()
            };
            let dom = control::create(&params)?;
            control::set_max_vcpus(dom, 1)?;
            event::alloc_unbound_for(dom, own)?;
            have += 1;
        }
        work.measure(meter, &format!("domains={have}"))?;
    }
    Ok(())
}

/// Ports that are bound, the one that is measured last.
fn channels(meter: &Meter, work: &Work) -> Claim {
    let mut held = Vec::new();
    for wanted in CHANNELS {
        while held.len() < wanted {
            held.push(event::bind_ipi(VcpuId::new(0))?);
        }
        let newest = held.last().ok_or(Trouble::error("no channel"))?;
        work.measure_with(meter, &format!("channels={wanted}"), newest)?;
    }
    Ok(())
}

/// Frames of the grant table, the grant that is measured in the last of them.
fn frames(meter: &Meter, mut work: Work) -> Claim {
    let own = test_guests::own_domain()?;
    let mut held = Vec::new();
    for wanted in FRAMES {
        // The first frame has some entries that nobody may use, and some that the SDK does.
        while work.granted.references().iter().all(|gref| frame_of(*gref) + 1 < wanted) {
            let count = GRANTS_PER_FRAME / 2;
            let more = GrantedPages::new(own, count, Access::ReadWrite)?;
            held.push(core::mem::replace(&mut work.granted, more));
        }
        work.measure(meter, &format!("frames={wanted}"))?;
    }
    Ok(())
}

fn frame_of(gref: GrantRef) -> usize {
    usize::try_from(gref.raw()).unwrap_or(0) / GRANTS_PER_FRAME
}

/// What the operations need.
struct Work {
    own: DomId,
    channel: EventChannel,
    range: Range,
    page: Pages,
    granted: GrantedPages,
    target: SharedPages,
}

impl Work {
    fn new() -> Claim<Self> {
        let own = test_guests::own_domain()?;
        Ok(Self {
            own,
            channel: event::bind_ipi(VcpuId::new(0))?,
            range: Range::reserve(2)?,
            page: Pages::new(1).ok_or(Trouble::error("no memory"))?,
            granted: GrantedPages::new(own, 1, Access::ReadWrite)?,
            target: SharedPages::new(1).ok_or(Trouble::error("no memory"))?,
        })
    }

    fn measure(&self, meter: &Meter, end: &str) -> Claim {
        self.measure_with(meter, end, &self.channel)
    }

    fn measure_with(&self, meter: &Meter, end: &str, channel: &EventChannel) -> Claim {
        let name = |operation: &str| format!("{operation}@{end}");
        meter.row(&name("null_hypercall"), 1, || {
            raw::nothing();
            Ok(())
        })?;
        events(meter, &name, channel)?;
        self.entries(meter, &name)?;
        let operation = [u64::from(SchedOp::Yield.raw()), 0];
        meter.row(&name("sched_yield"), 1, || {
            ensure_eq!(call::call(Hypercall::SchedOp, operation), 0, "yielding");
            Ok(())
        })?;
        let mut deadline = time::now_ns() + FAR_NS;
        meter.row(&name("timer_set"), 1, || {
            deadline += 1000;
            ensure_eq!(call::call(Hypercall::SetTimerOp, [deadline]), 0, "the timer");
            Ok(())
        })?;
        ensure_eq!(call::call(Hypercall::SetTimerOp, [0]), 0, "no timer");
        self.grants(meter, &name)
    }

    fn entries(&self, meter: &Meter, name: &dyn Fn(&str) -> alloc::string::String) -> Claim {
        let mfn = self.page.mfn(0).ok_or(Trouble::error("no frame"))?;
        let (full, at) = (Pte::new(mfn, Prot::ReadWrite.flags()), self.range.start());
        let flags = UvmFlags::INVLPG | UvmFlags::ALL;
        meter.row(&name("update_va_mapping_and_invlpg_all"), 2, || {
            ensure_eq!(call::update_va_mapping(at, full, flags), 0, "mapping");
            ensure_eq!(call::update_va_mapping(at, Pte::EMPTY, flags), 0, "unmapping");
            Ok(())
        })?;
        let flush = [mmu::on_address(MmuextCmd::TlbFlushAll, 0)];
        meter.row(&name("tlb_flush_all"), 1, || {
            ensure_eq!(call::mmuext_op(&flush), (0, 1), "flushing");
            Ok(())
        })
    }

    fn grants(&self, meter: &Meter, name: &dyn Fn(&str) -> alloc::string::String) -> Claim {
        let gref = self.granted.references().last().copied().ok_or(Trouble::error("no reference"))?;
        let mut map = [GnttabMapGrantRef {
            host_addr: self.range.page(1),
            flags: GntmapFlags::HOST_MAP.bits(),
            gref: gref.raw(),
            dom: self.own.raw(),
            ..GnttabMapGrantRef::default()
        }];
        let mut unmap =
            [GnttabUnmapGrantRef { host_addr: self.range.page(1), ..GnttabUnmapGrantRef::default() }];
        meter.row(&name("grant_map_and_unmap"), 1, || {
            grant_call(GnttabOp::MapGrantRef, &mut map)?;
            ensure_eq!(map[0].status, 0, "the map");
            unmap[0].handle = map[0].handle;
            grant_call(GnttabOp::UnmapGrantRef, &mut unmap)
        })?;
        let mfn = self.target.mfn(0).ok_or(Trouble::error("no frame"))?;
        let mut copy = [GnttabCopy {
            source: GnttabCopyPtr { u: gref.raw().into(), domid: self.own.raw(), ..GnttabCopyPtr::default() },
            dest: GnttabCopyPtr { u: mfn.raw(), domid: DomId::SELF.raw(), ..GnttabCopyPtr::default() },
            len: 64,
            flags: GntcopyFlags::SOURCE_GREF.bits(),
            ..GnttabCopy::default()
        }];
        meter.row(&name("grant_copy_of_64_bytes"), 1, || grant_call(GnttabOp::Copy, &mut copy))?;
        ensure_eq!((copy[0].status, unmap[0].status), (0, 0), "the copy and the unmap");
        Ok(())
    }
}

fn grant_call<T>(op: GnttabOp, entries: &mut [T]) -> Claim {
    let args = [u64::from(op.raw()), call::address_mut(entries), entries.len() as u64];
    ensure_eq!(call::call(Hypercall::GrantTableOp, args), 0, "{op:?}");
    Ok(())
}

fn events(meter: &Meter, name: &dyn Fn(&str) -> alloc::string::String, channel: &EventChannel) -> Claim {
    let operate = |op: EvtchnOp, argument: u64| {
        ensure_eq!(call::call(Hypercall::EventChannelOp, [u64::from(op.raw()), argument]), 0, "{op:?}");
        Ok(())
    };
    let mut argument = EvtchnSend { port: channel.port().raw() };
    meter.row(&name("event_to_self_through_sdk"), 1, || {
        operate(EvtchnOp::Send, call::address_mut(&mut argument))?;
        ensure!(channel.try_take(), "an event that did not come");
        Ok(())
    })?;
    meter.row(&name("event_alloc_and_close"), 1, || {
        let own = DomId::SELF.raw();
        let mut made = EvtchnAllocUnbound { dom: own, remote_dom: own, port: 0 };
        operate(EvtchnOp::AllocUnbound, call::address_mut(&mut made))?;
        let mut made = EvtchnClose { port: made.port };
        operate(EvtchnOp::Close, call::address_mut(&mut made))
    })
}
