//! Where in a configuration something is, and what is wrong with it.

use alloc::string::{String, ToString};
use core::fmt;

/// A place in a text; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl Position {
    /// A place further on in the same line.
    pub(crate) fn right(self, columns: usize) -> Self {
        let columns = u32::try_from(columns).unwrap_or(u32::MAX);
        Self { column: self.column.saturating_add(columns), ..self }
    }
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CfgError {
    /// The file's name as the user gave it.
    pub file: String,
    /// Where in it.
    pub at: Position,
    /// What.
    pub message: String,
}

impl fmt::Display for CfgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.at.line, self.at.column, self.message)
    }
}

impl core::error::Error for CfgError {}

/// Something to tell the user that stops nothing. Shown like an error.
pub type Warning = CfgError;

/// An error before its file is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub(crate) at: Position,
    pub(crate) message: String,
}

impl Flaw {
    pub(crate) fn new(at: Position, message: impl ToString) -> Self {
        Self { at, message: message.to_string() }
    }

    pub(crate) fn in_file(self, file: &str) -> CfgError {
        CfgError { file: file.to_string(), at: self.at, message: self.message }
    }
}
