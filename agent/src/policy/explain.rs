//! `portolan policy explain`: what the policies say of a connection, and what this node's kernel does with it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ::policy::{
    DecidedBy, Direction, Evaluator, Explanation, Flow, NotMatched, Outcome, Side, Stranger,
    Verdict,
};

use super::list::{key_name, tier_name};
use super::near::Names;
use super::place::{Destination, Place, PortName};
use super::state::Known;
use super::trail::kernel;
use super::view::{ExplainView, FlowView, SideView, StepView};

/// Explains one connection, in each family that both ends have. `own` are this node's addresses.
///
/// # Errors
/// If an end or a port is not known, or the ends share no family; the text says what there is.
pub(super) fn explain(
    known: &Known,
    own: &BTreeSet<IpAddr>,
    from: &Place,
    to: &Destination,
) -> Result<ExplainView, String> {
    let names = Names::new(&known.objects);
    let addresses = |place: &Place| match place {
        Place::Pod(pod) => names.addresses(pod),
        Place::Address(address) => Ok(vec![*address]),
    };
    let (sources, destinations) = (addresses(from)?, addresses(&to.place)?);
    let evaluator = Evaluator::new(&known.objects, &known.settings);
    let mut families = Vec::new();
    for is_v4 in [true, false] {
        let first = |list: &[IpAddr]| list.iter().copied().find(|one| one.is_ipv4() == is_v4);
        if let (Some(source), Some(destination)) = (first(&sources), first(&destinations)) {
            let flow = Flow {
                source,
                destination,
                protocol: to.protocol.number(is_v4),
                port: port(&names, to, destination)?,
            };
            families.push(explain_flow(
                known,
                &evaluator,
                own,
                to.protocol.name(),
                &flow,
            ));
        }
    }
    if families.is_empty() {
        return Err(format!(
            "{from} and {} have no addresses of one family",
            to.place
        ));
    }
    Ok(ExplainView {
        node: known.node.clone(),
        from: from.to_string(),
        to: to.place.to_string(),
        families,
        kernel_error: known.held.as_ref().err().cloned(),
    })
}

fn port(names: &Names<'_>, to: &Destination, at: IpAddr) -> Result<Option<u16>, String> {
    let name = match &to.port {
        None => return Ok(None),
        Some(PortName::Number(number)) => return Ok(Some(*number)),
        Some(PortName::Name(name)) => name,
    };
    let pod = match &to.place {
        Place::Pod(pod) => pod.clone(),
        Place::Address(_) => names.holder(at)?,
    };
    names.port(&pod, name, to.protocol.name()).map(Some)
}

fn explain_flow(
    known: &Known,
    evaluator: &Evaluator<'_>,
    own: &BTreeSet<IpAddr>,
    protocol: &str,
    flow: &Flow,
) -> FlowView {
    let explanation = evaluator.evaluate(flow);
    let Explanation {
        allowed,
        egress,
        ingress,
    } = &explanation;
    let sides = [
        (Direction::Egress, egress, flow.source),
        (Direction::Ingress, ingress, flow.destination),
    ];
    let is_local = |address| known.endpoint(address).is_some();
    let denied_here = sides
        .iter()
        .any(|(_, side, address)| side.verdict == Verdict::Denied && is_local(*address));
    let kernel = kernel(known, own, flow, denied_here);
    FlowView {
        source: flow.source.to_string(),
        destination: flow.destination.to_string(),
        protocol: protocol.to_owned(),
        port: flow.port,
        allowed: *allowed,
        sides: sides
            .into_iter()
            .map(|(way, said, address)| side(way, said, is_local(address)))
            .collect(),
        differs: kernel
            .as_ref()
            .is_some_and(|kernel| kernel.difference.is_some()),
        kernel,
    }
}

fn side(way: Direction, said: &Side, local: bool) -> SideView {
    let steps = said.steps.iter().map(|step| StepView {
        tier: tier_name(step.tier).to_owned(),
        policy: key_name(&step.key),
        rule: step.rule.map(|place| place + 1),
        rule_name: step.rule_name.clone(),
        outcome: outcome(&step.outcome),
    });
    SideView {
        direction: way.to_string(),
        subject: said.subject.as_ref().map(ToString::to_string),
        node: said.node.clone(),
        local,
        allowed: said.verdict == Verdict::Allowed,
        decided_by: decided_by(said),
        steps: steps.collect(),
    }
}

fn decided_by(side: &Side) -> String {
    let last = || {
        let step = side.steps.last();
        step.map_or_else(String::new, |step| {
            let rule = step
                .rule
                .map_or(String::new(), |place| format!(" rule {}", place + 1));
            let named = match step.rule_name.is_empty() {
                true => String::new(),
                false => format!(" ({})", step.rule_name),
            };
            format!("{}{rule}{named} {}", step.key, outcome(&step.outcome))
        })
    };
    match &side.decided_by {
        DecidedBy::NoSubject(Stranger::Node(name)) => {
            format!("node {name}, which no policy is about")
        }
        DecidedBy::NoSubject(Stranger::HostNetwork(pod)) => {
            format!("pod {pod} is in its node's network, which no policy is about")
        }
        DecidedBy::NoSubject(Stranger::Finished(pod)) => {
            format!("pod {pod} has finished, no policy is about it any more")
        }
        DecidedBy::NoSubject(Stranger::Unknown) => {
            "nobody of the cluster, which no policy is about".to_owned()
        }
        DecidedBy::Itself => "a pod always reaches itself".to_owned(),
        DecidedBy::FromOwnNode => "a pod is always reached by its own node".to_owned(),
        DecidedBy::ToOwnNode => {
            "NetworkPolicy's egress rules don't judge what goes to the pod's own node".to_owned()
        }
        DecidedBy::Rule => last(),
        DecidedBy::Isolation => {
            "a NetworkPolicy isolates the pod, and no rule allows this".to_owned()
        }
        DecidedBy::Default => "nothing is said against it".to_owned(),
    }
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Allows => "allows it".to_owned(),
        Outcome::Accepts => "accepts it".to_owned(),
        Outcome::Denies => "denies it".to_owned(),
        Outcome::Passes => "passes: the rest of the tier is not asked".to_owned(),
        Outcome::FailsClosed(why) => format!("denies all, for it is not understood: {why}"),
        Outcome::Isolates => "isolates, and has no rule".to_owned(),
        Outcome::NotMatched(NotMatched::Peers) => "no match: the other side".to_owned(),
        Outcome::NotMatched(NotMatched::Ports) => "no match: protocol or port".to_owned(),
        Outcome::NotMatched(NotMatched::Unsupported(why)) => {
            format!("no match, for it is not understood: {why}")
        }
    }
}
