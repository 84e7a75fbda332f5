//! The hypercall table: the one place that says which calls exist.
//!
//! A 64-bit guest kernel issues `SYSCALL` with the number in RAX and at most five arguments in RDI, RSI, RDX, R10 and
//! R8; the result comes back in RAX and the argument registers may be clobbered. A number that is not in the table is
//! refused with `-ENOSYS`. The dispatcher, the SDK's wrappers, the trace labels and the checks of the documentation are
//! all made from [`for_each_hypercall!`].

/// Numbers a hypercall page has room for.
#[doc(alias = "NR_hypercalls")]
pub const NR_HYPERCALLS: usize = 64;
/// Most arguments a call takes.
pub const MAX_HYPERCALL_ARGS: usize = 5;

/// Who may issue a call at all; a sub-operation may ask for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerClass {
    /// Every guest kernel.
    Any,
    /// The domain that owns the machine's hardware.
    Hardware,
    /// A domain that controls others.
    Control,
}

/// Whether a call may stop half-way and go on when the guest runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// Runs to its end.
    OneGo,
    /// Saves its progress in its own arguments and is issued again.
    Restartable,
}

/// Hands THE table to the macro named: `callback! { [extra…] rows… }`.
///
/// A row is `number, RustName, abi_name, argument count, caller class, preemption;`. The ABI name goes without
/// its `__HYPERVISOR_` prefix. Tokens after the callback's name are handed on in front, in brackets.
///
/// ```
/// macro_rules! count {
///     ([] $($nr:literal, $name:ident, $abi:ident, $args:literal, $class:ident, $preemption:ident;)+) => {
///         [$($nr),+].len()
///     };
/// }
/// assert!(pv_abi::for_each_hypercall!(count) > 20);
/// ```
#[macro_export]
macro_rules! for_each_hypercall {
    ($callback:ident $(, $($extra:tt)*)?) => {
        $callback! {
            [$($($extra)*)?]
            0, SetTrapTable, set_trap_table, 1, Any, Restartable;
            1, MmuUpdate, mmu_update, 4, Any, Restartable;
            2, SetGdt, set_gdt, 2, Any, OneGo;
            3, StackSwitch, stack_switch, 2, Any, OneGo;
            4, SetCallbacks, set_callbacks, 3, Any, OneGo;
            5, FpuTaskswitch, fpu_taskswitch, 1, Any, OneGo;
            7, PlatformOp, platform_op, 1, Hardware, Restartable;
            8, SetDebugreg, set_debugreg, 2, Any, OneGo;
            9, GetDebugreg, get_debugreg, 1, Any, OneGo;
            10, UpdateDescriptor, update_descriptor, 2, Any, OneGo;
            12, MemoryOp, memory_op, 2, Any, Restartable;
            13, Multicall, multicall, 2, Any, Restartable;
            14, UpdateVaMapping, update_va_mapping, 3, Any, OneGo;
            15, SetTimerOp, set_timer_op, 1, Any, OneGo;
            17, XenVersion, xen_version, 2, Any, OneGo;
            18, ConsoleIo, console_io, 3, Any, Restartable;
            20, GrantTableOp, grant_table_op, 3, Any, Restartable;
            21, VmAssist, vm_assist, 2, Any, OneGo;
            22, UpdateVaMappingOtherdomain, update_va_mapping_otherdomain, 4, Any, OneGo;
            23, Iret, iret, 0, Any, OneGo;
            24, VcpuOp, vcpu_op, 3, Any, Restartable;
            25, SetSegmentBase, set_segment_base, 2, Any, OneGo;
            26, MmuextOp, mmuext_op, 4, Any, Restartable;
            28, NmiOp, nmi_op, 2, Any, OneGo;
            29, SchedOp, sched_op, 2, Any, OneGo;
            30, CallbackOp, callback_op, 2, Any, OneGo;
            32, EventChannelOp, event_channel_op, 2, Any, Restartable;
            33, PhysdevOp, physdev_op, 2, Any, Restartable;
            35, Sysctl, sysctl, 1, Control, Restartable;
            36, Domctl, domctl, 1, Control, Restartable;
        }
    };
}

macro_rules! define_hypercalls {
    ([] $($nr:literal, $name:ident, $abi:ident, $args:literal, $class:ident, $preemption:ident;)+) => {
        /// A hypercall of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u64)]
        pub enum Hypercall {
            $(
                #[doc = concat!("`__HYPERVISOR_", stringify!($abi), "`.")]
                $name = $nr,
            )+
        }

        impl Hypercall {
            /// Every call, ascending.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The call of a number, or `None` for numbers outside the table.
            #[must_use]
            pub const fn from_raw(raw: u64) -> Option<Self> {
                match raw {
                    $($nr => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// The number.
            #[must_use]
            pub const fn raw(self) -> u64 {
                match self {
                    $(Self::$name => $nr,)+
                }
            }

            /// The ABI's name, without its `__HYPERVISOR_` prefix.
            #[must_use]
            pub const fn abi_name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($abi),)+
                }
            }

            /// How many arguments the call takes.
            #[must_use]
            pub const fn arg_count(self) -> usize {
                match self {
                    $(Self::$name => $args,)+
                }
            }

            /// Who may issue it.
            #[must_use]
            pub const fn caller_class(self) -> CallerClass {
                match self {
                    $(Self::$name => CallerClass::$class,)+
                }
            }

            /// Whether it may restart.
            #[must_use]
            pub const fn preemption(self) -> Preemption {
                match self {
                    $(Self::$name => Preemption::$preemption,)+
                }
            }
        }
    };
}

for_each_hypercall!(define_hypercalls);

impl core::fmt::Display for Hypercall {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.abi_name())
    }
}
