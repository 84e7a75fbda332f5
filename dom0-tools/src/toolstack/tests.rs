//! The toolstack over a fake machine.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::ids::{DomId, Mfn};
use pv_abi::start_info::StartInfo;
use zerocopy::FromBytes;

use super::fake::World;
use super::ports::ShutdownReason;
use super::*;
use crate::cfg::{DomainConfig, parse_config};
use crate::ctl::Exit;

/// A PV kernel as small as can be: one segment at 1 MiB, a hypercall page.
fn kernel() -> Vec<u8> {
    let mut notes = Vec::new();
    let entries: [(u32, &[u8]); 4] =
        [(5, b"xen-3.0\0"), (6, b"test\0"), (8, b"generic\0"), (2, &0x10_1000u64.to_le_bytes())];
    for (kind, desc) in entries {
        notes.extend(4u32.to_le_bytes());
        notes.extend(u32::try_from(desc.len()).unwrap().to_le_bytes());
        notes.extend(kind.to_le_bytes());
        notes.extend(b"Xen\0");
        notes.extend(desc);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01");
    file.resize(16, 0);
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(0x10_0000u64.to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.resize(54, 0);
    file.extend(56u16.to_le_bytes());
    file.extend(2u16.to_le_bytes());
    file.resize(64, 0);
    let at = 64 + 2 * 56;
    for (kind, offset, paddr, len, mem) in
        [(1u32, at, 0x10_0000u64, 16u64, 0x3000u64), (4, at + 16, 0, notes.len() as u64, notes.len() as u64)]
    {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for field in [offset, paddr, paddr, len, mem, 4096] {
            file.extend(field.to_le_bytes());
        }
    }
    file.extend([0x90; 16]);
    file.extend(notes);
    file
}

fn config(more: &str) -> DomainConfig {
    let text = format!("kernel='/k'\nmemory=8\n{more}");
    let text = if more.contains("name=") { text } else { format!("name='g'\n{text}") };
    parse_config("test", &text, &[]).unwrap().0
}

fn create(world: &mut World, config: &DomainConfig, options: CreateOptions) -> Result<DomId, Error> {
    let kernel = kernel();
    let mut job = CreateJob::new(config, &kernel, None, options)?;
    loop {
        if let Progress::Done(dom) = job.step(&mut world.env())? {
            return Ok(dom);
        }
    }
}

pub(super) fn started(world: &mut World, more: &str) -> DomId {
    create(world, &config(more), CreateOptions::default()).unwrap()
}

const DISK: &str =
    "disk=['phy:/dev/vdb,xvda,w']\nvif=['ip=10.0.2.15,rate=8Mb/s']\nextra='debug'\nvcpus=2\nmaxvcpus=3";

#[test]
fn a_created_domain_has_all_it_needs() {
    let mut world = World::new();
    let dom = started(&mut world, DISK);
    let domain = &world.hv.domains[&dom];
    assert_eq!(domain.info.tot_pages, 2048);
    assert_eq!((domain.info.max_vcpu_id, domain.info.paused), (2, false));
    assert_eq!(domain.map_bytes, 8 << 20);
    let (vcpu, cr3) = domain.vcpu0.unwrap();
    assert_eq!((vcpu.rip.raw(), Some(cr3)), (0x10_0000, domain.pinned));
    assert_eq!(cr3, domain.p2m[&vcpu.cr3.raw()]);
    assert_eq!(domain.hypercall_page, Some(domain.p2m[&0x101]));
    let page = &domain.memory[&domain.p2m[&(vcpu.rsi.raw() >> 12)]];
    let info = StartInfo::read_from_prefix(page).unwrap().0;
    assert_eq!(info.command_line(), b"debug");
    assert_eq!((info.store_evtchn, info.console_evtchn), (1, 2));
    assert_eq!(info.shared_info, 0x5001 << 12);
    let shared = &domain.memory[&domain.info.shared_info];
    assert!((0..32).all(|vcpu| shared[vcpu * 64..][..2] == [0, 1]), "upcalls are masked");
    assert_eq!(domain.memory[&Mfn::new(0x5001)][64 + 1], 1, "upcalls of vcpu 1 are open");
    assert_eq!(domain.grants[&0], (DomId::DOM0, Mfn::new(info.console_mfn)));
    assert_eq!(domain.grants[&1], (DomId::DOM0, Mfn::new(info.store_mfn)));
    assert_eq!(domain.memory[&domain.p2m[&0x100]][..16], [0x90; 16]);
    assert!(domain.memory.contains_key(&Mfn::new(info.store_mfn)));
    assert!(world.services.stores.contains(&dom));
    assert_eq!(world.services.consoles[&dom], "g");
}

#[test]
fn xenstore_describes_the_domain() {
    let mut world = World::new();
    started(&mut world, DISK);
    let nodes = world.nodes();
    let get = |path: &str| {
        let found = nodes.iter().find(|(p, _)| p == path);
        found.unwrap_or_else(|| panic!("{path} is missing")).1.clone()
    };
    assert_eq!(get("/local/domain/1/name"), "g");
    assert_eq!(get("/local/domain/1/vm"), "/vm/01010101-0101-0101-0101-010101010101");
    assert_eq!(get("/local/domain/1/domid"), "1");
    assert_eq!(get("/local/domain/1/memory/target"), "8192");
    assert_eq!(get("/local/domain/1/cpu/1/availability"), "online");
    assert_eq!(get("/local/domain/1/cpu/2/availability"), "offline");
    assert_eq!(get("/local/domain/1/store/port"), "1");
    assert_eq!(get("/local/domain/1/console/port"), "2");
    assert_eq!(get("/local/domain/1/device/vbd/51712/backend"), "/local/domain/0/backend/vbd/1/51712");
    assert_eq!(get("/local/domain/1/device/vbd/51712/state"), "1");
    assert_eq!(get("/local/domain/0/backend/vbd/1/51712/params"), "/dev/vdb");
    assert_eq!(get("/local/domain/0/backend/vbd/1/51712/mode"), "w");
    assert_eq!(get("/local/domain/0/backend/vbd/1/51712/persistent"), "0");
    assert_eq!(get("/local/domain/0/backend/vbd/1/51712/physical-device"), "fe:10");
    let mac = crate::net::Mac::for_interface("g", 0).to_string();
    assert_eq!(get("/local/domain/1/device/vif/0/backend"), "/local/domain/0/backend/vif/1/0");
    assert_eq!(get("/local/domain/1/device/vif/0/mac"), mac);
    assert_eq!(get("/local/domain/1/device/vif/0/handle"), "0");
    assert_eq!(get("/local/domain/0/backend/vif/1/0/mac"), mac);
    assert_eq!(get("/local/domain/0/backend/vif/1/0/bridge"), "xenbr0");
    assert_eq!(get("/local/domain/0/backend/vif/1/0/ip"), "10.0.2.15");
    assert_eq!(get("/local/domain/0/backend/vif/1/0/rate"), "50000,50000");
}

#[test]
fn no_two_interfaces_have_one_address() {
    let mut world = World::new();
    let vif = "vif=['mac=00:16:3e:00:00:07']";
    started(&mut world, vif);
    let clean = world.footprint();
    let twin = create(&mut world, &config(&alloc::format!("name='twin'\n{vif}")), CreateOptions::default());
    assert_eq!(twin.unwrap_err().to_string(), "another interface has the address 00:16:3e:00:00:07");
    assert_eq!(world.footprint(), clean);
}

#[test]
fn a_disk_that_is_written_is_nobody_elses() {
    let mut world = World::new();
    let disk = |name: &str, mode: &str| format!("name='{name}'\ndisk=['phy:vdb,xvda,{mode}']");
    let mut try_both = |first: &str, second: &str| {
        let dom = started(&mut world, &disk("first", first));
        let clean = world.footprint();
        let made = create(&mut world, &config(&disk("second", second)), CreateOptions::default());
        match made {
            Ok(other) => destroy(&mut world.env(), other).unwrap(),
            Err(_) => assert_eq!(world.footprint(), clean),
        }
        destroy(&mut world.env(), dom).unwrap();
        made.map(drop).map_err(|error| error.to_string())
    };
    let busy = Err("disk 'vdb' is in use: a disk that one domain writes to is no other's".to_string());
    assert_eq!(try_both("w", "w"), busy);
    assert_eq!(try_both("w", "r"), busy);
    assert_eq!(try_both("r", "w"), busy);
    assert_eq!(try_both("r", "r"), Ok(()));
    let mut twice = |modes: [&str; 2]| {
        let text = format!("disk=['phy:vdb,xvda,{}', '/dev/vdb,raw,xvdb,{}']", modes[0], modes[1]);
        create(&mut world, &config(&text), CreateOptions::default()).map_err(|error| error.to_string())
    };
    let refused = Err("disk '/dev/vdb' is there twice, and is written to".to_string());
    assert_eq!(twice(["w", "w"]), refused);
    assert_eq!(twice(["r", "w"]), refused);
    assert!(twice(["r", "r"]).is_ok());
}

/// Asks the store as the guest.
fn as_guest(world: &mut World, dom: DomId, op: u32, payload: &[u8]) -> String {
    use crate::xenstore::wire::{HEADER_LEN, message};
    let store = &mut world.store.inner;
    let conn = store.introduce(dom).unwrap();
    store.input(conn, &message(op, 1, 0, payload).unwrap());
    let reply = store.output(conn)[HEADER_LEN..].to_vec();
    store.disconnect(conn);
    store.introduced.remove(&dom);
    String::from_utf8(reply).unwrap().trim_end_matches('\0').to_string()
}

#[test]
fn a_guest_can_write_what_is_its_own_and_nothing_else() {
    const READ: u32 = 2;
    const WRITE: u32 = 11;
    const SET_PERMS: u32 = 14;
    let mut world = World::new();
    let dom = started(&mut world, DISK);
    assert_eq!(as_guest(&mut world, dom, READ, b"domid\0"), "1");
    assert_eq!(as_guest(&mut world, dom, READ, b"console/port\0"), "2");
    for own in ["data/x", "control/shutdown", "device/vbd/51712/state", "device/vbd/51712/ring-ref"] {
        assert_eq!(as_guest(&mut world, dom, WRITE, format!("{own}\x004").as_bytes()), "OK", "{own}");
    }
    let others = [
        "console/ring-ref",
        "console/tty",
        "store/port",
        "name",
        "vm",
        "domid",
        "new",
        "memory/target",
        "device/vif",
        "/local/domain/0/backend/vbd/1/51712/params",
        "/local/domain/0/x",
        "/vm/01010101-0101-0101-0101-010101010101/name",
    ];
    for other in others {
        assert_eq!(as_guest(&mut world, dom, WRITE, format!("{other}\x004").as_bytes()), "EACCES", "{other}");
    }
    assert_eq!(as_guest(&mut world, dom, SET_PERMS, b"console\0b1\0"), "EACCES");
}

#[test]
fn a_paused_start_stays_paused() {
    let mut world = World::new();
    let dom = create(&mut world, &config(""), CreateOptions { paused: true }).unwrap();
    assert!(world.hv.domains[&dom].info.paused);
}

#[test]
fn whatever_fails_leaves_nothing_behind() {
    let mut reference = World::new();
    let before = reference.faults.borrow().calls;
    started(&mut reference, DISK);
    let calls = reference.faults.borrow().calls - before;
    assert!(calls > 60, "{calls}");
    for n in 1..=calls {
        let mut world = World::new();
        // dom0's directories of back ends stay once they were made.
        for kind in ["vbd", "vif"] {
            world.store.inner.mkdir(&alloc::format!("/local/domain/0/backend/{kind}")).unwrap();
        }
        world.store.inner.mkdir("/vm").unwrap();
        let clean = world.footprint();
        let at = world.faults.borrow().calls + n;
        world.faults.borrow_mut().fail_at = Some(at);
        let result = create(&mut world, &config(DISK), CreateOptions::default());
        assert!(result.is_err(), "call {n} was not needed");
        world.faults.borrow_mut().fail_at = None;
        assert_eq!(
            world.footprint(),
            clean,
            "after call {n}: {:?}",
            world.faults.borrow().log.get(usize::try_from(at - 1).unwrap())
        );
        world.store.inner.audit().unwrap();
    }
}

#[test]
fn a_job_given_up_at_any_step_leaves_nothing_behind() {
    for steps in 0.. {
        let mut world = World::new();
        world.store.inner.mkdir("/vm").unwrap();
        world.store.inner.mkdir("/local/domain/0/backend/vbd").unwrap();
        let clean = world.footprint();
        let (config, kernel) = (config(DISK), kernel());
        let mut job = CreateJob::new(&config, &kernel, None, CreateOptions::default()).unwrap();
        for _ in 0..steps {
            if let Progress::Done(_) = job.step(&mut world.env()).unwrap() {
                assert!(steps > 5);
                job.abandon(&mut world.env());
                assert_eq!(world.hv.domains.len(), 1);
                return;
            }
        }
        job.abandon(&mut world.env());
        assert_eq!(world.footprint(), clean);
        assert!(job.step(&mut world.env()).is_err());
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    let mut world = World::new();
    started(&mut world, "");
    let mut refused =
        |more: &str| create(&mut world, &config(more), CreateOptions::default()).unwrap_err().to_string();
    assert_eq!(refused(""), "a domain named 'g' exists already");
    assert_eq!(
        refused("name='h'\ndisk=['phy:/nope,xvda,w']"),
        "there is no disk '/nope'; disks shows those of dom0"
    );
    assert_eq!(refused("name='h'\ndisk=['phy:cd,xvda,w']"), "disk 'cd' can only be read; configure it so");
    world.hv.free_pages = 2000;
    let error = create(&mut world, &config("name='h'"), CreateOptions::default()).unwrap_err();
    assert_eq!(error, Error::NoMemory { need_kib: 9216, free_kib: 8000 });
    let config = config("name='h'");
    let error = CreateJob::new(&config, b"#!/bin/sh", None, CreateOptions::default()).err().unwrap();
    assert_eq!(error.to_string(), "/k: not an ELF file, nor a bzImage");
}

#[test]
fn what_the_machine_cannot_hold_is_not_even_planned() {
    let mut world = World::new();
    let mut config = config("");
    (config.memory_mib, config.maxmem_mib) = (16 << 20, 16 << 20);
    let mut kernel = kernel();
    // Its only segment says that it takes 15 TiB: page tables for that would take dom0's own memory.
    kernel[64 + 40..][..8].copy_from_slice(&(15_u64 << 40).to_le_bytes());
    let mut job = CreateJob::new(&config, &kernel, None, CreateOptions::default()).unwrap();
    assert!(matches!(job.step(&mut world.env()), Err(Error::NoMemory { .. })));
    assert!(world.hv.domains.is_empty());
}

#[test]
fn memory_that_runs_out_on_the_way_is_given_back() {
    let mut world = World::new();
    world.store.inner.mkdir("/vm").unwrap();
    let (config, kernel) = (config(""), kernel());
    let mut job = CreateJob::new(&config, &kernel, None, CreateOptions::default()).unwrap();
    job.step(&mut world.env()).unwrap();
    world.hv.free_pages = 1000;
    let clean = 1000;
    let error = loop {
        match job.step(&mut world.env()) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::NoMemory { free_kib: 4000, .. }), "{error:?}");
    assert_eq!((world.hv.free_pages, world.hv.domains.len()), (clean, 0));
}

#[test]
fn a_thousand_rounds_lose_nothing() {
    let mut world = World::new();
    let dom = started(&mut world, DISK);
    destroy(&mut world.env(), dom).unwrap();
    let clean = world.footprint();
    for _ in 0..250 {
        world.hv.next_dom %= 200;
        let dom = started(&mut world, DISK);
        destroy(&mut world.env(), dom).unwrap();
    }
    assert_eq!(world.footprint(), clean);
}

#[test]
fn domains_are_found_by_name_and_number() {
    let mut world = World::new();
    let dom = started(&mut world, "");
    let mut env = world.env();
    assert_eq!(resolve(&mut env, "g"), Ok(dom));
    assert_eq!(resolve(&mut env, "1"), Ok(dom));
    assert_eq!(resolve(&mut env, "Domain-0"), Ok(DomId::DOM0));
    for bad in ["h", "2", "99999", "", "-1"] {
        let error = resolve(&mut env, bad).unwrap_err();
        assert_eq!(error.exit(), Exit::NoDomain, "{bad}");
    }
    let names: Vec<String> = list(&mut env, None).unwrap().into_iter().map(|d| d.name).collect();
    assert_eq!(names, ["Domain-0", "g"]);
    assert_eq!(vcpu_list(&mut env, None).unwrap().len(), 2);
    assert!(list(&mut env, Some(DomId::new(9))).is_err());
}

#[test]
fn dom0_is_not_ended_and_the_gone_are_told() {
    let mut world = World::new();
    let mut env = world.env();
    assert_eq!(destroy(&mut env, DomId::DOM0), Err(Error::IsDom0));
    assert_eq!(pause(&mut env, DomId::DOM0), Err(Error::IsDom0));
    assert_eq!(request_stop(&mut env, DomId::DOM0, Stop::Reboot), Err(Error::IsDom0));
    let gone = Error::NoSuchDomain("9".into());
    assert_eq!(destroy(&mut env, DomId::new(9)), Err(gone.clone()));
    assert_eq!(pause(&mut env, DomId::new(9)), Err(gone.clone()));
    assert_eq!(unpause(&mut env, DomId::new(9)), Err(gone));
}

#[test]
fn a_guest_is_asked_through_xenstore() {
    let mut world = World::new();
    let dom = started(&mut world, "");
    request_stop(&mut world.env(), dom, Stop::Poweroff).unwrap();
    assert_eq!(world.store.read("/local/domain/1/control/shutdown").unwrap(), b"poweroff");
    world.hv.domains.get_mut(&dom).unwrap().info.shutdown = Some(ShutdownReason::Crash);
    assert_eq!(request_stop(&mut world.env(), dom, Stop::Reboot), Err(Error::NotRunning(dom)));
}

fn managed(world: &mut World, more: &str) -> (Lifecycle, DomId) {
    let dom = started(world, more);
    let mut lifecycle = Lifecycle::default();
    lifecycle.adopt(&mut world.env(), dom, config(more), 0);
    (lifecycle, dom)
}

fn stop(world: &mut World, dom: DomId, reason: ShutdownReason) {
    world.hv.domains.get_mut(&dom).unwrap().info.shutdown = Some(reason);
}

#[test]
fn a_poweroff_ends_the_domain() {
    let mut world = World::new();
    let (mut lifecycle, dom) = managed(&mut world, "");
    assert!(lifecycle.poll(&mut world.env()).unwrap().is_empty());
    stop(&mut world, dom, ShutdownReason::Poweroff);
    let events = lifecycle.poll(&mut world.env()).unwrap();
    assert!(matches!(&events[..], [LifecycleEvent::Destroyed { reason: ShutdownReason::Poweroff, .. }]));
    assert!(world.hv.domains.is_empty());
    assert!(lifecycle.poll(&mut world.env()).unwrap().is_empty());
}

#[test]
fn a_failed_end_is_tried_again() {
    let mut world = World::new();
    let (mut lifecycle, dom) = managed(&mut world, "");
    stop(&mut world, dom, ShutdownReason::Crash);
    // list_domains is the first call, domain_info the second.
    let at = world.faults.borrow().calls + 2;
    world.faults.borrow_mut().fail_at = Some(at);
    let events = lifecycle.poll(&mut world.env()).unwrap();
    assert!(matches!(&events[..], [LifecycleEvent::Failed { .. }]), "{events:?}");
    let events = lifecycle.poll(&mut world.env()).unwrap();
    assert!(matches!(&events[..], [LifecycleEvent::Destroyed { .. }]), "{events:?}");
}

#[test]
fn preserve_keeps_and_rename_restart_renames() {
    let mut world = World::new();
    let (mut lifecycle, dom) = managed(&mut world, "on_crash='preserve'");
    stop(&mut world, dom, ShutdownReason::Crash);
    let events = lifecycle.poll(&mut world.env()).unwrap();
    assert!(matches!(&events[..], [LifecycleEvent::Preserved { .. }]));
    assert!(lifecycle.poll(&mut world.env()).unwrap().is_empty());
    assert_eq!(world.hv.domains.len(), 1);

    let (mut lifecycle, dom) =
        managed(&mut world, "name='h'\non_reboot='rename-restart'\ndisk=['phy:vdb,xvda,w']\nvif=['']");
    stop(&mut world, dom, ShutdownReason::Reboot);
    let events = lifecycle.poll(&mut world.env()).unwrap();
    let [LifecycleEvent::Restart { request, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(request.config.name, "h");
    assert_eq!(domain_name(&mut world.env(), dom), "h-2");
    // Disks and interfaces are the new one's.
    create(&mut world, &request.config.clone(), CreateOptions::default()).unwrap();
}

#[test]
fn a_renamed_domain_takes_no_name_of_another() {
    let mut world = World::new();
    let (mut lifecycle, dom) = managed(&mut world, "name='h'\non_reboot='rename-restart'");
    let taken = format!("h-{}", dom.raw());
    let (_, other) = managed(&mut world, &format!("name='{taken}'"));
    stop(&mut world, dom, ShutdownReason::Reboot);
    lifecycle.poll(&mut world.env()).unwrap();
    assert_eq!(domain_name(&mut world.env(), other), taken);
    assert_eq!(domain_name(&mut world.env(), dom), format!("{taken}-{}", dom.raw()));
}

#[test]
fn a_restart_loop_is_broken() {
    let mut world = World::new();
    let (mut lifecycle, mut dom) = managed(&mut world, "");
    for round in 0..20u64 {
        stop(&mut world, dom, ShutdownReason::Reboot);
        world.services.now_ns += 1_000_000_000;
        match &lifecycle.poll(&mut world.env()).unwrap()[..] {
            [LifecycleEvent::Restart { request, .. }] => {
                dom = create(&mut world, &request.config.clone(), CreateOptions::default()).unwrap();
                lifecycle.adopt(&mut world.env(), dom, request.config.clone(), request.quick_runs);
            }
            [LifecycleEvent::GaveUp { .. }] => {
                assert_eq!(round, 5);
                assert!(world.hv.domains.is_empty());
                return;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("it went on for ever");
}

#[test]
fn a_long_run_forgives_the_quick_ones() {
    let mut world = World::new();
    let (mut lifecycle, dom) = managed(&mut world, "");
    lifecycle.adopt(&mut world.env(), dom, config(""), 5);
    world.services.now_ns += 60_000_000_000;
    stop(&mut world, dom, ShutdownReason::Reboot);
    let events = lifecycle.poll(&mut world.env()).unwrap();
    let [LifecycleEvent::Restart { request, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(request.quick_runs, 0);
}
