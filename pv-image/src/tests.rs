//! Plans against the layouts that were printed by the reference builders.

use alloc::vec;
use alloc::vec::Vec;
use std::path::Path;

use pv_abi::frame::PAGE_SIZE;
use pv_abi::ids::{MachAddr, Mfn, Pfn};
use pv_abi::pte::PteFlags;
use pv_abi::start_info::StartInfo;
use zerocopy::FromBytes;

use crate::testelf::TestElf;
use crate::{BuildConfig, FrameMap, ImageError, KernelImage, PageKind, Plan, Role, unpack, unpack_owned};

const DOM_U: Role = Role::DomU { store_port: 1, console_port: 2 };
const DOM_0: Role = Role::Dom0 { console: None };
const PAGES_128M: u64 = 32768;

/// Frame = pfn + an offset, so that mix-ups show.
struct Shifted(u64);

impl FrameMap for Shifted {
    fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        (pfn.raw() < self.0).then(|| Mfn::new(pfn.raw() + 0x10_0000))
    }
}

fn config(role: Role, nr_pages: u64) -> BuildConfig<'static> {
    BuildConfig { role, nr_pages, cmdline: b"debug" }
}

fn plan<'a>(
    elf: &'a [u8],
    ramdisk: Option<&'a [u8]>,
    role: Role,
    pages: u64,
) -> Result<Plan<'a>, ImageError> {
    Plan::new(KernelImage::parse(elf)?, ramdisk, config(role, pages))
}

fn page(plan: &Plan<'_>, pfn: u64) -> ([u8; PAGE_SIZE], PageKind) {
    let mut page = [0xaa; PAGE_SIZE];
    let frames = Shifted(plan.layout().nr_pages);
    let kind = plan.render(Pfn::new(pfn), &frames, MachAddr::new(0xabc000), &mut page).unwrap();
    (page, kind)
}

fn start_info(plan: &Plan<'_>) -> StartInfo {
    let (bytes, _) = page(plan, plan.layout().start_info);
    StartInfo::read_from_prefix(&bytes).unwrap().0
}

#[test]
fn minimal_domu_is_laid_out_like_the_reference() {
    let elf = TestElf::minimal().build();
    let plan = plan(&elf, None, DOM_U, PAGES_128M).unwrap();
    let l = plan.layout();
    assert_eq!((l.kernel.first, l.kernel.end()), (0x100, 0x111));
    assert_eq!((l.p2m.list.first, l.p2m.list.count), (0x111, 0x40));
    assert_eq!((l.start_info, l.store, l.console), (0x151, Some(0x152), Some(0x153)));
    assert_eq!((l.tables.first, l.tables.count, l.stack), (0x154, 5, 0x159));
    assert_eq!(l.virt_end, 0x40_0000);
    let info = start_info(&plan);
    assert!(info.has_magic());
    assert_eq!(info.command_line(), b"debug");
    assert_eq!((info.nr_pages, info.shared_info, info.flags), (PAGES_128M, 0xabc000, 0));
    assert_eq!((info.store_mfn, info.store_evtchn), (0x10_0152, 1));
    assert_eq!((info.console_mfn, info.console_evtchn), (0x10_0153, 2));
    assert_eq!((info.pt_base, info.nr_pt_frames, info.mfn_list), (0x15_4000, 5, 0x11_1000));
    assert_eq!((info.first_p2m_pfn, info.nr_p2m_frames), (0, 0));
}

#[test]
fn minimal_dom0_is_laid_out_like_the_reference() {
    let elf = TestElf::minimal().build();
    // The p2m list of the reference ended at 0x1fc3d0.
    let pages = (0x1f_c3d0 - 0x11_1000) / 8;
    let plan = plan(&elf, None, DOM_0, pages).unwrap();
    let l = plan.layout();
    assert_eq!((l.start_info, l.tables.first, l.tables.count, l.stack), (0x1fd, 0x1fe, 5, 0x203));
    assert_eq!((l.store, l.console, l.virt_end), (None, None, 0x40_0000));
    let info = start_info(&plan);
    assert_eq!(&info.magic[..16], b"xen-3.0-x86_64p\0");
    assert_eq!((info.flags, info.first_p2m_pfn, info.nr_p2m_frames), (3, 0x400, 0));
}

#[test]
fn linux_domu_is_laid_out_like_the_reference() {
    let elf = TestElf::linux().build();
    let ramdisk = [7u8; 100];
    let plan = plan(&elf, Some(&ramdisk), DOM_U, PAGES_128M).unwrap();
    let l = plan.layout();
    assert_eq!((l.kernel.first, l.kernel.count), (0x1000, 0x3a00));
    assert_eq!((l.start_info, l.store, l.console), (0x4a00, Some(0x4a01), Some(0x4a02)));
    assert_eq!((l.tables.first, l.tables.count, l.stack), (0x4a03, 0x29, 0x4a2c));
    assert_eq!(l.virt_end, 0xffff_ffff_84c0_0000);
    let ramdisk = l.ramdisk.unwrap();
    assert_eq!((ramdisk.pages.first, ramdisk.pages.count, ramdisk.mapped), (0x4c00, 1, false));
    assert_eq!((l.p2m.list.first, l.p2m.list.count, l.p2m.tables.count), (0x4c01, 0x40, 3));
    let info = start_info(&plan);
    assert_eq!((info.mod_start, info.mod_len, info.flags), (0x4c00, 100, 8));
    assert_eq!((info.mfn_list, info.first_p2m_pfn, info.nr_p2m_frames), (0x80_0000_0000, 0x4c01, 0x43));
    let vcpu = plan.initial_vcpu();
    assert_eq!(vcpu.rip.raw(), 0xffff_ffff_8307_91c0);
    assert_eq!(vcpu.rsp.raw(), 0xffff_ffff_84a2_d000);
    assert_eq!(vcpu.rsi.raw(), 0xffff_ffff_84a0_0000);
    assert_eq!(vcpu.cr3, Pfn::new(0x4a03));
}

#[test]
fn ramdisk_without_the_note_is_mapped_behind_the_kernel() {
    let elf = TestElf::minimal().build();
    let ramdisk = vec![9u8; 5000];
    let plan = plan(&elf, Some(&ramdisk), DOM_U, PAGES_128M).unwrap();
    let info = start_info(&plan);
    assert_eq!((info.mod_start, info.mod_len), (0x11_1000, 5000));
    let (bytes, kind) = page(&plan, 0x112);
    assert_eq!(kind, PageKind::Data);
    assert_eq!((bytes[5000 - 4096 - 1], bytes[5000 - 4096]), (9, 0));
}

/// Follows the tables as the processor would: every mapped address of the region, with its flags.
fn walk(plan: &Plan<'_>, va: u64) -> Option<(u64, PteFlags)> {
    let mut table = plan.l4().raw();
    for level in (1..=4u32).rev() {
        let (bytes, kind) = page(plan, table);
        assert_eq!(
            u32::from(match kind {
                PageKind::Table(level) => level,
                _ => 0,
            }),
            level
        );
        let index = usize::try_from((va >> (12 + 9 * (level - 1))) & 511).unwrap();
        let entry = u64::from_le_bytes(bytes[index * 8..][..8].try_into().unwrap());
        let flags = PteFlags::from_bits_retain(entry & 0xfff0_0000_0000_0fff);
        if !flags.contains(PteFlags::PRESENT) {
            return None;
        }
        table = ((entry & 0x000f_ffff_ffff_f000) >> 12) - 0x10_0000;
        if level == 1 {
            return Some((table, flags));
        }
    }
    None
}

#[test]
fn the_tables_map_the_region_and_nothing_else() {
    let elf = TestElf::linux().build();
    let plan = plan(&elf, None, DOM_U, PAGES_128M).unwrap();
    let l = plan.layout().clone();
    for va in [l.virt_base, l.virt_base + 0x123_4000, l.va_of(l.start_info), l.virt_end - 4096] {
        let (pfn, flags) = walk(&plan, va).unwrap();
        assert_eq!(pfn, (va - l.virt_base) >> 12);
        assert!(flags.contains(PteFlags::RW));
        assert!(!flags.contains(PteFlags::USER));
    }
    for pfn in l.tables.first..l.tables.end() {
        assert!(!walk(&plan, l.va_of(pfn)).unwrap().1.contains(PteFlags::RW));
    }
    assert_eq!(walk(&plan, 0x80_0000_3000).unwrap().0, l.p2m.list.first + 3);
    assert_eq!(walk(&plan, l.virt_end), None);
    assert_eq!(walk(&plan, l.virt_base.wrapping_sub(4096)), None);
    assert_eq!(walk(&plan, 0x80_0004_0000), None);
}

#[test]
fn entries_as_data_are_the_entries_in_the_pages() {
    let elf = TestElf::minimal().build();
    let plan = plan(&elf, None, DOM_0, 8192).unwrap();
    let entries: Vec<_> = plan.page_table_entries().collect();
    let leaves: Vec<_> = entries.iter().filter(|e| e.level == 1).collect();
    assert_eq!(leaves.len() as u64, plan.layout().region_pages);
    for entry in &entries {
        let (bytes, _) = page(&plan, entry.table.raw());
        let raw = u64::from_le_bytes(bytes[usize::from(entry.index) * 8..][..8].try_into().unwrap());
        assert_eq!(raw, ((entry.target.raw() + 0x10_0000) << 12) | entry.flags.bits());
    }
    let user = PteFlags::USER | PteFlags::GUEST_KERNEL;
    assert!(leaves.iter().all(|e| e.flags.contains(user)));
}

#[test]
fn the_kernel_arrives_whole_and_its_bss_is_zero() {
    let source = TestElf::minimal();
    let elf = source.build();
    let plan = plan(&elf, None, DOM_U, 8192).unwrap();
    let mut loaded = Vec::new();
    for pfn in 0x100..0x111 {
        loaded.extend(page(&plan, pfn).0);
    }
    let code = &source.segments[0].1;
    assert_eq!(&loaded[..code.len()], &code[..]);
    assert!(loaded[code.len()..].iter().all(|&b| b == 0));
    assert_eq!(page(&plan, 0).1, PageKind::Zero);
    assert_eq!(plan.hypercall_page(), Some(Pfn::new(0x106)));
}

#[test]
fn a_page_is_whole_where_one_piece_of_the_image_has_all_of_it() {
    let mut source = TestElf::minimal();
    source.segments.push((0x10_2800, vec![0xee; 16], 16));
    let (elf, ramdisk) = (source.build(), vec![9u8; 5000]);
    let plan = plan(&elf, Some(&ramdisk), DOM_U, 8192).unwrap();
    let whole: Vec<u64> =
        (0..plan.used_pages()).filter(|pfn| plan.whole_page(Pfn::new(*pfn)).is_some()).collect();
    let first = plan.layout().ramdisk.unwrap().pages.first;
    // The kernel has seven pages and a part, but two segments share one of them.
    assert_eq!(whole, [0x100, 0x101, 0x103, 0x104, 0x105, 0x106, first]);
    let code = &source.segments[0].1;
    let shared = page(&plan, 0x102).0;
    assert_eq!((&shared[..0x800], shared[0x800]), (&code[0x2000..0x2800], 0xee));
    for pfn in whole {
        assert_eq!(plan.whole_page(Pfn::new(pfn)), Some(&page(&plan, pfn).0), "{pfn:#x}");
    }
    assert_eq!(page(&plan, 0x103).0, code[0x3000..0x4000]);
    assert_eq!(page(&plan, first).0, [9; PAGE_SIZE]);
}

#[test]
fn the_p2m_names_every_frame_and_marks_holes() {
    let elf = TestElf::minimal().build();
    let plan = plan(&elf, None, DOM_U, 2048).unwrap();
    let mut bytes = [0; PAGE_SIZE];
    let pfn = Pfn::new(plan.layout().p2m.list.first + 3);
    plan.render(pfn, &Shifted(2000), MachAddr::new(0), &mut bytes).unwrap();
    let entry = |i: usize| u64::from_le_bytes(bytes[i * 8..][..8].try_into().unwrap());
    assert_eq!(entry(0), 0x10_0000 + 1536);
    assert_eq!(entry(2000 - 1536), u64::MAX);
}

fn refusal(elf: &TestElf) -> ImageError {
    KernelImage::parse(&elf.build()).unwrap_err()
}

#[test]
fn bad_notes_are_told_apart() {
    let minimal = TestElf::minimal;
    assert_eq!(refusal(&TestElf { notes: vec![], ..minimal() }), ImageError::NoXenNotes);
    assert_eq!(refusal(&minimal().with_note(8, b"special\0")), ImageError::BadLoader("special".into()));
    assert_eq!(refusal(&minimal().with_note(5, b"xen-9\0")), ImageError::BadXenVersion("xen-9".into()));
    assert_eq!(
        refusal(&minimal().with_note(10, b"foo|!time_travel\0")),
        ImageError::UnknownRequiredFeature("time_travel".into())
    );
    assert_eq!(refusal(&minimal().with_note(1, &[1, 2, 3])), ImageError::BadNote("ENTRY"));
    assert_eq!(refusal(&minimal().with_note(1, &[0; 8])), ImageError::EntryOutside(0));
    let in_xen = 0xffff_8000_0000_0000u64.to_le_bytes();
    let elf = minimal().with_note(3, &in_xen).with_note(1, &0xffff_8000_0010_0000u64.to_le_bytes());
    assert_eq!(refusal(&elf), ImageError::BadAddress(0xffff_8000_0000_0000));
}

#[test]
fn a_linux_without_the_loader_note_is_accepted() {
    let elf = TestElf::linux().without_note(8).build();
    assert!(KernelImage::parse(&elf).is_ok());
}

#[test]
fn bad_files_are_told_apart() {
    let good = TestElf::minimal().build();
    assert_eq!(unpack(b"MZ", 1 << 20), Err(ImageError::Truncated("header")));
    assert_eq!(unpack(b"#!/bin/sh\n", 1 << 20), Err(ImageError::NotElf));
    let mut elf32 = good.clone();
    elf32[4] = 1;
    assert_eq!(KernelImage::parse(&elf32).unwrap_err(), ImageError::Elf32);
    let mut arm = good.clone();
    arm[18] = 183;
    assert_eq!(KernelImage::parse(&arm).unwrap_err(), ImageError::WrongMachine(183));
    assert_eq!(KernelImage::parse(&good[..30]).unwrap_err(), ImageError::Truncated("ELF header"));
    assert_eq!(KernelImage::parse(&good[..300]).unwrap_err(), ImageError::Truncated("loadable segment"));
}

#[test]
fn too_little_memory_and_other_refusals_of_plans() {
    let elf = TestElf::linux().build();
    let error = plan(&elf, None, DOM_U, 4096).unwrap_err();
    assert!(matches!(error, ImageError::NotEnoughMemory { have: 4096, .. }));
    // Just enough for the region, not for the list behind it.
    assert!(matches!(plan(&elf, None, DOM_U, 0x4c00).unwrap_err(), ImageError::NotEnoughMemory { .. }));
    let long = vec![b'a'; 1024];
    let kernel = KernelImage::parse(&elf).unwrap();
    let config = BuildConfig { role: DOM_U, nr_pages: PAGES_128M, cmdline: &long };
    assert_eq!(
        Plan::new(kernel, None, config).unwrap_err(),
        ImageError::CmdlineTooLong { len: 1024, max: 1023 }
    );
    let domu_only = TestElf::linux().with_note(17, &1u32.to_le_bytes()).build();
    assert_eq!(plan(&domu_only, None, DOM_0, PAGES_128M).unwrap_err(), ImageError::NoDom0Support);
    assert!(plan(&domu_only, None, DOM_U, PAGES_128M).is_ok());
    let odd = TestElf::minimal().with_note(2, &0x10_6001u64.to_le_bytes()).build();
    assert_eq!(plan(&odd, None, DOM_U, 8192).unwrap_err(), ImageError::BadHypercallPage(0x10_6001));
}

#[test]
fn impossible_sizes_are_refused_without_work() {
    let mut huge = TestElf::minimal();
    huge.segments[0].2 = 1 << 45;
    let elf = huge.build();
    assert!(matches!(plan(&elf, None, DOM_U, 8192).unwrap_err(), ImageError::NotEnoughMemory { .. }));
    let elf = TestElf::minimal().build();
    assert!(matches!(plan(&elf, None, DOM_U, u64::MAX).unwrap_err(), ImageError::TooLarge { .. }));
}

#[test]
fn an_elf_that_is_not_packed_stays_where_it_is() {
    let elf = TestElf::minimal().build();
    let kept = unpack_owned(elf.clone(), 1 << 20).unwrap();
    assert_eq!(kept, elf);
    let mut file = std::vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&u32::try_from(elf.len()).unwrap().to_le_bytes());
    file.extend(&elf);
    file.extend([7; 100]);
    let before = file.as_ptr();
    let kept = unpack_owned(file, 1 << 20).unwrap();
    assert_eq!((kept.as_ptr(), &kept), (before, &elf));
}

/// Kernels that a developer's machine may have: one packed with LZ4, one with XZ.
#[test]
fn debians_kernels_are_understood() {
    let installed = std::fs::read_dir("/boot").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_debians = |path: &Path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("vmlinuz-") && name.ends_with("-amd64"))
    };
    for file in installed.filter(|path| is_debians(path)) {
        let Ok(mut bytes) = std::fs::read(&file) else { continue };
        let elf = unpack(&bytes, 256 << 20).unwrap();
        let plan = plan(&elf, None, DOM_U, PAGES_128M).unwrap();
        assert_eq!(plan.layout().virt_base, 0xffff_ffff_8000_0000);
        let notes = plan.kernel().notes();
        assert_eq!(notes.guest_os.as_deref(), Some("linux"));
        assert_eq!((notes.init_p2m, notes.mod_start_pfn), (Some(0x80_0000_0000), true));
        assert!(walk(&plan, plan.initial_vcpu().rip.raw()).is_some());
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        assert!(
            matches!(unpack(&bytes, 256 << 20), Err(ImageError::DamagedPayload(_))),
            "{}",
            file.display()
        );
    }
}

mod random {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever is done to an image, the answer is an error or a plan that fits its domain.
        #[test]
        fn mutated_images_never_break_the_planner(
            changes in prop::collection::vec((0usize..1400, any::<u8>()), 1..12),
            cut in 0usize..70_000,
            pages in 0u64..20_000,
        ) {
            let mut elf = TestElf::linux().build();
            let notes_at = elf.len() - 300;
            for (at, value) in changes {
                let at = if at < 700 { at } else { notes_at + at % 300 };
                elf[at] = value;
            }
            elf.truncate(elf.len().min(cut.max(64)));
            if let Ok(plan) = plan(&elf, None, DOM_U, pages) {
                prop_assert!(plan.used_pages() <= pages);
                prop_assert!(plan.layout().region_pages <= plan.used_pages());
                let mut page = [0; PAGE_SIZE];
                let frames = Shifted(pages);
                for pfn in [0, plan.layout().start_info, plan.layout().kernel.first, plan.used_pages() - 1] {
                    plan.render(Pfn::new(pfn), &frames, MachAddr::new(0), &mut page).unwrap();
                }
            }
        }

        #[test]
        fn unpack_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2000), kind in 0u8..4) {
            let mut file = bytes;
            match kind {
                0 => file.splice(0..0, [0x1f, 0x8b]).count(),
                1 => file.splice(0..0, *b"\x7fELF\x02\x01").count(),
                _ => 0,
            };
            if let Ok(elf) = unpack(&file, 1 << 16) {
                prop_assert!(elf.starts_with(b"\x7fELF"));
                let _ = KernelImage::parse(&elf);
            }
        }
    }
}
