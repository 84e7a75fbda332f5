//! A grant opens no way to write a page table, and none to frames that are not the granter's (I1, I3, I8).
#![cfg_attr(target_os = "none", no_std, no_main)]

use pv_abi::grant::{
    GntcopyFlags, GntmapFlags, GnttabCopy, GnttabCopyPtr, GnttabMapGrantRef, GnttabOp, GnttabUnmapGrantRef,
    GrantEntryV1, GrantFlags, GrantStatus, V1_ENTRIES_PER_FRAME,
};
use pv_abi::hypercall::Hypercall;
use pv_abi::ids::{DomId, Mfn};
use pv_abi::mmu::{MmuextCmd, MmuextOp, UvmFlags};
use pv_abi::pte::Pte;
use pv_guest_kernel::Context;
use pv_guest_kernel::memory::vmap::Range;
use pv_guest_kernel::memory::{Pages, Prot, table};
use test_guests::{Claim, Trouble, call, ensure_eq};

test_guests::claim!(attack_grants_do_not_open_page_tables);

const HOST: u32 = GntmapFlags::HOST_MAP.bits();
const READONLY: u32 = GntmapFlags::READONLY.bits();
/// A reference that the SDK has not given out: it hands out the lowest first.
const GREF: u32 = V1_ENTRIES_PER_FRAME - 2;

struct Attack {
    me: u16,
    /// The first frame of this domain's grant table.
    entries: u64,
    range: Range,
}

impl Attack {
    fn offer(&self, mfn: Mfn, flags: GrantFlags) -> Claim {
        let frame = u32::try_from(mfn.raw()).map_err(|_| Trouble::error("a frame above 16 TiB"))?;
        let entry = GrantEntryV1 { flags: flags.bits(), domid: self.me, frame };
        call::store(self.entries + u64::from(GREF) * 8, entry.to_word());
        Ok(())
    }

    fn flags(&self) -> u16 {
        GrantEntryV1::from_word(call::load(self.entries + u64::from(GREF) * 8)).flags
    }

    fn map(&self, flags: u32) -> Claim<GnttabMapGrantRef> {
        let mut op = [GnttabMapGrantRef {
            host_addr: self.range.page(0),
            flags,
            gref: GREF,
            dom: self.me,
            ..GnttabMapGrantRef::default()
        }];
        let args = [u64::from(GnttabOp::MapGrantRef.raw()), call::address_mut(&mut op[..]), 1];
        call::granted("map", call::call(Hypercall::GrantTableOp, args))?;
        Ok(op[0])
    }

    fn unmap(&self, handle: u32) -> Claim<i16> {
        let mut op =
            [GnttabUnmapGrantRef { host_addr: self.range.page(0), handle, ..GnttabUnmapGrantRef::default() }];
        let args = [u64::from(GnttabOp::UnmapGrantRef.raw()), call::address_mut(&mut op[..]), 1];
        call::granted("unmap", call::call(Hypercall::GrantTableOp, args))?;
        Ok(op[0].status)
    }

    /// Copies eight bytes of `source` into the granted frame.
    fn copy_into(&self, source: Mfn) -> Claim<i16> {
        let end = |u: u64, domid: u16| GnttabCopyPtr { u, domid, offset: 0, _pad: 0 };
        let mut op = [GnttabCopy {
            source: end(source.raw(), DomId::SELF.raw()),
            dest: end(u64::from(GREF), self.me),
            len: 8,
            flags: GntcopyFlags::DEST_GREF.bits(),
            ..GnttabCopy::default()
        }];
        let args = [u64::from(GnttabOp::Copy.raw()), call::address_mut(&mut op[..]), 1];
        call::granted("copy", call::call(Hypercall::GrantTableOp, args))?;
        Ok(op[0].status)
    }
}

fn attack_grants_do_not_open_page_tables(_: &'static Context) -> Claim {
    let me = test_guests::own_domain()?.raw();
    // One grant of the SDK's, so that the table exists; then the table itself is looked at.
    let attack = Attack { me, entries: grant_table()?, range: Range::reserve(1)? };
    let data = Pages::new(1).ok_or(Trouble::error("no memory"))?;
    let frame = data.mfn(0).ok_or(Trouble::error("no frame"))?;
    tables_are_not_written(&attack, frame)?;
    writers_keep_a_frame_from_being_a_table(&attack, &data, frame)?;
    frames_of_nobody_are_not_granted(&attack, frame)
}

fn grant_table() -> Claim<u64> {
    use pv_abi::grant::GnttabSetupTable;
    let mut list = [0_u64; 1];
    let mut op = [GnttabSetupTable {
        dom: DomId::SELF.raw(),
        nr_frames: 1,
        frame_list: call::address_mut(&mut list[..]),
        ..GnttabSetupTable::default()
    }];
    let args = [u64::from(GnttabOp::SetupTable.raw()), call::address_mut(&mut op[..]), 1];
    call::granted("setup_table", call::call(Hypercall::GrantTableOp, args))?;
    ensure_eq!(op[0].status, 0, "setup_table");
    let range = Range::reserve(1)?;
    let mapping = Pte::new(Mfn::new(list[0]), Prot::ReadWrite.flags());
    let flush = UvmFlags::INVLPG | UvmFlags::ALL;
    ensure_eq!(call::update_va_mapping(range.page(0), mapping, flush), 0, "mapping the grant table");
    let at = range.page(0);
    // Kept for ever: the addresses stay taken.
    core::mem::forget(range);
    Ok(at)
}

/// The root that is in use, granted to oneself.
fn tables_are_not_written(attack: &Attack, data: Mfn) -> Claim {
    attack.offer(table::root(), GrantFlags::PERMIT_ACCESS)?;
    let status = attack.map(HOST)?.status;
    ensure_eq!(status != 0, true, "a writable map of the root was made");
    let status = attack.copy_into(data)?;
    ensure_eq!(status != 0, true, "a copy into the root was made");
    ensure_eq!(attack.flags(), GrantFlags::PERMIT_ACCESS.bits(), "the marks of use");
    let op = attack.map(HOST | READONLY)?;
    ensure_eq!(op.status, 0, "a read-only map of the root");
    // What is mapped read-only stays so.
    let writable = Pte::new(table::root(), Prot::ReadWrite.flags());
    let answer = call::update_va_mapping(attack.range.page(0), writable, UvmFlags::INVLPG);
    call::refused_somehow("making a mapping of the root writable", answer)?;
    ensure_eq!(attack.unmap(op.handle)?, 0, "the unmap");
    Ok(())
}

/// A frame that a grant maps writable cannot be pinned; afterwards it can.
fn writers_keep_a_frame_from_being_a_table(attack: &Attack, data: &Pages, frame: Mfn) -> Claim {
    attack.offer(frame, GrantFlags::PERMIT_ACCESS)?;
    let op = attack.map(HOST)?;
    ensure_eq!(op.status, 0, "a writable map");
    let readonly = Pte::new(frame, Prot::Read.flags());
    let flush = UvmFlags::INVLPG | UvmFlags::ALL;
    ensure_eq!(call::update_va_mapping(data.va(), readonly, flush), 0, "the own mapping read-only");
    let pin =
        |cmd: MmuextCmd| call::mmuext_op(&[MmuextOp { cmd: cmd.raw(), _pad: 0, arg1: frame.raw(), arg2: 0 }]);
    call::refused_somehow("pinning a frame that a grant maps writable", pin(MmuextCmd::PinL1Table).0)?;
    ensure_eq!(attack.unmap(op.handle)?, 0, "the unmap");
    ensure_eq!(pin(MmuextCmd::PinL1Table), (0, 1), "pinning it afterwards");
    let status = attack.map(HOST)?.status;
    ensure_eq!(status != 0, true, "a writable map of the pinned frame was made");
    ensure_eq!(pin(MmuextCmd::UnpinTable), (0, 1), "unpinning");
    let writable = Pte::new(frame, Prot::ReadWrite.flags());
    ensure_eq!(call::update_va_mapping(data.va(), writable, flush), 0, "the own mapping writable again");
    Ok(())
}

fn frames_of_nobody_are_not_granted(attack: &Attack, data: Mfn) -> Claim {
    // No RAM.
    for raw in [0xffff_ffff, 0x00f0_0000] {
        attack.offer(Mfn::new(raw), GrantFlags::PERMIT_ACCESS)?;
        let status = attack.map(HOST)?.status;
        let known = [GrantStatus::BadPage.raw(), GrantStatus::GeneralError.raw()];
        ensure_eq!(known.contains(&status), true, "frame {raw:#x} was granted: {status}");
        let status = attack.copy_into(data)?;
        ensure_eq!(known.contains(&status), true, "frame {raw:#x} was copied into: {status}");
        ensure_eq!(attack.flags(), GrantFlags::PERMIT_ACCESS.bits(), "the marks of use");
    }
    Ok(())
}
