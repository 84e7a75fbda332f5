//! The `host` stage: unit tests, property walks and the rest that runs without a machine.

use crate::suite::{Case, Context, Needs, Outcome};
use crate::tools;

/// The packages that are tested on the host.
const PACKAGES: [&str; 8] =
    ["pv-abi", "hv-sync", "hv-core", "pv-guest-kernel", "dom0-tools", "fuzz-targets", "race-tests", "xtask"];

/// How many random cases each property gets when time does not matter.
const LONG_CASES: &str = "20000";

/// How many states each model generates then.
const LONG_STATES: &str = "3000000";

/// One case for each package.
pub(crate) fn cases() -> Vec<Case> {
    let case = |package: &'static str| {
        Case::new(format!("host-{package}"), Needs::Sources, move |context| Ok(test(package, context)))
    };
    PACKAGES.into_iter().map(case).collect()
}

fn test(package: &str, context: &Context) -> Outcome {
    let mut cargo = tools::cargo();
    cargo.args(["test", "--quiet", "-p", package]);
    if context.long {
        cargo.env("PROPTEST_CASES", LONG_CASES);
        cargo.env("MODEL_STATES", LONG_STATES);
    }
    match tools::quietly("cargo test", &mut cargo) {
        Ok(text) => {
            let count = count(&text);
            if count == 0 {
                Outcome::failed("it has no test")
            } else {
                Outcome::Passed(format!("({count} tests)"))
            }
        }
        Err(failure) => Outcome::Failed { why: "tests failed".into(), output: failure.to_string() },
    }
}

/// The number of tests that passed, over all of a package's test binaries.
fn count(text: &str) -> usize {
    let passed =
        |line: &str| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<usize>().ok();
    text.lines().filter_map(passed).sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn passed_tests_are_summed_over_binaries() {
        let text = "test result: ok. 3 passed; 0 failed; 0\nx\ntest result: ok. 4 passed; 0 failed";
        assert_eq!(super::count(text), 7);
    }
}
