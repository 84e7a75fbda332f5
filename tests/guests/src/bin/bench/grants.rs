//! Grants to oneself.

use alloc::format;
use alloc::vec::Vec;
use pv_abi::grant::{
    GntcopyFlags, GntmapFlags, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef, GnttabOp, GnttabUnmapGrantRef,
};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, GrantRef};
use pv_guest_kernel::grant::{Access, GrantedPages};
use pv_guest_kernel::memory::SharedPages;
use pv_guest_kernel::memory::vmap::Range;
use test_guests::meter::Meter;
use test_guests::{Claim, Trouble, call, ensure};

/// Entries of a batch.
const BATCH: usize = 32;

pub(crate) fn measure(meter: &Meter) -> Claim {
    let own = test_guests::own_domain()?;
    let granted = GrantedPages::new(own, BATCH, Access::ReadWrite)?;
    let references = granted.references();
    mapping(meter, "grant_map_and_unmap", own, &references[..1])?;
    mapping(meter, "grant_map_and_unmap_of_32_per_page", own, references)?;
    for (name, count, bytes) in [
        ("grant_copy_of_4096_bytes", 1, 4096),
        ("grant_copy_of_64_bytes", 1, 64),
        ("grant_copy_of_32_pages_per_page", BATCH, 4096),
    ] {
        copying(meter, name, own, &references[..count], bytes)?;
    }
    Ok(())
}

#[inline(always)]
fn operate<T>(op: GnttabOp, entries: &mut [T]) -> Claim {
    let args = [u64::from(op.raw()), call::address_mut(entries), entries.len() as u64];
    let answer = call::call(Hypercall::GrantTableOp, args);
    if answer == 0 { Ok(()) } else { Err(refused(op, answer)) }
}

/// Not part of what is measured.
#[cold]
fn refused(op: GnttabOp, answer: i64) -> Trouble {
    Trouble::Failure(format!("{op:?} answered {answer}"))
}

fn mapping(meter: &Meter, name: &str, own: DomId, references: &[GrantRef]) -> Claim {
    let range = Range::reserve(references.len())?;
    let mut maps: Vec<GnttabMapGrantRef> = (references.iter().enumerate())
        .map(|(number, gref)| GnttabMapGrantRef {
            host_addr: range.page(number),
            flags: GntmapFlags::HOST_MAP.bits(),
            gref: gref.raw(),
            dom: own.raw(),
            ..GnttabMapGrantRef::default()
        })
        .collect();
    let mut unmaps: Vec<GnttabUnmapGrantRef> = (0..references.len())
        .map(|number| GnttabUnmapGrantRef { host_addr: range.page(number), ..GnttabUnmapGrantRef::default() })
        .collect();
    meter.row(name, references.len() as u64, || {
        operate(GnttabOp::MapGrantRef, &mut maps)?;
        for (number, map) in maps.iter().enumerate() {
            if map.status != 0 {
                return Err(refused(GnttabOp::MapGrantRef, map.status.into()));
            }
            unmaps[number].handle = map.handle;
        }
        operate(GnttabOp::UnmapGrantRef, &mut unmaps)
    })?;
    ensure!(unmaps.iter().all(|unmap| unmap.status == 0), "an unmap failed");
    Ok(())
}

fn copying(meter: &Meter, name: &str, own: DomId, references: &[GrantRef], bytes: u16) -> Claim {
    let target = SharedPages::new(references.len()).ok_or(Trouble::error("no memory"))?;
    let mut copies = Vec::new();
    for (number, gref) in references.iter().enumerate() {
        let mfn = target.mfn(number).ok_or(Trouble::error("no frame"))?;
        copies.push(GnttabCopy {
            source: GnttabCopyPtr { u: gref.raw().into(), domid: own.raw(), ..GnttabCopyPtr::default() },
            dest: GnttabCopyPtr { u: mfn.raw(), domid: DomId::SELF.raw(), ..GnttabCopyPtr::default() },
            len: bytes,
            flags: GntcopyFlags::SOURCE_GREF.bits(),
            ..GnttabCopy::default()
        });
    }
    meter.row(name, references.len() as u64, || operate(GnttabOp::Copy, &mut copies))?;
    ensure!(copies.iter().all(|copy| copy.status == 0), "a copy failed");
    Ok(())
}
