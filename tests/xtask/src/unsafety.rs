//! How much of each room is unsafe: counted from the sources, told in `docs/verification.md`, and compared.

use std::collections::BTreeMap;

/// The page that tells.
pub(crate) const PAGE: &str = "docs/verification.md";
/// What stands around the table there.
const BEGIN: &str = "<!-- unsafe: begin -->\n";
const END: &str = "<!-- unsafe: end -->";

/// The rooms by their folders; the first that fits counts.
const ROOMS: [(&str, &str); 9] = [
    ("pv-abi/", "pv-abi"),
    ("pv-image/", "pv-image"),
    ("xen-like-hv/sync/", "hv-sync"),
    ("xen-like-hv/core/", "hv-core"),
    ("xen-like-hv/", "xen-like-hv (the image)"),
    ("pv-guest-kernel/", "pv-guest-kernel (the SDK)"),
    ("dom0-tools/src/bin/", "dom0-tools, binaries"),
    ("dom0-tools/", "dom0-tools, logic"),
    ("tests/", "tests"),
];

/// What one room has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    blocks: usize,
    functions: usize,
    contracts: usize,
}

fn count(text: &str) -> Count {
    let mut count = Count::default();
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or("");
        // Spelled apart so that this file does not count itself.
        count.blocks += code.matches(concat!("unsafe", " {")).count();
        count.functions += code.matches(concat!("unsafe", " fn ")).count();
        count.functions += code.matches(concat!("unsafe", " impl")).count();
        let comment = line.trim_start();
        let contract = comment.starts_with("//") && comment.contains(concat!("SAFETY", ":"));
        count.contracts += usize::from(contract || comment.contains(concat!("# ", "Safety")));
    }
    count
}

/// The table, from sources as (path, text).
pub(crate) fn table<'a>(sources: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut rooms: BTreeMap<usize, Count> = (0..ROOMS.len()).map(|n| (n, Count::default())).collect();
    for (path, text) in sources {
        let Some(n) = ROOMS.iter().position(|(folder, _)| path.starts_with(folder)) else { continue };
        let (sum, one) = (rooms.entry(n).or_default(), count(text));
        sum.blocks += one.blocks;
        sum.functions += one.functions;
        sum.contracts += one.contracts;
    }
    let mut text = String::from(
        "\n| room | unsafe blocks | unsafe functions and impls | contracts |\n|---|---|---|---|\n",
    );
    for (n, c) in rooms {
        text += &format!("| {} | {} | {} | {} |\n", ROOMS[n].1, c.blocks, c.functions, c.contracts);
    }
    text + "\n"
}

/// The page with the table put in; `None` where the page has no place for it.
pub(crate) fn put(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_functions_and_contracts_are_counted() {
        let text = concat!(
            "// SAFETY",
            ": so\nlet x = unsafe",
            " { f() };\n/// # ",
            "Safety\nunsafe",
            " fn g() {}\n// unsafe",
            " {\n"
        );
        assert_eq!(count(text), Count { blocks: 1, functions: 1, contracts: 2 });
    }

    #[test]
    fn the_table_goes_between_its_marks() {
        let page = format!("a\n{BEGIN}old{END}\nb");
        assert_eq!(put(&page, "new"), Some(format!("a\n{BEGIN}new{END}\nb")));
        assert_eq!(put("a", "new"), None);
    }
}
