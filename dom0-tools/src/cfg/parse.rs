//! Tokens to settings.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::error::{Flaw, Position};
use super::lex::{Lexer, Token};

/// Lists in lists in lists are for nobody; this bounds the parser's own depth.
const MAX_DEPTH: u32 = 4;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(u64),
    List(Vec<Setting<()>>),
}

impl Value {
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Number(_) => "a number",
            Self::List(_) => "a list",
        }
    }
}

/// A value and where it stands; with its key, a line of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting<K> {
    pub(crate) key: K,
    /// Where the key stands (for list entries: the value).
    pub(crate) key_at: Position,
    pub(crate) value: Value,
    pub(crate) at: Position,
}

/// Reads a whole text.
pub(crate) fn settings(text: &str) -> Result<Vec<Setting<String>>, Flaw> {
    let mut lexer = Lexer::new(text);
    let mut all = Vec::new();
    while let Some((key_at, token)) = lexer.next()? {
        let key = match token {
            Token::End => continue,
            Token::Word(word) => word,
            other => {
                return Err(Flaw::new(key_at, format!("expected a setting's name, found {}", show(&other))));
            }
        };
        match lexer.next()? {
            Some((_, Token::Equals)) => {}
            Some((at, other)) => {
                return Err(Flaw::new(at, format!("expected '=' after {key}, found {}", show(&other))));
            }
            None => return Err(Flaw::new(lexer.position(), format!("expected '=' after {key}"))),
        }
        let first = lexer.next()?;
        let (at, value) = value(&mut lexer, first, 0)?;
        all.push(Setting { key, key_at, value, at });
        match lexer.next()? {
            None => break,
            Some((_, Token::End)) => {}
            Some((at, other)) => {
                return Err(Flaw::new(at, format!("expected the line's end, found {}", show(&other))));
            }
        }
    }
    Ok(all)
}

type Found = Option<(Position, Token)>;

fn value(lexer: &mut Lexer<'_>, first: Found, depth: u32) -> Result<(Position, Value), Flaw> {
    match first {
        Some((at, Token::Text(text))) => Ok((at, Value::Text(text))),
        Some((at, Token::Number(number))) => Ok((at, Value::Number(number))),
        Some((at, Token::Open)) if depth < MAX_DEPTH => Ok((at, Value::List(list(lexer, at, depth + 1)?))),
        Some((at, Token::Open)) => Err(Flaw::new(at, "lists are nested too deeply")),
        Some((at, Token::Word(word))) => {
            Err(Flaw::new(at, format!("expected a string, a number or a list; '{word}' needs quotes")))
        }
        Some((at, other)) => {
            Err(Flaw::new(at, format!("expected a string, a number or a list, found {}", show(&other))))
        }
        None => Err(Flaw::new(lexer.position(), "expected a string, a number or a list")),
    }
}

/// The rest of a list. Line ends do not matter inside; a comma may stand behind the last entry.
fn list(lexer: &mut Lexer<'_>, open: Position, depth: u32) -> Result<Vec<Setting<()>>, Flaw> {
    let mut entries = Vec::new();
    let unclosed = || Flaw::new(open, "this list does not end");
    loop {
        let first = skip_ends(lexer)?.ok_or_else(unclosed)?;
        if first.1 == Token::Close {
            return Ok(entries);
        }
        let (at, value) = value(lexer, Some(first), depth)?;
        entries.push(Setting { key: (), key_at: at, value, at });
        match skip_ends(lexer)?.ok_or_else(unclosed)? {
            (_, Token::Comma) => {}
            (_, Token::Close) => return Ok(entries),
            (at, other) => return Err(Flaw::new(at, format!("expected ',' or ']', found {}", show(&other)))),
        }
    }
}

fn skip_ends(lexer: &mut Lexer<'_>) -> Result<Found, Flaw> {
    loop {
        match lexer.next()? {
            Some((_, Token::End)) => {}
            other => return Ok(other),
        }
    }
}

fn show(token: &Token) -> String {
    match token {
        Token::Word(word) => format!("'{word}'"),
        Token::Number(number) => format!("{number}"),
        Token::Text(_) => "a string".into(),
        Token::Equals => "'='".into(),
        Token::Open => "'['".into(),
        Token::Close => "']'".into(),
        Token::Comma => "','".into(),
        Token::End => "the line's end".into(),
    }
}
