//! Where the instructions of a row go, by function of the hypervisor.
//!
//! QEMU writes down each block of instructions that it translates and each that it executes. The same machine runs
//! twice, the second time with more rounds of the row: the difference belongs to the additional rounds and to nothing
//! else, whatever the boot did.

use super::figures::{Clock, Figure, Side};
use super::{load, rows};
use crate::failure::{Failure, Result};
use crate::images;
use crate::paths;
use crate::qemu::Machine;
use crate::symbols;
use crate::tools::say;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Addresses of the hypervisor, which alone are written down.
const RANGE: (u64, u64) = (0xffff_82d0_8000_0000, 0xffff_82d0_8100_0000);
/// Functions that are left out: each word that they move counts as an instruction, and a boot moves millions.
const MOVERS: [&str; 4] = ["memset", "memcpy", "memmove", "xen_like_hv::arch::mm::ram::zero_page"];
/// What the boot's functions have in their names; they wait for timers and are left out, too.
const BOOT: &str = "xen_like_hv::boot::";
/// Rounds of the two runs, in each of the batches of the guest.
const ROUNDS: [u64; 2] = [16, 144];
/// Batches that the guest makes of them (see `test_guests::meter`), besides the one for warming up.
const BATCHES: u64 = 6;
/// How often the two runs of Linux do their load.
const LOADS: [u64; 2] = [1, 3];

/// Instructions by the address of a function.
type Counts = HashMap<u64, u64>;

/// Measures and prints.
pub(crate) fn run(side: &Side, row: &str) -> Result<()> {
    let linux = load::is_of_dom0(row);
    if !linux
        && row != load::BOOT_OF_DOM0
        && (rows::known(row).is_none() || row.starts_with("pair_") || row.starts_with("linux_"))
    {
        return Err(Failure::new(format!(
            "{row} is no row that one domain measures alone, nor a load of Linux as dom0; `cargo xtask bench --list` \
             tells them"
        )));
    }
    let functions = symbols::of(&side.image)?;
    if row == load::BOOT_OF_DOM0 {
        return run_boot(side, row, &functions);
    }
    let mut runs = Vec::new();
    for number in 0..2 {
        let what = if linux { LOADS[number] } else { ROUNDS[number] };
        say(&format!("[{}/2] tracing {row}, {what} {}", number + 1, if linux { "loads" } else { "rounds" }));
        let run = if linux {
            trace(load::repeated(side, row, what)?, Some(load::UP), row, &functions)?
        } else {
            trace(bench_guest(side, row, what), None, row, &functions)?
        };
        runs.push(run);
    }
    let [(few, fewer), (many, more)] = &runs[..] else { return Err(Failure::new("two runs are needed")) };
    let batches = if linux { 1 } else { BATCHES + 1 };
    let operations = (more.operations - fewer.operations) * batches;
    print!("{row}: {}", report(more.instructions, few, many, operations, &functions));
    Ok(())
}

/// The boot of Linux as dom0, from its first word to its first program: once, and nothing to take it off from.
fn run_boot(side: &Side, row: &str, functions: &[(u64, String)]) -> Result<()> {
    say(&format!("tracing {row}"));
    let (counts, figure) = trace(load::boot_of_dom0(side)?, Some(load::FIRST_WORD), row, functions)?;
    print!("{row}: {}", report(figure.instructions, &Counts::new(), &counts, 1, functions));
    Ok(())
}

/// Our bench guest with one row.
fn bench_guest(side: &Side, row: &str, rounds: u64) -> Machine {
    let words = format!("events=2l only={row} rounds={rounds}");
    let mut machine = side.machine(Clock::Instructions, &images::guest("bench"), &words);
    machine.hypervisor_args.push_str(" dom0_mem=256M");
    machine
}

/// Runs a guest with one row under QEMU's tracing, from its start or from a word on its console: instructions by
/// function, and what the guest found.
fn trace(
    machine: Machine,
    from: Option<&'static str>,
    row: &str,
    functions: &[(u64, String)],
) -> Result<(Counts, Figure)> {
    const TRACE: &str = "in_asm,exec,nochain";
    let mut command = machine.command()?;
    let (file, monitor) = (paths::run().join("breakdown-console"), paths::run().join("breakdown-monitor"));
    paths::write(&file, "")?;
    command.arg("-serial").arg(format!("file:{}", file.display()));
    command.arg("-monitor").arg(format!("unix:{},server=on,wait=off", monitor.display()));
    command.args(["-D", "/dev/stdout", "-dfilter", &ranges(functions)]);
    if from.is_none() {
        command.args(["-d", TRACE]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let switch = from.map(|word| {
        let file = file.clone();
        std::thread::spawn(move || switch_on(&file, word, &monitor, &format!("log {TRACE}\n")))
    });
    let counts = count(&mut child, functions);
    // It has ended by itself; if not, it must.
    let _ = child.kill();
    let _ = child.wait();
    if let Some(switch) = switch {
        switch.join().map_err(|_| Failure::new("nobody watched the console"))??;
    }
    let console = std::fs::read_to_string(&file).unwrap_or_default();
    let found = super::figures::read(&console).into_iter().find(|figure| figure.name == row);
    let figure = found.ok_or_else(|| Failure::new(format!("the guest did not measure {row}\n{console}")))?;
    Ok((counts?, figure))
}

/// Waits for a word on the console and then gives QEMU's monitor a command.
fn switch_on(console: &Path, word: &str, monitor: &Path, command: &str) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(600);
    let end = Instant::now() + LIMIT;
    while !std::fs::read(console).is_ok_and(|text| String::from_utf8_lossy(&text).contains(word)) {
        if Instant::now() > end {
            return Err(Failure::new(format!("the console never said {word:?}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut stream = UnixStream::connect(monitor).map_err(|error| Failure::at(monitor, &error))?;
    stream.write_all(command.as_bytes()).map_err(|error| Failure::at(monitor, &error))?;
    // It hangs up when the machine ends; until then what it says is of no interest.
    let mut rest = Vec::new();
    let _ended = stream.read_to_end(&mut rest);
    Ok(())
}

/// QEMU's word for the hypervisor's addresses without those of [`MOVERS`] and of the boot.
fn ranges(functions: &[(u64, String)]) -> String {
    let mut words = Vec::new();
    let mut from = RANGE.0;
    for (number, (start, name)) in functions.iter().enumerate() {
        if MOVERS.contains(&name.as_str()) || name.starts_with(BOOT) {
            // None between two neighbours of them.
            if from < *start {
                words.push(format!("{from:#x}..{:#x}", start - 1));
            }
            from = functions.get(number + 1).map_or(RANGE.1, |(next, _)| (*next).max(from));
        }
    }
    words.push(format!("{from:#x}..{:#x}", RANGE.1));
    words.join(",")
}

/// Adds up what QEMU writes.
fn count(child: &mut Child, functions: &[(u64, String)]) -> Result<Counts> {
    let stdout = child.stdout.take().ok_or_else(|| Failure::new("QEMU's output is not there"))?;
    let mut reader = BufReader::with_capacity(1 << 20, stdout);
    let mut tracer = Tracer::default();
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        tracer.line(&line);
        line.clear();
    }
    Ok(tracer.by_function(functions))
}

/// Reads QEMU's log: `IN:` blocks list instructions at addresses; `Trace` lines tell which block runs.
#[derive(Default)]
struct Tracer {
    /// Instructions of the block that was just translated.
    fresh: Vec<u64>,
    /// Whether the lines are those of a block.
    listing: bool,
    /// Blocks by where QEMU keeps them: address and length, and how often they ran.
    blocks: HashMap<u64, (u64, u64, u64)>,
}

impl Tracer {
    fn line(&mut self, line: &[u8]) {
        if line.starts_with(b"Trace ") {
            self.listing = false;
            self.ran(line);
        } else if line.starts_with(b"IN:") {
            self.fresh.clear();
            self.listing = true;
        } else if self.listing && line.starts_with(b"0x") {
            // A long instruction goes on in a line that has no colon behind its address.
            let end = line.iter().position(|byte| *byte == b':');
            if let Some(address) = end.and_then(|end| hex(line.get(2..end)?)) {
                self.fresh.push(address);
            }
        }
    }

    /// `Trace 0: 0x7f..place [base/address/flags/cflags] name`
    fn ran(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let rest = line.get(colon + 4..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(0);
        let Some(place) = rest.get(..end).and_then(hex) else { return };
        let mut fields = rest.get(end..).unwrap_or_default().split(|byte| *byte == b'/');
        let Some(address) = fields.nth(1).and_then(hex) else { return };
        // A place is used anew when QEMU has thrown its translations away; then the block was listed just before.
        if self.fresh.first() == Some(&address) {
            let length = self.fresh.len() as u64;
            let runs = self.blocks.get(&place).filter(|block| (block.0, block.1) == (address, length));
            let runs = runs.map_or(0, |block| block.2);
            if let Some(old) = self.blocks.insert(place, (address, length, runs)).filter(|_| runs == 0) {
                // What the old block counted stays, under a place that QEMU never uses.
                let key = u64::MAX - self.blocks.len() as u64;
                self.blocks.insert(key, old);
            }
            self.fresh.clear();
        }
        if let Some(block) = self.blocks.get_mut(&place) {
            block.2 += 1;
        }
    }

    fn by_function(&self, functions: &[(u64, String)]) -> Counts {
        let mut counts = Counts::new();
        for (address, length, runs) in self.blocks.values() {
            let at = functions.partition_point(|(start, _)| start <= address);
            let start = at.checked_sub(1).and_then(|at| functions.get(at)).map_or(0, |(start, _)| *start);
            *counts.entry(start).or_default() += length * runs;
        }
        counts
    }
}

/// A number in hexadecimal digits.
fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The stages of a path: the way in, finding the handler, the work itself, laying a frame for the guest, the way out.
const STAGES: [(&str, &[&str]); 4] = [
    ("exit", &["_exit", "exit_", "_parked", "iretq", "return_to_hypervisor"]),
    ("dispatch", &["syscall_dispatch", "guest_syscall", "guest_trap", "multicall"]),
    ("bounce", &["bounce", "guest_upcall"]),
    ("entry", &["_entry", "_stubs", "trap_from", "arch::entry::"]),
];
/// What is none of these.
const HANDLER: &str = "handler";

/// The stage that a function belongs to, by its name.
fn stage(name: &str) -> &'static str {
    let found = STAGES.iter().find(|(_, words)| words.iter().any(|word| name.contains(word)));
    found.map_or(HANDLER, |(stage, _)| stage)
}

#[expect(clippy::cast_precision_loss, reason = "counts per operation")]
fn report(all: u64, few: &Counts, many: &Counts, operations: u64, functions: &[(u64, String)]) -> String {
    let mut parts: Vec<(u64, f64)> = many
        .iter()
        .map(|(function, count)| {
            let more = count.saturating_sub(few.get(function).copied().unwrap_or(0));
            (*function, more as f64 / operations as f64)
        })
        .filter(|(_, cost)| *cost >= 0.05)
        .collect();
    parts.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let name = |start: u64| {
        let at = functions.binary_search_by_key(&start, |(address, _)| *address);
        at.ok().and_then(|at| functions.get(at)).map_or("?", |(_, name)| name.as_str())
    };
    let total: f64 = parts.iter().map(|(_, cost)| cost).sum();
    let mut out = format!(
        "{all} instructions, of them {total:.1} ({:.1} %) of the hypervisor, without {}\n",
        total * 100.0 / all.max(1) as f64,
        MOVERS.join(", ")
    );
    for wanted in ["entry", "dispatch", HANDLER, "bounce", "exit"] {
        let costs = parts.iter().filter(|(at, _)| stage(name(*at)) == wanted).map(|(_, cost)| cost);
        let sum = costs.fold(0.0, |sum, cost| sum + cost);
        let _ = writeln!(out, "  {wanted:<9} {sum:>9.1}");
    }
    let _ = writeln!(out, "{:>11}  {:<9} function", "each", "stage");
    for (start, cost) in &parts {
        let _ = writeln!(out, "{cost:>11.1}  {:<9} {}", stage(name(*start)), name(*start));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "----------------\nIN: \n0xffff82d080001000:  55                push\n\
        0xffff82d080001001:  c3                ret\n\n\
        Trace 0: 0x7f00 [0000000000000000/ffff82d080001000/1/ff] \n\
        Trace 0: 0x7f00 [0000000000000000/ffff82d080001000/1/ff] \n\
        ----------------\nIN: \n0xffff82d080002000:  c3                ret\n\n\
        Trace 0: 0x7f00 [0000000000000000/ffff82d080002000/1/ff] \n";

    #[test]
    fn instructions_are_counted_by_function() {
        let functions = [(0xffff_82d0_8000_1000, "a".to_owned()), (0xffff_82d0_8000_2000, "b".to_owned())];
        let mut tracer = Tracer::default();
        LOG.lines().for_each(|line| tracer.line(line.as_bytes()));
        let counts = tracer.by_function(&functions);
        assert_eq!(counts.get(&0xffff_82d0_8000_1000), Some(&4), "two instructions, twice");
        assert_eq!(counts.get(&0xffff_82d0_8000_2000), Some(&1), "a place used anew");
    }

    #[test]
    fn movers_are_left_out() {
        let functions = [(RANGE.0 + 16, "memcpy".to_owned()), (RANGE.0 + 32, "b".to_owned())];
        let expected = "0xffff82d080000000..0xffff82d08000000f,0xffff82d080000020..0xffff82d081000000";
        assert_eq!(ranges(&functions), expected);
    }

    #[test]
    fn the_boot_cancels_out() {
        let functions = [(16, "entry_of_calls".to_owned()), (32, "boot".to_owned())];
        let (few, many) = (Counts::from([(16, 110), (32, 5000)]), Counts::from([(16, 210), (32, 5000)]));
        let text = report(40, &few, &many, 10, &functions);
        assert!(
            text.starts_with("40 instructions, of them 10.0 (25.0 %) of the hypervisor")
                && !text.contains("boot"),
            "{text}"
        );
    }
}
