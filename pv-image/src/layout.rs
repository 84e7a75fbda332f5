//! Where everything goes: the initial region and what lies behind it.
//!
//! The region starts at VIRT_BASE with pfn 0 and is contiguous in virtual addresses and pfns, so one
//! subtraction converts between them. Its page tables lie inside it, and their number depends on its
//! size, which depends on their number: a fix-point.

use crate::error::ImageError;
use crate::kernel::{KernelImage, check_range};
use crate::plan::{BuildConfig, Role};
use crate::tables::tables_for;

/// 4 KiB.
pub(crate) const PAGE: u64 = 4096;
/// The region ends on a multiple of this …
const REGION_GRAIN: u64 = 4 << 20;
/// … with at least this much room behind the boot stack.
const REGION_PADDING: u64 = 512 << 10;
/// No plan reaches this many pages (16 TiB); keeps the arithmetic far from overflow.
pub(crate) const MAX_PAGES: u64 = 1 << 32;

/// A run of pfns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    /// The first pfn.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl PageRange {
    /// One past the last.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.first + self.count
    }

    /// Whether `pfn` is inside.
    #[must_use]
    pub const fn contains(&self, pfn: u64) -> bool {
        pfn >= self.first && pfn < self.end()
    }
}

/// The ramdisk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramdisk {
    /// Its pages.
    pub pages: PageRange,
    /// Its exact length in bytes.
    pub bytes: u64,
    /// Inside the region (given to the guest by address) or behind it (given by pfn).
    pub mapped: bool,
}

/// Where the p2m list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P2mPlace {
    /// Pages of the list itself.
    pub list: PageRange,
    /// Where the guest sees it.
    pub va: u64,
    /// It has an address of its own (INIT_P2M), outside the region.
    pub separate: bool,
    /// Page tables that map it there and that the region does not have already.
    pub tables: PageRange,
}

impl P2mPlace {
    /// One past the list's last mapped address.
    #[must_use]
    pub const fn va_end(&self) -> u64 {
        self.va + self.list.count * PAGE
    }
}

/// The layout of a domain's first pages. All fields are pfns unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Pages of the domain.
    pub nr_pages: u64,
    /// Virtual address of pfn 0: the region's start.
    pub virt_base: u64,
    /// Virtual end of the region.
    pub virt_end: u64,
    /// The kernel with its bss.
    pub kernel: PageRange,
    /// The ramdisk, if there is one.
    pub ramdisk: Option<Ramdisk>,
    /// The p2m list.
    pub p2m: P2mPlace,
    /// start_info.
    pub start_info: u64,
    /// xenstore ring (domU).
    pub store: Option<u64>,
    /// Console ring (domU).
    pub console: Option<u64>,
    /// Page tables of the region; the first is the L4.
    pub tables: PageRange,
    /// The boot stack.
    pub stack: u64,
    /// Pages in the region (all mapped).
    pub region_pages: u64,
    /// First pfn that nothing uses; all from here on are plain zero pages.
    pub first_free: u64,
}

impl Layout {
    /// Virtual address of a pfn of the region.
    #[must_use]
    pub const fn va_of(&self, pfn: u64) -> u64 {
        self.virt_base + pfn * PAGE
    }

    pub(crate) fn new(
        kernel: &KernelImage<'_>,
        ramdisk_bytes: Option<u64>,
        config: &BuildConfig<'_>,
    ) -> Result<Self, ImageError> {
        let base = kernel.virt_base();
        let nr_pages = config.nr_pages;
        if nr_pages > MAX_PAGES {
            return Err(ImageError::TooLarge {
                need: nr_pages.saturating_mul(PAGE),
                limit: MAX_PAGES * PAGE,
            });
        }
        let kernel_first = (kernel.start() - base) / PAGE;
        let kernel_end = pages(kernel.end() - base);
        // Refused here already, so that no later sum can overflow.
        within(kernel_end, nr_pages)?;
        let ramdisk_pages = pages(ramdisk_bytes.unwrap_or(0));
        within(ramdisk_pages, nr_pages)?;
        let by_pfn = kernel.notes().mod_start_pfn;
        let own_p2m = own_p2m(kernel);
        let mut cursor = Cursor(kernel_end);
        let mapped_ramdisk = (!by_pfn).then(|| cursor.take(ramdisk_pages));
        let list_pages = pages(nr_pages * 8);
        let mapped_list = own_p2m.is_none().then(|| cursor.take(list_pages));
        let start_info = cursor.take(1).first;
        let dom_u = matches!(config.role, Role::DomU { .. });
        let store = dom_u.then(|| cursor.take(1).first);
        let console = dom_u.then(|| cursor.take(1).first);
        let (tables, stack, region_pages) = region_tables(base, cursor.0)?;
        within(region_pages, nr_pages)?;
        let virt_end = base + region_pages * PAGE;

        let mut cursor = Cursor(region_pages);
        let ramdisk = ramdisk_bytes.map(|bytes| Ramdisk {
            pages: mapped_ramdisk.unwrap_or_else(|| cursor.take(ramdisk_pages)),
            bytes,
            mapped: mapped_ramdisk.is_some(),
        });
        let p2m = match (mapped_list, own_p2m) {
            (None, Some(va)) => separate_p2m(va, list_pages, &mut cursor, (base, virt_end))?,
            (list, _) => {
                let list = list.unwrap_or(PageRange { first: 0, count: 0 });
                let tables = PageRange { first: region_pages, count: 0 };
                P2mPlace { list, va: base + list.first * PAGE, separate: false, tables }
            }
        };
        let first_free = cursor.0;
        within(first_free, nr_pages)?;
        let kernel = PageRange { first: kernel_first, count: kernel_end - kernel_first };
        Ok(Self {
            nr_pages,
            virt_base: base,
            virt_end,
            kernel,
            ramdisk,
            p2m,
            start_info,
            store,
            console,
            tables,
            stack,
            region_pages,
            first_free,
        })
    }
}

/// Hands out pfns in order.
struct Cursor(u64);

impl Cursor {
    fn take(&mut self, count: u64) -> PageRange {
        let first = self.0;
        self.0 += count;
        PageRange { first, count }
    }
}

/// Bytes to pages, rounded up.
const fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE)
}

fn within(need: u64, have: u64) -> Result<(), ImageError> {
    if need > have { Err(ImageError::NotEnoughMemory { need, have }) } else { Ok(()) }
}

/// The p2m list's own address, if the kernel gives a usable one; an unusable one is ignored as the
/// reference builder does.
fn own_p2m(kernel: &KernelImage<'_>) -> Option<u64> {
    kernel.notes().init_p2m.filter(|&va| va % PAGE == 0 && va < kernel.virt_base())
}

/// Smallest number of tables that maps a region holding them: `(tables, stack pfn, region pages)`.
fn region_tables(base: u64, first: u64) -> Result<(PageRange, u64, u64), ImageError> {
    let mut count = 1;
    loop {
        let stack = first + count;
        let size = region_size(base, stack + 1)?;
        let need = tables_for(base, base + size);
        // Needs only grow with the region, so this stops at the least fix-point.
        if need <= count {
            return Ok((PageRange { first, count }, stack, size / PAGE));
        }
        count = need;
    }
}

/// Bytes of a region whose used pages end at `used`.
fn region_size(base: u64, used: u64) -> Result<u64, ImageError> {
    let bad = || ImageError::BadAddress(base);
    let end = base.checked_add(used * PAGE).ok_or_else(bad)?;
    let mut rounded = end.checked_next_multiple_of(REGION_GRAIN).ok_or_else(bad)?;
    if rounded - end < REGION_PADDING {
        rounded = rounded.checked_add(REGION_GRAIN).ok_or_else(bad)?;
    }
    check_range(base, rounded)?;
    Ok(rounded - base)
}

/// A p2m list at its own address: its pages, then the tables that the region does not have already.
fn separate_p2m(
    va: u64,
    list_pages: u64,
    cursor: &mut Cursor,
    region: (u64, u64),
) -> Result<P2mPlace, ImageError> {
    let end = va.checked_add(list_pages * PAGE).ok_or(ImageError::BadAddress(va))?;
    check_range(va, end)?;
    if va < region.1 && region.0 < end {
        return Err(ImageError::BadNote("INIT_P2M"));
    }
    let list = cursor.take(list_pages);
    let count = crate::tables::table_bases(&[(va, end)])
        .filter(|table| !crate::tables::covers(*table, region))
        .count();
    let tables = cursor.take(count as u64);
    Ok(P2mPlace { list, va, separate: true, tables })
}
