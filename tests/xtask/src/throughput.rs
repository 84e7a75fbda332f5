//! How fast the network is: iperf3 between two Linux guests, and between the host and one. It takes long and judges
//! nothing but that bytes flow, so it runs with `--long` alone.

use crate::cpio::Archive;
use crate::failure::{Failure, Result};
use crate::networks::{self, LINUX};
use crate::paths;
use crate::setup;
use crate::suite::{Case, Context, Needs, Outcome};
use crate::system::System;
use crate::tools;
use crate::volume::Volume;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(400);
const PORT: u16 = 5202;

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("linux-iperf3_figures", Needs::Images, |context| {
        if context.long { measure(context) } else { Ok(Outcome::Skipped("takes long: --long".into())) }
    })]
}

const SERVER: &str = "echo WAITING
while :; do iperf3 -s -p 5202; sleep 1; done
";

const CLIENT: &str = "run() { echo \"FIGURE $1: $(iperf3 -p 5202 -c $PEER -t 5 -f m $2 | grep receiver)\"; }
sleep 5
run 'TCP to the other guest' ''
run 'TCP from the other guest' -R
run 'UDP of 64 bytes to the other guest' '-u -b 0 -l 64'
ping -q -c 50 -i 0.02 $PEER | grep round-trip | sed 's/^/FIGURE ping: /'
echo VERDICT: SUCCESS
while :; do sleep 100; done
";

/// The machine's iperf3 and the libraries that it names, each with the place that it has in a ramdisk.
fn programs() -> Result<Vec<(PathBuf, String)>> {
    setup::need(&[setup::IPERF3])?;
    let binary = tools::find(&["iperf3"]).ok_or_else(|| Failure::missing("there is no iperf3"))?;
    let mut files = vec![(binary.clone(), "bin/iperf3".to_owned())];
    let listed = tools::quietly("ldd", tools::command("ldd").arg(&binary))?;
    for word in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        files.push((PathBuf::from(word), word.trim_start_matches('/').to_owned()));
    }
    Ok(files)
}

/// A ramdisk with iperf3, a network front end, further files and a script that finds the network up.
pub(crate) fn ramdisk(
    busybox: &Path,
    module: &Path,
    script: &str,
    further: &[(PathBuf, String)],
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in [
        "bin",
        "dev",
        "proc",
        "sys",
        "tmp",
        "lib",
        "lib64",
        "usr",
        "usr/lib",
        "lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu",
    ] {
        archive.directory(dir);
    }
    archive.device("dev/console", (5, 1));
    let own =
        [(busybox.to_path_buf(), "bin/busybox".to_owned()), (module.to_path_buf(), "netfront.ko".to_owned())];
    for (file, name) in own.into_iter().chain(programs()?).chain(further.iter().cloned()) {
        archive.file(&name, &fs::read(&file).map_err(|error| Failure::at(&file, &error))?);
    }
    archive.file("init", format!("{}{script}", networks::PROLOGUE).as_bytes());
    Ok(archive.finish())
}

fn measure(context: &Context) -> Result<Outcome> {
    let (kernel, busybox, module) = match networks::linux_files() {
        Ok(files) => files,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let mut volume = Volume::default();
    volume.add(&kernel, "vmlinuz");
    for (name, script, own, peer) in
        [("server", SERVER, LINUX[0], LINUX[1]), ("client", CLIENT, LINUX[1], LINUX[0])]
    {
        let file = paths::target().join("networks").join(format!("iperf-{name}.cpio"));
        paths::write(&file, ramdisk(&busybox, &module, script, &[])?)?;
        volume.add(&file, &format!("{name}.ram"));
        let words = format!("console=hvc0 panic=1 SELF={own} PEER={peer}");
        let more = format!("ramdisk = '{name}.ram'\n");
        volume.add_text(&format!("{name}.cfg"), &networks::config(name, "vmlinuz", 256, "", &words, &more));
    }
    let port = networks::free_port()?;
    let mut system = networks::system(
        "iperf",
        context,
        1024,
        volume,
        Vec::new(),
        networks::card(&[(port, LINUX[0], PORT)]),
    )?;
    let outcome = work(&mut system, port);
    networks::finish(system, outcome)
}

fn work(system: &mut System, port: u16) -> Result<String> {
    for guest in ["server.cfg", "client.cfg"] {
        system.must(&["create", guest])?;
    }
    let log = networks::await_log(system, "client", LIMIT, &["VERDICT: SUCCESS"])?;
    let mut figures: Vec<String> =
        log.lines().filter_map(|line| line.trim().strip_prefix("FIGURE ")).map(squeezed).collect();
    for (name, words) in [("TCP from the host", None), ("TCP to the host", Some("-R"))] {
        let mut iperf = tools::command("iperf3");
        iperf.args(["-c", "127.0.0.1", "-t", "5", "-f", "m", "-p", &port.to_string()]).args(words);
        let text = tools::quietly("iperf3", &mut iperf)
            .map_err(|failure| Failure::new(format!("{failure}\n{}", figures.join("\n"))))?;
        let line = text.lines().find(|line| line.contains("receiver")).unwrap_or_default();
        figures.push(format!("{name}: {}", squeezed(line)));
    }
    if figures.iter().filter(|figure| figure.contains("receiver")).count() < 5 {
        return Err(Failure::new(format!("figures are missing: {figures:?}\n{log}")));
    }
    figures.push(system.must(&["switch"])?);
    Ok(figures.join("\n    "))
}

fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
