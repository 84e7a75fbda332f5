//! How many rings a front end uses, and where in its directory it tells of each.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Rings that are offered to a front end. dom0 serves all of them on one vcpu: more would only spread a guest's own locks.
pub const MAX_QUEUES: u32 = 4;

/// Number of rings that is out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadQueues(pub u32);

impl core::fmt::Display for BadQueues {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the front end wants {} rings, not 1 to {MAX_QUEUES}", self.0)
    }
}

/// The directories of a front end's rings: its own for a single one, `queue-N` in it for several. `wanted` is the value
/// of `multi-queue-num-queues`, if it is there.
///
/// # Errors
/// No ring, or more than were offered.
pub fn directories(frontend: &str, wanted: Option<u32>) -> Result<Vec<String>, BadQueues> {
    match wanted {
        None | Some(1) => Ok(Vec::from([frontend.to_string()])),
        Some(count) if (2..=MAX_QUEUES).contains(&count) => {
            Ok((0..count).map(|queue| format!("{frontend}/queue-{queue}")).collect())
        }
        Some(count) => Err(BadQueues(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_ring_has_no_directory_of_its_own() {
        for wanted in [None, Some(1)] {
            assert_eq!(directories("/f", wanted), Ok(Vec::from(["/f".to_string()])));
        }
        let two = Vec::from(["/f/queue-0".to_string(), "/f/queue-1".to_string()]);
        assert_eq!(directories("/f", Some(2)), Ok(two));
    }

    #[test]
    fn no_ring_and_too_many_are_refused() {
        for wrong in [0, MAX_QUEUES + 1, u32::MAX] {
            assert_eq!(directories("/f", Some(wrong)), Err(BadQueues(wrong)));
        }
    }
}
