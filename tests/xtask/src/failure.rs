//! The error of every verb: words for a person and an exit status for a script.

use std::fmt;
use std::path::Path;

/// What went wrong, and with which status the process ends.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

/// Shorthand for the results of this program.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// Something failed (status 1).
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }

    /// The machine lacks something that a person has to provide (status 2).
    pub(crate) fn missing(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into() }
    }

    /// An I/O error at a path.
    pub(crate) fn at(path: &Path, error: &std::io::Error) -> Self {
        Self::new(format!("{}: {error}", path.display()))
    }

    /// The exit status.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}
