//! What is around the rules: what load balancers hear at health checks' ports, and a node that gets another zone.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::netns::Netns;
use tests::reach::Transport;
use tests::wait::eventually;

use crate::ask::{Effort, Outcome, Way, ask_all};
use crate::compare::{Question, Tally, compare, questions};
use crate::differences::Difference;
use crate::lab::{Lab, PATIENCE};
use crate::objects::{Case, NAMESPACE, addresses};
use crate::world::Place;

/// What a load balancer heard: the status, the weight in the header, and the JSON.
#[derive(Clone, Debug, PartialEq)]
struct Heard {
    status: u16,
    weight: Option<String>,
    said: Value,
}

/// Both say the same at the `healthCheckNodePort` of every Service that has one, at both addresses of the node; how many were
/// asked, and how many of the answers were 200.
pub(crate) fn health_checks(lab: &Lab) -> Result<(usize, usize)> {
    let listed = lab
        .plane
        .try_kubectl(&["-n", NAMESPACE, "get", "services", "-o", "json"])?;
    let listed: Value = serde_json::from_str(&listed)?;
    let services = listed["items"].as_array().context("no list")?;
    let (mut asked, mut well) = (0, 0);
    for service in services {
        let Some(port) = service["spec"]["healthCheckNodePort"].as_u64() else {
            continue;
        };
        let name = &service["metadata"]["name"];
        for address in Place::Node.addresses() {
            let to = SocketAddr::new(address.parse::<IpAddr>()?, u16::try_from(port)?);
            let what = format!("the same of {name} at {to}");
            let heard = eventually(PATIENCE, &what, || -> Result<Heard> {
                let both = [0, 1].map(|number| {
                    let from = lab.worlds[number].at(Place::Outside)?;
                    ask(from, to).with_context(|| lab.worlds[number].name)
                });
                let [theirs, ours] = both;
                let (theirs, ours) = (theirs?, ours?);
                ensure!(theirs == ours, "kube-proxy: {theirs:?}; ours: {ours:?}");
                Ok(ours)
            })?;
            ensure!(heard.said["service"]["name"] == *name, "{heard:?}");
            asked += 1;
            well += usize::from(heard.status == 200);
        }
    }
    Ok((asked, well))
}

fn ask(from: &Netns, to: SocketAddr) -> Result<Heard> {
    let patience = Duration::from_secs(2);
    let mut stream = from.inside(|| TcpStream::connect_timeout(&to, patience))??;
    stream.set_read_timeout(Some(patience))?;
    let question = format!("GET /healthz HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no end of headers")?;
    let mut lines = head.lines();
    let first = lines.next().context("no status")?;
    let weight = lines.find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_it = name.eq_ignore_ascii_case("X-Load-Balancing-Endpoint-Weight");
        is_it.then(|| value.to_owned())
    });
    let from = body.find('{').context("no JSON")?;
    let to = body.rfind('}').context("no end of JSON")?;
    Ok(Heard {
        status: first.split(' ').nth(1).context("no status")?.parse()?,
        weight,
        said: serde_json::from_str(body.get(from..=to).context("no JSON")?)?,
    })
}

/// The node gets another zone and its own again: each time all Services with hints are served by both as that zone has it.
pub(crate) fn zones(
    lab: &mut Lab,
    cases: &[Case],
    differences: &'static [Difference],
) -> Result<Tally> {
    let hinted: Vec<Question> = cases
        .iter()
        .filter(|case| case.service["spec"]["trafficDistribution"].is_string())
        .map(questions)
        .collect::<Result<Vec<_>>>()?
        .concat();
    let at = cases.iter().position(|case| case.name() == "zones");
    let number = at.context("no Service `zones`")? + 1;
    let way = Way {
        to: SocketAddr::new(addresses("cluster", number)[0].parse()?, 80),
        transport: Transport::Tcp,
    };
    let mut tally = Tally::default();
    for (zone, meant) in [("b", Place::Far1), ("a", Place::Pod1)] {
        let label = format!("topology.kubernetes.io/zone={zone}");
        lab.plane
            .try_kubectl(&["label", "node", "n1", "--overwrite", &label])?;
        let expected: BTreeSet<IpAddr> = [meant, Place::Far2]
            .map(|place| place.addresses()[0].parse())
            .into_iter()
            .collect::<Result<_, _>>()?;
        for world in &lab.worlds {
            let what = format!("world {} in zone {zone}", world.name);
            eventually(PATIENCE, &what, || -> Result<()> {
                let effort = Effort {
                    tries: 24,
                    patience: Duration::from_secs(2),
                };
                let (got, _) = ask_all(world.at(Place::Outside)?, &[way], effort)?;
                let found: BTreeSet<IpAddr> = got[0].iter().filter_map(answered_by).collect();
                ensure!(found == expected, "{got:?}");
                Ok(())
            })?;
        }
        tally.add(&compare(&lab.worlds, &hinted, differences)?);
    }
    Ok(tally)
}

fn answered_by(outcome: &Outcome) -> Option<IpAddr> {
    match outcome {
        Outcome::Answered { by, .. } => Some(by.ip()),
        Outcome::Refused | Outcome::Unreachable | Outcome::Silent => None,
    }
}
