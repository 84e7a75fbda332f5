//! Reads the firmware's tables while the boot tables map the first 4 GiB, and keeps what matters.
#![expect(unsafe_code, reason = "reads firmware tables in machine memory")]

use crate::arch::boot;
use crate::arch::mm::layout::direct_map;
use core::ptr::with_exposed_provenance;
use hv_core::acpi::{self, ConfigArea, Fadt, Madt, PhysRead, Table};
use hv_core::bounded::Bounded;
use spin::Once;

/// What the firmware told about the machine.
#[derive(Debug)]
pub(crate) struct Platform {
    /// Processors and interrupt controllers.
    pub(crate) madt: Option<Madt>,
    /// Registers for power and time.
    pub(crate) fadt: Option<Fadt>,
    /// Sleep types of soft-off.
    pub(crate) s5: Option<(u8, u8)>,
    /// PCI configuration space in memory.
    pub(crate) config_areas: Option<Bounded<ConfigArea, 16>>,
}

static PLATFORM: Once<Platform> = Once::new();
static NOTHING: Platform = Platform { madt: None, fadt: None, s5: None, config_areas: None };

/// What the firmware told; nothing before [`collect`].
pub(crate) fn platform() -> &'static Platform {
    PLATFORM.get().unwrap_or(&NOTHING)
}

/// Machine memory below 4 GiB, as the boot tables map it.
struct LowMemory;

const MAPPED: u64 = 4 << 30;

impl PhysRead for LowMemory {
    fn read(&self, at: u64, buffer: &mut [u8]) -> bool {
        let end = at.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > MAPPED) {
            return false;
        }
        let from = with_exposed_provenance::<u8>(usize::try_from(direct_map(at)).unwrap_or(0));
        // SAFETY: the boot tables map the first 4 GiB; reading what is no memory gives all ones.
        unsafe { from.copy_to_nonoverlapping(buffer.as_mut_ptr(), buffer.len()) }
        true
    }
}

/// A whole table, in place. Nothing writes to it while the boot tables are in use.
fn bytes_of(table: &Table) -> Option<&'static [u8]> {
    let end = table.at.checked_add(u64::from(table.length))?;
    if end > MAPPED {
        return None;
    }
    let from = with_exposed_provenance(usize::try_from(direct_map(table.at)).ok()?);
    // SAFETY: mapped as in `read`; firmware tables are not in memory that was handed out, and only this CPU runs.
    Some(unsafe { core::slice::from_raw_parts(from, usize::try_from(table.length).ok()?) })
}

/// Finds and parses the tables. Slices of them do not outlive this function.
pub(crate) fn collect() -> &'static Platform {
    PLATFORM.call_once(|| {
        let rsdp = boot::info().rsdp.or_else(|| acpi::find_rsdp(&LowMemory));
        let Some(tables) = rsdp.and_then(|at| acpi::read_tables(&LowMemory, at)) else {
            log::warn!("no ACPI tables: one CPU, no power-off");
            return Platform { madt: None, fadt: None, s5: None, config_areas: None };
        };
        for table in tables.iter() {
            log::debug!("ACPI {} at {:#x}, {} bytes", table.signature.escape_ascii(), table.at, table.length);
        }
        let sound = |name: &[u8; 4]| tables.find(name).and_then(bytes_of).filter(|b| acpi::sums_to_zero(b));
        let madt = sound(b"APIC").and_then(acpi::parse_madt);
        let fadt = sound(b"FACP").and_then(acpi::parse_fadt);
        let dsdt = fadt.and_then(|f| acpi::read_header(&LowMemory, f.dsdt)).as_ref().and_then(bytes_of);
        let config_areas = sound(b"MCFG").map(acpi::parse_mcfg);
        Platform { madt, fadt, s5: dsdt.and_then(acpi::find_s5), config_areas }
    })
}
