//! Cases of the `linux` stage about vcpus and time: vcpus that go and come, how long they were kept waiting, the clock, and
//! a kernel that panics.

use crate::failure::Result;
use crate::guests;
use crate::linux::{self, Files};
use crate::qemu::{Echo, Ended, Machine, Module, Reason};
use crate::suite::{Case, Context, Needs, Outcome};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(240);
/// How long the clock is watched.
const WATCH: Duration = Duration::from_secs(60);
/// How far guest and host may be apart afterwards: the console's own delay, mostly.
const MOST_DRIFT_S: f64 = 0.5;
const WORDS: &str = "console=hvc0 earlyprintk=xen panic=1 loglevel=6";

/// All vcpus but the first go and come twice, and everything works in between. `CPUS` vcpus.
const PLUG: &str = "dir=/sys/devices/system/cpu
work() { for c in 1 2 3 4; do (i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo x >>/done.$1) & done; wait
[ $(wc -l </done.$1) = 4 ] || fail \"a lost child in $1\"; }
for round in 1 2; do
c=1; while [ $c -lt $CPUS ]; do echo 0 >$dir/cpu$c/online || fail \"cpu$c stays\"; c=$((c+1)); done
[ $(nproc) = 1 ] || fail \"$(nproc) vcpus are left\"
work off.$round; sleep 1
c=1; while [ $c -lt $CPUS ]; do echo 1 >$dir/cpu$c/online || fail \"cpu$c stays away\"; c=$((c+1)); done
[ $(nproc) = $CPUS ] || fail \"$(nproc) of $CPUS vcpus are back\"
work on.$round
done
w=$(dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:|rcu.*stall' | head -n 1); [ -z \"$w\" ] || fail \"the kernel complains: $w\"
";

/// Vcpus that rest are not waiting: what Linux takes for stolen is small. Of four busy ones on one pcpu three always wait. In
/// hundredths of a second of `CPUS` vcpus.
const STEAL: &str = "stolen() { set -- $(grep '^cpu ' /proc/stat); echo $9; }
[ $(nproc) = $CPUS ] || fail \"$(nproc) of $CPUS vcpus\"
sleep 1; a=$(stolen); sleep 4; b=$(stolen); d=$((b-a))
[ $d -le $((CPUS*100)) ] || fail \"$d of $((CPUS*400)) hundredths were stolen from resting vcpus\"
say \"STOLEN $d\"
for c in 1 2 3 4; do while :; do :; done & done
a=$(stolen); sleep 4; b=$(stolen); d=$((b-a))
[ $d -ge $((CPUS*100)) ] || fail \"only $d of $((CPUS*400)) hundredths were stolen from busy vcpus\"
say \"STOLEN FROM BUSY ONES $d\"
";

const CLOCK: &str =
    "say \"CLOCK $(cut -d' ' -f1 /proc/uptime)\"; sleep 60; say \"CLOCK $(cut -d' ' -f1 /proc/uptime)\"
";

const PANIC: &str = "say 'about to panic'; echo c >/proc/sysrq-trigger; sleep 60
";

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("linux-vcpus_go_and_come", Needs::Images, |context| {
            judged(context, "vcpus_go_and_come", PLUG, (2, 4))
        }),
        Case::new("linux-time_is_stolen_from_busy_vcpus_alone", Needs::Images, |context| {
            judged(context, "stolen_time", STEAL, (1, 4))
        }),
        Case::new("linux-a_panic_ends_as_a_crash", Needs::Images, panics),
        Case::new("linux-keeps_time_with_the_host", Needs::Images, keeps_time),
    ]
}

/// A machine of `smp` pcpus with Linux of `vcpus` vcpus as dom0, or why there is none.
fn machine(
    context: &Context,
    name: &str,
    script: &str,
    (smp, vcpus): (u32, u32),
) -> Result<std::result::Result<Machine, String>> {
    Ok(linux::files(name, &format!("CPUS={vcpus}\n{script}"))?.map(|Files { kernel, ramdisk }| {
        let mut machine = context.machine(&kernel, WORDS, smp, 1024);
        machine.hypervisor_args.push_str(&format!(" dom0_max_vcpus={vcpus}"));
        machine.modules.push(Module { file: ramdisk, args: String::new() });
        machine
    }))
}

fn judged(context: &Context, name: &str, script: &str, size: (u32, u32)) -> Result<Outcome> {
    match machine(context, name, script, size)? {
        Ok(machine) => Ok(guests::judge(&machine.run(LIMIT, Echo::Off)?)),
        Err(why) => Ok(Outcome::Skipped(why)),
    }
}

fn failed(why: &str, ended: &Ended) -> Outcome {
    Outcome::Failed { why: why.into(), output: ended.console.clone() }
}

fn panics(context: &Context) -> Result<Outcome> {
    let machine = match machine(context, "panics", PANIC, (1, 1))? {
        Ok(machine) => machine,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let ended = machine.run(LIMIT, Echo::Off)?;
    Ok(match ended.reason {
        Some(Reason::Crash) if ended.console.contains("Kernel panic") => Outcome::Passed(String::new()),
        Some(Reason::Crash) => failed("a crash, but not the kernel's own", &ended),
        other => failed(&format!("a panic ended as {other:?}"), &ended),
    })
}

/// What the guest's clock and the host's say of the time between two lines of the console.
fn keeps_time(context: &Context) -> Result<Outcome> {
    if !context.long {
        return Ok(Outcome::Skipped("takes a minute: --long".into()));
    }
    let machine = match machine(context, "keeps_time", CLOCK, (1, 2))? {
        Ok(machine) => machine,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let mut session = machine.start(Echo::Off)?;
    session.wait_for(LIMIT, |text| clocks(text).len() == 1);
    let first = Instant::now();
    session.wait_for(2 * WATCH, |text| clocks(text).len() == 2);
    let passed = first.elapsed().as_secs_f64();
    let ended = session.wait(LIMIT)?;
    let [from, to] = clocks(&ended.console)[..] else { return Ok(failed("the guest told no time", &ended)) };
    let drift = (to - from) - passed;
    if drift.abs() > MOST_DRIFT_S {
        return Ok(failed(&format!("{drift:.3} s apart after {passed:.1} s"), &ended));
    }
    Ok(Outcome::Passed(format!("({:.0} ms apart after {passed:.0} s)", drift * 1000.0)))
}

/// The times that the guest told, as far as their lines are whole.
fn clocks(console: &str) -> Vec<f64> {
    let whole = console.rsplit_once('\n').map_or("", |(lines, _)| lines);
    whole.lines().filter_map(|line| line.split_once("CLOCK ")?.1.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::clocks;

    #[test]
    fn a_line_that_is_cut_tells_no_time() {
        assert_eq!(clocks("[    1.0] CLOCK 1.25\nx\n[   61.0] CLOCK 61."), [1.25]);
        assert_eq!(clocks("CLOCK 1.25\nCLOCK 61.5\n"), [1.25, 61.5]);
    }
}
