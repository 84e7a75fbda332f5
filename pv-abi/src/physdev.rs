//! `physdev_op`: interrupt lines, I/O ports and PCI devices.

abi_enum! {
    /// Sub-operations.
    pub enum PhysdevOp: u32 {
        /// Legacy; answered with success.
        IrqUnmaskNotify = 4, "PHYSDEVOP_IRQ_UNMASK_NOTIFY";
        IrqStatusQuery = 5, "PHYSDEVOP_irq_status_query";
        SetIopl = 6, "PHYSDEVOP_set_iopl";
        SetIobitmap = 7, "PHYSDEVOP_set_iobitmap";
        ApicRead = 8, "PHYSDEVOP_apic_read";
        ApicWrite = 9, "PHYSDEVOP_apic_write";
        AllocIrqVector = 10, "PHYSDEVOP_alloc_irq_vector";
        FreeIrqVector = 11, "PHYSDEVOP_free_irq_vector";
        /// The guest has handled a line.
        Eoi = 12, "PHYSDEVOP_eoi";
        MapPirq = 13, "PHYSDEVOP_map_pirq";
        UnmapPirq = 14, "PHYSDEVOP_unmap_pirq";
        ManagePciAdd = 15, "PHYSDEVOP_manage_pci_add";
        ManagePciRemove = 16, "PHYSDEVOP_manage_pci_remove";
        PirqEoiGmfnV1 = 17, "PHYSDEVOP_pirq_eoi_gmfn_v1";
        RestoreMsi = 19, "PHYSDEVOP_restore_msi";
        ManagePciAddExt = 20, "PHYSDEVOP_manage_pci_add_ext";
        SetupGsi = 21, "PHYSDEVOP_setup_gsi";
        GetFreePirq = 23, "PHYSDEVOP_get_free_pirq";
        PciMmcfgReserved = 24, "PHYSDEVOP_pci_mmcfg_reserved";
        PciDeviceAdd = 25, "PHYSDEVOP_pci_device_add";
        PciDeviceRemove = 26, "PHYSDEVOP_pci_device_remove";
        RestoreMsiExt = 27, "PHYSDEVOP_restore_msi_ext";
        PirqEoiGmfnV2 = 28, "PHYSDEVOP_pirq_eoi_gmfn_v2";
        DbgpOp = 29, "PHYSDEVOP_dbgp_op";
        PrepareMsix = 30, "PHYSDEVOP_prepare_msix";
        ReleaseMsix = 31, "PHYSDEVOP_release_msix";
    }
}

abi_enum! {
    /// `physdev_map_pirq.type`.
    pub enum MapPirqType: u32 {
        Msi = 0, "MAP_PIRQ_TYPE_MSI";
        Gsi = 1, "MAP_PIRQ_TYPE_GSI";
        Unknown = 2, "MAP_PIRQ_TYPE_UNKNOWN";
        MsiSeg = 3, "MAP_PIRQ_TYPE_MSI_SEG";
        MultiMsi = 4, "MAP_PIRQ_TYPE_MULTI_MSI";
    }
}

bitflags::bitflags! {
    /// `physdev_irq_status_query.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct IrqStatus: u32 {
        /// [`PhysdevOp::Eoi`] is needed.
        #[doc(alias = "XENIRQSTAT_needs_eoi")]
        const NEEDS_EOI = 1 << 0;
        /// Others use the line too.
        #[doc(alias = "XENIRQSTAT_shared")]
        const SHARED = 1 << 1;
    }

    /// `physdev_pci_device_add.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PciDevFlags: u32 {
        /// An extended function.
        #[doc(alias = "XEN_PCI_DEV_EXTFN")]
        const EXTFN = 1 << 0;
        /// A virtual function.
        #[doc(alias = "XEN_PCI_DEV_VIRTFN")]
        const VIRTFN = 1 << 1;
        /// A proximity domain follows.
        #[doc(alias = "XEN_PCI_DEV_PXM")]
        const PXM = 1 << 2;
    }
}

/// `physdev_pci_mmcfg_reserved.flags`: the area is reserved in the memory map.
#[doc(alias = "XEN_PCI_MMCFG_RESERVED")]
pub const PCI_MMCFG_RESERVED: u32 = 1;

wire! {
    /// Argument of [`PhysdevOp::Eoi`].
    #[doc(alias = "physdev_eoi")]
    pub struct PhysdevEoi {
        /// Line.
        pub irq: u32,
    }

    /// Argument of the pirq-EOI-map calls.
    #[doc(alias = "physdev_pirq_eoi_gmfn")]
    pub struct PhysdevPirqEoiGmfn {
        /// Frame of the bitmap of lines that need an EOI.
        pub gmfn: u64,
    }

    /// Argument of [`PhysdevOp::IrqStatusQuery`].
    #[doc(alias = "physdev_irq_status_query")]
    pub struct PhysdevIrqStatusQuery {
        /// Line.
        pub irq: u32,
        /// [`IrqStatus`] (out).
        pub flags: u32,
    }

    /// Argument of [`PhysdevOp::SetIopl`].
    #[doc(alias = "physdev_set_iopl")]
    pub struct PhysdevSetIopl {
        /// 0 to 3.
        pub iopl: u32,
    }

    /// Argument of [`PhysdevOp::SetIobitmap`].
    #[doc(alias = "physdev_set_iobitmap")]
    pub struct PhysdevSetIobitmap {
        /// Handle of the bits; a clear bit allows the port.
        pub bitmap: u64,
        /// Ports.
        pub nr_ports: u32,
        /// Padding.
        pub _pad: u32,
    }

    /// Argument of [`PhysdevOp::ApicRead`] and [`PhysdevOp::ApicWrite`].
    #[doc(alias = "physdev_apic")]
    pub struct PhysdevApic {
        /// Which IO-APIC.
        pub apic_physbase: u64,
        /// Register.
        pub reg: u32,
        /// Value.
        pub value: u32,
    }

    /// Argument of [`PhysdevOp::AllocIrqVector`].
    #[doc(alias = "physdev_irq")]
    pub struct PhysdevIrq {
        /// Line.
        pub irq: u32,
        /// Vector (out).
        pub vector: u32,
    }

    /// Argument of [`PhysdevOp::MapPirq`].
    #[doc(alias = "physdev_map_pirq")]
    pub struct PhysdevMapPirq {
        /// For whom.
        pub domid: u16,
        /// Padding.
        pub _pad0: u16,
        /// [`MapPirqType`] (the ABI's `type`).
        pub kind: u32,
        /// GSI or vector.
        pub index: i32,
        /// Line wanted, negative for any (in); line (out).
        pub pirq: i32,
        /// Bus (low 16 bits) and segment.
        pub bus: i32,
        /// Device and function.
        pub devfn: i32,
        /// Entry of an MSI-X table, or number of vectors.
        pub entry_nr: i32,
        /// Padding.
        pub _pad1: u32,
        /// Machine address of an MSI-X table; 0 for MSI.
        pub table_base: u64,
    }

    /// Argument of [`PhysdevOp::UnmapPirq`].
    #[doc(alias = "physdev_unmap_pirq")]
    pub struct PhysdevUnmapPirq {
        /// Whose.
        pub domid: u16,
        /// Padding.
        pub _pad: u16,
        /// Line.
        pub pirq: i32,
    }

    /// Argument of the older PCI calls.
    #[doc(alias = "physdev_manage_pci")]
    #[doc(alias = "physdev_restore_msi")]
    pub struct PhysdevManagePci {
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }

    /// Argument of [`PhysdevOp::SetupGsi`].
    #[doc(alias = "physdev_setup_gsi")]
    pub struct PhysdevSetupGsi {
        /// Line.
        pub gsi: i32,
        /// 0 edge, 1 level.
        pub triggering: u8,
        /// 0 high, 1 low.
        pub polarity: u8,
        /// Padding.
        pub _pad: u16,
    }

    /// Argument of [`PhysdevOp::GetFreePirq`].
    #[doc(alias = "physdev_get_free_pirq")]
    pub struct PhysdevGetFreePirq {
        /// [`MapPirqType`] (the ABI's `type`).
        pub kind: u32,
        /// Line (out).
        pub pirq: u32,
    }

    /// Argument of [`PhysdevOp::PciMmcfgReserved`].
    #[doc(alias = "physdev_pci_mmcfg_reserved")]
    pub struct PhysdevPciMmcfgReserved {
        /// Machine address of the configuration area.
        pub address: u64,
        /// Segment.
        pub segment: u16,
        /// First bus.
        pub start_bus: u8,
        /// Last bus.
        pub end_bus: u8,
        /// [`PCI_MMCFG_RESERVED`].
        pub flags: u32,
    }

    /// Argument of [`PhysdevOp::PciDeviceAdd`]; a proximity domain may follow, at byte 12.
    #[doc(alias = "physdev_pci_device_add")]
    pub struct PhysdevPciDeviceAdd {
        /// Segment.
        pub seg: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
        /// [`PciDevFlags`].
        pub flags: u32,
        /// Bus of the physical function.
        pub physfn_bus: u8,
        /// Device and function of the physical function.
        pub physfn_devfn: u8,
        /// Padding.
        pub _pad: u16,
    }

    /// Argument of the calls that only name a device.
    #[doc(alias = "physdev_pci_device")]
    pub struct PhysdevPciDevice {
        /// Segment.
        pub seg: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }
}
