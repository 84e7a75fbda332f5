//! Grants memory to itself: maps it, copies from and to it, and sees that a grant in use cannot be taken back. For dom0,
//! whose number is known; it prints one line for each claim.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_guest_kernel::grant::{self, Access, CopyBatch, GrantError, GrantedPages};
use pv_guest_kernel::memory::SharedPages;
use pv_guest_kernel::pv_abi::ids::DomId;
use pv_guest_kernel::{Context, println};

pv_guest_kernel::entry!(kernel);

fn kernel(context: &'static Context) {
    if !context.is_dom0() {
        println!("this is not dom0");
        return;
    }
    match mapping().and_then(|()| copying()) {
        Ok(()) => println!("grants: all done, {} pages lost", grant::leaked_pages()),
        Err(error) => println!("grants failed: {error}"),
    }
}

fn mapping() -> Result<(), GrantError> {
    let mut pages = GrantedPages::new(DomId::DOM0, 3, Access::ReadWrite)?;
    pages.area().write(4090, b"across the border");
    let mapping = grant::map(DomId::DOM0, pages.references(), Access::ReadWrite)?;
    let mut text = [0; 17];
    mapping.area().read(4090, &mut text);
    println!("read through the mapping: {:?}", core::str::from_utf8(&text));
    mapping.area().write(8192, b"and back");
    let mut back = [0; 8];
    pages.area().read(8192, &mut back);
    println!("written through the mapping: {:?}", core::str::from_utf8(&back));
    println!("taken back while mapped: {}", pages.try_end());
    drop(mapping);
    println!("taken back afterwards: {}", pages.try_end());
    let read_only = GrantedPages::new(DomId::DOM0, 1, Access::Read)?;
    let refused = grant::map(DomId::DOM0, read_only.references(), Access::ReadWrite);
    println!("writable map of a read-only grant: {:?}", refused.err());
    Ok(())
}

fn copying() -> Result<(), GrantError> {
    let granted = GrantedPages::new(DomId::DOM0, 1, Access::ReadWrite)?;
    let local = SharedPages::new(1).ok_or(GrantError::Call(pv_guest_kernel::hypercall::Errno::NoMem))?;
    let gref = granted.references()[0];
    local.area().write(0, b"copied by the hypervisor");
    let mut batch = CopyBatch::new();
    batch.write((local.area(), 0), (DomId::DOM0, gref, 100), 24)?;
    batch.read((DomId::DOM0, gref, 107), (local.area(), 2048), 17)?;
    batch.run_all()?;
    let mut text = [0; 17];
    local.area().read(2048, &mut text);
    println!("copied there and back: {:?}", core::str::from_utf8(&text));
    Ok(())
}
