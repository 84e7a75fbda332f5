//! The part of the `qemu` stage that boots the hypervisor alone, on machines of many shapes: its self-test says whether
//! clock, timer, flushes, heap and tables are sound there.

use crate::failure::{Failure, Result};
use crate::guests::{Verdict, verdict};
use crate::images;
use crate::paths;
use crate::qemu::{Accel, Echo, Ended, Machine};
use crate::suite::{Case, Context, Needs, Outcome};
use std::fs;
use std::time::Duration;

/// A machine's shape.
#[derive(Debug, Clone, Copy)]
struct Shape {
    name: &'static str,
    smp: u32,
    memory: u32,
    extra: &'static [&'static str],
}

const SHAPES: [Shape; 6] = [
    Shape { name: "a_small_machine_boots", smp: 1, memory: 256, extra: &["-cpu", "qemu64"] },
    Shape { name: "four_pcpus_on_q35_boot", smp: 4, memory: 512, extra: &["-M", "q35", "-cpu", "max"] },
    Shape { name: "sixteen_pcpus_boot", smp: 16, memory: 512, extra: &[] },
    Shape { name: "memory_above_4_gib_is_used", smp: 2, memory: 6144, extra: UNRESERVED },
    Shape {
        name: "a_clock_that_counts_instructions_is_calibrated",
        smp: 1,
        memory: 256,
        extra: &["-icount", "shift=0,sleep=off"],
    },
    Shape { name: "without_smap_boots", smp: 2, memory: 256, extra: &["-cpu", "max,-smap,-smep"] },
];

/// Memory that the host need not have: the hypervisor touches little of it.
const UNRESERVED: &[&str] =
    &["-object", "memory-backend-ram,id=ram,size=6144M,reserve=off", "-machine", "memory-backend=ram"];

const LIMIT: Duration = Duration::from_secs(90);

/// One case for each shape, and what concerns the boot alone.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, action: fn(&Context) -> Result<Outcome>| {
        Case::new(format!("qemu-boot-{name}"), Needs::Images, action)
    };
    let mut cases: Vec<Case> = SHAPES
        .into_iter()
        .map(|shape| {
            Case::new(format!("qemu-boot-{}", shape.name), Needs::Images, move |context| {
                selftest(&shape, context)
            })
        })
        .collect();
    cases.push(case("pvh_loads_the_image_too", pvh));
    cases.push(case("a_panic_names_its_callers", panic_names_callers));
    cases.push(case("words_that_are_not_known_are_reported", unknown_words));
    cases
}

fn machine(context: &Context, smp: u32, memory: u32, words: &str) -> Machine {
    let mut machine = context.machine(&images::hypervisor(), "", smp, memory);
    // Our own image, whatever else is compared, and without a dom0.
    machine.hypervisor = images::hypervisor();
    machine.modules.clear();
    machine.hypervisor_args = format!("loglvl=all {words}");
    machine
}

fn selftest(shape: &Shape, context: &Context) -> Result<Outcome> {
    let mut machine = machine(context, shape.smp, shape.memory, "selftest");
    machine.smp = shape.smp;
    if shape.extra.contains(&"-icount") {
        machine.accel = Accel::Tcg;
    }
    machine.extra = shape.extra.iter().map(ToString::to_string).collect();
    let ended = machine.run(LIMIT, Echo::Off)?;
    let all_up = format!("{0} of {0} pcpus in use", shape.smp);
    Ok(judge(&ended, &[&all_up]))
}

/// The self-test's verdict, and whether all of `wanted` was printed.
fn judge(ended: &Ended, wanted: &[&str]) -> Outcome {
    let failed = |why: String| Outcome::Failed { why, output: ended.console.clone() };
    match verdict(&ended.console) {
        Some((Verdict::Success, _)) if !ended.timed_out => {}
        Some((Verdict::Success, _)) => return failed("the machine did not switch off".into()),
        Some((_, text)) => return failed(text),
        None => return failed("no verdict".into()),
    }
    match wanted.iter().find(|text| !ended.console.contains(**text)) {
        Some(missing) => failed(format!("it does not say '{missing}'")),
        None => Outcome::Passed(String::new()),
    }
}

/// QEMU prefers the multiboot header; in a copy without its magic number it takes the PVH note.
fn pvh(context: &Context) -> Result<Outcome> {
    let mut image = fs::read(images::hypervisor())?;
    let magic = 0x1bad_b002_u32.to_le_bytes();
    let at = image.windows(4).position(|word| word == magic);
    let Some(place) = at.and_then(|at| image.get_mut(at..at + 4)) else {
        return Err(Failure::new("the image has no multiboot header"));
    };
    place.fill(0);
    let copy = paths::run().join("pvh-only");
    paths::write(&copy, &image)?;
    let mut machine = machine(context, 2, 512, "selftest");
    machine.hypervisor = copy;
    Ok(judge(&machine.run(LIMIT, Echo::Off)?, &["started by Pvh"]))
}

fn says_all(ended: &Ended, wanted: &[&str]) -> Outcome {
    match wanted.iter().find(|text| !ended.console.contains(**text)) {
        Some(missing) => {
            Outcome::Failed { why: format!("it does not say '{missing}'"), output: ended.console.clone() }
        }
        None => Outcome::Passed(String::new()),
    }
}

/// Without a dom0 the hypervisor panics; the trace must have names, and the machine must restart when told.
fn panic_names_callers(context: &Context) -> Result<Outcome> {
    let ended = machine(context, 2, 256, "panic=0").run(LIMIT, Echo::Off)?;
    if ended.timed_out {
        return Ok(Outcome::Failed { why: "it did not restart".into(), output: ended.console });
    }
    Ok(says_all(
        &ended,
        &["panic on pcpu 0: no dom0", "call trace:", "xen_like_hv::boot::continue_boot+0x", "restarting"],
    ))
}

fn unknown_words(context: &Context) -> Result<Outcome> {
    let ended = machine(context, 1, 256, "frobnicate maxcpus=none selftest").run(LIMIT, Echo::Off)?;
    Ok(judge(
        &ended,
        &["unknown option 'frobnicate'", "bad value in 'maxcpus=none': expected a number from 1"],
    ))
}
