//! Text to tokens.

use alloc::format;
use alloc::string::String;

use super::error::{Flaw, Position};

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Word(String),
    Number(u64),
    Text(String),
    Equals,
    Open,
    Close,
    Comma,
    /// Newline or semicolon.
    End,
}

/// Tokens of a text, with their places.
pub(crate) struct Lexer<'a> {
    rest: core::iter::Peekable<core::str::Chars<'a>>,
    at: Position,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { rest: text.chars().peekable(), at: Position { line: 1, column: 1 } }
    }

    /// Where the next token is looked for.
    pub(crate) const fn position(&self) -> Position {
        self.at
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.rest.next()?;
        if next == '\n' {
            self.at = Position { line: self.at.line.saturating_add(1), column: 1 };
        } else {
            self.at = self.at.right(1);
        }
        Some(next)
    }

    /// The next token; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(Position, Token)>, Flaw> {
        loop {
            let at = self.at;
            let Some(&next) = self.rest.peek() else { return Ok(None) };
            let token = match next {
                ' ' | '\t' | '\r' => {
                    self.bump();
                    continue;
                }
                '#' => {
                    while self.rest.peek().is_some_and(|&c| c != '\n') {
                        self.bump();
                    }
                    continue;
                }
                '\\' => {
                    self.continuation(at)?;
                    continue;
                }
                '\n' | ';' => self.single(Token::End),
                '=' => self.single(Token::Equals),
                '[' => self.single(Token::Open),
                ']' => self.single(Token::Close),
                ',' => self.single(Token::Comma),
                '"' | '\'' => self.text(at)?,
                c if c.is_ascii_digit() => self.number(at)?,
                c if c.is_ascii_alphabetic() || c == '_' => Token::Word(self.word()),
                c => return Err(Flaw::new(at, format!("unexpected character '{}'", c.escape_debug()))),
            };
            return Ok(Some((at, token)));
        }
    }

    fn single(&mut self, token: Token) -> Token {
        self.bump();
        token
    }

    /// A backslash at the end of a line joins it with the next.
    fn continuation(&mut self, at: Position) -> Result<(), Flaw> {
        self.bump();
        if self.rest.peek() == Some(&'\r') {
            self.bump();
        }
        match self.bump() {
            Some('\n') => Ok(()),
            _ => Err(Flaw::new(at, "a backslash may only stand at the end of a line")),
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(&c) = self.rest.peek().filter(|c| c.is_ascii_alphanumeric() || **c == '_') {
            word.push(c);
            self.bump();
        }
        word
    }

    fn number(&mut self, at: Position) -> Result<Token, Flaw> {
        let word = self.word();
        let parsed = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => word.parse(),
        };
        parsed.map(Token::Number).map_err(|_| Flaw::new(at, format!("'{word}' is no number")))
    }

    fn text(&mut self, at: Position) -> Result<Token, Flaw> {
        let quote = self.bump();
        let mut text = String::new();
        loop {
            let here = self.at;
            match self.bump() {
                None | Some('\n') => return Err(Flaw::new(at, "this string does not end on its line")),
                Some('\\') => text.push(self.escape(here)?),
                next if next == quote => return Ok(Token::Text(text)),
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self, at: Position) -> Result<char, Flaw> {
        match self.bump() {
            Some('n') => Ok('\n'),
            Some('t') => Ok('\t'),
            Some('r') => Ok('\r'),
            Some(c @ ('\\' | '"' | '\'')) => Ok(c),
            Some('x') => {
                let digits =
                    (self.bump().and_then(|c| c.to_digit(16)), self.bump().and_then(|c| c.to_digit(16)));
                let (Some(high), Some(low)) = digits else {
                    return Err(Flaw::new(at, "\\x needs two hex digits"));
                };
                char::from_u32(high * 16 + low).ok_or_else(|| Flaw::new(at, "no such character"))
            }
            _ => Err(Flaw::new(at, "unknown escape in a string")),
        }
    }
}
