//! The options of `pvctl` itself; everything from the verb on is dom0's.

use std::path::PathBuf;
use std::time::Duration;

/// What `--help` says.
pub(crate) const USAGE: &str = "\
usage: pvctl [--socket PATH] [--timeout SECONDS] VERB [ARGUMENT ...]

  --socket PATH      the control socket (default: target/run/ctl.sock, or $PVCTL_SOCKET)
  --timeout SECONDS  longest wait for the command to end (default: 60; 0 waits for ever)

\"pvctl help\" asks dom0 for its verbs. Exit status: 0 done, 1 failed, 2 usage, 3 no such domain,
4 dom0 cannot be reached, 5 time-out.";

const DEFAULT_SOCKET: &str = "target/run/ctl.sock";
const DEFAULT_TIMEOUT: u64 = 60;

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where dom0 listens.
    pub(crate) socket: PathBuf,
    /// How long the command may take; `None` is for ever.
    pub(crate) timeout: Option<Duration>,
    /// `--help`.
    pub(crate) help: bool,
    /// The command.
    pub(crate) words: Vec<String>,
}

/// Reads the options in front of the verb.
pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Options, String> {
    let default = std::env::var("PVCTL_SOCKET").unwrap_or_else(|_| DEFAULT_SOCKET.to_owned());
    let timeout = Some(Duration::from_secs(DEFAULT_TIMEOUT));
    let mut options = Options { socket: default.into(), timeout, help: false, words: Vec::new() };
    let mut words = words.peekable();
    while let Some(word) = words.next_if(|word| word.starts_with('-')) {
        let (name, mut value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut argument =
            || value.take().or_else(|| words.next()).ok_or(format!("{name} needs a value\n{USAGE}"));
        match name.as_str() {
            "--socket" | "-s" => options.socket = argument()?.into(),
            "--timeout" | "-t" => options.timeout = seconds(&argument()?)?,
            "--help" | "-h" => options.help = true,
            "--" => break,
            _ => return Err(format!("pvctl: unknown option {name}\n{USAGE}")),
        }
    }
    options.words = words.collect();
    Ok(options)
}

fn seconds(text: &str) -> Result<Option<Duration>, String> {
    let number: f64 = text.parse().map_err(|_| format!("pvctl: {text:?} is no number of seconds"))?;
    let duration =
        Duration::try_from_secs_f64(number).map_err(|error| format!("pvctl: --timeout: {error}"))?;
    Ok((!duration.is_zero()).then_some(duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn options_end_at_the_verb() {
        let options = parsed("--socket=/a --timeout 1.5 list -o json --timeout").expect("options");
        assert_eq!(options.socket, PathBuf::from("/a"));
        assert_eq!(options.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(options.words, ["list", "-o", "json", "--timeout"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["--frob list", "--timeout", "--timeout soon list", "--timeout -1 list"] {
            assert!(parsed(line).is_err(), "{line}");
        }
        assert_eq!(parsed("-t 0 list").expect("options").timeout, None);
    }
}
