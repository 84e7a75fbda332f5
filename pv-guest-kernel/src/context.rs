//! What the kernel is told when it starts.

use pv_abi::start_info::{StartInfo, StartInfoFlags};

/// The start-of-day information of this domain.
#[derive(Debug)]
pub struct Context {
    info: StartInfo,
}

static CONTEXT: spin::Once<Context> = spin::Once::new();

impl Context {
    /// Keeps a copy of start_info.
    pub(crate) fn init(info: StartInfo) -> &'static Self {
        CONTEXT.call_once(|| Self { info })
    }

    /// The context, once the kernel has started.
    #[must_use]
    pub fn get() -> Option<&'static Self> {
        CONTEXT.get()
    }

    /// start_info as it was at the start.
    #[must_use]
    pub const fn start_info(&self) -> &StartInfo {
        &self.info
    }

    /// The command line; empty if it is not UTF-8.
    #[must_use]
    pub fn command_line(&self) -> &str {
        core::str::from_utf8(self.info.command_line()).unwrap_or("")
    }

    /// The value of `name=value` on the command line, or "" for a bare `name`. The last one counts.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.command_line().split_ascii_whitespace().rev().find_map(|word| match word.split_once('=') {
            Some((key, value)) if key == name => Some(value),
            None if word == name => Some(""),
            _ => None,
        })
    }

    /// Flags of start_info.
    #[must_use]
    pub const fn flags(&self) -> StartInfoFlags {
        StartInfoFlags::from_bits_retain(self.info.flags)
    }

    /// Whether this is dom0.
    #[must_use]
    pub const fn is_dom0(&self) -> bool {
        self.flags().contains(StartInfoFlags::INITDOMAIN)
    }

    /// Frames of the domain.
    #[must_use]
    pub const fn page_count(&self) -> u64 {
        self.info.nr_pages
    }

    /// The module that was loaded along with the kernel (a ramdisk), if there is one.
    #[must_use]
    pub fn module(&self) -> Option<&'static [u8]> {
        crate::memory::module(&self.info)
    }
}

#[cfg(test)]
mod tests {
    use super::Context;
    use pv_abi::start_info::StartInfo;

    fn context(command_line: &[u8]) -> Context {
        let mut info = StartInfo::default();
        info.cmd_line[..command_line.len()].copy_from_slice(command_line);
        Context { info }
    }

    #[test]
    fn the_last_option_of_a_name_counts() {
        let context = context(b"log=info quiet  log=debug x=y=z");
        assert_eq!(context.option("log"), Some("debug"));
        assert_eq!(context.option("quiet"), Some(""));
        assert_eq!(context.option("x"), Some("y=z"));
        assert_eq!(context.option("lo"), None);
    }

    #[test]
    fn a_command_line_that_is_no_text_is_empty() {
        assert_eq!(context(b"a=\xff").command_line(), "");
    }
}
