//! The two ends' states in xenstore, and what the back end does about them.
//!
//! | front end | back end | what the back end does |
//! |---|---|---|
//! | any | Initialising, Unknown | offers its features and goes to InitWait |
//! | Initialised, Connected | InitWait | connects and goes to Connected |
//! | Closing | any but Closed | lets go and goes to Closing |
//! | Closed | any but Closed | lets go and goes to Closed |
//! | Initialising, InitWait | Closing, Closed, Connected | lets go, offers its features again |
//! | gone | any | lets go and goes to Closed |
//!
//! The front end's state is whatever it wrote; only what the table names has an effect.

use pv_abi::io::xenbus::XenbusState;

/// What the back end does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait.
    Nothing,
    /// Publish the features, go to InitWait. Let go of a ring first if there is one.
    Offer,
    /// Take the ring up, go to Connected.
    Connect,
    /// Let go of the ring, go to Closing.
    Close,
    /// Let go of the ring, go to Closed.
    Finish,
}

/// A state as it stands in xenstore; `None` if it is no number that a state has.
#[must_use]
pub fn parse_state(value: &[u8]) -> Option<XenbusState> {
    let text = core::str::from_utf8(value).ok()?;
    XenbusState::from_raw(text.trim_end_matches('\0').trim().parse().ok()?)
}

/// What follows from the two states. `theirs` is `None` when the front end's node is gone.
#[must_use]
pub fn step(ours: XenbusState, theirs: Option<XenbusState>) -> Step {
    use XenbusState as S;
    match (theirs, ours) {
        (None, S::Closed) => Step::Nothing,
        (None, _) => Step::Finish,
        (Some(S::Closed), S::Closed) => Step::Nothing,
        (Some(_), S::Unknown | S::Initialising) => Step::Offer,
        (Some(S::Initialised | S::Connected), S::InitWait) => Step::Connect,
        (Some(S::Closing), S::Closing | S::Closed) => Step::Nothing,
        (Some(S::Closing), _) => Step::Close,
        (Some(S::Closed), _) => Step::Finish,
        (Some(S::Initialising | S::InitWait), S::Closing | S::Closed | S::Connected) => Step::Offer,
        _ => Step::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use XenbusState as S;

    /// Runs the back end until it waits; its state then.
    fn settle(mut ours: S, theirs: Option<S>) -> S {
        for _ in 0..4 {
            ours = match step(ours, theirs) {
                Step::Nothing => return ours,
                Step::Offer => S::InitWait,
                Step::Connect => S::Connected,
                Step::Close => S::Closing,
                Step::Finish => S::Closed,
            };
        }
        panic!("{theirs:?}: no rest at {ours:?}");
    }

    #[test]
    fn a_usual_life() {
        let mut ours = settle(S::Initialising, Some(S::Initialising));
        assert_eq!(ours, S::InitWait);
        ours = settle(ours, Some(S::Initialised));
        assert_eq!(ours, S::Connected);
        assert_eq!(settle(ours, Some(S::Connected)), S::Connected);
        ours = settle(ours, Some(S::Closing));
        assert_eq!(ours, S::Closing);
        assert_eq!(settle(ours, Some(S::Closed)), S::Closed);
    }

    #[test]
    fn a_front_end_may_start_again() {
        assert_eq!(settle(S::Connected, Some(S::Initialising)), S::InitWait);
        assert_eq!(settle(S::Closed, Some(S::Initialising)), S::InitWait);
        assert_eq!(settle(S::Connected, None), S::Closed);
    }

    #[test]
    fn every_pair_of_states_comes_to_rest() {
        for &ours in S::ALL {
            settle(ours, None);
            for &theirs in S::ALL {
                settle(ours, Some(theirs));
            }
        }
    }

    #[test]
    fn states_are_parsed_with_care() {
        assert_eq!(parse_state(b"4"), Some(S::Connected));
        assert_eq!(parse_state(b"4\0"), Some(S::Connected));
        for bad in [&b""[..], b"9", b"-1", b"four", b"\xff"] {
            assert_eq!(parse_state(bad), None);
        }
    }
}
