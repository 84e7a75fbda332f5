//! The `demo` stage: whole systems, with dom0 and guests made by it.

use crate::demo;
use crate::failure::Result;
use crate::suite::{Case, Context, Needs, Outcome};

/// The numbers of pcpus that are tried.
const SMP: [u32; 3] = [1, 2, 4];

/// The cases of this stage.
pub(crate) fn cases() -> Vec<Case> {
    let demo =
        |smp: u32| Case::new(format!("demo-smp{smp}"), Needs::Images, move |context| run_demo(smp, context));
    SMP.into_iter().map(demo).collect()
}

fn run_demo(smp: u32, context: &Context) -> Result<Outcome> {
    let report = demo::demo(smp, context.accel, context.other.clone())?;
    if report.held() {
        return Ok(Outcome::Passed(format!("({} checks)", report.count())));
    }
    Ok(Outcome::Failed { why: report.first_failure(), output: report.console })
}
