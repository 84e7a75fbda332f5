//! Settings to a domain's description, each key checked where it stands.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::disk::{self, DiskConfig};
use super::error::{CfgError, Flaw, Position, Warning};
use super::parse::{Setting, Value, settings};
use super::vif::{self, VifConfig};

/// Most vcpus a domain may be given.
const MAX_VCPUS: u64 = 128;
/// Most memory, MiB: 16 TiB.
const MAX_MEMORY: u64 = 16 << 20;

/// Last event channel of a domain that is given no other, as `xl` has it.
const EVENT_CHANNELS: u32 = 1023;
/// Last event channel that there can be, with the FIFO ABI.
const LAST_EVENT_CHANNEL: u64 = 131_071;

/// What happens to a domain that has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartAction {
    /// It is destroyed.
    Destroy,
    /// It is destroyed and made anew.
    Restart,
    /// It is renamed and kept, and a new one is made.
    RenameRestart,
    /// It is kept as it is.
    Preserve,
}

/// A domain as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainConfig {
    /// Its name.
    pub name: String,
    /// Its UUID, if the user chose one.
    pub uuid: Option<[u8; 16]>,
    /// Path of the kernel.
    pub kernel: String,
    /// Path of the ramdisk.
    pub ramdisk: Option<String>,
    /// The kernel's command line.
    pub cmdline: String,
    /// MiB it starts with.
    pub memory_mib: u64,
    /// MiB it may have.
    pub maxmem_mib: u64,
    /// Vcpus it starts with.
    pub vcpus: u32,
    /// Vcpus it may have.
    pub maxvcpus: u32,
    /// Its last event channel.
    pub event_channels: u32,
    /// Its disks.
    pub disks: Vec<DiskConfig>,
    /// Its network interfaces; their place in the list is their number.
    pub vifs: Vec<VifConfig>,
    /// When it has powered off.
    pub on_poweroff: RestartAction,
    /// When it wants to be rebooted.
    pub on_reboot: RestartAction,
    /// When it has crashed.
    pub on_crash: RestartAction,
    /// When its watchdog has fired.
    pub on_watchdog: RestartAction,
}

/// Keys that `xl` has and that change nothing here.
const IGNORED: [&str; 16] = [
    "cpus",
    "cpu_weight",
    "cap",
    "pool",
    "localtime",
    "timer_mode",
    "tsc_mode",
    "nodes",
    "claim_mode",
    "driver_domain",
    "device_tree",
    "seclabel",
    "rtc_timeoffset",
    "keymap",
    "on_soft_reset",
    "vnc",
];

/// Reads a configuration. `overrides` are further lines, from a command line; they win over the file.
///
/// # Errors
/// The first flaw, with its place.
pub fn parse_config(
    file: &str,
    text: &str,
    overrides: &[String],
) -> Result<(DomainConfig, Vec<Warning>), CfgError> {
    let mut table = Table::default();
    table.add(file, text, Repeat::Refuse)?;
    for line in overrides {
        table.add("command line", line, Repeat::Replace)?;
    }
    let mut config = table.required(file)?;
    let settings = core::mem::take(&mut table.settings);
    for (key, (source, setting)) in &settings {
        let applied = apply(&mut config, key, setting);
        let applied = applied.map_err(|flaw| flaw.in_file(source))?;
        if let Some(message) = applied {
            table.warnings.push((source.clone(), Flaw::new(setting.key_at, message)));
        }
    }
    finish(&mut config, &settings)?;
    let mut warnings: Vec<Warning> =
        table.warnings.into_iter().map(|(source, flaw)| flaw.in_file(&source)).collect();
    warnings.sort_by_key(|warning| warning.at);
    Ok((config, warnings))
}

/// What a second setting of a key means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Refuse,
    Replace,
}

type Settings = BTreeMap<String, (String, Setting<String>)>;

#[derive(Default)]
struct Table {
    settings: Settings,
    warnings: Vec<(String, Flaw)>,
}

impl Table {
    fn add(&mut self, file: &str, text: &str, repeat: Repeat) -> Result<(), CfgError> {
        for setting in settings(text).map_err(|flaw| flaw.in_file(file))? {
            let at = setting.key_at;
            let key = setting.key.clone();
            let before = self.settings.insert(key.clone(), (file.to_string(), setting));
            if let (Repeat::Refuse, Some((_, first))) = (repeat, before) {
                let message = format!("{key} was already set on line {}", first.key_at.line);
                return Err(Flaw::new(at, message).in_file(file));
            }
        }
        Ok(())
    }

    /// A description with the settings no domain can do without.
    fn required(&self, file: &str) -> Result<DomainConfig, CfgError> {
        for key in ["name", "kernel", "memory"] {
            if !self.settings.contains_key(key) {
                let start = Position { line: 1, column: 1 };
                return Err(Flaw::new(start, format!("{key} is not set")).in_file(file));
            }
        }
        Ok(DomainConfig {
            name: String::new(),
            uuid: None,
            kernel: String::new(),
            ramdisk: None,
            cmdline: String::new(),
            memory_mib: 0,
            maxmem_mib: 0,
            vcpus: 1,
            maxvcpus: 0,
            event_channels: EVENT_CHANNELS,
            disks: Vec::new(),
            vifs: Vec::new(),
            on_poweroff: RestartAction::Destroy,
            on_reboot: RestartAction::Restart,
            on_crash: RestartAction::Destroy,
            on_watchdog: RestartAction::Destroy,
        })
    }
}

/// Applies one setting; gives a warning's text if there is one.
fn apply(config: &mut DomainConfig, key: &str, setting: &Setting<String>) -> Result<Option<String>, Flaw> {
    match key {
        "name" => config.name = name(setting)?,
        "uuid" => config.uuid = Some(uuid(setting)?),
        "kernel" => config.kernel = path(setting)?,
        "ramdisk" => config.ramdisk = Some(path(setting)?).filter(|path| !path.is_empty()),
        "memory" => config.memory_mib = number(setting, 1..=MAX_MEMORY)?,
        "maxmem" => config.maxmem_mib = number(setting, 1..=MAX_MEMORY)?,
        "vcpus" => config.vcpus = vcpus(setting)?,
        "maxvcpus" => config.maxvcpus = vcpus(setting)?,
        "event_channels" => config.event_channels = event_channels(setting)?,
        "disk" => config.disks = disks(setting)?,
        "vif" => config.vifs = vifs(setting)?,
        // Put together in `finish`.
        "extra" | "root" | "cmdline" => {
            text(setting)?;
        }
        "on_poweroff" => return action(setting, &mut config.on_poweroff),
        "on_reboot" => return action(setting, &mut config.on_reboot),
        "on_crash" => return action(setting, &mut config.on_crash),
        "on_watchdog" => return action(setting, &mut config.on_watchdog),
        "type" => is_pv(setting, &["pv"])?,
        "builder" => is_pv(setting, &["generic", "linux"])?,
        "pci" | "vfb" | "usbdev" | "vtpm" | "p9" => nothing(key, setting)?,
        key if IGNORED.contains(&key) => return Ok(Some(format!("{key} has no effect here"))),
        key => return Ok(Some(format!("unknown setting {key}"))),
    }
    Ok(None)
}

/// What depends on several settings.
fn finish(config: &mut DomainConfig, settings: &Settings) -> Result<(), CfgError> {
    let text_of = |key: &str| match settings.get(key).map(|(_, setting)| &setting.value) {
        Some(Value::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let at = |key: &str, message: String| {
        let (file, place) = settings.get(key).map_or(("", None), |(file, s)| (file.as_str(), Some(s.at)));
        Flaw::new(place.unwrap_or(Position { line: 1, column: 1 }), message).in_file(file)
    };
    config.cmdline = match text_of("cmdline") {
        Some(cmdline) => cmdline.to_string(),
        None => {
            let root = text_of("root").map(|root| format!("root={root}"));
            let parts = [root.as_deref(), text_of("extra")];
            parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
        }
    };
    if config.cmdline.len() > 1023 {
        let key = if text_of("cmdline").is_some() { "cmdline" } else { "extra" };
        return Err(at(
            key,
            format!("the command line has {} bytes, at most 1023 fit", config.cmdline.len()),
        ));
    }
    if config.maxmem_mib == 0 {
        config.maxmem_mib = config.memory_mib;
    }
    if config.maxmem_mib < config.memory_mib {
        return Err(at("maxmem", format!("maxmem is less than memory ({})", config.memory_mib)));
    }
    if config.maxvcpus == 0 {
        config.maxvcpus = config.vcpus;
    }
    if config.maxvcpus < config.vcpus {
        return Err(at("maxvcpus", format!("maxvcpus is less than vcpus ({})", config.vcpus)));
    }
    Ok(())
}

fn wrong_kind(setting_at: Position, key: &str, wanted: &str, value: &Value) -> Flaw {
    Flaw::new(setting_at, format!("{key} must be {wanted}, not {}", value.kind()))
}

fn text(setting: &Setting<String>) -> Result<&str, Flaw> {
    match &setting.value {
        Value::Text(text) => Ok(text),
        other => Err(wrong_kind(setting.at, &setting.key, "a string", other)),
    }
}

fn path(setting: &Setting<String>) -> Result<String, Flaw> {
    let path = text(setting)?;
    if path.is_empty() && setting.key == "kernel" {
        return Err(Flaw::new(setting.at, "kernel is empty"));
    }
    Ok(path.to_string())
}

/// A name must not look like a number, or `destroy 3` would be a riddle.
fn name(setting: &Setting<String>) -> Result<String, Flaw> {
    let name = text(setting)?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | ':' | '@');
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        let rule = "a name has 1 to 64 letters, digits and '-_.+:@'";
        return Err(Flaw::new(setting.at, rule));
    }
    if name.chars().all(|c| c.is_ascii_digit()) {
        return Err(Flaw::new(setting.at, "a name must not be a number"));
    }
    Ok(name.to_string())
}

/// Numbers may be given as strings, as `xl` allows.
fn number(setting: &Setting<String>, range: core::ops::RangeInclusive<u64>) -> Result<u64, Flaw> {
    let value = match &setting.value {
        Value::Number(number) => *number,
        Value::Text(text) => {
            text.parse().map_err(|_| wrong_kind(setting.at, &setting.key, "a number", &setting.value))?
        }
        other => return Err(wrong_kind(setting.at, &setting.key, "a number", other)),
    };
    if range.contains(&value) {
        return Ok(value);
    }
    let (low, high) = (range.start(), range.end());
    Err(Flaw::new(setting.at, format!("{} must be between {low} and {high}", setting.key)))
}

fn event_channels(setting: &Setting<String>) -> Result<u32, Flaw> {
    let last = number(setting, 1..=LAST_EVENT_CHANNEL)?;
    u32::try_from(last).map_err(|_| Flaw::new(setting.at, "too many event channels"))
}

fn vcpus(setting: &Setting<String>) -> Result<u32, Flaw> {
    let count = number(setting, 1..=MAX_VCPUS)?;
    u32::try_from(count).map_err(|_| Flaw::new(setting.at, "too many vcpus"))
}

fn disks(setting: &Setting<String>) -> Result<Vec<DiskConfig>, Flaw> {
    let Value::List(entries) = &setting.value else {
        return Err(wrong_kind(setting.at, "disk", "a list of strings", &setting.value));
    };
    let mut disks: Vec<DiskConfig> = Vec::new();
    for entry in entries {
        let Value::Text(text) = &entry.value else {
            return Err(wrong_kind(entry.at, "a disk", "a string", &entry.value));
        };
        let disk = disk::parse(text, entry.at)?;
        if disks.iter().any(|other| other.vdev.number == disk.vdev.number) {
            return Err(Flaw::new(entry.at, format!("{} is there twice", disk.vdev.name)));
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn vifs(setting: &Setting<String>) -> Result<Vec<VifConfig>, Flaw> {
    let Value::List(entries) = &setting.value else {
        return Err(wrong_kind(setting.at, "vif", "a list of strings", &setting.value));
    };
    let mut vifs: Vec<VifConfig> = Vec::new();
    for entry in entries {
        let Value::Text(text) = &entry.value else {
            return Err(wrong_kind(entry.at, "an interface", "a string", &entry.value));
        };
        let vif = vif::parse(text, entry.at)?;
        if let Some(mac) = vif.mac.filter(|mac| vifs.iter().any(|other| other.mac == Some(*mac))) {
            return Err(Flaw::new(entry.at, format!("{mac} is there twice")));
        }
        vifs.push(vif);
    }
    Ok(vifs)
}

fn action(setting: &Setting<String>, slot: &mut RestartAction) -> Result<Option<String>, Flaw> {
    let given = text(setting)?;
    let (action, core) = match given.strip_prefix("coredump-") {
        Some(rest) => (rest, true),
        None => (given, false),
    };
    *slot = match action {
        "destroy" => RestartAction::Destroy,
        "restart" => RestartAction::Restart,
        "rename-restart" if !core => RestartAction::RenameRestart,
        "preserve" if !core => RestartAction::Preserve,
        _ => {
            let choice = "expected destroy, restart, rename-restart or preserve";
            return Err(Flaw::new(setting.at, format!("unknown action '{given}', {choice}")));
        }
    };
    Ok(core.then(|| "no core is dumped here".to_string()))
}

fn is_pv(setting: &Setting<String>, good: &[&str]) -> Result<(), Flaw> {
    let given = text(setting)?;
    if good.contains(&given) {
        return Ok(());
    }
    Err(Flaw::new(setting.at, format!("{} '{given}' is not supported, only PV guests are", setting.key)))
}

fn nothing(key: &str, setting: &Setting<String>) -> Result<(), Flaw> {
    match &setting.value {
        Value::List(entries) if entries.is_empty() => Ok(()),
        Value::List(_) => Err(Flaw::new(setting.at, format!("{key} devices are not supported"))),
        other => Err(wrong_kind(setting.at, key, "a list", other)),
    }
}

fn uuid(setting: &Setting<String>) -> Result<[u8; 16], Flaw> {
    let given = text(setting)?;
    let bad = || Flaw::new(setting.at, format!("'{given}' is no UUID"));
    let grouped =
        given.len() == 36 && [8, 13, 18, 23].iter().all(|&at| given.as_bytes().get(at) == Some(&b'-'));
    let digits: Vec<u8> = given.bytes().filter(|&b| b != b'-').collect();
    if !grouped || digits.len() != 32 {
        return Err(bad());
    }
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = core::str::from_utf8(pair).map_err(|_| bad())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
    }
    Ok(uuid)
}

#[cfg(test)]
mod tests;
