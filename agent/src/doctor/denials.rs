//! Checks of policy: pods that are isolated from everything, and what was denied lately.

use std::path::Path;
use std::time::{Duration, Instant};

use super::bound::{self, LIMIT};
use super::catalog::{POLICY_DROPS, POLICY_ISOLATES};
use super::finding::Finding;
use crate::control;
use crate::drops::{self, DropsAnswer};
use crate::policy::{DirectionView, PolicyAnswer, PolicyQuestion, ShowView};
use crate::report::Report;

/// For how long a denied packet is news, in microseconds.
const NEWS: u64 = 60_000_000;
/// How many denied packets are told.
const TOLD: usize = 5;

/// What the agent says.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Pods of this node that some policy selects, as far as there was time.
    pods: Result<Vec<ShowView>, String>,
    /// Pods that were not asked about.
    left_out: usize,
    drops: Result<DropsAnswer, String>,
    /// Microseconds since 1970.
    now: u64,
}

impl Facts {
    /// Asks it.
    pub(super) fn gather(report: &Report, run_dir: &Path) -> Self {
        let names: Vec<String> = report
            .endpoints
            .iter()
            .filter(|endpoint| !endpoint.name.is_empty())
            .map(|endpoint| format!("{}/{}", endpoint.namespace, endpoint.name))
            .collect();
        let all = names.len();
        let dir = run_dir.to_owned();
        // Asking takes as long as reading the rules back: where nothing selects a pod nobody needs to.
        let names = if report.policy.policies == 0 {
            Vec::new()
        } else {
            names
        };
        let asked = bound::blocking(move || show(&dir, names));
        let (pods, left_out) = match asked {
            Ok(Ok((pods, left_out))) => (Ok(pods), left_out),
            Ok(Err(error)) => (Err(format!("{error:#}")), all),
            Err(late) => (Err(late.to_string()), all),
        };
        let dir = run_dir.to_owned();
        let drops = match bound::blocking(move || control::ask_drops(&dir, 0)) {
            Ok(answer) => answer.map_err(|error| format!("{error:#}")),
            Err(late) => Err(late.to_string()),
        };
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = since.map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        });
        Self {
            pods,
            left_out,
            drops,
            now,
        }
    }
}

/// Asks for one pod after the other while there is time; gives how many were left out.
fn show(run_dir: &Path, names: Vec<String>) -> anyhow::Result<(Vec<ShowView>, usize)> {
    let end = Instant::now() + LIMIT.saturating_sub(Duration::from_millis(500));
    let mut views = Vec::new();
    let count = names.len();
    for pod in names {
        if Instant::now() > end {
            break;
        }
        if let PolicyAnswer::Show(view) =
            control::ask_policy(run_dir, PolicyQuestion::Show { pod })?
        {
            views.push(*view);
        }
    }
    let left_out = count - views.len();
    Ok((views, left_out))
}

/// Judges.
pub(super) fn judge(facts: Option<&Facts>) -> Vec<Finding> {
    let Some(facts) = facts else {
        return [&POLICY_ISOLATES, &POLICY_DROPS]
            .map(|check| check.skipped("the agent does not answer"))
            .into();
    };
    let mut findings = isolated(facts);
    findings.extend(denied(facts));
    findings
}

fn isolated(facts: &Facts) -> Vec<Finding> {
    let pods = match &facts.pods {
        Ok(pods) => pods,
        Err(why) => {
            return vec![POLICY_ISOLATES.skipped(format!("policy cannot be asked about: {why}"))];
        }
    };
    let mut findings = Vec::new();
    for pod in pods {
        for direction in pod.directions.iter().filter(|one| allows_nothing(one)) {
            let isolating: Vec<&str> = direction
                .policies
                .iter()
                .filter(|policy| policy.tier == "NetworkPolicy")
                .map(|policy| policy.name.as_str())
                .collect();
            let name = isolating.first().copied().unwrap_or_default();
            let (namespace, name) = name.split_once('/').unwrap_or(("", name));
            findings.push(POLICY_ISOLATES.warning(
                format!("Pod {} is isolated for {}, and nothing is allowed", pod.pod, direction.direction),
                format!("NetworkPolicy {} selects it, and no policy has a rule that allows; fine if it is meant so", isolating.join(", ")),
                format!("kubectl -n {namespace} edit networkpolicy {name}"),
            ));
        }
    }
    let rest = match facts.left_out {
        0 => String::new(),
        more => format!("; {more} pods were not looked at for lack of time"),
    };
    POLICY_ISOLATES.or_ok(
        findings,
        format!("no pod of this node is cut off from everything{rest}"),
    )
}

fn allows_nothing(direction: &DirectionView) -> bool {
    let asked = direction.policies.iter().filter(|policy| policy.asked);
    let mut rules = asked.flat_map(|policy| &policy.rules);
    let allows = |action: &str| matches!(action, "Allow" | "Accept");
    direction.isolated && !rules.any(|rule| allows(&rule.action))
}

fn denied(facts: &Facts) -> Vec<Finding> {
    let answer = match &facts.drops {
        Ok(answer) => answer,
        Err(why) => return vec![POLICY_DROPS.skipped(why.clone())],
    };
    let fresh: Vec<&drops::Dropped> = answer
        .packets
        .iter()
        .filter(|packet| packet.time_micros + NEWS > facts.now)
        .collect();
    let Some(last) = fresh.last() else {
        return vec![POLICY_DROPS.ok("policy denied nothing within the last minute")];
    };
    let told: Vec<String> = fresh
        .iter()
        .rev()
        .take(TOLD)
        .map(|packet| drops::line(packet))
        .collect();
    let end = |pod: &Option<String>, address: std::net::IpAddr| {
        pod.clone().unwrap_or_else(|| address.to_string())
    };
    let port = last
        .destination_port
        .map_or_else(String::new, |port| match last.to_pod {
            None if last.destination.is_ipv6() => format!(" (port {port})"),
            _ => format!(":{port}"),
        });
    vec![POLICY_DROPS.warning(
        format!(
            "policy denied {} packets within the last minute; the last ones:\n{}",
            fresh.len(),
            told.join("\n")
        ),
        "no policy that selects the pod allows them, or one denies them by name",
        format!(
            "portolan policy explain {} {}{port}",
            end(&last.from_pod, last.source),
            end(&last.to_pod, last.destination)
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use crate::policy::{PolicyShown, RuleShown};

    fn facts(rules: &[&str]) -> Facts {
        let rule = |action: &&str| RuleShown {
            action: (*action).to_owned(),
            ..RuleShown::default()
        };
        let policy = PolicyShown {
            tier: "NetworkPolicy".to_owned(),
            name: "shop/deny".to_owned(),
            asked: true,
            rules: rules.iter().map(rule).collect(),
            ..PolicyShown::default()
        };
        let direction = DirectionView {
            direction: "ingress".to_owned(),
            isolated: true,
            policies: vec![policy],
            ..DirectionView::default()
        };
        let pod = ShowView {
            pod: "shop/web".to_owned(),
            directions: vec![direction],
            ..ShowView::default()
        };
        Facts {
            pods: Ok(vec![pod]),
            left_out: 0,
            drops: Err("not shown".to_owned()),
            now: 2 * NEWS,
        }
    }

    #[test]
    fn a_pod_that_is_isolated_from_all_is_told_and_one_with_a_rule_is_not() {
        let findings = judge(Some(&facts(&[])));
        assert_eq!(findings[0].verdict, Verdict::Warning);
        assert_eq!(
            findings[0].remedy,
            "kubectl -n shop edit networkpolicy deny"
        );
        assert_eq!(findings[1].verdict, Verdict::Skipped);
        assert_eq!(judge(Some(&facts(&["Allow"])))[0].verdict, Verdict::Ok);
        assert_eq!(judge(Some(&facts(&["Deny"])))[0].verdict, Verdict::Warning);
    }

    #[test]
    fn only_what_was_denied_lately_is_told_and_how_to_ask_why() {
        let packet = drops::Dropped {
            number: 0,
            time_micros: 2 * NEWS - 1,
            policies: vec!["NetworkPolicy shop/deny".to_owned()],
            direction: "ingress".to_owned(),
            chain: "PTL-X".to_owned(),
            input: None,
            output: None,
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            from_pod: None,
            to_pod: Some("shop/web".to_owned()),
            protocol: "tcp".to_owned(),
            source_port: Some(1),
            destination_port: Some(80),
        };
        let mut seen = facts(&["Allow"]);
        seen.drops = Ok(DropsAnswer {
            packets: vec![packet],
            next: 1,
            missed: 0,
            lost: 0,
        });
        let finding = judge(Some(&seen)).remove(1);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert_eq!(
            finding.remedy,
            "portolan policy explain 10.0.0.1 shop/web:80"
        );
        seen.now = 4 * NEWS;
        assert_eq!(judge(Some(&seen))[1].verdict, Verdict::Ok);
    }
}
