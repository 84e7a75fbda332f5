//! Ethernet between guests and the world, as machines without I/O.
//!
//! | module | what it is |
//! |---|---|
//! | [`mac`] | addresses |
//! | [`headers`] | what of a frame's headers is looked at |
//! | [`offload`] | checksums completed and large TCP packets cut, for whoever does not take them as they are |
//! | [`switch`] | a learning switch: where a frame goes, and who may send what |
//!
//! Frames are never borrowed as bytes: they lie in pages that a device or the hypervisor filled. [`FrameData`] reads
//! and writes them.

pub mod headers;
pub mod mac;
pub mod offload;
pub mod switch;

pub use mac::Mac;

/// Most bytes of a frame.
pub const MAX_FRAME: usize = 0xffff;
/// Bytes of an Ethernet header.
pub const ETH_HEADER: usize = 14;
/// Most bytes of an Ethernet frame on a wire whose MTU is 1500, with a VLAN tag.
pub const MAX_WIRE_FRAME: usize = 1518;

/// The bytes of a frame.
pub trait FrameData {
    /// How many there are.
    fn frame_len(&self) -> usize;
    /// Copies bytes from `at` on; what lies behind the end is left alone.
    fn read(&self, at: usize, into: &mut [u8]);
    /// Changes bytes from `at` on; what lies behind the end is dropped.
    fn write(&self, at: usize, from: &[u8]);
}

/// How a frame differs from one on a wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// What is known about the checksum of TCP or UDP.
    pub checksum: Checksum,
    /// A TCP packet that is to be cut.
    pub gso: Option<Gso>,
}

/// What is known about the checksum of TCP or UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing.
    #[default]
    Unknown,
    /// It is not there yet. The packet has never been on a wire, so it is whole.
    Blank,
    /// It was looked at and is right.
    Good,
}

/// How a TCP packet is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Over IPv6 instead of IPv4.
    pub v6: bool,
    /// Bytes of payload in each segment.
    pub size: u16,
}

/// What a receiver takes besides frames as they are on a wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// Blank checksums over IPv4.
    pub blank_v4: bool,
    /// Blank checksums over IPv6.
    pub blank_v6: bool,
    /// TCP over IPv4 to be cut.
    pub gso_v4: bool,
    /// TCP over IPv6 to be cut.
    pub gso_v6: bool,
    /// Frames of more than one page.
    pub several_pages: bool,
}

#[cfg(test)]
pub(crate) mod testing {
    use super::FrameData;
    use alloc::vec::Vec;
    use core::cell::RefCell;

    /// A frame in ordinary memory.
    pub(crate) struct Plain(pub(crate) RefCell<Vec<u8>>);

    impl Plain {
        pub(crate) fn new(bytes: &[u8]) -> Self {
            Self(RefCell::new(bytes.to_vec()))
        }
    }

    impl FrameData for Plain {
        fn frame_len(&self) -> usize {
            self.0.borrow().len()
        }

        fn read(&self, at: usize, into: &mut [u8]) {
            let bytes = self.0.borrow();
            for (to, from) in into.iter_mut().zip(bytes.get(at..).unwrap_or_default()) {
                *to = *from;
            }
        }

        fn write(&self, at: usize, from: &[u8]) {
            let mut bytes = self.0.borrow_mut();
            for (to, from) in bytes.get_mut(at..).unwrap_or_default().iter_mut().zip(from) {
                *to = *from;
            }
        }
    }
}
