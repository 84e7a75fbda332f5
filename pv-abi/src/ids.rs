//! Identifiers: one type per meaning of a number, so that an mfn is never taken for a pfn.
//!
//! There is no `From` between them; who converts says so by `raw()` and `new()`.

use crate::frame::{PAGE_MASK, PAGE_SHIFT};

ids! {
    /// Machine frame number: a frame of the machine's physical memory.
    pub struct Mfn(u64), "mfn " "{:#x}";
    /// Pseudo-physical frame number: a frame as the guest numbers its own memory.
    pub struct Pfn(u64), "pfn " "{:#x}";
    /// Guest frame number: what a guest names a frame by; for PV guests an mfn.
    pub struct Gfn(u64), "gfn " "{:#x}";
    /// Machine address, in bytes.
    pub struct MachAddr(u64), "maddr " "{:#x}";
    /// Virtual address as a guest gave it: an allegation until it is checked.
    pub struct GuestVa(u64), "va " "{:#x}";
    /// Grant reference: an index into a granter's grant table.
    #[doc(alias = "grant_ref_t")]
    pub struct GrantRef(u32), "gref " "{:#x}";
    /// Grant handle: what a map returns and an unmap takes.
    #[doc(alias = "grant_handle_t")]
    pub struct GrantHandle(u32), "handle " "{:#x}";

    // People read the rest in decimal.
    /// Domain identifier.
    #[doc(alias = "domid_t")]
    pub struct DomId(u16), "d" "{}";
    /// Virtual CPU of a domain.
    pub struct VcpuId(u32), "v" "{}";
    /// Physical CPU, as the hypervisor numbers them.
    pub struct PcpuId(u32), "pcpu" "{}";
    /// Event channel port: an index into a domain's event channels.
    #[doc(alias = "evtchn_port_t")]
    pub struct EvtchnPort(u32), "port " "{}";
    /// Virtual interrupt line, see [`crate::evtchn::VirqKind`].
    pub struct Virq(u32), "virq " "{}";
}

impl DomId {
    /// The privileged domain.
    pub const DOM0: Self = Self(0);
    /// Identifiers from here on name no ordinary domain.
    #[doc(alias = "DOMID_FIRST_RESERVED")]
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// The calling domain.
    #[doc(alias = "DOMID_SELF")]
    pub const SELF: Self = Self(0x7ff0);
    /// Owner of I/O memory.
    #[doc(alias = "DOMID_IO")]
    pub const IO: Self = Self(0x7ff1);
    /// The hypervisor: owner of pages it shares with privileged domains.
    #[doc(alias = "DOMID_XEN")]
    pub const XEN: Self = Self(0x7ff2);
    /// Owner of copy-on-write pages.
    #[doc(alias = "DOMID_COW")]
    pub const COW: Self = Self(0x7ff3);
    /// No domain.
    #[doc(alias = "DOMID_INVALID")]
    pub const INVALID: Self = Self(0x7ff4);
    /// The idle domain.
    #[doc(alias = "DOMID_IDLE")]
    pub const IDLE: Self = Self(0x7fff);
    /// The bits of a domain identifier.
    #[doc(alias = "DOMID_MASK")]
    pub const MASK: u16 = 0x7fff;

    /// Whether the identifier can name an ordinary domain.
    #[must_use]
    pub const fn is_ordinary(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}

impl Mfn {
    /// No frame.
    #[doc(alias = "INVALID_MFN")]
    pub const INVALID: Self = Self::new(u64::MAX);

    /// The machine address of the frame's first byte.
    ///
    /// The shift drops the bits above 52, which no machine address has.
    #[must_use]
    pub const fn to_maddr(self) -> MachAddr {
        MachAddr::new(self.raw() << PAGE_SHIFT)
    }
}

impl MachAddr {
    /// The frame that holds the address.
    #[must_use]
    pub const fn mfn(self) -> Mfn {
        Mfn::new(self.raw() >> PAGE_SHIFT)
    }

    /// The offset within the frame, in bytes.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.raw() & !PAGE_MASK
    }
}

impl GuestVa {
    /// The address `bytes` further on, or `None` on overflow.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.raw().checked_add(bytes) {
            Some(sum) => Some(Self::new(sum)),
            None => None,
        }
    }

    /// The offset within the page, in bytes.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.raw() & !PAGE_MASK
    }

    /// Whether bits 47 to 63 are equal, as the CPU demands.
    #[must_use]
    pub const fn is_canonical(self) -> bool {
        let top = self.raw() >> 47;
        top == 0 || top == 0x1_ffff
    }
}
