//! File heads, file lengths, forbidden words, and pure crates' clippy files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Tally;

/// Longest source file, tests included.
const MOST_LINES: usize = 600;

/// The modules that start programs: the agent's one, and the plugin's for an IPAM plugin.
const STARTERS: [&str; 2] = ["agent/src/exec.rs", "cni/plugin/src/delegate.rs"];

/// Folders of pure crates: each repeats the root's clippy file and adds its bans.
const PURE_FOLDERS: &[&str] = &[
    "api",
    "reconcile",
    "bgp/proto",
    "netfilter",
    "policy",
    "ipam",
    "overlay",
    "cni/spec",
];

/// Words that no source file may hold, and what to do instead. Split so that this file does not hold them.
fn forbidden() -> [(String, &'static str); 3] {
    [
        (
            ["#[", "ignore"].concat(),
            "a test that does not run proves nothing: mend it or remove it",
        ),
        (
            ["tod", "o!("].concat(),
            "write it, or leave it out and say so",
        ),
        (
            ["unimpl", "emented!("].concat(),
            "write it, or leave it out and say so",
        ),
    ]
}

/// Adds what breaks the rules.
pub(crate) fn check(root: &Path, tally: &mut Tally) -> anyhow::Result<()> {
    let mut files = Vec::new();
    sources(root, &mut files)?;
    files.sort();
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .display()
            .to_string();
        tally.files += 1;
        source(&name, &text, tally);
    }
    clippy_files(root, tally)
}

fn source(name: &str, text: &str, tally: &mut Tally) {
    let head = text.lines().find(|line| !line.starts_with("#!"));
    if !head.is_some_and(|line| line.starts_with("//! ") && line.len() > 12) {
        tally.problems.push(format!(
            "{name}: the first line must say what the file is for (//! …)"
        ));
    }
    let count = text.lines().count();
    if count > MOST_LINES {
        tally.problems.push(format!(
            "{name}: {count} lines; split it ({MOST_LINES} at most)"
        ));
    }
    let starts = ["Command::", "new("].concat();
    if text.contains(&starts) && may_not_start_programs(name) {
        tally.problems.push(format!(
            "{name}: starts a program; only {} may (invariant 7)",
            STARTERS.join(" and ")
        ));
    }
    for (number, line) in text.lines().enumerate() {
        if line.ends_with(' ') || line.contains('\t') {
            tally.problems.push(format!(
                "{name}:{}: white space at the end, or a tab",
                number + 1
            ));
        }
        for (word, advice) in forbidden() {
            if line.contains(&word) {
                tally
                    .problems
                    .push(format!("{name}:{}: {word}: {advice}", number + 1));
            }
        }
    }
}

/// Product code: neither tests nor what builds and drives them.
fn may_not_start_programs(name: &str) -> bool {
    let outside = ["tests/", "bench/", "xtask/", "fuzz/"]
        .iter()
        .any(|folder| name.starts_with(folder));
    !outside
        && !STARTERS.contains(&name)
        && !name.contains("/tests/")
        && !name.contains("/test/")
        && !name.contains("/examples/")
}

/// The shared keys must be the same everywhere: clippy takes the nearest file and merges nothing.
fn clippy_files(root: &Path, tally: &mut Tally) -> anyhow::Result<()> {
    let shared = keys(&root.join("clippy.toml"))?;
    for folder in PURE_FOLDERS {
        let file = root.join(folder).join("clippy.toml");
        if !file.exists() {
            tally.problems.push(format!(
                "{folder}/clippy.toml is missing: pure crates ban clocks and I/O"
            ));
            continue;
        }
        let own = keys(&file)?;
        for key in &shared {
            if !own.contains(key) {
                tally
                    .problems
                    .push(format!("{folder}/clippy.toml lacks «{key}» of the root's"));
            }
        }
        if !fs::read_to_string(&file)?.contains("std::time::Instant::now") {
            tally
                .problems
                .push(format!("{folder}/clippy.toml does not ban Instant::now"));
        }
    }
    Ok(())
}

fn keys(file: &Path) -> anyhow::Result<Vec<String>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let scalar =
        |line: &&str| line.contains(" = ") && !line.starts_with(' ') && !line.ends_with('[');
    Ok(text.lines().filter(scalar).map(str::to_owned).collect())
}

/// All Rust files that are ours: no build output, no hidden folder.
fn sources(folder: &Path, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, into)?;
            }
        } else if name.ends_with(".rs") {
            into.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let mut tally = Tally::default();
        source("a.rs", text, &mut tally);
        tally.problems
    }

    #[test]
    fn a_file_in_order_has_no_problem() {
        assert_eq!(
            problems("//! What this file is for.\n\nfn a() {}\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn only_one_module_starts_programs() {
        let text = "//! What this file is for.\nfn a() { Command::new(\"x\"); }\n";
        let count = |name: &str| {
            let mut tally = Tally::default();
            source(name, text, &mut tally);
            tally.problems.len()
        };
        assert_eq!(count("agent/src/cni.rs"), 1);
        assert!(STARTERS.iter().all(|name| count(name) == 0));
        assert_eq!(count("tests/src/process.rs"), 0);
        assert_eq!(count("netfilter/tests/kernel.rs"), 0);
    }

    #[test]
    fn each_rule_is_enforced() {
        assert_eq!(problems("fn a() {}\n").len(), 1);
        assert_eq!(
            problems(&("//! What this file is for.\n".to_owned() + &"\n".repeat(600))).len(),
            1
        );
        assert_eq!(
            problems("//! What this file is for.\nfn a() {} \n").len(),
            1
        );
        for (word, _) in forbidden() {
            assert_eq!(
                problems(&format!("//! What this file is for.\n{word}\n")).len(),
                1
            );
        }
    }
}
