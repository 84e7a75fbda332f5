//! The hypervisor's command line: one table of options, parsed without allocation.
//!
//! A word is `name` or `name=value`, words are separated by white space. What is not in the table, and what has a
//! value that makes no sense, is reported through a callback and otherwise ignored, so that a typing mistake never
//! keeps a machine from booting.

use core::fmt;

/// Everything the command line can set, with its defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether the hypervisor writes to the serial port at all (`console=com1`, the default, or `console=none`).
    pub console: ConsoleChoice,
    /// Settings of the first serial port.
    pub com1: SerialSettings,
    /// Which of the hypervisor's own messages are printed.
    pub loglvl: LogLevel,
    /// Which messages caused by guests are printed.
    pub guest_loglvl: LogLevel,
    /// Memory of dom0.
    pub dom0_mem: Dom0Memory,
    /// Number of dom0's vcpus, if limited.
    pub dom0_max_vcpus: Option<u32>,
    /// Number of pcpus to use, if limited.
    pub maxcpus: Option<u32>,
    /// Halt where one would reboot.
    pub noreboot: bool,
    /// What to do after a panic.
    pub panic: PanicAction,
    /// Whether SMEP and SMAP are used where the CPU has them.
    pub smep: bool,
    /// See `smep`.
    pub smap: bool,
    /// Whether x2APIC mode is used where the CPU has it.
    pub x2apic: bool,
    /// Length of a scheduler time slice in milliseconds, if set.
    pub sched_slice_ms: Option<u32>,
    /// Whether the self-tests of the boot stage run (`selftest`).
    pub selftest: bool,
    /// Whether everything that is counted is recounted when dom0 has shut down (`audit`).
    pub audit: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            console: ConsoleChoice::Com1,
            com1: SerialSettings::default(),
            loglvl: LogLevel::Info,
            guest_loglvl: LogLevel::Warning,
            dom0_mem: Dom0Memory::default(),
            dom0_max_vcpus: None,
            maxcpus: None,
            noreboot: false,
            panic: PanicAction::Reboot { after_s: 5 },
            smep: true,
            smap: true,
            x2apic: true,
            sched_slice_ms: None,
            selftest: false,
            audit: false,
        }
    }
}

/// Where console output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleChoice {
    /// The first serial port.
    Com1,
    /// Nowhere but the ring.
    None,
}

/// `com1=baud,DPS`: data bits, parity, stop bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialSettings {
    /// Bits per second.
    pub baud: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// Parity.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

impl Default for SerialSettings {
    fn default() -> Self {
        SerialSettings { baud: 115_200, data_bits: 8, parity: Parity::None, stop_bits: 1 }
    }
}

/// Parity of a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// `n`
    None,
    /// `o`
    Odd,
    /// `e`
    Even,
}

/// A message threshold: messages at this level and the more important ones are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    None,
    /// Errors.
    Error,
    /// And warnings.
    Warning,
    /// And information.
    Info,
    /// And debugging messages.
    Debug,
    /// Everything.
    All,
}

/// `dom0_mem=[min:N,][max:N,]N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dom0Memory {
    /// Bytes at start; `None` means all but a reserve.
    pub bytes: Option<u64>,
    /// At least this much.
    pub min: Option<u64>,
    /// At most this much, now and later.
    pub max: Option<u64>,
}

/// `panic=`: what follows a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicAction {
    /// `panic=halt` or a negative number: stay.
    Halt,
    /// `panic=N` or `panic=reboot`: reset after so many seconds.
    Reboot {
        /// Seconds to wait.
        after_s: u32,
    },
}

/// What was wrong with a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint<'a> {
    /// No option of that name.
    Unknown(&'a str),
    /// The value does not fit the option.
    BadValue {
        /// The whole word.
        word: &'a str,
        /// What would have fitted.
        expected: &'static str,
    },
}

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Complaint::Unknown(word) => write!(f, "unknown option '{word}'"),
            Complaint::BadValue { word, expected } => write!(f, "bad value in '{word}': expected {expected}"),
        }
    }
}

/// How one option takes its value; `None` means the value is bad.
type Apply = fn(&mut Options, &str) -> Option<()>;

struct Row {
    name: &'static str,
    expected: &'static str,
    apply: Apply,
}

/// The table of options.
const ROWS: &[Row] = &[
    Row { name: "console", expected: "a list of com1, vga, none", apply: apply_console },
    Row { name: "com1", expected: "BAUD[,DPS] as in 115200,8n1", apply: apply_com1 },
    Row {
        name: "loglvl",
        expected: "none, error, warning, info, debug or all",
        apply: |o, v| set(&mut o.loglvl, level(v)),
    },
    Row {
        name: "guest_loglvl",
        expected: "none, error, warning, info, debug or all",
        apply: |o, v| set(&mut o.guest_loglvl, level(v)),
    },
    Row { name: "dom0_mem", expected: "[min:SIZE,][max:SIZE,]SIZE as in 512M", apply: apply_dom0_mem },
    Row {
        name: "dom0_max_vcpus",
        expected: "a number from 1",
        apply: |o, v| set(&mut o.dom0_max_vcpus, positive(v).map(Some)),
    },
    Row {
        name: "maxcpus",
        expected: "a number from 1",
        apply: |o, v| set(&mut o.maxcpus, positive(v).map(Some)),
    },
    Row { name: "noreboot", expected: "a yes or no", apply: |o, v| set(&mut o.noreboot, boolean(v)) },
    Row {
        name: "panic",
        expected: "halt, reboot or seconds",
        apply: |o, v| set(&mut o.panic, panic_action(v)),
    },
    Row { name: "smep", expected: "a yes or no", apply: |o, v| set(&mut o.smep, boolean(v)) },
    Row { name: "smap", expected: "a yes or no", apply: |o, v| set(&mut o.smap, boolean(v)) },
    Row { name: "x2apic", expected: "a yes or no", apply: |o, v| set(&mut o.x2apic, boolean(v)) },
    Row {
        name: "sched_slice_ms",
        expected: "a number from 1",
        apply: |o, v| set(&mut o.sched_slice_ms, positive(v).map(Some)),
    },
    Row { name: "selftest", expected: "a yes or no", apply: |o, v| set(&mut o.selftest, boolean(v)) },
    Row { name: "audit", expected: "a yes or no", apply: |o, v| set(&mut o.audit, boolean(v)) },
];

/// Parses a command line; each word that is not understood goes to `report`.
///
/// `no-name` and `noname` are read as `name=no` for options that are a yes or no.
pub fn parse<'a>(line: &'a str, report: &mut dyn FnMut(Complaint<'a>)) -> Options {
    let mut options = Options::default();
    for word in line.split_ascii_whitespace() {
        if let Err(complaint) = apply_word(&mut options, word) {
            report(complaint);
        }
    }
    options
}

fn apply_word<'a>(options: &mut Options, word: &'a str) -> Result<(), Complaint<'a>> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    if let Some(row) = find(name) {
        return (row.apply)(options, value).ok_or(Complaint::BadValue { word, expected: row.expected });
    }
    // The negated form exists only for a bare word that names a yes-or-no option.
    let negated = name.strip_prefix("no-").or_else(|| name.strip_prefix("no"));
    if let (Some(row), true) = (negated.and_then(find), value.is_empty())
        && row.expected == "a yes or no"
        && (row.apply)(options, "no").is_some()
    {
        return Ok(());
    }
    Err(Complaint::Unknown(word))
}

fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

/// Stores a parsed value, or hands on that there was none.
fn set<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

fn apply_console(options: &mut Options, value: &str) -> Option<()> {
    let mut choice = ConsoleChoice::None;
    for word in value.split(',') {
        match word {
            "com1" => choice = ConsoleChoice::Com1,
            // There is no screen driver; the word is common in boot loader files and asks for nothing we refuse.
            "vga" | "none" => {}
            _ => return None,
        }
    }
    options.console = choice;
    Some(())
}

fn apply_com1(options: &mut Options, value: &str) -> Option<()> {
    let mut parts = value.split(',');
    let mut settings = SerialSettings { baud: parts.next()?.parse().ok()?, ..SerialSettings::default() };
    // A 16550's divisor is 115200 / baud and must be a whole number of 16 bits.
    if settings.baud == 0 || 115_200 % settings.baud != 0 || 115_200 / settings.baud > 0xffff {
        return None;
    }
    if let Some(format) = parts.next() {
        let &[data, parity, stop] = format.as_bytes() else { return None };
        settings.data_bits = Some(data).filter(u8::is_ascii_digit)? - b'0';
        settings.stop_bits = Some(stop).filter(u8::is_ascii_digit)? - b'0';
        settings.parity = match parity {
            b'n' => Parity::None,
            b'o' => Parity::Odd,
            b'e' => Parity::Even,
            _ => return None,
        };
        if !(5..=8).contains(&settings.data_bits) || !(1..=2).contains(&settings.stop_bits) {
            return None;
        }
    }
    if parts.next().is_some() {
        return None;
    }
    options.com1 = settings;
    Some(())
}

fn apply_dom0_mem(options: &mut Options, value: &str) -> Option<()> {
    let mut memory = Dom0Memory::default();
    for part in value.split(',') {
        if let Some(size) = part.strip_prefix("min:") {
            memory.min = Some(parse_size(size)?);
        } else if let Some(size) = part.strip_prefix("max:") {
            memory.max = Some(parse_size(size)?);
        } else {
            memory.bytes = Some(parse_size(part)?);
        }
    }
    if let (Some(min), Some(max)) = (memory.min, memory.max)
        && min > max
    {
        return None;
    }
    options.dom0_mem = memory;
    Some(())
}

/// A size in bytes with an optional `B`, `K`, `M`, `G` or `T`; without a letter it counts KiB, as in Xen.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'b' | b'B' => (&text[..text.len() - 1], 1),
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        b't' | b'T' => (&text[..text.len() - 1], 1 << 40),
        _ => (text, 1 << 10),
    };
    // `parse` would also take a sign.
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let bytes = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    (bytes > 0).then_some(bytes)
}

fn level(text: &str) -> Option<LogLevel> {
    // `a/b` sets a second, rate-limited threshold in Xen; here the limiter always works, so the higher one counts.
    text.split('/').map(one_level).try_fold(LogLevel::None, |most, l| Some(most.max(l?)))
}

fn one_level(text: &str) -> Option<LogLevel> {
    Some(match text {
        "none" => LogLevel::None,
        "error" => LogLevel::Error,
        "warning" => LogLevel::Warning,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "all" => LogLevel::All,
        _ => return None,
    })
}

fn positive(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&n| n > 0)
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "" | "1" | "yes" | "true" | "on" | "y" => Some(true),
        "0" | "no" | "false" | "off" | "n" => Some(false),
        _ => None,
    }
}

fn panic_action(text: &str) -> Option<PanicAction> {
    match text {
        "halt" => Some(PanicAction::Halt),
        "reboot" => Some(PanicAction::Reboot { after_s: 0 }),
        _ => text.parse::<i32>().ok().map(|n| match u32::try_from(n) {
            Ok(after_s) => PanicAction::Reboot { after_s },
            Err(_) => PanicAction::Halt,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;

    fn run(line: &str) -> (Options, Vec<String>) {
        let mut complaints = Vec::new();
        let options = parse(line, &mut |c| complaints.push(c.to_string()));
        (options, complaints)
    }

    #[test]
    fn an_empty_line_gives_the_defaults() {
        assert_eq!(run("  "), (Options::default(), Vec::new()));
    }

    #[test]
    fn the_usual_line_is_understood() {
        let (o, c) =
            run("console=com1,vga com1=57600,7e2 loglvl=all guest_loglvl=error/all dom0_mem=512M maxcpus=4");
        assert!(c.is_empty(), "{c:?}");
        assert_eq!(o.com1, SerialSettings { baud: 57600, data_bits: 7, parity: Parity::Even, stop_bits: 2 });
        assert_eq!((o.loglvl, o.guest_loglvl), (LogLevel::All, LogLevel::All));
        assert_eq!(o.dom0_mem.bytes, Some(512 << 20));
        assert_eq!(o.maxcpus, Some(4));
    }

    #[test]
    fn unknown_words_and_bad_values_are_reported_and_change_nothing() {
        let (o, c) =
            run("frobnicate maxcpus=0 com1=115200,8x1 com1=31 dom0_mem=12Q loglvl=loud noconsole =x");
        assert_eq!(o, Options::default());
        assert_eq!(c.len(), 8);
        assert_eq!(c[0], "unknown option 'frobnicate'");
        assert!(c[1].starts_with("bad value in 'maxcpus=0'"));
    }

    #[test]
    fn dom0_mem_takes_bounds_in_any_order() {
        let (o, c) = run("dom0_mem=max:2G,300M,min:64M");
        assert!(c.is_empty());
        assert_eq!(
            o.dom0_mem,
            Dom0Memory { bytes: Some(300 << 20), min: Some(64 << 20), max: Some(2 << 30) }
        );
        assert_eq!(run("dom0_mem=min:2G,max:1G").1.len(), 1);
    }

    #[test]
    fn booleans_can_be_negated() {
        assert!(!run("no-smap").0.smap);
        assert!(!run("nosmep").0.smep);
        assert!(!run("smap=off").0.smap);
        assert!(run("noreboot").0.noreboot);
        assert!(!run("noreboot=no").0.noreboot);
    }

    #[test]
    fn panic_says_halt_or_when_to_reboot() {
        assert_eq!(run("panic=halt").0.panic, PanicAction::Halt);
        assert_eq!(run("panic=-1").0.panic, PanicAction::Halt);
        assert_eq!(run("panic=30").0.panic, PanicAction::Reboot { after_s: 30 });
        assert_eq!(run("panic=later").1.len(), 1);
    }

    #[test]
    fn sizes_do_not_overflow() {
        assert_eq!(parse_size("16"), Some(16 << 10));
        assert_eq!(parse_size("4096B"), Some(4096));
        assert_eq!(parse_size("18446744073709551615T"), None);
        assert_eq!(parse_size("+5M"), None);
        assert_eq!(parse_size("M"), None);
        assert_eq!(parse_size(""), None);
    }
}
