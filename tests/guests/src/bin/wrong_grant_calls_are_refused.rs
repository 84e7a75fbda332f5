//! Each wrong use of a grant answers the ABI's status, and leaves nothing in use.
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::grant::{
    GntcopyFlags, GntmapFlags, GnttabCopy, GnttabCopyPtr, GnttabGetVersion, GnttabMapGrantRef, GnttabOp,
    GnttabQuerySize, GnttabSetupTable, GnttabUnmapGrantRef, GrantStatus,
};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, Mfn};
use pv_guest_kernel::Context;
use pv_guest_kernel::grant::{Access, GrantedPages};
use pv_guest_kernel::hypercall::Errno;
use pv_guest_kernel::memory::Pages;
use pv_guest_kernel::memory::vmap::Range;
use test_guests::{Claim, Trouble, call, ensure_eq, format};

test_guests::claim!(wrong_grant_calls_are_refused);

const NO_DOMAIN: u16 = 0x7123;
const HOST: u32 = GntmapFlags::HOST_MAP.bits();
const READONLY: u32 = GntmapFlags::READONLY.bits();

fn op<T>(op: GnttabOp, list: &mut [T]) -> i64 {
    let at = call::address_mut(list);
    call::call(Hypercall::GrantTableOp, [u64::from(op.raw()), at, list.len() as u64])
}

fn one<T: Copy>(what: &str, number: GnttabOp, argument: T) -> Claim<T> {
    let mut list = [argument];
    call::granted(what, op(number, &mut list))?;
    Ok(list[0])
}

fn expect(what: &str, status: i16, wanted: GrantStatus) -> Claim {
    ensure_eq!(GrantStatus::from_raw(status), Some(wanted), "{what}");
    Ok(())
}

struct Trial {
    me: u16,
    gref: u32,
    readonly_gref: u32,
    /// Addresses that can be mapped at.
    range: Range,
    /// A frame of one's own.
    mine: Mfn,
}

impl Trial {
    fn map(&self, what: &str, op: GnttabMapGrantRef, wanted: GrantStatus) -> Claim<GnttabMapGrantRef> {
        let op = one(what, GnttabOp::MapGrantRef, op)?;
        expect(what, op.status, wanted)?;
        Ok(op)
    }

    fn good(&self) -> GnttabMapGrantRef {
        GnttabMapGrantRef {
            host_addr: self.range.page(0),
            flags: HOST,
            gref: self.gref,
            dom: self.me,
            ..GnttabMapGrantRef::default()
        }
    }

    fn copy(&self, what: &str, op: GnttabCopy, wanted: GrantStatus) -> Claim {
        expect(what, one(what, GnttabOp::Copy, op)?.status, wanted)
    }
}

fn wrong_grant_calls_are_refused(_: &'static Context) -> Claim {
    let me = test_guests::own_domain()?.raw();
    let granted = GrantedPages::new(DomId::new(me), 1, Access::ReadWrite)?;
    let readonly = GrantedPages::new(DomId::new(me), 1, Access::Read)?;
    let own = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let trial = Trial {
        me,
        gref: granted.references()[0].raw(),
        readonly_gref: readonly.references()[0].raw(),
        range: Range::reserve(2)?,
        mine: own.mfn(0).ok_or(Trouble::error("no frame"))?,
    };
    wrong_calls()?;
    wrong_tables()?;
    wrong_maps(&trial)?;
    wrong_unmaps(&trial)?;
    wrong_copies(&trial)?;
    let (mut granted, mut readonly) = (granted, readonly);
    ensure_eq!((granted.try_end(), readonly.try_end()), (true, true), "the grants can be taken back");
    Ok(())
}

fn wrong_calls() -> Claim {
    let grant = |args: [u64; 3]| call::call(Hypercall::GrantTableOp, args);
    call::refused("operation 13", grant([13, 0x1000, 1]), Errno::NoSys)?;
    call::refused("operation 3", grant([3, 0x1000, 1]), Errno::NoSys)?;
    call::refused("a negative count", grant([0, 0x1000, 0x8000_0000]), Errno::Inval)?;
    call::refused("a list nowhere", grant([0, 0x1000, 1]), Errno::Fault)?;
    call::refused("a list in the hypervisor", grant([0, 0xffff_8300_0000_0000, 1]), Errno::Fault)?;
    let mut query = [GnttabQuerySize::default(); 2];
    call::refused("two queries", op(GnttabOp::QuerySize, &mut query), Errno::Inval)?;
    call::refused("no set-up", op::<GnttabSetupTable>(GnttabOp::SetupTable, &mut []), Errno::Inval)?;
    let mut version = [GnttabGetVersion { dom: NO_DOMAIN, ..GnttabGetVersion::default() }];
    call::refused("version of no domain", op(GnttabOp::GetVersion, &mut version), Errno::Srch)
}

fn wrong_tables() -> Claim {
    let query = GnttabQuerySize { dom: NO_DOMAIN, ..GnttabQuerySize::default() };
    expect(
        "a query of no domain",
        one("query_size", GnttabOp::QuerySize, query)?.status,
        GrantStatus::BadDomain,
    )?;
    let query = GnttabQuerySize { dom: DomId::SELF.raw(), ..GnttabQuerySize::default() };
    let max = one("query_size", GnttabOp::QuerySize, query)?.max_nr_frames;
    let mut list = [0_u64; 2];
    let setup = GnttabSetupTable {
        dom: DomId::SELF.raw(),
        nr_frames: max + 1,
        frame_list: call::address_mut(&mut list),
        ..GnttabSetupTable::default()
    };
    let status = one("setup_table", GnttabOp::SetupTable, setup)?.status;
    expect("too many frames", status, GrantStatus::GeneralError)?;
    let nowhere = GnttabSetupTable { nr_frames: 1, frame_list: 0x1000, ..setup };
    let status = one("setup_table", GnttabOp::SetupTable, nowhere)?.status;
    expect("frames to nowhere", status, GrantStatus::BadVirtAddr)?;
    let none = GnttabSetupTable { dom: NO_DOMAIN, nr_frames: 1, ..setup };
    let status = one("setup_table", GnttabOp::SetupTable, none)?.status;
    expect("the table of no domain", status, GrantStatus::BadDomain)
}

fn wrong_maps(t: &Trial) -> Claim {
    let good = t.good();
    t.map("a map for nothing", GnttabMapGrantRef { flags: 0, ..good }, GrantStatus::BadGntref)?;
    t.map("a map of no domain", GnttabMapGrantRef { dom: NO_DOMAIN, ..good }, GrantStatus::BadDomain)?;
    for gref in [1 << 20, u32::MAX] {
        t.map(&format!("a map of {gref}"), GnttabMapGrantRef { gref, ..good }, GrantStatus::BadGntref)?;
    }
    t.map("a map of an unused entry", GnttabMapGrantRef { gref: 400, ..good }, GrantStatus::GeneralError)?;
    let write = GnttabMapGrantRef { gref: t.readonly_gref, ..good };
    t.map("a writable map of a read-only grant", write, GrantStatus::GeneralError)?;
    for (what, host_addr) in [
        ("a map without page table", 0x7000_0000_0000),
        ("a map in the hypervisor", 0xffff_8000_0000_0000),
        ("a map nowhere", 0x1234_5678_9abc_d000),
    ] {
        t.map(what, GnttabMapGrantRef { host_addr, ..good }, GrantStatus::GeneralError)?;
    }
    let entry = t.range.entry(0)?.raw();
    let pte = GntmapFlags::CONTAINS_PTE.bits() | HOST;
    let crooked = GnttabMapGrantRef { host_addr: entry + 4, flags: pte, ..good };
    t.map("a map across two entries", crooked, GrantStatus::GeneralError)?;
    let data = GnttabMapGrantRef { host_addr: t.mine.to_maddr().raw(), flags: pte, ..good };
    t.map("a map in no page table", data, GrantStatus::GeneralError)?;
    Ok(())
}

fn wrong_unmaps(t: &Trial) -> Claim {
    let unmap = |what: &str, op: GnttabUnmapGrantRef, wanted| {
        expect(what, one(what, GnttabOp::UnmapGrantRef, op)?.status, wanted)
    };
    for handle in [1000, u32::MAX] {
        let op = GnttabUnmapGrantRef { host_addr: t.range.page(0), handle, ..GnttabUnmapGrantRef::default() };
        unmap(&format!("an unmap of {handle}"), op, GrantStatus::BadHandle)?;
    }
    let mapped =
        t.map("a good map", GnttabMapGrantRef { flags: HOST | READONLY, ..t.good() }, GrantStatus::Okay)?;
    let op = GnttabUnmapGrantRef { handle: mapped.handle, ..GnttabUnmapGrantRef::default() };
    unmap("an unmap of nothing", op, GrantStatus::Okay)?;
    let elsewhere = GnttabUnmapGrantRef { host_addr: t.range.page(1), ..op };
    unmap("an unmap elsewhere", elsewhere, GrantStatus::GeneralError)?;
    let there = GnttabUnmapGrantRef { host_addr: t.range.page(0), ..op };
    unmap("the right unmap", there, GrantStatus::Okay)?;
    unmap("the same again", there, GrantStatus::BadHandle)
}

fn wrong_copies(t: &Trial) -> Claim {
    let grant = |gref: u32, offset: u16| GnttabCopyPtr { u: u64::from(gref), domid: t.me, offset, _pad: 0 };
    let own = |offset: u16| GnttabCopyPtr { u: t.mine.raw(), domid: DomId::SELF.raw(), offset, _pad: 0 };
    let from_grant = GntcopyFlags::SOURCE_GREF.bits();
    let to_grant = GntcopyFlags::DEST_GREF.bits();
    let good = GnttabCopy {
        source: grant(t.gref, 0),
        dest: own(0),
        len: 4096,
        flags: from_grant,
        ..GnttabCopy::default()
    };
    t.copy("a whole page", good, GrantStatus::Okay)?;
    for (what, from, to, len) in [
        ("past the source's end", 1, 0, 4096),
        ("past the destination's end", 0, 4095, 2),
        ("far past the end", 65535, 65535, 65535),
    ] {
        let op = GnttabCopy { source: grant(t.gref, from), dest: own(to), len, ..good };
        t.copy(what, op, GrantStatus::BadCopyArg)?;
    }
    let into =
        GnttabCopy { source: own(0), dest: grant(t.readonly_gref, 0), len: 8, flags: to_grant, ..good };
    t.copy("into a read-only grant", into, GrantStatus::GeneralError)?;
    t.copy("from past the table", GnttabCopy { source: grant(1 << 20, 0), ..good }, GrantStatus::BadGntref)?;
    let nobody = GnttabCopyPtr { domid: NO_DOMAIN, ..grant(t.gref, 0) };
    t.copy("from no domain", GnttabCopy { source: nobody, ..good }, GrantStatus::BadDomain)?;
    let named = GnttabCopyPtr { domid: t.me, ..own(0) };
    t.copy(
        "a frame by its owner's number",
        GnttabCopy { source: named, flags: 0, ..good },
        GrantStatus::PermissionDenied,
    )?;
    let nowhere = GnttabCopyPtr { u: 0xf_ffff_ffff, ..own(0) };
    t.copy("from no frame", GnttabCopy { source: nowhere, flags: 0, ..good }, GrantStatus::BadPage)
}
