//! A whole Debian as an ordinary domain, with `--long` only: made with `debootstrap`, booted through its own init to a
//! login prompt, and put under a mixed load whose results must be the host's.
//!
//! The root file system is made once, below `target/linux/debian`; that takes some minutes, root's rights and Debian's
//! servers. The host's results come from the same programs in the same tree.

use crate::domu::{self, BOOT_LIMIT, Lab, claim, gone_within, no_complaints};
use crate::failure::{Failure, Result};
use crate::linux::Flavour;
use crate::paths;
use crate::setup;
use crate::suite::{Case, Context, Needs, Outcome};
use crate::tools;
use crate::typed::Typed;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const SUITE: &str = "bookworm";
/// What the load needs besides the smallest Debian.
const PACKAGES: &str = "sysvinit-core,sqlite3,tcc,libc6-dev,make,python3-minimal";
/// root's password.
const PASSWORD: &str = "guest";
/// How long the load may take.
const LOAD_LIMIT: Duration = Duration::from_secs(1800);

/// The ramdisk's part: on to the disk and its init.
const TO_DISK: &str = "i=0; until [ -b /dev/xvda ] || [ $i -gt 100 ]; do sleep 0.1; i=$((i+1)); done
mount -t ext4 /dev/xvda /mnt || echo 'no ext4 on xvda'
mount --move /dev /mnt/dev; umount /proc; umount /sys
exec switch_root /mnt /sbin/init
";

/// The load. It prints results only, no times: two runs of it must print the same.
const LOAD: &str = r##"#!/bin/sh
# Forty programs, compiled by four jobs of make and run; a data base; a language's own checks of itself; text tools.
set -e
export LC_ALL=C
rm -rf /var/tmp/load; mkdir -p /var/tmp/load; cd /var/tmp/load
n=1; while [ $n -le 40 ]; do
  echo "#include <stdio.h>
  int main(void) { unsigned a = $n, i; for (i = 0; i < 20000; i++) a = a * 1664525u + 1013904223u + i % $n; printf(\"%u\\n\", a); return 0; }" >p$n.c
  n=$((n+1))
done
printf 'OUT = $(patsubst %%.c,%%.out,$(wildcard *.c))\nall: $(OUT)\n%%.out: %%.c\n\ttcc -o $*.bin $< && ./$*.bin >$@\n' >Makefile
make -s -j4 all
echo "make $(cat p*.out | sha256sum)"
sqlite3 t.db "create table t(a integer primary key, b text, c real);
with recursive n(i) as (select 1 union all select i+1 from n where i < 20000)
insert into t select i, hex(i * 7919 % 10007), i / 3.0 from n; create index tb on t(b); update t set c = c * 2 where a % 3 = 0;
delete from t where a % 7 = 0; vacuum;"
echo "sqlite $(sqlite3 t.db 'pragma integrity_check; select count(*), sum(a), round(sum(c), 2), max(b) from t; select b, count(*) from t group by substr(b, 1, 2) order by 1;' | sha256sum)"
echo "python $(python3 -c '
import hashlib, re
s = sorted((hashlib.sha256(str(i).encode()).hexdigest() for i in range(20000)))
d = {k: len(k) for k in s}
assert eval(repr(d)) == d and len(re.findall("a", "".join(s))) > 0
print(hashlib.sha256("".join(s).encode()).hexdigest())')"
for j in 1 2 3 4; do (seq 1 20000 | sort -R --random-source=/bin/bash | sort -n | md5sum >s$j) & done; wait
echo "sort $(cat s1 s2 s3 s4 | sha256sum)"
find /usr/bin /usr/lib/x86_64-linux-gnu -type f | sort | head -400 | xargs cat | sha256sum
"##;

/// The case.
pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("linux-debian_boots_to_its_login_and_works", Needs::Images, debian)]
}

fn debian(context: &Context) -> Result<Outcome> {
    let tree = match root_tree() {
        Ok(tree) => tree,
        Err(failure) => return Ok(Outcome::Skipped(format!("no Debian tree: {failure}"))),
    };
    prepare(&tree)?;
    let start = Instant::now();
    let expected = tools::quietly("the load on the host", Command::new("chroot").arg(&tree).arg("/load"))?;
    let host = start.elapsed();
    let digests = expected.split_whitespace().filter(|word| word.len() == 64).count();
    claim(digests == 5, format!("the load does not work on the host:\n{expected}"))?;
    if fs::remove_dir_all(tree.join("var/tmp/load")).is_err() {
        return Err(Failure::new("the load left nothing on the host"));
    }
    let disk = tree.with_file_name("debian.img");
    domu::ext4(&disk, &tree, "1G")?;
    let lab = Lab {
        name: "debian",
        smp: 2,
        flavour: Flavour::Cloud,
        script: TO_DISK,
        disks: vec![disk.clone()],
        configs: vec![("debian", "memory = 512\nvcpus = 2\ndisk = [ 'phy:vdb,xvda,w' ]")],
        files: Vec::new(),
        memory: 640,
    };
    let outcome = lab.run(context, |system| {
        system.must(&["create", "debian.cfg"])?;
        let mut typed = Typed::attach(system, "debian")?;
        log_in(&mut typed)?;
        let start = Instant::now();
        let seen = typed.must("/load", LOAD_LIMIT)?;
        let took = start.elapsed();
        claim(
            seen.trim() == expected.trim(),
            format!("the guest's results\n{seen}\nare not the host's\n{expected}"),
        )?;
        let cpu = cpu_seconds(&system.must(&["list", "debian", "-o", "json"])?)?;
        no_complaints(&mut typed)?;
        typed.keys("poweroff\n")?;
        gone_within(system, "debian", BOOT_LIMIT)?;
        Ok(format!(
            "(the load took {} s, {} s on the host; {cpu} s of CPU in all)",
            took.as_secs(),
            host.as_secs()
        ))
    })?;
    match outcome {
        Outcome::Passed(_) => domu::fsck(&disk).map(|()| outcome),
        other => Ok(other),
    }
}

/// Logs in as root; a shell's prompt is there then.
fn log_in(typed: &mut Typed) -> Result<()> {
    let at = typed.wait(" login: ", BOOT_LIMIT)?;
    typed.keys("root\n")?;
    let at = typed.wait_from(at, "Password: ", BOOT_LIMIT)?;
    typed.keys(&format!("{PASSWORD}\n"))?;
    typed.wait_from(at, "# ", BOOT_LIMIT)?;
    // Lines longer than the terminal are broken in their echo, and bash marks what is pasted.
    let words = "stty cols 2000; bind 'set enable-bracketed-paste off'; export PS1='# '";
    typed.must(words, BOOT_LIMIT).map(drop)
}

fn cpu_seconds(list: &str) -> Result<u64> {
    let value: serde_json::Value =
        serde_json::from_str(list).map_err(|error| Failure::new(format!("list -o json: {error}")))?;
    let ns = value[0]["cpu_time_ns"].as_u64();
    Ok(ns.ok_or_else(|| Failure::new("list -o json has no cpu_time_ns"))? / 1_000_000_000)
}

/// The tree as debootstrap made it, made now if need be.
fn root_tree() -> Result<PathBuf> {
    if tools::output(Command::new("id").arg("-u")).as_deref() != Some("0") {
        return Err(Failure::missing("debootstrap and its tree's owners need root"));
    }
    setup::need(&[setup::DEBOOTSTRAP])?;
    let dir = paths::target().join("linux/debian");
    let (tree, stamp) = (dir.join("root"), dir.join("complete"));
    if stamp.exists() {
        return Ok(tree);
    }
    if tree.exists() {
        fs::remove_dir_all(&tree).map_err(|error| Failure::at(&tree, &error))?;
    }
    paths::make_dir(&dir)?;
    tools::say("making a Debian tree with debootstrap, which takes some minutes");
    let mut make = tools::command("debootstrap");
    make.args(["--variant=minbase", &format!("--include={PACKAGES}"), SUITE]).arg(&tree);
    tools::quietly("debootstrap (are Debian's servers within reach?)", &mut make)?;
    for cache in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        let cache = tree.join(cache);
        fs::remove_dir_all(&cache).map_err(|error| Failure::at(&cache, &error))?;
        paths::make_dir(&cache)?;
    }
    paths::write(&stamp, "")?;
    Ok(tree)
}

/// What makes a guest of it: a login on the console, a password, the load.
fn prepare(tree: &Path) -> Result<()> {
    let read = |name: &str| {
        let file = tree.join(name);
        fs::read_to_string(&file).map_err(|error| Failure::at(&file, &error))
    };
    const GETTY: &str = "h0:2345:respawn:/sbin/getty 38400 hvc0 vt100\n";
    let mut inittab: String = read("etc/inittab")?
        .lines()
        .filter(|l| !l.contains("getty"))
        .fold(String::new(), |text, l| text + l + "\n");
    inittab.push_str(GETTY);
    paths::write(&tree.join("etc/inittab"), inittab)?;
    paths::write(&tree.join("etc/fstab"), "/dev/xvda / ext4 defaults 0 1\n")?;
    paths::write(&tree.join("etc/hostname"), "debian\n")?;
    let load = tree.join("load");
    paths::write(&load, LOAD)?;
    fs::set_permissions(&load, fs::Permissions::from_mode(0o755))
        .map_err(|error| Failure::at(&load, &error))?;
    let set = format!("echo root:{PASSWORD} | chpasswd");
    tools::quietly("setting the password", Command::new("chroot").arg(tree).args(["sh", "-c", &set]))
        .map(drop)
}
