//! Event channels: `event_channel_op` and the virtual interrupt lines.

abi_enum! {
    /// Sub-operations.
    pub enum EvtchnOp: u32 {
        /// Connect to a port that another domain has left unbound for us.
        BindInterdomain = 0, "EVTCHNOP_bind_interdomain";
        /// A port for a virtual interrupt line.
        BindVirq = 1, "EVTCHNOP_bind_virq";
        /// A port for a physical interrupt line.
        BindPirq = 2, "EVTCHNOP_bind_pirq";
        /// Free a port.
        Close = 3, "EVTCHNOP_close";
        /// Notify the other end.
        Send = 4, "EVTCHNOP_send";
        /// Describe a port.
        Status = 5, "EVTCHNOP_status";
        /// A port that another domain may connect to.
        AllocUnbound = 6, "EVTCHNOP_alloc_unbound";
        /// A port to oneself.
        BindIpi = 7, "EVTCHNOP_bind_ipi";
        /// Move a port to another vcpu.
        BindVcpu = 8, "EVTCHNOP_bind_vcpu";
        /// Unmask a port, and deliver if it is pending.
        Unmask = 9, "EVTCHNOP_unmask";
        /// Close all ports.
        Reset = 10, "EVTCHNOP_reset";
        /// FIFO ABI: a vcpu's control block.
        InitControl = 11, "EVTCHNOP_init_control";
        /// FIFO ABI: another page of the event array.
        ExpandArray = 12, "EVTCHNOP_expand_array";
        /// FIFO ABI: a port's priority.
        SetPriority = 13, "EVTCHNOP_set_priority";
    }
}

abi_enum! {
    /// `evtchn_status.status`.
    pub enum EvtchnStat: u32 {
        Closed = 0, "EVTCHNSTAT_closed";
        Unbound = 1, "EVTCHNSTAT_unbound";
        Interdomain = 2, "EVTCHNSTAT_interdomain";
        Pirq = 3, "EVTCHNSTAT_pirq";
        Virq = 4, "EVTCHNSTAT_virq";
        Ipi = 5, "EVTCHNSTAT_ipi";
    }
}

abi_enum! {
    /// Virtual interrupt lines.
    pub enum VirqKind: u32 {
        /// A vcpu's timer; one per vcpu.
        Timer = 0, "VIRQ_TIMER";
        /// Asked for by a debug key; one per vcpu.
        Debug = 1, "VIRQ_DEBUG";
        /// A byte came in on the hypervisor's console; dom0.
        Console = 2, "VIRQ_CONSOLE";
        /// A domain changed its state; dom0.
        DomExc = 3, "VIRQ_DOM_EXC";
        Tbuf = 4, "VIRQ_TBUF";
        Debugger = 6, "VIRQ_DEBUGGER";
        /// One per vcpu.
        Xenoprof = 7, "VIRQ_XENOPROF";
        /// The console ring has something to read; dom0.
        ConRing = 8, "VIRQ_CON_RING";
        /// A pcpu came or went; dom0.
        PcpuState = 9, "VIRQ_PCPU_STATE";
        MemEvent = 10, "VIRQ_MEM_EVENT";
        Argo = 11, "VIRQ_ARGO";
        /// Memory runs low; dom0.
        Enomem = 12, "VIRQ_ENOMEM";
        /// One per vcpu.
        Xenpmu = 13, "VIRQ_XENPMU";
        /// Machine check (the architecture's line 0); dom0.
        Mca = 16, "VIRQ_ARCH_0";
    }
}

impl VirqKind {
    /// The line's number as an identifier.
    #[must_use]
    pub const fn virq(self) -> crate::ids::Virq {
        crate::ids::Virq::new(self.raw())
    }
}

/// Number of virtual interrupt lines.
pub const NR_VIRQS: u32 = 24;
/// Most urgent priority of the FIFO ABI.
#[doc(alias = "EVTCHN_FIFO_PRIORITY_MAX")]
pub const FIFO_PRIORITY_MAX: u32 = 0;
/// Priority of a new port.
#[doc(alias = "EVTCHN_FIFO_PRIORITY_DEFAULT")]
pub const FIFO_PRIORITY_DEFAULT: u32 = 7;
/// Least urgent priority.
#[doc(alias = "EVTCHN_FIFO_PRIORITY_MIN")]
pub const FIFO_PRIORITY_MIN: u32 = 15;
/// Queues of a vcpu.
#[doc(alias = "EVTCHN_FIFO_MAX_QUEUES")]
pub const FIFO_MAX_QUEUES: usize = 16;
/// Bits of a link.
#[doc(alias = "EVTCHN_FIFO_LINK_BITS")]
pub const FIFO_LINK_BITS: u32 = 17;
/// Ports of the FIFO ABI.
#[doc(alias = "EVTCHN_FIFO_NR_CHANNELS")]
pub const FIFO_NR_CHANNELS: u32 = 1 << FIFO_LINK_BITS;

bitflags::bitflags! {
    /// An event word of the FIFO ABI.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct EventWord: u32 {
        /// An event has arrived.
        #[doc(alias = "EVTCHN_FIFO_PENDING")]
        const PENDING = 1 << 31;
        /// No upcall for it.
        #[doc(alias = "EVTCHN_FIFO_MASKED")]
        const MASKED = 1 << 30;
        /// It is in a queue.
        #[doc(alias = "EVTCHN_FIFO_LINKED")]
        const LINKED = 1 << 29;
        /// Its link is being changed.
        #[doc(alias = "EVTCHN_FIFO_BUSY")]
        const BUSY = 1 << 28;
        /// The next port in the queue.
        #[doc(alias = "EVTCHN_FIFO_LINK_MASK")]
        const LINK = (1 << FIFO_LINK_BITS) - 1;
    }

    /// `evtchn_bind_pirq.flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct BindPirqFlags: u32 {
        /// The line may be shared.
        #[doc(alias = "BIND_PIRQ__WILL_SHARE")]
        const WILL_SHARE = 1 << 0;
    }
}

wire! {
    /// Argument of [`EvtchnOp::AllocUnbound`].
    #[doc(alias = "evtchn_alloc_unbound")]
    pub struct EvtchnAllocUnbound {
        /// Whose port.
        pub dom: u16,
        /// Who may connect.
        pub remote_dom: u16,
        /// The port (out).
        pub port: u32,
    }

    /// Argument of [`EvtchnOp::BindInterdomain`].
    #[doc(alias = "evtchn_bind_interdomain")]
    pub struct EvtchnBindInterdomain {
        /// The other domain.
        pub remote_dom: u16,
        /// Padding.
        pub _pad: u16,
        /// Its port.
        pub remote_port: u32,
        /// Our port (out).
        pub local_port: u32,
    }

    /// Argument of [`EvtchnOp::BindVirq`].
    #[doc(alias = "evtchn_bind_virq")]
    pub struct EvtchnBindVirq {
        /// [`VirqKind`].
        pub virq: u32,
        /// The vcpu.
        pub vcpu: u32,
        /// The port (out).
        pub port: u32,
    }

    /// Argument of [`EvtchnOp::BindPirq`].
    #[doc(alias = "evtchn_bind_pirq")]
    pub struct EvtchnBindPirq {
        /// The line.
        pub pirq: u32,
        /// [`BindPirqFlags`].
        pub flags: u32,
        /// The port (out).
        pub port: u32,
    }

    /// Argument of [`EvtchnOp::BindIpi`].
    #[doc(alias = "evtchn_bind_ipi")]
    pub struct EvtchnBindIpi {
        /// The vcpu that is notified.
        pub vcpu: u32,
        /// The port (out).
        pub port: u32,
    }

    /// Argument of [`EvtchnOp::Close`].
    #[doc(alias = "evtchn_close")]
    pub struct EvtchnClose {
        /// The port.
        pub port: u32,
    }

    /// Argument of [`EvtchnOp::Send`].
    #[doc(alias = "evtchn_send")]
    pub struct EvtchnSend {
        /// The port.
        pub port: u32,
    }

    /// Argument of [`EvtchnOp::Status`].
    #[doc(alias = "evtchn_status")]
    pub struct EvtchnStatus {
        /// Whose port.
        pub dom: u16,
        /// Padding.
        pub _pad: u16,
        /// The port.
        pub port: u32,
        /// [`EvtchnStat`] (out).
        pub status: u32,
        /// The vcpu that is notified (out).
        pub vcpu: u32,
        /// Unbound: the domain that may connect (low 16 bits). Interdomain: the remote domain (low 16 bits). Pirq
        /// and virq: the line. (out)
        pub u0: u32,
        /// Interdomain: the remote port. (out)
        pub u1: u32,
    }

    /// Argument of [`EvtchnOp::BindVcpu`].
    #[doc(alias = "evtchn_bind_vcpu")]
    pub struct EvtchnBindVcpu {
        /// The port.
        pub port: u32,
        /// The vcpu.
        pub vcpu: u32,
    }

    /// Argument of [`EvtchnOp::Unmask`].
    #[doc(alias = "evtchn_unmask")]
    pub struct EvtchnUnmask {
        /// The port.
        pub port: u32,
    }

    /// Argument of [`EvtchnOp::Reset`].
    #[doc(alias = "evtchn_reset")]
    pub struct EvtchnReset {
        /// Whose ports.
        pub dom: u16,
    }

    /// Argument of [`EvtchnOp::InitControl`].
    #[doc(alias = "evtchn_init_control")]
    pub struct EvtchnInitControl {
        /// Frame of the control block.
        pub control_gfn: u64,
        /// Offset within it.
        pub offset: u32,
        /// The vcpu.
        pub vcpu: u32,
        /// Bits of a link (out).
        pub link_bits: u8,
        /// Padding.
        pub _pad: [u8; 7],
    }

    /// Argument of [`EvtchnOp::ExpandArray`].
    #[doc(alias = "evtchn_expand_array")]
    pub struct EvtchnExpandArray {
        /// Frame of the next page of event words.
        pub array_gfn: u64,
    }

    /// Argument of [`EvtchnOp::SetPriority`].
    #[doc(alias = "evtchn_set_priority")]
    pub struct EvtchnSetPriority {
        /// The port.
        pub port: u32,
        /// 0 to 15.
        pub priority: u32,
    }
}
