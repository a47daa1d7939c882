//! What is compiled, installed by the real programs: as the agent does it, by the planned difference.

use std::collections::BTreeMap;
use std::io::{Seek as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use netfilter::{Actual, ActualSets, Effort, IpSet, SetName, parse_sets, plan, plan_sets};
use policy::Compiled;

use crate::lab::Lab;

/// Which programs write the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackEnd {
    Nft,
    Legacy,
}

impl BackEnd {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    pub(crate) fn program(self, is_ipv4: bool, verb: &str) -> String {
        let family = if is_ipv4 { "iptables" } else { "ip6tables" };
        format!("{family}-{}{verb}", self.name())
    }
}

/// What is in the node's kernel, as far as we wrote it.
pub(crate) struct Kernel {
    pub(crate) back_end: BackEnd,
    sets: ActualSets,
    v4: Actual,
    v6: Actual,
    pub(crate) rules_written: usize,
    pub(crate) members_written: usize,
    pub(crate) transactions: usize,
}

impl Kernel {
    pub(crate) fn new(back_end: BackEnd) -> Self {
        Self {
            back_end,
            sets: ActualSets::default(),
            v4: Actual::default(),
            v6: Actual::default(),
            rules_written: 0,
            members_written: 0,
            transactions: 0,
        }
    }

    /// Installs what is compiled over what is there. `meanwhile` is called again and again while a program runs.
    pub(crate) fn install(
        &mut self,
        lab: &mut impl Meanwhile,
        compiled: &Compiled,
        effort: Effort,
    ) -> Result<()> {
        let mut wanted: BTreeMap<SetName, Arc<IpSet>> = compiled.v4.sets.clone();
        wanted.extend(compiled.v6.sets.clone());
        let sets = plan_sets(&self.sets, &wanted);
        self.members_written += sets.members_written;
        if let Some(text) = &sets.before {
            self.run(lab, "ipset", &["restore", "-exist"], text)?;
        }
        let mut leftover = false;
        for (is_ipv4, family) in [(true, &compiled.v4), (false, &compiled.v6)] {
            let present = if is_ipv4 { &self.v4 } else { &self.v6 };
            let made = plan(present, &family.rules, effort);
            self.rules_written += made.rules_written;
            leftover |= made.leftover;
            if let Some(text) = &made.restore {
                let program = self.back_end.program(is_ipv4, "-restore");
                self.run(lab, &program, &["--noflush", "-w"], text)?;
            }
            let present = if is_ipv4 { &mut self.v4 } else { &mut self.v6 };
            *present = made.after;
        }
        // Rules that no packet reaches any more still hold on to their sets.
        if leftover {
            self.sets = sets.applied;
            return Ok(());
        }
        if let Some(text) = &sets.after {
            self.run(lab, "ipset", &["restore", "-exist"], text)?;
        }
        self.sets = sets.applied_after;
        Ok(())
    }

    /// Reads everything back: over it, nothing more would be written.
    pub(crate) fn check(&self, compiled: &Compiled, effort: Effort) -> Result<()> {
        let mut wanted: BTreeMap<SetName, Arc<IpSet>> = compiled.v4.sets.clone();
        wanted.extend(compiled.v6.sets.clone());
        for (is_ipv4, family) in [(true, &compiled.v4), (false, &compiled.v6)] {
            let text = output(&self.back_end.program(is_ipv4, "-save"), &[])?;
            let again = plan(&Actual::parse(&text)?, &family.rules, effort);
            ensure!(
                again.restore.is_none(),
                "over\n{text}\nwould be written:\n{}",
                again.restore.unwrap_or_default()
            );
        }
        let again = plan_sets(&parse_sets(&output("ipset", &["save"])?)?, &wanted);
        let spare = effort == Effort::Additive;
        ensure!(
            again.before.is_none() && (spare || again.after.is_none()),
            "sets would be written: {again:?}"
        );
        Ok(())
    }

    /// Runs a program with an input to its end.
    pub(crate) fn run(
        &mut self,
        lab: &mut impl Meanwhile,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<()> {
        self.transactions += 1;
        let mut file = tempfile::tempfile()?;
        file.write_all(input.as_bytes())?;
        file.rewind()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("XTABLES_LOCKFILE", "/dev/null")
            .stdin(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child: Child = lab
            .lab()
            .beside(|| command.spawn())?
            .with_context(|| program.to_owned())?;
        while child.try_wait()?.is_none() {
            lab.meanwhile()?;
        }
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{program} {arguments:?}: {said}\n{input}"
        );
        Ok(())
    }
}

/// What goes on while a program runs.
pub(crate) trait Meanwhile {
    fn lab(&mut self) -> &mut Lab;
    fn meanwhile(&mut self) -> Result<()>;
}

/// A program's output; it must succeed.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .env("XTABLES_LOCKFILE", "/dev/null")
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}
