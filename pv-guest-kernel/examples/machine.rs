//! For dom0: looks at the machine. Processors, memory, domains, PCI functions, and memory for devices.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_guest_kernel::hypercall::{Errno, Result};
use pv_guest_kernel::privileged::dma::DmaBuf;
use pv_guest_kernel::privileged::{host, pci};
use pv_guest_kernel::pv_abi::domctl::DomctlGetdomaininfo;
use pv_guest_kernel::pv_abi::ids::DomId;
use pv_guest_kernel::{Context, println};

pv_guest_kernel::entry!(kernel);

fn kernel(context: &'static Context) {
    if !context.is_dom0() {
        println!("this is not dom0");
        return;
    }
    if let Err(error) = look() {
        println!("failed: {error}");
    }
}

fn look() -> Result {
    let machine = host::physinfo()?;
    println!("{} pcpus at {} kHz", machine.nr_cpus, machine.cpu_khz);
    println!("{} of {} pages free", machine.free_pages, machine.total_pages);
    for range in host::machine_memory_map()? {
        println!("memory {:#014x} + {:#x}, type {}", range.addr(), range.size(), range.kind);
    }
    let mut domains = [DomctlGetdomaininfo::default(); 16];
    let count = host::list_domains(DomId::DOM0, &mut domains)?;
    for domain in &domains[..count] {
        println!("domain {}: {} pages, {} vcpus", domain.domain, domain.tot_pages, domain.nr_online_vcpus);
    }
    for function in pci::functions(1) {
        println!("pci {function}: {:04x?}", function.identity());
    }
    for pages in [1, 16, 64] {
        let memory = DmaBuf::alloc(pages * 4096).ok_or(Errno::NoMem)?;
        memory.write_bytes(0, b"for a device");
        println!("dma: {pages} pages at machine address {:#x}", memory.maddr().raw());
    }
    Ok(())
}
