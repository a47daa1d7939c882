//! `docs/conformance*.md` name tests: each must be there, so that the pages cannot rot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Tally;

const PAGE: &str = "docs/conformance.md";

/// All of them.
const PAGES: &[&str] = &[
    PAGE,
    "docs/conformance-policy.md",
    "docs/conformance-cni.md",
    "docs/conformance-routing.md",
    "docs/conformance-services.md",
    "docs/conformance-ingress.md",
];

/// Where most of what the first names is: files are given from here or from the root.
const HOME: &str = "bgp/proto/src";

/// Where the behaviours are that `make show-ten` takes back.
const REVERTS: &str = "tests/reverts";

/// Adds every test and file that a page names and nobody finds, and every revert that none shows.
pub(crate) fn check(root: &Path, tally: &mut Tally) -> anyhow::Result<()> {
    let read = |file: &str| {
        let places = [root.join(file), root.join(HOME).join(file)];
        places.iter().find_map(|path| fs::read_to_string(path).ok())
    };
    let mut shown = String::new();
    for page in PAGES {
        let text =
            fs::read_to_string(root.join(page)).with_context(|| format!("cannot read {page}"))?;
        tally.problems.extend(problems(page, &text, read));
        shown.push_str(&text);
    }
    let entries = fs::read_dir(root.join(REVERTS)).context("cannot list the reverts")?;
    let mut patches: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<_>>()?;
    patches.sort();
    for path in patches {
        let patch =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let test = patch.lines().find_map(|line| line.strip_prefix("Test: "));
        if !test.is_some_and(|test| shown.contains(&format!("`{test}`"))) {
            let name = path.file_name().unwrap_or_default().display();
            tally.problems.push(format!(
                "{PAGE} does not show {REVERTS}/{name}: copy the table of `make show-ten`"
            ));
        }
    }
    Ok(())
}

/// What is wrong with the text of a page; `read` gives the text of a file that it names.
fn problems(page: &str, text: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut tests = 0;
    for (number, line) in (1..).zip(text.lines()) {
        for name in named(line) {
            let (file, test) = name.split_once("::").unwrap_or((name, ""));
            match read(file) {
                None => found.push(format!("{page}:{number}: there is no file {file}")),
                Some(text) if !test.is_empty() => {
                    tests += 1;
                    if !text.contains(&format!("fn {test}(")) {
                        found.push(format!("{page}:{number}: {file} has no test {test}"));
                    }
                }
                Some(_) => {}
            }
        }
    }
    if tests == 0 {
        found.push(format!("{page} names no test at all"));
    }
    found
}

/// Files and tests of a line: `path/file.rs` or `path/file.rs::test`, between backticks.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.contains(".rs") && !name.contains([' ', '*']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(page: &str) -> usize {
        let text = "#[test]\nfn a_route_goes() {}\n".to_owned();
        let read = |file: &str| (file == "rib/tests.rs").then(|| text.clone());
        problems(PAGE, page, read).len()
    }

    #[test]
    fn a_test_that_is_there_is_no_problem_and_any_other_is() {
        assert_eq!(count("| 1 | x | `rib/tests.rs::a_route_goes` |"), 0);
        assert_eq!(
            count("`rib/tests.rs::a_route_goes`, `rib/tests.rs::a_route_comes`"),
            1
        );
        assert_eq!(
            count("`rib/tests.rs::a_route_goes`, `rib/other.rs::a_route_goes`"),
            1
        );
        assert_eq!(count("`rib/tests.rs::a_route_goes` `rib/gone.rs`"), 1);
    }

    #[test]
    fn a_page_without_tests_is_not_in_order() {
        assert_eq!(count("# Conformance\n"), 1);
    }
}
