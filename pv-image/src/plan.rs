//! The plan of a domain: configuration in, layout and registers out.

use pv_abi::ids::{GuestVa, Mfn, Pfn};
use pv_abi::start_info::MAX_GUEST_CMDLINE;

use crate::error::ImageError;
use crate::kernel::KernelImage;
use crate::layout::{Layout, PAGE};
use crate::tables::{TableEntry, Tables};

/// `cmd_line` of start_info ends with a NUL.
const MAX_CMDLINE: usize = MAX_GUEST_CMDLINE - 1;

/// Dom0's console description, which follows start_info in its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleInfo {
    /// The bytes of `dom0_vga_console_info`.
    pub bytes: [u8; 40],
}

/// What the domain will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The privileged domain, built by the hypervisor.
    Dom0 {
        /// A VGA console, if there is one.
        console: Option<ConsoleInfo>,
    },
    /// Any other, built by dom0.
    DomU {
        /// The domain's xenstore port.
        store_port: u32,
        /// The domain's console port.
        console_port: u32,
    },
}

/// What a domain is to be built like.
#[derive(Clone, Copy, Debug)]
pub struct BuildConfig<'a> {
    /// What it will be.
    pub role: Role,
    /// Its pages.
    pub nr_pages: u64,
    /// Its command line (without the kernel's name).
    pub cmdline: &'a [u8],
}

/// Which machine frame a pfn has. Implemented by whoever allocated the domain's memory.
pub trait FrameMap {
    /// The frame behind `pfn`, or `None` for a hole.
    fn mfn(&self, pfn: Pfn) -> Option<Mfn>;
}

/// Frames in pfn order.
impl FrameMap for [Mfn] {
    fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        self.get(usize::try_from(pfn.raw()).ok()?).copied()
    }
}

/// Registers of vcpu 0 at its first instruction; all not named are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitialVcpu {
    /// Entry point.
    pub rip: GuestVa,
    /// End of the boot stack; also kernel_sp.
    pub rsp: GuestVa,
    /// start_info.
    pub rsi: GuestVa,
    /// RFLAGS (IF; events are masked through shared_info).
    pub rflags: u64,
    /// Code segment.
    pub cs: u16,
    /// Stack segment, also kernel_ss.
    pub ss: u16,
    /// The L4.
    pub cr3: Pfn,
}

/// What a page of the plan holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Zeros.
    Zero,
    /// Kernel, ramdisk, p2m list or start_info.
    Data,
    /// A page table of this level.
    Table(u8),
}

/// A whole plan. Borrow: the kernel's bytes, the ramdisk's and the command line.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    pub(crate) kernel: KernelImage<'a>,
    pub(crate) ramdisk: &'a [u8],
    pub(crate) config: BuildConfig<'a>,
    pub(crate) layout: Layout,
    pub(crate) tables: Tables,
}

impl<'a> Plan<'a> {
    /// Lays a domain out.
    ///
    /// # Errors
    /// `NotEnoughMemory`, `BadAddress`, `BadHypercallPage`, `CmdlineTooLong`, `NoDom0Support`.
    pub fn new(
        kernel: KernelImage<'a>,
        ramdisk: Option<&'a [u8]>,
        config: BuildConfig<'a>,
    ) -> Result<Self, ImageError> {
        if config.cmdline.len() > MAX_CMDLINE {
            return Err(ImageError::CmdlineTooLong { len: config.cmdline.len(), max: MAX_CMDLINE });
        }
        if matches!(config.role, Role::Dom0 { .. }) && !kernel.notes().can_be_dom0() {
            return Err(ImageError::NoDom0Support);
        }
        let ramdisk = ramdisk.filter(|bytes| !bytes.is_empty());
        let layout = Layout::new(&kernel, ramdisk.map(|bytes| bytes.len() as u64), &config)?;
        check_hypercall_page(&kernel, &layout)?;
        let tables = Tables::new(&layout, &config.role)?;
        Ok(Self { kernel, ramdisk: ramdisk.unwrap_or_default(), config, layout, tables })
    }

    /// The layout.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The kernel.
    #[must_use]
    pub const fn kernel(&self) -> &KernelImage<'a> {
        &self.kernel
    }

    /// Pfns from 0 up to here have to be rendered; all behind are zero pages.
    #[must_use]
    pub const fn used_pages(&self) -> u64 {
        self.layout.first_free
    }

    /// The L4's pfn: what is pinned and loaded into CR3.
    #[must_use]
    pub const fn l4(&self) -> Pfn {
        Pfn::new(self.layout.tables.first)
    }

    /// The page to be filled with hypercall stubs ([`crate::hypercall_page::fill`]), if the kernel has one.
    #[must_use]
    pub fn hypercall_page(&self) -> Option<Pfn> {
        let va = self.kernel.notes().hypercall_page?;
        Some(Pfn::new((va - self.layout.virt_base) / PAGE))
    }

    /// Registers of vcpu 0.
    #[must_use]
    pub const fn initial_vcpu(&self) -> InitialVcpu {
        const FLAT_KERNEL_CS: u16 = 0xe033;
        const FLAT_KERNEL_SS: u16 = 0xe02b;
        const RFLAGS_IF: u64 = 1 << 9;
        InitialVcpu {
            rip: GuestVa::new(self.kernel.entry()),
            rsp: GuestVa::new(self.layout.va_of(self.layout.stack) + PAGE),
            rsi: GuestVa::new(self.layout.va_of(self.layout.start_info)),
            rflags: RFLAGS_IF,
            cs: FLAT_KERNEL_CS,
            ss: FLAT_KERNEL_SS,
            cr3: self.l4(),
        }
    }

    /// Every present page-table entry, table by table in pfn order.
    pub fn page_table_entries(&self) -> impl Iterator<Item = TableEntry> + '_ {
        self.tables.pfns().into_iter().flat_map(move |table| {
            let base = self.tables.at(table).unwrap_or((4, 0));
            (0..512u16).filter_map(move |index| {
                let (target, flags) = self.tables.entry(&self.layout, base, u64::from(index))?;
                let (table, target) = (Pfn::new(table), Pfn::new(target));
                Some(TableEntry { table, level: base.0, index, target, flags })
            })
        })
    }

    /// What a page holds.
    #[must_use]
    pub fn kind(&self, pfn: Pfn) -> PageKind {
        let pfn = pfn.raw();
        if let Some((level, _)) = self.tables.at(pfn) {
            return PageKind::Table(level);
        }
        let layout = &self.layout;
        let ramdisk = layout.ramdisk.is_some_and(|r| r.pages.contains(pfn));
        let data = layout.kernel.contains(pfn) || ramdisk || layout.p2m.list.contains(pfn);
        if data || pfn == layout.start_info { PageKind::Data } else { PageKind::Zero }
    }
}

fn check_hypercall_page(kernel: &KernelImage<'_>, layout: &Layout) -> Result<(), ImageError> {
    match kernel.notes().hypercall_page {
        Some(va) if va % PAGE != 0 || va < kernel.start() || va >= kernel.end() => {
            Err(ImageError::BadHypercallPage(va))
        }
        Some(va) if va >= layout.virt_end => Err(ImageError::BadHypercallPage(va)),
        _ => Ok(()),
    }
}
