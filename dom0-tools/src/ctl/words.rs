//! A command line cut into words: blanks separate, quotes and backslash protect, `;` separates commands, `#` begins
//! a comment.

use alloc::string::String;
use alloc::vec::Vec;

/// A quote without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenQuote;

impl core::fmt::Display for OpenQuote {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a quote is not closed")
    }
}

#[derive(Default)]
struct Cutter {
    commands: Vec<Vec<String>>,
    words: Vec<String>,
    word: Option<String>,
}

impl Cutter {
    fn add(&mut self, letter: char) {
        self.word.get_or_insert_default().push(letter);
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    fn end_command(&mut self) {
        self.end_word();
        if !self.words.is_empty() {
            self.commands.push(core::mem::take(&mut self.words));
        }
    }
}

/// The commands of a line, each a list of words. Empty commands are left out.
pub fn split(line: &str) -> Result<Vec<Vec<String>>, OpenQuote> {
    let mut cutter = Cutter::default();
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' => cutter.end_word(),
            ';' | '\n' => cutter.end_command(),
            '#' if cutter.word.is_none() => break,
            '\\' => cutter.add(letters.next().ok_or(OpenQuote)?),
            '"' | '\'' => {
                // An empty pair of quotes is a word too.
                cutter.word.get_or_insert_default();
                loop {
                    match letters.next().ok_or(OpenQuote)? {
                        end if end == letter => break,
                        '\\' if letter == '"' => cutter.add(letters.next().ok_or(OpenQuote)?),
                        inside => cutter.add(inside),
                    }
                }
            }
            plain => cutter.add(plain),
        }
    }
    cutter.end_command();
    Ok(cutter.commands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn blanks_quotes_and_semicolons() {
        let cut = split(r#"create a.cfg extra="x y" ; list -o 'j'son;; # nothing"#).expect("closed");
        assert_eq!(cut, vec![vec!["create", "a.cfg", "extra=x y"], vec!["list", "-o", "json"]]);
        assert_eq!(split(r#"a "" \; b"#).expect("closed"), vec![vec!["a", "", ";", "b"]]);
        assert_eq!(split("  "), Ok(vec![]));
    }

    #[test]
    fn an_open_quote_is_an_error() {
        assert_eq!(split("a \"b"), Err(OpenQuote));
        assert_eq!(split("a\\"), Err(OpenQuote));
    }
}
