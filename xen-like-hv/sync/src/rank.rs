//! Ranks of all spin locks, in the order in which one CPU may take them, with what each protects.

/// Place of a lock in the order. Lower is taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(u8);

impl Rank {
    /// The bit of this rank in a mask of held ranks.
    #[must_use]
    pub const fn bit(self) -> u32 {
        self.0 as u32
    }
}

macro_rules! ranks {
    ($($(#[$doc:meta])* $name:ident = $n:literal;)*) => {
        $($(#[$doc])* pub const $name: Rank = Rank($n);)*
    };
}

ranks! {
    /// The table of domains: creation and removal.
    DOMAIN_TABLE = 2;
    /// A domctl in progress: one at a time.
    DOMCTL = 4;
    /// A domain's slow state: handle, lifecycle changes, vcpu creation.
    DOMAIN = 8;
    /// A domain's page-table work that must not run twice at once.
    PAGE_TABLE = 12;
    /// A vcpu's descriptor, trap and callback tables.
    VCPU = 16;
    /// A domain's grant table and active entries.
    GRANT = 20;
    /// A domain's maptrack.
    MAPTRACK = 22;
    /// A domain's event channel ports.
    EVTCHN = 28;
    /// The FIFO queues of a domain's event channels: whoever sends to it holds a lock of event channel ports.
    FIFO = 30;
    /// A domain's list of pages and their count.
    DOMAIN_PAGES = 32;
    /// A domain's PCI configuration address.
    PCI_CONFIG = 34;
    /// PCI devices that are known, and which of their messages are in use.
    PCI_DEVICES = 35;
    /// PIRQ bindings.
    IRQ = 36;
    /// The machine's PCI configuration registers.
    PCI_REGISTERS = 37;
    /// The interrupt controller's registers.
    IRQ_CONTROLLER = 38;
    /// The registers of the interrupt controllers; interrupt handlers take it too.
    IO_APIC = 38;
    /// Timers of one pcpu.
    TIMER = 40;
    /// A runqueue of one pcpu.
    RUNQUEUE = 44;
    /// A vcpu's saved register context.
    CONTEXT = 46;
    /// The frame allocator.
    HEAP = 50;
    /// The hypervisor's own heap.
    HV_HEAP = 52;
    /// The table of debug keys.
    CONSOLE_KEYS = 58;
    /// The console ring and the serial port.
    CONSOLE = 60;
}
