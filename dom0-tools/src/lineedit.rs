//! A line editor for serial consoles: keys in, echo out, with history and completion.
//!
//! It knows the keys of the usual shells (arrows, Home, End, Delete, `^A ^E ^B ^F ^P ^N ^U ^K ^W ^L ^C ^D`) and
//! only asks a terminal for carriage return, backspace and "erase to the end of the line". Lines are ASCII; other
//! bytes are ignored.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

/// Lines remembered.
const HISTORY: usize = 64;
/// Longest line.
const MAX_LINE: usize = 1000;

/// What a byte brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing to act on.
    None,
    /// A line is complete.
    Line(String),
    /// `^C`: the line was given up.
    Interrupt,
    /// `^D` on an empty line.
    EndOfInput,
    /// Tab: complete the word before the cursor, see [`LineEditor::complete`].
    Complete,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Started,
    Sequence,
    Number(u8),
    Single,
}

/// The editor of one terminal.
pub struct LineEditor {
    prompt: String,
    line: Vec<u8>,
    cursor: usize,
    history: VecDeque<String>,
    /// Which line of the history is shown; `history.len()` is the one being written.
    place: usize,
    /// The line being written, while history is shown.
    draft: Vec<u8>,
    escape: Escape,
    after_return: bool,
    out: Vec<u8>,
}

impl LineEditor {
    /// An editor with an empty history.
    #[must_use]
    pub fn new(prompt: &str) -> Self {
        Self {
            prompt: String::from(prompt),
            line: Vec::new(),
            cursor: 0,
            history: VecDeque::new(),
            place: 0,
            draft: Vec::new(),
            escape: Escape::None,
            after_return: false,
            out: Vec::new(),
        }
    }

    /// What is to be sent to the terminal now.
    pub fn take_output(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.out)
    }

    /// Shows prompt and line, for instance after other output.
    pub fn redraw(&mut self) {
        self.out.extend_from_slice(b"\r");
        self.out.extend_from_slice(self.prompt.as_bytes());
        self.out.extend_from_slice(&self.line);
        self.out.extend_from_slice(b"\x1b[K");
        self.move_left(self.line.len() - self.cursor);
    }

    /// Takes prompt and line off the screen, before other output.
    pub fn hide(&mut self) {
        self.out.extend_from_slice(b"\r\x1b[K");
    }

    /// The text before the cursor.
    #[must_use]
    pub fn before_cursor(&self) -> &str {
        self.line.get(..self.cursor).and_then(|text| core::str::from_utf8(text).ok()).unwrap_or("")
    }

    /// Completes the word before the cursor: with what all `candidates` have in common, and lists them when that
    /// adds nothing.
    pub fn complete(&mut self, candidates: &[&str]) {
        let start = self.before_cursor().rfind(' ').map_or(0, |space| space + 1);
        let typed = self.cursor - start;
        let Some((first, others)) = candidates.split_first() else { return };
        let mut common = first.len();
        for other in others {
            common = common.min(first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count());
        }
        let addition: Vec<u8> = first.bytes().take(common).skip(typed).collect();
        addition.iter().for_each(|&byte| self.insert(byte));
        if others.is_empty() {
            self.insert(b' ');
        } else if addition.is_empty() {
            self.out.extend_from_slice(b"\r\n");
            for candidate in candidates {
                self.out.extend_from_slice(candidate.as_bytes());
                self.out.extend_from_slice(b"  ");
            }
            self.out.extend_from_slice(b"\r\n");
            self.redraw();
        }
    }

    /// One byte from the terminal.
    pub fn key(&mut self, byte: u8) -> Event {
        let after_return = core::mem::take(&mut self.after_return);
        if self.escape != Escape::None {
            self.escape_key(byte);
            return Event::None;
        }
        match byte {
            b'\n' if after_return => {}
            b'\r' | b'\n' => {
                self.after_return = byte == b'\r';
                return self.end_line();
            }
            0x03 => return self.interrupt(),
            0x04 if self.line.is_empty() => return Event::EndOfInput,
            b'\t' => return Event::Complete,
            0x1b => self.escape = Escape::Started,
            0x20..=0x7e => self.insert(byte),
            _ => self.control(byte),
        }
        Event::None
    }

    fn control(&mut self, byte: u8) {
        match byte {
            0x01 => self.go_to(0),
            0x02 => self.go_to(self.cursor.saturating_sub(1)),
            0x04 => self.delete_forward(),
            0x05 => self.go_to(self.line.len()),
            0x06 => self.go_to(self.cursor + 1),
            0x08 | 0x7f => self.erase_back(1),
            0x0b => {
                self.line.truncate(self.cursor);
                self.out.extend_from_slice(b"\x1b[K");
            }
            0x0c => {
                self.out.extend_from_slice(b"\x1b[H\x1b[2J");
                self.redraw();
            }
            0x0e => self.show_history(self.place + 1),
            0x10 => self.show_history(self.place.wrapping_sub(1)),
            0x15 => self.erase_back(self.cursor),
            0x17 => self.erase_back(self.word_before()),
            _ => {}
        }
    }

    fn escape_key(&mut self, byte: u8) {
        let state = core::mem::replace(&mut self.escape, Escape::None);
        match (state, byte) {
            (Escape::Started, b'[') => self.escape = Escape::Sequence,
            (Escape::Started, b'O') => self.escape = Escape::Single,
            (Escape::Sequence, b'0'..=b'9') => self.escape = Escape::Number(byte),
            (Escape::Number(first), b'0'..=b'9' | b';') => self.escape = Escape::Number(first),
            (Escape::Number(b'3'), b'~') => self.delete_forward(),
            (Escape::Number(b'1' | b'7'), b'~') | (Escape::Sequence | Escape::Single, b'H') => self.go_to(0),
            (Escape::Number(b'4' | b'8'), b'~') | (Escape::Sequence | Escape::Single, b'F') => {
                self.go_to(self.line.len());
            }
            (Escape::Sequence | Escape::Single, b'A') => self.show_history(self.place.wrapping_sub(1)),
            (Escape::Sequence | Escape::Single, b'B') => self.show_history(self.place + 1),
            (Escape::Sequence | Escape::Single, b'C') => self.go_to(self.cursor + 1),
            (Escape::Sequence | Escape::Single, b'D') => self.go_to(self.cursor.saturating_sub(1)),
            _ => {}
        }
    }

    fn insert(&mut self, byte: u8) {
        if self.line.len() >= MAX_LINE {
            return;
        }
        self.line.insert(self.cursor, byte);
        self.cursor += 1;
        if self.cursor == self.line.len() {
            self.out.push(byte);
        } else {
            self.redraw();
        }
    }

    fn go_to(&mut self, place: usize) {
        let place = place.min(self.line.len());
        if place < self.cursor {
            self.move_left(self.cursor - place);
        } else if let Some(passed) = self.line.get(self.cursor..place) {
            self.out.extend_from_slice(passed);
        }
        self.cursor = place;
    }

    fn move_left(&mut self, count: usize) {
        self.out.extend(core::iter::repeat_n(0x08, count));
    }

    fn erase_back(&mut self, count: usize) {
        let start = self.cursor.saturating_sub(count);
        if start == self.cursor {
            return;
        }
        self.line.drain(start..self.cursor);
        self.cursor = start;
        self.redraw();
    }

    fn delete_forward(&mut self) {
        if self.cursor < self.line.len() {
            self.line.remove(self.cursor);
            self.redraw();
        }
    }

    /// Bytes from the cursor back to the beginning of the word before it.
    fn word_before(&self) -> usize {
        let text = self.before_cursor();
        let word = text.trim_end_matches(' ');
        text.len() - word.rfind(' ').map_or(0, |space| space + 1)
    }

    fn show_history(&mut self, place: usize) {
        if place > self.history.len() || place == self.place {
            return;
        }
        if self.place == self.history.len() {
            self.draft = core::mem::take(&mut self.line);
        }
        self.line = match self.history.get(place) {
            Some(line) => line.clone().into_bytes(),
            None => core::mem::take(&mut self.draft),
        };
        self.place = place;
        self.cursor = self.line.len();
        self.redraw();
    }

    fn end_line(&mut self) -> Event {
        self.out.extend_from_slice(b"\r\n");
        let bytes = core::mem::take(&mut self.line);
        // Only ASCII is ever inserted.
        let line = String::from_utf8(bytes).unwrap_or_default();
        self.cursor = 0;
        if !line.trim().is_empty() && self.history.back() != Some(&line) {
            self.history.push_back(line.clone());
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        self.place = self.history.len();
        Event::Line(line)
    }

    fn interrupt(&mut self) -> Event {
        self.out.extend_from_slice(b"^C\r\n");
        self.line.clear();
        self.cursor = 0;
        self.place = self.history.len();
        Event::Interrupt
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn typed(editor: &mut LineEditor, keys: &[u8]) -> Vec<Event> {
        keys.iter().map(|&key| editor.key(key)).filter(|event| *event != Event::None).collect()
    }

    fn line(keys: &[u8]) -> String {
        let mut editor = LineEditor::new("> ");
        match typed(&mut editor, keys).pop() {
            Some(Event::Line(line)) => line,
            other => panic!("no line but {other:?}"),
        }
    }

    #[test]
    fn carriage_return_and_line_feed_end_one_line() {
        let mut editor = LineEditor::new("> ");
        let events = typed(&mut editor, b"a\r\nb\n\r");
        let lines = ["a", "b", ""].map(|text| Event::Line(text.to_string()));
        assert_eq!(events, lines);
    }

    #[test]
    fn keys_edit_the_line() {
        assert_eq!(line(b"lisst\x1b[D\x7f\r"), "list");
        assert_eq!(line(b"ist\x01l\r"), "list");
        assert_eq!(line(b"one two\x17three\r"), "one three");
        assert_eq!(line(b"junk\x15list\r"), "list");
        assert_eq!(line(b"listing\x1b[D\x1b[D\x1b[D\x0b\r"), "list");
        assert_eq!(line(b"xlist\x1b[H\x1b[3~\r"), "list");
    }

    #[test]
    fn history_comes_back_and_the_draft_is_kept() {
        let mut editor = LineEditor::new("> ");
        typed(&mut editor, b"first\rsecond\rdra");
        typed(&mut editor, b"\x1b[A\x1b[A\x1b[A");
        assert_eq!(editor.before_cursor(), "first");
        typed(&mut editor, b"\x1b[B");
        assert_eq!(editor.before_cursor(), "second");
        typed(&mut editor, b"\x0e");
        assert_eq!(editor.before_cursor(), "dra");
    }

    #[test]
    fn completion_adds_what_is_common() {
        let mut editor = LineEditor::new("> ");
        typed(&mut editor, b"pa");
        editor.complete(&["pause"]);
        assert_eq!(editor.before_cursor(), "pause ");
        typed(&mut editor, b"\x15sh");
        editor.complete(&["shutdown", "shut"]);
        assert_eq!(editor.before_cursor(), "shut");
    }

    #[test]
    fn noise_is_ignored() {
        assert_eq!(line(b"\x00l\xff\x1b[99;5~i\x1bxst\x80\r"), "list");
    }
}
