//! The three shapes that the families repeat: enumerations of numbers, wire structures, identifiers.

/// Declares an enumeration of ABI numbers with `from_raw`, `raw`, `abi_name` and `ALL`.
///
/// Each row is `Variant = number, "ABI_name";`, optionally preceded by a doc comment.
macro_rules! abi_enum {
    ($(#[$meta:meta])* pub enum $name:ident : $repr:ident { $($(#[$vmeta:meta])* $variant:ident = $value:expr, $abi:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr($repr)]
        pub enum $name {
            $(
                #[doc = concat!("`", $abi, "`.")]
                $(#[$vmeta])*
                #[doc(alias = $abi)]
                $variant = $value,
            )+
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value of a raw number, or `None` if the ABI (as far as it is known here) has no such number.
            #[must_use]
            pub const fn from_raw(raw: $repr) -> Option<Self> {
                $(if raw == $value { return Some(Self::$variant); })+
                None
            }

            /// The raw number.
            #[must_use]
            pub const fn raw(self) -> $repr {
                match self {
                    $(Self::$variant => $value,)+
                }
            }

            /// The name in the ABI's headers.
            #[must_use]
            pub const fn abi_name(self) -> &'static str {
                match self {
                    $(Self::$variant => $abi,)+
                }
            }
        }
    };
}

/// Declares wire structures: plain bytes, every pattern valid, no implicit padding (checked by the derives).
macro_rules! wire {
    ($($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* })+) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(
                Clone, Copy, Debug, PartialEq, Eq,
                zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
            )]
            pub struct $name { $($body)* }

            impl Default for $name {
                fn default() -> Self {
                    zerocopy::FromZeros::new_zeroed()
                }
            }
        )+
    };
}

/// Declares identifier newtypes: private field, no conversions between them, printed as the literal says.
macro_rules! ids {
    ($($(#[$meta:meta])* pub struct $name:ident($raw:ident), $prefix:literal $number:literal;)+) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
            #[repr(transparent)]
            pub struct $name($raw);

            impl $name {
                /// Gives the raw number its type.
                #[must_use]
                pub const fn new(raw: $raw) -> Self {
                    Self(raw)
                }

                /// The raw number.
                #[must_use]
                pub const fn raw(self) -> $raw {
                    self.0
                }
            }

            impl core::fmt::Display for $name {
                fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                    write!(f, concat!($prefix, $number), self.0)
                }
            }

            impl core::fmt::Debug for $name {
                fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                    write!(f, concat!(stringify!($name), "(", $number, ")"), self.0)
                }
            }
        )+
    };
}

/// Gives a command structure with a union `u` of `PAYLOAD_SIZE` bytes its typed view of that union.
macro_rules! union_payload {
    ($name:ident) => {
        impl $name {
            /// The union read as `T`.
            #[must_use]
            pub fn payload<T: zerocopy::FromBytes + zerocopy::Immutable>(&self) -> T {
                const { assert!(size_of::<T>() <= PAYLOAD_SIZE, "does not fit the union") };
                T::read_from_prefix(&self.u).map_or_else(|_| T::new_zeroed(), |(value, _)| value)
            }

            /// Writes `payload` at the start of the union; the rest stays.
            pub fn set_payload<T: zerocopy::IntoBytes + zerocopy::Immutable>(&mut self, payload: &T) {
                const { assert!(size_of::<T>() <= PAYLOAD_SIZE, "does not fit the union") };
                for (to, from) in self.u.iter_mut().zip(payload.as_bytes()) {
                    *to = *from;
                }
            }
        }
    };
}
