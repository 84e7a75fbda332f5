//! A hypervisor, store and services for tests. The n-th call of any port can be made to fail.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomId, EvtchnPort, GrantRef, Mfn, Pfn, VcpuId};
use pv_image::InitialVcpu;

use super::ports::*;
use super::{Env, Hypervisor, Services, Store};
use crate::xenstore::{Quota, Xenstore};

pub(super) const HOST_PAGES: u64 = 100_000;

/// Shared by all three ports: counts calls and makes one of them fail.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) calls: u64,
    pub(super) fail_at: Option<u64>,
    pub(super) log: Vec<&'static str>,
}

impl Faults {
    fn call(&mut self, name: &'static str) -> Result<(), Errno> {
        self.calls += 1;
        self.log.push(name);
        if self.fail_at == Some(self.calls) { Err(Errno::Io) } else { Ok(()) }
    }
}

type SharedFaults = Rc<RefCell<Faults>>;

pub(super) struct FakeDomain {
    pub(super) info: DomainInfo,
    pub(super) p2m: BTreeMap<u64, Mfn>,
    pub(super) memory: BTreeMap<Mfn, Vec<u8>>,
    pub(super) pinned: Option<Mfn>,
    pub(super) grants: BTreeMap<u32, (DomId, Mfn)>,
    pub(super) ports: u32,
    pub(super) map_bytes: u64,
    pub(super) vcpu0: Option<(InitialVcpu, Mfn)>,
    pub(super) hypercall_page: Option<Mfn>,
}

pub(super) struct FakeHypervisor {
    pub(super) faults: SharedFaults,
    pub(super) domains: BTreeMap<DomId, FakeDomain>,
    pub(super) free_pages: u64,
    pub(super) next_mfn: u64,
    pub(super) next_dom: u16,
}

impl FakeHypervisor {
    fn dom(&mut self, name: &'static str, dom: DomId) -> Result<&mut FakeDomain, Errno> {
        self.faults.borrow_mut().call(name)?;
        self.domains.get_mut(&dom).ok_or(Errno::Srch)
    }
}

fn info(domid: DomId, handle: [u8; 16]) -> DomainInfo {
    DomainInfo {
        domid,
        handle,
        dying: false,
        shutdown: None,
        paused: true,
        blocked: false,
        running: false,
        tot_pages: 0,
        max_pages: 0,
        cpu_time_ns: 0,
        nr_online_vcpus: 0,
        max_vcpu_id: u32::MAX,
        shared_info: Mfn::new(0x5000 + u64::from(domid.raw())),
    }
}

impl Hypervisor for FakeHypervisor {
    fn create_domain(&mut self, params: &CreateDomain) -> Result<DomId, Errno> {
        self.faults.borrow_mut().call("create_domain")?;
        self.next_dom += 1;
        let domid = DomId::new(self.next_dom);
        let domain = FakeDomain {
            info: info(domid, params.handle),
            p2m: BTreeMap::new(),
            memory: BTreeMap::new(),
            pinned: None,
            grants: BTreeMap::new(),
            ports: 0,
            map_bytes: 0,
            vcpu0: None,
            hypercall_page: None,
        };
        self.domains.insert(domid, domain);
        Ok(domid)
    }

    fn destroy_domain(&mut self, dom: DomId) -> Result<(), Errno> {
        let pages = self.dom("destroy_domain", dom)?.info.tot_pages;
        self.domains.remove(&dom);
        self.free_pages += pages;
        Ok(())
    }

    fn set_max_vcpus(&mut self, dom: DomId, vcpus: u32) -> Result<(), Errno> {
        self.dom("set_max_vcpus", dom)?.info.max_vcpu_id = vcpus - 1;
        Ok(())
    }

    fn set_max_mem(&mut self, dom: DomId, kib: u64) -> Result<(), Errno> {
        self.dom("set_max_mem", dom)?.info.max_pages = kib / 4;
        Ok(())
    }

    fn set_memory_map(&mut self, dom: DomId, bytes: u64) -> Result<(), Errno> {
        self.dom("set_memory_map", dom)?.map_bytes = bytes;
        Ok(())
    }

    fn populate(&mut self, dom: DomId, first: Pfn, mfns: &mut [Mfn]) -> Result<usize, Errno> {
        assert!(mfns.len() <= MAX_BATCH);
        let (free, mut next) = (self.free_pages, self.next_mfn);
        let domain = self.dom("populate", dom)?;
        let mut got = 0;
        for (pfn, slot) in (first.raw()..).zip(mfns.iter_mut()).take(usize::try_from(free).unwrap()) {
            if domain.info.tot_pages >= domain.info.max_pages {
                break;
            }
            // Scattered, so that nobody takes a pfn for an mfn.
            next += 3;
            *slot = Mfn::new(next);
            domain.p2m.insert(pfn, *slot);
            domain.info.tot_pages += 1;
            got += 1;
        }
        self.free_pages -= got as u64;
        self.next_mfn = next;
        Ok(got)
    }

    fn write_frames<'p>(
        &mut self,
        dom: DomId,
        mfns: &[Mfn],
        fill: &mut dyn FnMut(usize, &mut Page) -> Option<&'p Page>,
    ) -> Result<(), Errno> {
        assert!(mfns.len() <= MAX_BATCH);
        let domain = self.dom("write_frames", dom)?;
        for (index, mfn) in mfns.iter().enumerate() {
            let is_own = *mfn == domain.info.shared_info || domain.p2m.values().any(|own| own == mfn);
            assert!(is_own, "a foreign frame");
            let mut page = [0x5a; 4096];
            let whole = fill(index, &mut page);
            domain.memory.insert(*mfn, whole.unwrap_or(&page).to_vec());
        }
        Ok(())
    }

    fn seed_grant(&mut self, dom: DomId, gref: GrantRef, to: DomId, frame: Mfn) -> Result<(), Errno> {
        self.dom("seed_grant", dom)?.grants.insert(gref.raw(), (to, frame));
        Ok(())
    }

    fn alloc_unbound(&mut self, dom: DomId, remote: DomId) -> Result<EvtchnPort, Errno> {
        assert_eq!(remote, DomId::DOM0);
        let domain = self.dom("alloc_unbound", dom)?;
        domain.ports += 1;
        Ok(EvtchnPort::new(domain.ports))
    }

    fn pin_l4(&mut self, dom: DomId, table: Mfn) -> Result<(), Errno> {
        self.dom("pin_l4", dom)?.pinned = Some(table);
        Ok(())
    }

    fn init_hypercall_page(&mut self, dom: DomId, frame: Mfn) -> Result<(), Errno> {
        self.dom("init_hypercall_page", dom)?.hypercall_page = Some(frame);
        Ok(())
    }

    fn set_vcpu_context(
        &mut self,
        dom: DomId,
        vcpu: VcpuId,
        state: &InitialVcpu,
        cr3: Mfn,
    ) -> Result<(), Errno> {
        assert_eq!(vcpu, VcpuId::new(0));
        let domain = self.dom("set_vcpu_context", dom)?;
        domain.vcpu0 = Some((*state, cr3));
        domain.info.nr_online_vcpus = 1;
        Ok(())
    }

    fn pause(&mut self, dom: DomId) -> Result<(), Errno> {
        self.dom("pause", dom)?.info.paused = true;
        Ok(())
    }

    fn unpause(&mut self, dom: DomId) -> Result<(), Errno> {
        self.dom("unpause", dom)?.info.paused = false;
        Ok(())
    }

    fn domain_info(&mut self, dom: DomId) -> Result<DomainInfo, Errno> {
        Ok(self.dom("domain_info", dom)?.info.clone())
    }

    fn list_domains(&mut self) -> Result<Vec<DomainInfo>, Errno> {
        self.faults.borrow_mut().call("list_domains")?;
        let mut dom0 = info(DomId::DOM0, [0; 16]);
        dom0.max_vcpu_id = 0;
        Ok(core::iter::once(dom0).chain(self.domains.values().map(|d| d.info.clone())).collect())
    }

    fn vcpu_status(&mut self, dom: DomId, vcpu: VcpuId) -> Result<VcpuStatus, Errno> {
        self.faults.borrow_mut().call("vcpu_status")?;
        let online = dom == DomId::DOM0 || self.domains.contains_key(&dom);
        Ok(VcpuStatus { online, blocked: false, running: true, cpu_time_ns: 5, pcpu: vcpu.raw() })
    }

    fn host_info(&mut self) -> Result<HostInfo, Errno> {
        self.faults.borrow_mut().call("host_info")?;
        Ok(HostInfo { free_pages: self.free_pages, total_pages: HOST_PAGES, ..HostInfo::default() })
    }

    fn read_console(&mut self) -> Result<Vec<u8>, Errno> {
        self.faults.borrow_mut().call("read_console")?;
        Ok(b"log".to_vec())
    }
}

/// The real store behind the fault counter.
pub(super) struct FakeStore {
    faults: SharedFaults,
    pub(super) inner: Xenstore,
}

impl Store for FakeStore {
    fn read(&mut self, path: &str) -> Result<Vec<u8>, Errno> {
        // A failing read of a name only makes a name unknown; it is not counted.
        self.inner.read(path)
    }

    fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Errno> {
        self.faults.borrow_mut().call("store.write")?;
        self.inner.write(path, value)
    }

    fn mkdir(&mut self, path: &str) -> Result<(), Errno> {
        self.faults.borrow_mut().call("store.mkdir")?;
        self.inner.mkdir(path)
    }

    fn remove(&mut self, path: &str) -> Result<(), Errno> {
        self.faults.borrow_mut().call("store.remove")?;
        self.inner.remove(path)
    }

    fn directory(&mut self, path: &str) -> Result<Vec<String>, Errno> {
        self.inner.directory(path)
    }

    fn set_perms(
        &mut self,
        path: &str,
        owner: (DomId, Access),
        others: &[(DomId, Access)],
    ) -> Result<(), Errno> {
        self.faults.borrow_mut().call("store.set_perms")?;
        self.inner.set_perms(path, owner, others)
    }

    fn forget_domain(&mut self, dom: DomId) {
        self.inner.forget_domain(dom);
    }
}

#[derive(Default)]
pub(super) struct FakeServices {
    faults: SharedFaults,
    pub(super) stores: BTreeSet<DomId>,
    pub(super) consoles: BTreeMap<DomId, String>,
    pub(super) now_ns: u64,
    uuids: u8,
}

impl Services for FakeServices {
    fn store_introduce(&mut self, dom: DomId, _ring: Mfn, _port: EvtchnPort) -> Result<(), Errno> {
        self.faults.borrow_mut().call("store_introduce")?;
        assert!(self.stores.insert(dom));
        Ok(())
    }

    fn store_release(&mut self, dom: DomId) {
        self.stores.remove(&dom);
    }

    fn console_attach(&mut self, dom: DomId, name: &str, _ring: Mfn, _port: EvtchnPort) -> Result<(), Errno> {
        self.faults.borrow_mut().call("console_attach")?;
        self.consoles.insert(dom, name.to_string());
        Ok(())
    }

    fn console_detach(&mut self, dom: DomId) {
        self.consoles.remove(&dom);
    }

    fn disk_info(&mut self, target: &str) -> Result<DiskInfo, Errno> {
        self.faults.borrow_mut().call("disk_info")?;
        match target {
            "/dev/vdb" | "vdb" => {
                Ok(DiskInfo { sectors: 2048, physical_device: "fe:10".to_string(), read_only: false })
            }
            "cd" => Ok(DiskInfo { sectors: 2048, physical_device: "fe:20".to_string(), read_only: true }),
            _ => Err(Errno::NoEnt),
        }
    }

    fn disks_detach(&mut self, _dom: DomId) {}

    fn vifs_detach(&mut self, _dom: DomId) {}

    fn now_ns(&mut self) -> u64 {
        self.now_ns
    }

    fn random_uuid(&mut self) -> [u8; 16] {
        self.uuids += 1;
        [self.uuids; 16]
    }
}

pub(super) struct World {
    pub(super) faults: SharedFaults,
    pub(super) hv: FakeHypervisor,
    pub(super) store: FakeStore,
    pub(super) services: FakeServices,
}

impl World {
    pub(super) fn new() -> Self {
        let faults = SharedFaults::default();
        let hv = FakeHypervisor {
            faults: faults.clone(),
            domains: BTreeMap::new(),
            free_pages: HOST_PAGES,
            next_mfn: 0x10_0000,
            next_dom: 0,
        };
        let store = FakeStore { faults: faults.clone(), inner: Xenstore::new(Quota::default()) };
        let services = FakeServices { faults: faults.clone(), ..FakeServices::default() };
        let mut world = Self { faults, hv, store, services };
        super::init_dom0(&mut world.env()).unwrap();
        world
    }

    pub(super) fn env(&mut self) -> Env<'_> {
        Env { hv: &mut self.hv, store: &mut self.store, services: &mut self.services }
    }

    /// All nodes with their values.
    pub(super) fn nodes(&mut self) -> Vec<(String, String)> {
        let mut found = vec![];
        let mut queue = vec!["/".to_string()];
        while let Some(path) = queue.pop() {
            let value = String::from_utf8(self.store.read(&path).unwrap()).unwrap();
            let prefix = if path == "/" { String::new() } else { path.clone() };
            for child in self.store.directory(&path).unwrap() {
                queue.push(alloc::format!("{prefix}/{child}"));
            }
            found.push((path, value));
        }
        found.sort();
        found
    }

    /// What must be the same before and after something that came to nothing.
    pub(super) fn footprint(&mut self) -> (u64, usize, Vec<String>, usize, usize) {
        // Empty directories that were made on the way count too.
        let nodes = self.nodes().into_iter().map(|(path, _)| path).collect();
        let (stores, consoles) = (self.services.stores.len(), self.services.consoles.len());
        (self.hv.free_pages, self.hv.domains.len(), nodes, stores, consoles)
    }
}
