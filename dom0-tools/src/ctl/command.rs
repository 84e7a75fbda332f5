//! The verbs and their arguments, after the habits of `xl`.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// What the parser says of a word list that is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

impl core::fmt::Display for UsageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Whom a verb concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One domain, by number or name.
    One(String),
    /// All but dom0.
    All,
}

/// What `create` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// The configuration's path on the volume.
    pub file: String,
    /// Further lines of configuration; they win over the file.
    pub overrides: Vec<String>,
    /// Leave it paused.
    pub paused: bool,
    /// Attach to its console.
    pub console: bool,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Domains, or one.
    List(Option<String>),
    /// Vcpus of all domains, or of one.
    VcpuList(Option<String>),
    /// Make a domain.
    Create(Create),
    /// End a domain at once.
    Destroy(String),
    /// Ask a domain to power off.
    Shutdown {
        /// Who.
        target: Target,
        /// Come back when it has happened.
        wait: bool,
    },
    /// Ask a domain to reboot.
    Reboot {
        /// Who.
        target: Target,
        /// Come back when it has stopped.
        wait: bool,
    },
    /// Stop running a domain.
    Pause(String),
    /// Go on running it.
    Unpause(String),
    /// Give a running domain a disk.
    BlockAttach {
        /// Who.
        who: String,
        /// The disk, as in a configuration.
        disk: String,
    },
    /// Take a disk from a running domain.
    BlockDetach {
        /// Who.
        who: String,
        /// The disk's name in the domain, or its number.
        vdev: String,
        /// Also when the domain does not let go of it.
        force: bool,
    },
    /// The disks of a domain.
    BlockList(String),
    /// Ask a domain to use so many vcpus.
    VcpuSet {
        /// Who.
        who: String,
        /// How many.
        vcpus: u32,
    },
    /// Ask a domain to use so much memory.
    MemSet {
        /// Who.
        who: String,
        /// How much.
        mib: u64,
    },
    /// Its console, live.
    Console(String),
    /// What its console has shown so far.
    Log(String),
    /// Come back when a domain has ended.
    Wait(String),
    /// The machine.
    Info,
    /// The hypervisor's log.
    Dmesg,
    /// A domain's number.
    Domid(String),
    /// A domain's name.
    Domname(String),
    /// Give a running domain a network interface.
    NetworkAttach {
        /// Who.
        who: String,
        /// The interface, as in a configuration.
        vif: String,
    },
    /// Take an interface away.
    NetworkDetach {
        /// Who.
        who: String,
        /// Its number or address.
        vif: String,
        /// Do not wait for the guest's consent.
        force: bool,
    },
    /// A domain's interfaces.
    NetworkList(String),
    /// The switches and their ports.
    Switch,
    /// The ports of dom0's services.
    Events,
    /// dom0's disks.
    Disks,
    /// Files on the volume.
    Ls(String),
    /// A file on the volume.
    Cat(String),
    /// Put words into a file on the volume.
    Write {
        /// The file; a new name is short (8.3).
        path: String,
        /// What it will hold, with a line end.
        text: String,
    },
    /// A subtree of xenstore.
    XenstoreLs(String),
    /// Words.
    Echo(String),
    /// End all domains and power the machine off.
    Poweroff,
    /// Creates and destroys a domain again and again and compares memory and xenstore.
    SelftestCreateDestroy {
        /// Rounds.
        rounds: u32,
        /// The configuration's path on the volume.
        file: String,
    },
    /// How long the hypervisor has run.
    Uptime,
    /// About the verbs, or one.
    Help(Option<String>),
}

/// A command and how to show its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What to do.
    pub command: Command,
    /// How to answer.
    pub format: Format,
}

/// A verb as the help shows it.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    /// The word.
    pub name: &'static str,
    /// What may follow.
    pub arguments: &'static str,
    /// What it does.
    pub help: &'static str,
}

const fn verb(name: &'static str, arguments: &'static str, help: &'static str) -> Verb {
    Verb { name, arguments, help }
}

/// All verbs, in the order of the help.
pub const VERBS: &[Verb] = &[
    verb("list", "[DOM]", "list domains"),
    verb("create", "[-p] [-c] FILE [KEY=VALUE ...]", "make a domain from a configuration on the volume"),
    verb("destroy", "DOM", "end a domain at once"),
    verb("shutdown", "[-w] -a|DOM", "ask a domain to power off"),
    verb("reboot", "[-w] -a|DOM", "ask a domain to reboot"),
    verb("pause", "DOM", "stop running a domain"),
    verb("unpause", "DOM", "go on running a paused domain"),
    verb("console", "DOM", "attach to a domain's console; ^] leaves"),
    verb("log", "DOM", "show what a domain's console has printed"),
    verb("wait", "DOM", "wait until a domain has ended"),
    verb("info", "", "show facts about the machine"),
    verb("dmesg", "", "show the hypervisor's log"),
    verb("uptime", "", "show how long the hypervisor has run, in nanoseconds"),
    verb("vcpu-list", "[DOM]", "list vcpus"),
    verb("vcpu-set", "DOM N", "ask a domain to use its first N vcpus"),
    verb("mem-set", "DOM MIB", "ask a domain to use so much memory"),
    verb("block-attach", "DOM DISK", "give a running domain a disk, written as in a configuration"),
    verb("block-detach", "[-f] DOM VDEV", "take a disk from a running domain; -f also if it does not let go"),
    verb("block-list", "DOM", "list the disks of a domain"),
    verb("domid", "NAME", "number of a domain"),
    verb("domname", "ID", "name of a domain"),
    verb(
        "network-attach",
        "DOM [KEY=VALUE ...]",
        "give a running domain an interface, written as in a configuration",
    ),
    verb(
        "network-detach",
        "[-f] DOM NUMBER|MAC",
        "take an interface away once the guest has let go of it; -f at once",
    ),
    verb("network-list", "DOM", "list a domain's network interfaces"),
    verb("switch", "", "show the switches, their ports and what went through them"),
    verb("events", "", "list the ports of dom0's services, and what guests sent there"),
    verb("disks", "", "list dom0's disks"),
    verb("ls", "[PATH]", "list files on the volume"),
    verb("cat", "FILE", "show a file on the volume"),
    verb("write", "FILE [WORD ...]", "write words to a file on the volume; a new name is short (8.3)"),
    verb("xenstore-ls", "[PATH]", "show a part of xenstore"),
    verb("echo", "[WORD ...]", "print words"),
    verb("poweroff", "", "end all domains and power the machine off"),
    verb("selftest", "create-destroy N FILE", "create and destroy a domain N times; nothing may be lost"),
    verb("help", "[VERB]", "this list, or one verb"),
];

/// Verbs that begin with `prefix`.
#[must_use]
pub fn complete(prefix: &str) -> Vec<String> {
    VERBS
        .iter()
        .map(|verb| verb.name)
        .filter(|name| name.starts_with(prefix))
        .map(ToString::to_string)
        .collect()
}

/// The text of `help`, for all verbs or one.
pub fn help(topic: Option<&str>) -> Result<String, UsageError> {
    let Some(name) = topic else {
        let lines = VERBS.iter().map(|verb| format!("{:<34} {}\n", synopsis(verb), verb.help));
        let options = "
Options for list, vcpu-list, block-list, network-list, switch, info, disks, ls: -o json
";
        return Ok(lines.collect::<String>() + options);
    };
    let verb = find(name)?;
    Ok(format!("{}\n    {}\n", synopsis(verb), verb.help))
}

fn synopsis(verb: &Verb) -> String {
    format!("{} {}", verb.name, verb.arguments).trim_end().to_owned()
}

fn find(name: &str) -> Result<&'static Verb, UsageError> {
    let found = VERBS.iter().find(|verb| verb.name == name);
    found.ok_or_else(|| UsageError(format!("unknown command \"{name}\"; try help")))
}

/// The arguments of a verb, taken one by one.
struct Arguments<'a> {
    verb: &'static Verb,
    options: Vec<&'a str>,
    words: alloc::collections::VecDeque<&'a str>,
    format: Format,
}

impl<'a> Arguments<'a> {
    fn new(verb: &'static Verb, words: &'a [String]) -> Result<Self, UsageError> {
        let mut all = Self {
            verb,
            options: Vec::new(),
            words: alloc::collections::VecDeque::new(),
            format: Format::Table,
        };
        let mut rest = words.iter().map(String::as_str);
        let mut only_words = matches!(verb.name, "echo" | "write");
        while let Some(word) = rest.next() {
            match word {
                _ if only_words => all.words.push_back(word),
                "--" => only_words = true,
                "-o" => all.format = format_named(rest.next().unwrap_or(""))?,
                "-ojson" | "-o=json" => all.format = Format::Json,
                option if option.starts_with('-') && option.len() > 1 => all.options.push(option),
                _ => all.words.push_back(word),
            }
        }
        Ok(all)
    }

    fn flag(&mut self, short: &str, long: &str) -> bool {
        let before = self.options.len();
        self.options.retain(|option| *option != short && *option != long);
        self.options.len() != before
    }

    fn wrong(&self) -> UsageError {
        UsageError(format!("usage: {}", synopsis(self.verb)))
    }

    fn need(&mut self) -> Result<String, UsageError> {
        self.words.pop_front().map(ToOwned::to_owned).ok_or_else(|| self.wrong())
    }

    fn number<T: core::str::FromStr>(&mut self) -> Result<T, UsageError> {
        self.need()?.parse().map_err(|_| self.wrong())
    }

    fn optional(&mut self) -> Option<String> {
        self.words.pop_front().map(ToOwned::to_owned)
    }

    fn target(&mut self) -> Result<Target, UsageError> {
        if self.flag("-a", "--all") { Ok(Target::All) } else { self.need().map(Target::One) }
    }

    fn finish(&self) -> Result<(), UsageError> {
        if let Some(option) = self.options.first() {
            return Err(UsageError(format!("{}: unknown option {option}", self.verb.name)));
        }
        if self.words.is_empty() { Ok(()) } else { Err(self.wrong()) }
    }
}

fn format_named(name: &str) -> Result<Format, UsageError> {
    match name {
        "json" => Ok(Format::Json),
        "table" => Ok(Format::Table),
        _ => Err(UsageError("-o takes json or table".to_owned())),
    }
}

/// Understands a list of words.
pub fn parse(words: &[String]) -> Result<Parsed, UsageError> {
    let (name, rest) = words.split_first().ok_or_else(|| UsageError("no command; try help".to_owned()))?;
    let mut arguments = Arguments::new(find(name)?, rest)?;
    let command = command(name, &mut arguments)?;
    arguments.finish()?;
    Ok(Parsed { command, format: arguments.format })
}

fn command(name: &str, arguments: &mut Arguments<'_>) -> Result<Command, UsageError> {
    Ok(match name {
        "list" => Command::List(arguments.optional()),
        "vcpu-list" => Command::VcpuList(arguments.optional()),
        "create" => Command::Create(create(arguments)?),
        "destroy" => Command::Destroy(arguments.need()?),
        "shutdown" => Command::Shutdown { wait: arguments.flag("-w", "--wait"), target: arguments.target()? },
        "reboot" => Command::Reboot { wait: arguments.flag("-w", "--wait"), target: arguments.target()? },
        "pause" => Command::Pause(arguments.need()?),
        "unpause" => Command::Unpause(arguments.need()?),
        "vcpu-set" => Command::VcpuSet { who: arguments.need()?, vcpus: arguments.number()? },
        "mem-set" => Command::MemSet { who: arguments.need()?, mib: arguments.number()? },
        "block-attach" => Command::BlockAttach { who: arguments.need()?, disk: arguments.need()? },
        "block-detach" => {
            let force = arguments.flag("-f", "--force");
            Command::BlockDetach { who: arguments.need()?, vdev: arguments.need()?, force }
        }
        "block-list" => Command::BlockList(arguments.need()?),
        "console" => Command::Console(arguments.need()?),
        "log" => Command::Log(arguments.need()?),
        "wait" => Command::Wait(arguments.need()?),
        "uptime" => Command::Uptime,
        "info" => Command::Info,
        "dmesg" => Command::Dmesg,
        "domid" => Command::Domid(arguments.need()?),
        "domname" => Command::Domname(arguments.need()?),
        "network-attach" => {
            let who = arguments.need()?;
            Command::NetworkAttach { who, vif: arguments.words.drain(..).collect::<Vec<_>>().join(",") }
        }
        "network-detach" => {
            let force = arguments.flag("-f", "--force");
            Command::NetworkDetach { who: arguments.need()?, vif: arguments.need()?, force }
        }
        "network-list" => Command::NetworkList(arguments.need()?),
        "switch" => Command::Switch,
        "events" => Command::Events,
        "disks" => Command::Disks,
        "ls" => Command::Ls(arguments.optional().unwrap_or_else(|| "/".to_owned())),
        "cat" => Command::Cat(arguments.need()?),
        "write" => Command::Write { path: arguments.need()?, text: rest(arguments) },
        "xenstore-ls" => Command::XenstoreLs(arguments.optional().unwrap_or_else(|| "/".to_owned())),
        "echo" => Command::Echo(rest(arguments)),
        "poweroff" => Command::Poweroff,
        "selftest" => selftest(arguments)?,
        "help" => Command::Help(arguments.optional()),
        other => return Err(UsageError(format!("unknown command \"{other}\"; try help"))),
    })
}

/// All the words that are left.
fn rest(arguments: &mut Arguments<'_>) -> String {
    arguments.words.drain(..).collect::<Vec<_>>().join(" ")
}

fn create(arguments: &mut Arguments<'_>) -> Result<Create, UsageError> {
    let (paused, console) = (arguments.flag("-p", "--paused"), arguments.flag("-c", "--console"));
    let file = arguments.need()?;
    let overrides: Vec<String> = arguments.words.drain(..).map(ToOwned::to_owned).collect();
    if overrides.iter().all(|line| line.contains('=')) {
        Ok(Create { file, overrides, paused, console })
    } else {
        Err(arguments.wrong())
    }
}

fn selftest(arguments: &mut Arguments<'_>) -> Result<Command, UsageError> {
    if arguments.need()? != "create-destroy" {
        return Err(arguments.wrong());
    }
    let rounds = arguments.number()?;
    Ok(Command::SelftestCreateDestroy { rounds, file: arguments.need()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(line: &str) -> Result<Parsed, UsageError> {
        let words: Vec<String> = line.split(' ').map(ToString::to_string).collect();
        parse(&words)
    }

    fn command(line: &str) -> Command {
        understood(line).expect("a command").command
    }

    #[test]
    fn options_may_stand_anywhere() {
        let create = Create {
            file: "a.cfg".into(),
            overrides: ["memory=16".to_string()].into(),
            paused: true,
            console: false,
        };
        assert_eq!(command("create a.cfg memory=16 -p"), Command::Create(create.clone()));
        assert_eq!(command("create --paused a.cfg memory=16"), Command::Create(create));
        assert_eq!(understood("list -o json").map(|parsed| parsed.format), Ok(Format::Json));
        assert_eq!(command("shutdown -w -a"), Command::Shutdown { target: Target::All, wait: true });
        let detach = |force| Command::BlockDetach { who: "a".into(), vdev: "xvdb".into(), force };
        assert_eq!(command("block-detach a xvdb"), detach(false));
        assert_eq!(command("block-detach a -f xvdb"), detach(true));
        assert_eq!(command("vcpu-set a 2"), Command::VcpuSet { who: "a".into(), vcpus: 2 });
        assert_eq!(command("echo -a b"), Command::Echo("-a b".into()));
    }

    #[test]
    fn what_is_no_command_is_told() {
        for line in [
            "frob",
            "destroy",
            "destroy a b",
            "vcpu-set a two",
            "mem-set a",
            "block-attach a",
            "list -x",
            "create a.cfg word",
            "list -o xml",
            "shutdown",
        ] {
            assert!(understood(line).is_err(), "{line}");
        }
        assert_eq!(understood("frob"), Err(UsageError("unknown command \"frob\"; try help".into())));
        assert_eq!(understood("pause"), Err(UsageError("usage: pause DOM".into())));
    }

    #[test]
    fn every_verb_of_the_help_is_understood() {
        for verb in VERBS {
            let line = format!("{} create-destroy 3 a=b", verb.name);
            let words: Vec<String> = line.split(' ').map(ToString::to_string).collect();
            if let Err(error) = parse(&words) {
                assert!(!error.0.starts_with("unknown"), "{}", verb.name);
            }
            assert!(help(Some(verb.name)).is_ok());
        }
    }
}
