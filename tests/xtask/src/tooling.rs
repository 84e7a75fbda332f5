//! Cases about dom0's tools on a running system: what is refused, that nothing is lost, and a guest that is not ours.

use crate::bad_kernels;
use crate::boot::Hardware;
use crate::failure::{Failure, Result};
use crate::images;
use crate::paths;
use crate::qemu::Reason;
use crate::setup;
use crate::suite::{Case, Context, Needs, Outcome};
use crate::system::{Plan, System};
use crate::volume::Volume;
use std::fs;
use std::path::{Path, PathBuf};

/// Rounds of create and destroy, and with `--long`.
const ROUNDS: (u32, u32) = (30, 1000);
/// Rounds of one command.
const PORTION: u32 = 50;
/// A guest of ours that does nothing in particular.
const GUEST: &str = "null_call_answers";

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("qemu-bad_input_is_refused_and_leaves_nothing", Needs::Images, bad_input),
        Case::new("qemu-create_and_destroy_lose_nothing", Needs::Images, create_and_destroy),
    ]
}

fn system(
    name: &str,
    context: &Context,
    volume: Volume,
    disks: Vec<PathBuf>,
    dom0_mib: u32,
) -> Result<System> {
    setup::need(&[setup::QEMU, setup::MTOOLS])?;
    let hardware = Hardware {
        smp: context.smp.unwrap_or(1),
        memory: 3 * dom0_mib + 128,
        accel: context.accel,
        hv: context.other.clone(),
        hv_args: Some(format!("console=com1 com1=115200,8n1 audit dom0_mem={dom0_mib}M")),
        extra: Vec::new(),
    };
    Plan { name: name.into(), hardware, dom0_args: String::new(), volume, disks }.start()
}

/// Ends a case: the system goes down, and what went wrong comes with its console.
fn finish(system: System, mut wrong: Vec<String>, seen: String) -> Result<Outcome> {
    let ended = system.shut_down()?;
    if ended.reason != Some(Reason::Poweroff) {
        wrong.push(format!("the machine ended with {:?}", ended.reason));
    }
    match wrong.first() {
        None => Ok(Outcome::Passed(seen)),
        Some(first) => {
            let output = format!("{}\n{}", wrong.join("\n"), ended.console);
            Ok(Outcome::Failed { why: first.clone(), output })
        }
    }
}

// ---- Bad input ----------------------------------------------------------------------------------------------------

/// What must not work: file of the volume, exit status, a part of what is said.
const REFUSALS: [(&str, i32, &str); 13] = [
    ("absent.cfg", 1, "absent.cfg"),
    ("syntax.cfg", 1, "syntax.cfg:2:8: expected"),
    ("value.cfg", 1, "value.cfg:4:7: vcpus must be between"),
    ("unset.cfg", 1, "unset.cfg:1:1: memory is not set"),
    ("nofile.cfg", 1, "absent"),
    ("text.cfg", 1, "not an ELF file"),
    ("cut.cfg", 1, "truncated"),
    ("elf32.cfg", 1, "32-bit"),
    ("notes.cfg", 1, "no Xen ELF notes"),
    ("small.cfg", 1, "not enough memory"),
    ("huge.cfg", 1, "not enough free memory"),
    ("disk.cfg", 1, "there is no disk"),
    ("room.cfg", 1, "large: dom0 has no room for"),
];

/// Bytes of a large kernel.
const LARGE: usize = 60 << 20;

/// A configuration with three good lines and a fourth.
fn config(kernel: &str, memory: &str, more: &str) -> String {
    format!("name = 'bad'\nkernel = '{kernel}'\nmemory = {memory}\n{more}\n")
}

/// Kernels with one fault each, made from a good one.
fn bad_volume(dir: &Path) -> Result<Volume> {
    let good = images::guest(GUEST);
    let elf = fs::read(&good).map_err(|error| Failure::at(&good, &error))?;
    let mut elf32 = elf.clone();
    elf32[4] = 1;
    let mut volume = Volume::default();
    let mut add = |name: &str, bytes: &[u8]| -> Result<()> {
        let file = dir.join(name);
        paths::write(&file, bytes)?;
        volume.add(&file, name);
        Ok(())
    };
    add("good", &elf)?;
    add("text", b"#!/bin/sh\necho no kernel\n")?;
    // Once it fits into dom0's memory, twice it does not.
    let mut large = elf.clone();
    large.resize(LARGE, 0);
    add("large", &large)?;
    // The headers are there, what they tell of is not.
    add("cut", &elf[..2048])?;
    add("elf32", &elf32)?;
    add("notes", &without_notes(elf))?;
    let texts = [
        ("good.cfg", config("good", "16", "").replace("bad", "good")),
        ("twin.cfg", config("good", "16", "").replace("bad", "good")),
        ("syntax.cfg", "name = 'bad'\nkernel good\n".into()),
        ("value.cfg", config("good", "16", "vcpus=0")),
        ("unset.cfg", "name = 'bad'\nkernel = 'good'\n".into()),
        ("nofile.cfg", config("absent", "16", "")),
        ("text.cfg", config("text", "16", "")),
        ("cut.cfg", config("cut", "16", "")),
        ("elf32.cfg", config("elf32", "16", "")),
        ("notes.cfg", config("notes", "16", "")),
        ("small.cfg", config("good", "1", "")),
        ("huge.cfg", config("good", "100000", "")),
        ("large.cfg", config("large", "16", "")),
        ("room.cfg", config("large", "16", "ramdisk='large'")),
        ("disk.cfg", config("good", "16", "disk = [ 'phy:vdz,xvda,w' ]")),
    ];
    add(bad_kernels::RAMDISK, &vec![1; bad_kernels::BIG_RAMDISK])?;
    for bad in bad_kernels::all() {
        add(bad.name, &bad.kernel)?;
    }
    for (name, text) in texts {
        volume.add_text(name, &text);
    }
    for bad in bad_kernels::all() {
        volume.add_text(&format!("{}.cfg", bad.name), &format!("name = 'bad'\n{}", bad.config));
    }
    Ok(volume)
}

/// Spoils the owner's name of every note.
fn without_notes(mut elf: Vec<u8>) -> Vec<u8> {
    for at in 0..elf.len().saturating_sub(4) {
        if &elf[at..at + 4] == b"Xen\0" {
            elf[at] = b'N';
        }
    }
    elf
}

/// What has to be the same before and after.
fn footprint(system: &System) -> Result<(u64, String)> {
    let text = system.must(&["info", "-o", "json"])?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| Failure::new(format!("info -o json: {error}")))?;
    let free = value["free_pages"].as_u64().ok_or_else(|| Failure::new("info has no free_pages"))?;
    Ok((free, system.must(&["xenstore-ls"])?))
}

fn bad_input(context: &Context) -> Result<Outcome> {
    let dir = paths::target().join("tooling");
    let system = system("bad-input", context, bad_volume(&dir)?, Vec::new(), 128)?;
    let mut wrong = Vec::new();
    // One good domain first: directories that are made once are then there.
    system.must(&["create", "-p", "good.cfg"])?;
    let mut expect = |words: &[&str], code: i32, part: &str| -> Result<()> {
        let answer = system.pvctl(words)?;
        if answer.code != code || !answer.text.contains(part) {
            let words = words.join(" ");
            wrong.push(format!(
                "pvctl {words}: status {} and {:?}, not {code} and {part:?}",
                answer.code, answer.text
            ));
        }
        Ok(())
    };
    expect(&["create", "twin.cfg"], 1, "exists already")?;
    expect(&["frob"], 2, "unknown command")?;
    expect(&["destroy", "nobody"], 3, "nobody")?;
    expect(&["destroy", "0"], 1, "dom0")?;
    expect(&["create", "-p", "large.cfg"], 0, "created")?;
    expect(&["destroy", "bad"], 0, "")?;
    let before = footprint(&system)?;
    for (file, code, part) in REFUSALS {
        expect(&["create", file], code, part)?;
    }
    expect(&["list", "bad"], 3, "bad")?;
    let kernels = bad_kernels::all();
    for bad in &kernels {
        let answer = system.pvctl(&["create", &format!("{}.cfg", bad.name)])?;
        if answer.code != 1 || answer.text != bad.message {
            wrong.push(format!("{}: {} and {:?}, not {:?}", bad.name, answer.code, answer.text, bad.message));
        }
    }
    let after = footprint(&system)?;
    if before != after {
        wrong.push(format!("something was left behind: before {before:?}, after {after:?}"));
    }
    system.must(&["destroy", "good"])?;
    finish(system, wrong, format!("({} refusals)", REFUSALS.len() + kernels.len() + 4))
}

// ---- Nothing is lost ------------------------------------------------------------------------------------------------

fn create_and_destroy(context: &Context) -> Result<Outcome> {
    let mut volume = Volume::default();
    volume.add(&images::guest(GUEST), "guest");
    volume.add_text("guest.cfg", "name = 'guest'\nkernel = 'guest'\nmemory = 16\n");
    let rounds = if context.long { ROUNDS.1 } else { ROUNDS.0 };
    let system = system("create-destroy", context, volume, Vec::new(), 128)?;
    let mut wrong = Vec::new();
    // In portions, so that each stays within pvctl's own limit of time.
    let portion = PORTION.min(rounds).to_string();
    for _ in 0..rounds.div_ceil(PORTION) {
        let answer = system.pvctl(&["selftest", "create-destroy", &portion, "guest.cfg"])?;
        if answer.code != 0 {
            wrong.push(answer.text);
            break;
        }
    }
    finish(system, wrong, format!("({rounds} rounds)"))
}
