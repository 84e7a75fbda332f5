//! dom0's own terminal: the hypervisor's console, read through `console_io` when VIRQ_CONSOLE says so.
//!
//! Any task may print at any time; the line being typed is taken off the screen before and drawn again after.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use dom0_tools::lineedit::{Event, LineEditor};
use pv_guest_kernel::hypercall;

use crate::sync::Pipe;

/// Typed bytes kept for a reader.
const INPUT_BYTES: usize = 4096;
const READ_CHUNK: usize = 128;

/// What the user gave.
pub(crate) enum Input {
    /// A line.
    Line(String),
    /// `^C` or `^D`.
    Cancelled,
}

/// The terminal.
pub(crate) struct Tty {
    input: Pipe,
    editor: RefCell<LineEditor>,
    /// Typed bytes that came after the end of a line.
    pending: RefCell<Vec<u8>>,
    editing: Cell<bool>,
}

impl Tty {
    /// The terminal, with this prompt.
    pub(crate) fn new(prompt: &str) -> Rc<Self> {
        Rc::new(Self {
            input: Pipe::new(INPUT_BYTES),
            editor: RefCell::new(LineEditor::new(prompt)),
            pending: RefCell::default(),
            editing: Cell::new(false),
        })
    }

    /// Fetches what was typed; called when the hypervisor says that there is something.
    pub(crate) fn fetch(&self) {
        let mut buffer = [0; READ_CHUNK];
        while let Ok(count @ 1..) = hypercall::console_read(&mut buffer) {
            self.input.push(buffer.get(..count).unwrap_or_default());
        }
    }

    /// Prints text; line feeds become carriage return and line feed.
    pub(crate) fn print(&self, text: &str) {
        self.print_bytes(text.as_bytes());
    }

    /// Prints bytes as they are, but for line feeds.
    pub(crate) fn print_bytes(&self, bytes: &[u8]) {
        let editing = self.editing.get();
        if editing {
            self.edit(LineEditor::hide);
        }
        write_cooked(bytes);
        if editing {
            self.edit(LineEditor::redraw);
        }
    }

    fn edit<T>(&self, action: impl FnOnce(&mut LineEditor) -> T) -> T {
        let mut editor = self.editor.borrow_mut();
        let result = action(&mut editor);
        write_raw(&editor.take_output());
        result
    }

    /// Reads a line with prompt and echo. `candidates` completes the words before the cursor.
    pub(crate) async fn read_line(&self, candidates: impl Fn(&str) -> Vec<String>) -> Input {
        self.editing.set(true);
        self.edit(LineEditor::redraw);
        let result = loop {
            let bytes = self.raw().await;
            if let Some(result) = self.keys(&bytes, &candidates) {
                break result;
            }
        };
        self.editing.set(false);
        result
    }

    fn keys(&self, bytes: &[u8], candidates: &impl Fn(&str) -> Vec<String>) -> Option<Input> {
        for (index, &byte) in bytes.iter().enumerate() {
            let result = match self.edit(|editor| editor.key(byte)) {
                Event::None => continue,
                Event::Complete => {
                    self.complete(candidates);
                    continue;
                }
                Event::Line(line) => Input::Line(line),
                Event::Interrupt | Event::EndOfInput => Input::Cancelled,
            };
            self.pending.borrow_mut().extend(bytes.get(index + 1..).unwrap_or_default());
            return Some(result);
        }
        None
    }

    fn complete(&self, candidates: &impl Fn(&str) -> Vec<String>) {
        self.edit(|editor| {
            let found = candidates(editor.before_cursor());
            let found: Vec<&str> = found.iter().map(String::as_str).collect();
            editor.complete(&found);
        });
    }

    /// Gives typed bytes back: they come first at the next reading.
    pub(crate) fn unread(&self, bytes: &[u8]) {
        self.pending.borrow_mut().splice(..0, bytes.iter().copied());
    }

    /// Waits for typed bytes as they come.
    pub(crate) async fn raw(&self) -> Vec<u8> {
        let pending = core::mem::take(&mut *self.pending.borrow_mut());
        if pending.is_empty() { self.input.read().await } else { pending }
    }
}

fn write_cooked(bytes: &[u8]) {
    let mut cooked = Vec::with_capacity(bytes.len() + 16);
    for &byte in bytes {
        if byte == b'\n' && cooked.last() != Some(&b'\r') {
            cooked.push(b'\r');
        }
        cooked.push(byte);
    }
    write_raw(&cooked);
}

fn write_raw(bytes: &[u8]) {
    // There is nobody to tell if the console does not take it.
    let _ = hypercall::console_write(bytes);
}
