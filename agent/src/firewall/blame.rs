//! Finds the chains that the kernel refuses where the program's words name none: by halves, among chains nothing leads to yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netfilter::{
    Action, Actual, ChainName, Effort, Family, Rule, Ruleset, Saved, Table, TableRules,
};

use super::broken::Culprits;
use super::kernel::{ApplyError, not_understood, restore_rules};
use super::programs::{Programs, listings};
use super::state::Desired;

type Chain<'a> = (&'a ChainName, &'a Arc<[Rule]>);

/// Tries the chains that are wanted and not there. Those that are accepted stay: no packet comes to them, and the next
/// plan finds them.
///
/// # Errors
/// If a program cannot be run.
pub(crate) async fn search(programs: &Programs, goal: &Desired) -> Result<Culprits, ApplyError> {
    let listings = listings(programs).await?;
    let mut culprits = Culprits::default();
    for (family, listing) in [Family::V4, Family::V6].into_iter().zip(&listings) {
        let there = Saved::parse(listing).map_err(not_understood(programs.save(family)))?;
        let parts = goal.rules(family).into_iter();
        for (table, wanted) in parts.flat_map(|rules| &rules.tables) {
            let is_new = |name: &ChainName| !there.chains.contains_key(&(*table, name.clone()));
            let new = leaves_first(wanted, is_new);
            let program = programs.restore(family);
            culprits
                .chains
                .extend(refused(program, *table, &new).await?);
        }
    }
    Ok(culprits)
}

async fn refused(
    program: &'static str,
    table: Table,
    chains: &[Chain<'_>],
) -> Result<BTreeSet<ChainName>, ApplyError> {
    let mut culprits = BTreeSet::new();
    // Refused themselves, or leading to one that is.
    let mut absent = BTreeSet::new();
    let mut pieces = vec![chains];
    while let Some(piece) = pieces.pop() {
        let mut sound = Vec::new();
        for &(name, rules) in piece {
            if targets(rules).any(|target| absent.contains(target)) {
                absent.insert(name.clone());
            } else {
                sound.push((name, rules));
            }
        }
        if is_accepted(program, table, &sound).await? {
            continue;
        }
        match (sound.as_slice(), piece.split_at(piece.len() / 2)) {
            ([(name, _)], _) => {
                absent.insert((*name).clone());
                culprits.insert((*name).clone());
            }
            (_, (first, rest)) => pieces.extend([rest, first]),
        }
    }
    Ok(culprits)
}

async fn is_accepted(
    program: &'static str,
    table: Table,
    chains: &[Chain<'_>],
) -> Result<bool, ApplyError> {
    let chains = chains.iter().copied();
    let rules = TableRules {
        hooks: Vec::new(),
        chains: chains
            .map(|(name, rules)| (name.clone(), Arc::clone(rules)))
            .collect(),
    };
    let rules = Ruleset {
        tables: BTreeMap::from([(table, rules)]),
    };
    let plan = netfilter::plan(&Actual::default(), &rules, Effort::Exact);
    match restore_rules(program, plan.restore.as_deref()).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_refusal() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// In an order in which each comes after those that it leads to.
fn leaves_first(table: &TableRules, is_wanted: impl Fn(&ChainName) -> bool) -> Vec<Chain<'_>> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    // A chain is met twice: before those that it leads to, and after them.
    let mut stack: Vec<(Chain<'_>, bool)> =
        table.chains.iter().map(|chain| (chain, false)).collect();
    while let Some((chain, is_done)) = stack.pop() {
        if is_done {
            order.push(chain);
        } else if is_wanted(chain.0) && seen.insert(chain.0) {
            stack.push((chain, true));
            let known = targets(chain.1).filter_map(|name| table.chains.get_key_value(name));
            stack.extend(known.map(|target| (target, false)));
        }
    }
    order
}

fn targets(rules: &Arc<[Rule]>) -> impl Iterator<Item = &ChainName> {
    rules.iter().filter_map(|rule| match rule.action() {
        Action::Jump(name) | Action::Goto(name) => Some(name),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_comes_after_those_that_it_leads_to() {
        let name = |text: &str| ChainName::hashed("T", &[text]);
        let jump = |text: &str| Rule::new([], Action::Jump(name(text)));
        let chains: netfilter::Chains = [
            ("a", vec![jump("b"), jump("c")]),
            ("b", vec![jump("c"), jump("there")]),
            ("c", vec![]),
            ("there", vec![]),
        ]
        .into_iter()
        .map(|(text, rules)| (name(text), rules.into()))
        .collect();
        let table = TableRules {
            hooks: Vec::new(),
            chains,
        };
        let order = leaves_first(&table, |chain| *chain != name("there"));
        let order: Vec<&ChainName> = order.iter().map(|(name, _)| *name).collect();
        assert_eq!(order, [&name("c"), &name("b"), &name("a")]);
    }
}
