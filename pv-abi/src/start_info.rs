//! The start-of-day page: what a guest's kernel finds in RSI at its first instruction.

/// What `magic` begins with, NUL-terminated in the field.
pub const START_INFO_MAGIC: &[u8] = b"xen-3.0-x86_64";
/// Bytes of the command line, its NUL included.
pub const MAX_GUEST_CMDLINE: usize = 1024;

bitflags::bitflags! {
    /// `start_info.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct StartInfoFlags: u32 {
        /// The domain is privileged.
        #[doc(alias = "SIF_PRIVILEGED")]
        const PRIVILEGED = 1 << 0;
        /// The domain is the initial one.
        #[doc(alias = "SIF_INITDOMAIN")]
        const INITDOMAIN = 1 << 1;
        /// The module is a list of multiboot modules.
        #[doc(alias = "SIF_MULTIBOOT_MOD")]
        const MULTIBOOT_MOD = 1 << 2;
        /// `mod_start` is a pfn, not a virtual address.
        #[doc(alias = "SIF_MOD_START_PFN")]
        const MOD_START_PFN = 1 << 3;
        /// The guest offers its virtual p2m to tools.
        #[doc(alias = "SIF_VIRT_P2M_4TOOLS")]
        const VIRT_P2M_4TOOLS = 1 << 4;
        /// Power-management bits.
        #[doc(alias = "SIF_PM_MASK")]
        const PM_MASK = 0xff << 8;
    }
}

wire! {
    /// The start-of-day structure (0x490 bytes).
    #[doc(alias = "start_info")]
    pub struct StartInfo {
        /// `xen-3.0-x86_64`, NUL-terminated.
        pub magic: [u8; 32],
        /// Pages of the domain.
        pub nr_pages: u64,
        /// Machine address of the shared-info page.
        pub shared_info: u64,
        /// [`StartInfoFlags`].
        pub flags: u32,
        /// Padding.
        pub _pad0: u32,
        /// Frame of the xenstore ring.
        pub store_mfn: u64,
        /// Port of the xenstore ring.
        pub store_evtchn: u32,
        /// Padding.
        pub _pad1: u32,
        /// The console: for a domU the ring's frame; for dom0 offset (low half) and size (high half) of the video
        /// information.
        pub console_mfn: u64,
        /// The console's port (domU).
        pub console_evtchn: u32,
        /// Padding.
        pub _pad2: u32,
        /// Virtual address of the root page table.
        pub pt_base: u64,
        /// Frames of the initial page tables.
        pub nr_pt_frames: u64,
        /// Virtual address of the initial p2m list.
        pub mfn_list: u64,
        /// Virtual address (or pfn) of the module.
        pub mod_start: u64,
        /// Bytes of the module.
        pub mod_len: u64,
        /// Command line, NUL-terminated.
        pub cmd_line: [u8; MAX_GUEST_CMDLINE],
        /// First pfn of the p2m list when it lies outside the initial mapping.
        pub first_p2m_pfn: u64,
        /// Frames of the p2m list.
        pub nr_p2m_frames: u64,
    }
}

/// Text before the first NUL.
fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or(&[])
}

impl StartInfo {
    /// The command line without its NUL.
    #[must_use]
    pub fn command_line(&self) -> &[u8] {
        until_nul(&self.cmd_line)
    }

    /// Whether the magic is that of a 64-bit PV start of day.
    #[must_use]
    pub fn has_magic(&self) -> bool {
        until_nul(&self.magic) == START_INFO_MAGIC
    }

    /// Offset of the video information within the page (dom0).
    #[must_use]
    pub const fn dom0_console_info_offset(&self) -> u32 {
        // Lossless: the low half.
        (self.console_mfn & 0xffff_ffff) as u32
    }

    /// Size of the video information in bytes (dom0).
    #[must_use]
    pub const fn dom0_console_info_size(&self) -> u32 {
        // Lossless: the high half.
        (self.console_mfn >> 32) as u32
    }
}
