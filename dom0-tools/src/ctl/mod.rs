//! The control language: what a user may ask of dom0, in its shell or through `pvctl`.
//!
//! | module | what it is |
//! |---|---|
//! | [`wire`] | requests and answers as lines of JSON over a byte stream |
//! | [`words`] | a command line cut into words |
//! | [`command`] | the verbs and their arguments |
//! | [`render`] | answers as tables or JSON |
//!
//! `pvctl` sends a user's words unread, so that one parser, dom0's, serves both.

pub mod command;
pub mod render;
pub mod wire;
pub mod words;

/// How a command ended; also the exit status of `pvctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed; a message says why.
    Failed = 1,
    /// The words make no command.
    Usage = 2,
    /// There is no such domain.
    NoDomain = 3,
    /// dom0 cannot be reached. Only `pvctl` itself ends so.
    Unreachable = 4,
    /// It took too long.
    TimedOut = 5,
}

impl Exit {
    /// The status as a number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoDomain => 3,
            Self::Unreachable => 4,
            Self::TimedOut => 5,
        }
    }
}
