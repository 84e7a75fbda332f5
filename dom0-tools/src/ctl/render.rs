//! Answers as tables, with `xl`'s columns, or as JSON.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write as _;

use serde::Serialize;

use super::command::Format;
use crate::toolstack::ports::{DomainInfo, HostInfo, ShutdownReason, VcpuStatus};
use crate::toolstack::{DeviceRow, VifRow};

const PAGES_PER_MIB: u64 = 256;
const NS_PER_DECISECOND: u64 = 100_000_000;

/// A domain and its name.
#[derive(Clone, Debug)]
pub struct NamedDomain {
    /// From xenstore, or made up.
    pub name: String,
    /// What the hypervisor says.
    pub info: DomainInfo,
}

/// A vcpu of a domain.
#[derive(Clone, Debug)]
pub struct NamedVcpu {
    /// The domain's name.
    pub name: String,
    /// The domain's number.
    pub domid: u16,
    /// Its number.
    pub vcpu: u32,
    /// What the hypervisor says.
    pub status: VcpuStatus,
}

fn to_json<T: Serialize>(value: &T) -> String {
    // Plain data cannot fail to be written.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Seconds with one decimal, from nanoseconds; no floating point in a kernel.
fn seconds(ns: u64) -> String {
    let tenths = ns / NS_PER_DECISECOND;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// The six letters of a domain's state: running, blocked, paused, shut down, crashed, dying.
#[must_use]
pub fn state_letters(info: &DomainInfo) -> String {
    let crashed = info.shutdown == Some(ShutdownReason::Crash);
    let flags = [info.running, info.blocked, info.paused, info.shutdown.is_some(), crashed, info.dying];
    flags.iter().zip("rbpscd".chars()).map(|(&set, letter)| if set { letter } else { '-' }).collect()
}

#[derive(Serialize)]
struct DomainRow {
    name: String,
    domid: u16,
    uuid: String,
    memory_mib: u64,
    pages: u64,
    vcpus: u32,
    state: String,
    cpu_time_ns: u64,
    shutdown_reason: Option<String>,
}

fn reason_name(reason: ShutdownReason) -> String {
    match reason {
        ShutdownReason::Poweroff => "poweroff".to_string(),
        ShutdownReason::Reboot => "reboot".to_string(),
        ShutdownReason::Suspend => "suspend".to_string(),
        ShutdownReason::Crash => "crash".to_string(),
        ShutdownReason::Watchdog => "watchdog".to_string(),
        ShutdownReason::SoftReset => "soft_reset".to_string(),
        ShutdownReason::Other(code) => format!("{code}"),
    }
}

/// A UUID as people write it.
#[must_use]
pub fn uuid(handle: &[u8; 16]) -> String {
    let mut text = String::new();
    for (index, byte) in handle.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `block-list`, with `xl`'s columns and what dom0 uses for each.
#[must_use]
pub fn disks_of(rows: &[DeviceRow], format: Format) -> String {
    let shown = |value: Option<u32>| value.map_or_else(|| "-".to_string(), |value| value.to_string());
    let row = |row: &DeviceRow| {
        let (number, state) = (row.number.to_string(), row.state.to_string());
        let (target, backend) = (row.target.clone(), row.backend.clone());
        alloc::vec![number, "0".to_string(), state, shown(row.port), shown(row.ring), target, backend]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    table(&["Vdev", "BE", "state", "evt-ch", "ring-ref", "target", "BE-path"], &rows, format)
}

/// `network-list`, with `xl`'s columns and the switch.
#[must_use]
pub fn vifs_of(rows: &[VifRow], format: Format) -> String {
    let shown = |value: Option<u32>| value.map_or_else(|| "-".to_string(), |value| value.to_string());
    let row = |row: &VifRow| {
        let (number, state) = (row.number.to_string(), row.state.to_string());
        let rings = format!("{}/{}", shown(row.rings.0), shown(row.rings.1));
        let (mac, bridge, backend) = (row.mac.clone(), row.bridge.clone(), row.backend.clone());
        alloc::vec![
            number.clone(),
            "0".to_string(),
            mac,
            number,
            state,
            shown(row.port),
            rings,
            bridge,
            backend
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    let heads = ["Idx", "BE", "MAC", "handle", "state", "evt-ch", "tx-/rx-ring-ref", "bridge", "BE-path"];
    table(&heads, &rows, format)
}

/// `list`.
#[must_use]
pub fn domains(list: &[NamedDomain], format: Format) -> String {
    if format == Format::Json {
        let rows: Vec<DomainRow> = list.iter().map(domain_row).collect();
        return to_json(&rows);
    }
    let mut text =
        String::from("Name                                        ID   Mem VCPUs\tState\tTime(s)\n");
    for domain in list {
        let info = &domain.info;
        let _ = writeln!(
            text,
            "{:<40} {:>5} {:>5} {:>5}     {}  {:>8}",
            domain.name,
            info.domid.raw(),
            info.tot_pages / PAGES_PER_MIB,
            info.nr_online_vcpus,
            state_letters(info),
            seconds(info.cpu_time_ns)
        );
    }
    text
}

fn domain_row(domain: &NamedDomain) -> DomainRow {
    let info = &domain.info;
    DomainRow {
        name: domain.name.clone(),
        domid: info.domid.raw(),
        uuid: uuid(&info.handle),
        memory_mib: info.tot_pages / PAGES_PER_MIB,
        pages: info.tot_pages,
        vcpus: info.nr_online_vcpus,
        state: state_letters(info),
        cpu_time_ns: info.cpu_time_ns,
        shutdown_reason: info.shutdown.map(reason_name),
    }
}

#[derive(Serialize)]
struct VcpuRow<'a> {
    name: &'a str,
    domid: u16,
    vcpu: u32,
    online: bool,
    pcpu: u32,
    state: String,
    cpu_time_ns: u64,
}

fn vcpu_letters(status: &VcpuStatus) -> String {
    if !status.online {
        return "--p".to_string();
    }
    let flags = [status.running, status.blocked];
    flags.iter().zip("rb".chars()).map(|(&set, letter)| if set { letter } else { '-' }).chain(['-']).collect()
}

/// `vcpu-list`.
#[must_use]
pub fn vcpus(list: &[NamedVcpu], format: Format) -> String {
    if format == Format::Json {
        let row = |vcpu: &NamedVcpu| (vcpu.name.clone(), vcpu_letters(&vcpu.status));
        let texts: Vec<(String, String)> = list.iter().map(row).collect();
        let rows: Vec<VcpuRow<'_>> = list
            .iter()
            .zip(&texts)
            .map(|(vcpu, (name, state))| VcpuRow {
                name,
                domid: vcpu.domid,
                vcpu: vcpu.vcpu,
                online: vcpu.status.online,
                pcpu: vcpu.status.pcpu,
                state: state.clone(),
                cpu_time_ns: vcpu.status.cpu_time_ns,
            })
            .collect();
        return to_json(&rows);
    }
    let mut text = String::from("Name                                ID  VCPU   CPU State   Time(s)\n");
    for vcpu in list {
        let cpu = if vcpu.status.online { vcpu.status.pcpu.to_string() } else { "-".to_string() };
        let _ = writeln!(
            text,
            "{:<32} {:>5} {:>5} {:>5}   {} {:>9}",
            vcpu.name,
            vcpu.domid,
            vcpu.vcpu,
            cpu,
            vcpu_letters(&vcpu.status),
            seconds(vcpu.status.cpu_time_ns)
        );
    }
    text
}

#[derive(Serialize)]
struct HostRow<'a> {
    nr_cpus: u32,
    nr_nodes: u32,
    cores_per_socket: u32,
    threads_per_core: u32,
    cpu_mhz: u32,
    total_memory_mib: u64,
    free_memory_mib: u64,
    total_pages: u64,
    free_pages: u64,
    xen_major: u32,
    xen_minor: u32,
    xen_extra: &'a str,
    xen_caps: &'a str,
    xen_commandline: &'a str,
    xen_scheduler: &'a str,
}

/// `info`.
#[must_use]
pub fn host(info: &HostInfo, format: Format) -> String {
    let row = HostRow {
        nr_cpus: info.nr_cpus,
        nr_nodes: info.nr_nodes,
        cores_per_socket: info.cores_per_socket,
        threads_per_core: info.threads_per_core,
        cpu_mhz: info.cpu_khz / 1000,
        total_memory_mib: info.total_pages / PAGES_PER_MIB,
        free_memory_mib: info.free_pages / PAGES_PER_MIB,
        total_pages: info.total_pages,
        free_pages: info.free_pages,
        xen_major: info.version.0,
        xen_minor: info.version.1,
        xen_extra: info.extra_version.trim(),
        xen_caps: info.capabilities.trim(),
        xen_commandline: info.commandline.trim(),
        xen_scheduler: &info.scheduler,
    };
    if format == Format::Json {
        return to_json(&row);
    }
    let lines: [(&str, String); 14] = [
        ("nr_cpus", row.nr_cpus.to_string()),
        ("nr_nodes", row.nr_nodes.to_string()),
        ("cores_per_socket", row.cores_per_socket.to_string()),
        ("threads_per_core", row.threads_per_core.to_string()),
        ("cpu_mhz", format!("{}.{:03}", info.cpu_khz / 1000, info.cpu_khz % 1000)),
        ("total_memory", row.total_memory_mib.to_string()),
        ("free_memory", row.free_memory_mib.to_string()),
        ("free_pages", row.free_pages.to_string()),
        ("xen_major", row.xen_major.to_string()),
        ("xen_minor", row.xen_minor.to_string()),
        ("xen_extra", row.xen_extra.to_string()),
        ("xen_caps", row.xen_caps.to_string()),
        ("xen_scheduler", row.xen_scheduler.to_string()),
        ("xen_commandline", row.xen_commandline.to_string()),
    ];
    lines.iter().map(|(name, value)| format!("{name:<23}: {value}\n")).collect()
}

#[derive(Serialize)]
struct Table<'a> {
    rows: Vec<alloc::collections::BTreeMap<&'a str, &'a str>>,
}

/// Any other list: columns with a head each.
#[must_use]
pub fn table(heads: &[&str], rows: &[Vec<String>], format: Format) -> String {
    if format == Format::Json {
        let names: Vec<String> = heads.iter().map(|head| head.to_lowercase()).collect();
        let rows = rows
            .iter()
            .map(|row| names.iter().map(String::as_str).zip(row.iter().map(String::as_str)).collect())
            .collect();
        return to_json(&Table { rows }.rows);
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::len);
        cells.chain(heads.get(column).map(|head| head.len())).max().unwrap_or(0)
    };
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.enumerate().map(|(column, cell)| format!("{cell:<0$}  ", width(column)));
        padded.collect::<String>().trim_end().to_string() + "\n"
    };
    let mut text = line(&mut heads.iter().copied());
    rows.iter().for_each(|row| text += &line(&mut row.iter().map(String::as_str)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use pv_abi::ids::{DomId, Mfn};

    fn domain() -> NamedDomain {
        let info = DomainInfo {
            domid: DomId::new(3),
            handle: [0xab; 16],
            dying: false,
            shutdown: Some(ShutdownReason::Crash),
            paused: false,
            blocked: true,
            running: false,
            tot_pages: 4096,
            max_pages: 4352,
            cpu_time_ns: 12_345_000_000,
            nr_online_vcpus: 1,
            max_vcpu_id: 0,
            shared_info: Mfn::new(5),
        };
        NamedDomain { name: "web".to_string(), info }
    }

    #[test]
    fn list_has_the_usual_columns() {
        let text = domains(&[domain()], Format::Table);
        let row = text.lines().nth(1).expect("a row");
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["web", "3", "16", "1", "-b-sc-", "12.3"]);
        assert_eq!(row.find("3"), text.find("ID").map(|at| at + 1), "{text}");
    }

    #[test]
    fn list_as_json_can_be_read_back() {
        let text = domains(&[domain()], Format::Json);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value[0]["domid"], 3);
        assert_eq!(value[0]["shutdown_reason"], "crash");
        assert_eq!(value[0]["uuid"], "abababab-abab-abab-abab-abababababab");
    }

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["vda".to_string(), "1".to_string()], vec!["x".to_string(), "22".to_string()]];
        assert_eq!(table(&["Disk", "Size"], &rows, Format::Table), "Disk  Size\nvda   1\nx     22\n");
    }
}
