//! Xen's ELF notes: how a kernel says what it is and what it needs.

use alloc::string::{String, ToString};

use pv_abi::elfnote::ElfNote;

use crate::bytes::{u32_at, u64_at};
use crate::error::ImageError;

/// Owner name of our notes, as it stands in the file.
const OWNER: &[u8] = b"Xen\0";
/// Bounds the walk over a hostile note area.
const MAX_NOTES: usize = 1024;
/// Features that may stand behind a `!` ("required"): either given, or harmless for a PV guest.
const ACCEPTED: [&str; 7] = [
    "writable_page_tables",
    "writable_descriptor_tables",
    "auto_translated_physmap",
    "supervisor_mode_kernel",
    "pae_pgdir_above_4gb",
    "hvm_callback_vector",
    "dom0",
];
/// Bit of SUPPORTED_FEATURES that says the kernel can be dom0 (`XENFEAT_dom0`).
const FEATURE_DOM0: u64 = 1 << 11;

/// The notes, as far as they matter. `None` means absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Where the kernel wants to be entered.
    pub entry: Option<u64>,
    /// Page to be filled with hypercall stubs.
    pub hypercall_page: Option<u64>,
    /// Virtual address of pfn 0.
    pub virt_base: Option<u64>,
    /// What load addresses are offset by.
    pub paddr_offset: Option<u64>,
    /// `xen-3.0`.
    pub xen_version: Option<String>,
    /// The system's name.
    pub guest_os: Option<String>,
    /// The system's version.
    pub guest_version: Option<String>,
    /// `generic`.
    pub loader: Option<String>,
    /// PAE_MODE says yes (or does not say no).
    pub pae: bool,
    /// The features string.
    pub features: String,
    /// Bits of the features the kernel can use.
    pub supported_features: Option<u64>,
    /// Lowest address the hypervisor may use.
    pub hv_start_low: Option<u64>,
    /// Where the p2m list is to be mapped.
    pub init_p2m: Option<u64>,
    /// The ramdisk may be left unmapped and given by pfn.
    pub mod_start_pfn: bool,
    /// A suspend can be cancelled.
    pub suspend_cancel: bool,
}

impl Notes {
    /// Reads all note areas. `Err(NoXenNotes)` when no note is Xen's.
    pub(crate) fn parse(areas: &[&[u8]]) -> Result<Self, ImageError> {
        let mut notes = Self::default();
        let mut found = false;
        for area in areas {
            for note in iterate(area) {
                let (kind, desc) = note?;
                found = true;
                notes.take(kind, desc)?;
            }
        }
        if found { Ok(notes) } else { Err(ImageError::NoXenNotes) }
    }

    fn take(&mut self, kind: u32, desc: &[u8]) -> Result<(), ImageError> {
        // Notes of later ABI versions are none of our business.
        let Some(kind) = ElfNote::from_raw(kind) else { return Ok(()) };
        match kind {
            ElfNote::Entry => self.entry = Some(numeric(desc, "ENTRY")?),
            ElfNote::HypercallPage => self.hypercall_page = Some(numeric(desc, "HYPERCALL_PAGE")?),
            ElfNote::VirtBase => self.virt_base = Some(numeric(desc, "VIRT_BASE")?),
            ElfNote::PaddrOffset => self.paddr_offset = Some(numeric(desc, "PADDR_OFFSET")?),
            ElfNote::XenVersion => self.xen_version = Some(text(desc)),
            ElfNote::GuestOs => self.guest_os = Some(text(desc)),
            ElfNote::GuestVersion => self.guest_version = Some(text(desc)),
            ElfNote::Loader => self.loader = Some(text(desc)),
            ElfNote::PaeMode => self.pae = text(desc).starts_with("yes"),
            ElfNote::Features => self.features = text(desc),
            ElfNote::HvStartLow => self.hv_start_low = Some(numeric(desc, "HV_START_LOW")?),
            ElfNote::SuspendCancel => self.suspend_cancel = numeric(desc, "SUSPEND_CANCEL")? != 0,
            ElfNote::InitP2m => self.init_p2m = Some(numeric(desc, "INIT_P2M")?),
            ElfNote::ModStartPfn => self.mod_start_pfn = numeric(desc, "MOD_START_PFN")? != 0,
            ElfNote::SupportedFeatures => {
                self.supported_features = Some(numeric(desc, "SUPPORTED_FEATURES")?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Refuses kernels for another loader or interface, or that need what is not there.
    pub(crate) fn check(&self) -> Result<(), ImageError> {
        let generic = self.loader.as_deref().is_some_and(|l| l.starts_with("generic"));
        let linux = self.guest_os.as_deref().is_some_and(|g| g.starts_with("linux"));
        if !generic && !linux {
            return Err(ImageError::BadLoader(self.loader.clone().unwrap_or_default()));
        }
        let version = self.xen_version.as_deref().unwrap_or_default();
        if !version.starts_with("xen-3.0") {
            return Err(ImageError::BadXenVersion(version.to_string()));
        }
        for feature in self.features.split('|') {
            let Some(required) = feature.strip_prefix('!') else { continue };
            if !ACCEPTED.contains(&required) {
                return Err(ImageError::UnknownRequiredFeature(required.to_string()));
            }
        }
        Ok(())
    }

    /// Whether the kernel may be dom0: it says so, or says nothing.
    #[must_use]
    pub fn can_be_dom0(&self) -> bool {
        self.supported_features.is_none_or(|bits| bits & FEATURE_DOM0 != 0)
    }
}

/// Walks one note area; yields type and descriptor of Xen's notes only.
fn iterate(area: &[u8]) -> impl Iterator<Item = Result<(u32, &[u8]), ImageError>> {
    let mut at = 0usize;
    let mut count = 0usize;
    core::iter::from_fn(move || {
        loop {
            // Trailing padding shorter than a header ends the area.
            if area.len().saturating_sub(at) < 12 {
                return None;
            }
            count += 1;
            if count > MAX_NOTES {
                at = area.len();
                return Some(Err(ImageError::TooMany("notes")));
            }
            match one(area, at) {
                Ok((owner, kind, desc, next)) => {
                    at = next;
                    if owner == OWNER {
                        return Some(Ok((kind, desc)));
                    }
                }
                Err(error) => {
                    at = area.len();
                    return Some(Err(error));
                }
            }
        }
    })
}

type RawNote<'a> = (&'a [u8], u32, &'a [u8], usize);

fn one(area: &[u8], at: usize) -> Result<RawNote<'_>, ImageError> {
    let truncated = || ImageError::Truncated("note");
    let size = |offset: usize| {
        let raw = u32_at(area, at.checked_add(offset)?)?;
        usize::try_from(raw).ok()
    };
    let name_len = size(0).ok_or_else(truncated)?;
    let desc_len = size(4).ok_or_else(truncated)?;
    let kind = u32_at(area, at + 8).ok_or_else(truncated)?;
    let name_at = at + 12;
    let desc_at = padded(name_at, name_len).ok_or_else(truncated)?;
    let name = area.get(name_at..name_at + name_len).ok_or_else(truncated)?;
    let desc_end = desc_at.checked_add(desc_len).ok_or_else(truncated)?;
    let desc = area.get(desc_at..desc_end).ok_or_else(truncated)?;
    let next = padded(desc_at, desc_len).ok_or_else(truncated)?;
    Ok((name, kind, desc, next))
}

/// `at + len`, with `len` rounded up to the notes' 4-byte grain.
fn padded(at: usize, len: usize) -> Option<usize> {
    at.checked_add(len.checked_add(3)? & !3)
}

/// Numbers may have 4 or 8 bytes.
fn numeric(desc: &[u8], name: &'static str) -> Result<u64, ImageError> {
    let value = match desc.len() {
        4 => u32_at(desc, 0).map(u64::from),
        8 => u64_at(desc, 0),
        _ => None,
    };
    value.ok_or(ImageError::BadNote(name))
}

/// A string ends at its NUL or at the descriptor's end. What is not UTF-8 cannot be anything we accept.
fn text(desc: &[u8]) -> String {
    let end = desc.iter().position(|&b| b == 0).unwrap_or(desc.len());
    String::from_utf8_lossy(desc.get(..end).unwrap_or_default()).into_owned()
}
