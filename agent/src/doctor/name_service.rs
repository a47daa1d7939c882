//! The check of the cluster's DNS: where kubelet says it is, and whether it answers this node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use super::bound::LIMIT;
use super::catalog::DNS;
use super::finding::Finding;

const PORT: u16 = 53;
/// Any number: one question goes out of a socket of its own.
const ID: u16 = 0x6470;
const NXDOMAIN: u8 = 3;
/// A question is tried twice: packets get lost.
const TRIES: u32 = 2;

/// What came back from a server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// With this code (RFC 1035 §4.1.1).
    Code(u8),
    /// Nothing.
    Silence,
    /// An error of this host's or one that was reported to it.
    Error(String),
}

/// The servers, what they were asked, and what came back.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    name: String,
    answers: Vec<(SocketAddr, Answer)>,
    kubelet_config: String,
}

impl Facts {
    /// Asks the servers given, or those of kubelet's configuration.
    pub(super) fn gather(given: &[SocketAddr], name: &str, kubelet_config: &Path) -> Self {
        let text = std::fs::read_to_string(kubelet_config).unwrap_or_default();
        let of_kubelet = cluster_dns(&text).into_iter();
        let of_kubelet = of_kubelet.map(|address| SocketAddr::new(address, PORT));
        let servers: Vec<SocketAddr> = match given.is_empty() {
            true => of_kubelet.collect(),
            false => given.to_vec(),
        };
        let answers = std::thread::scope(|scope| {
            let asked: Vec<_> = servers
                .into_iter()
                .map(|server| (server, scope.spawn(move || ask(server, name))))
                .collect();
            let joined = asked.into_iter().map(|(server, thread)| {
                let lost = |_| Answer::Error("the question was lost".to_owned());
                (server, thread.join().unwrap_or_else(lost))
            });
            joined.collect()
        });
        Self {
            name: name.to_owned(),
            answers,
            kubelet_config: kubelet_config.display().to_string(),
        }
    }
}

fn ask(server: SocketAddr, name: &str) -> Answer {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let once = || -> std::io::Result<Option<u8>> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(LIMIT / TRIES))?;
        socket.send(&question(name))?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer)?;
        Ok(code(buffer.get(..length).unwrap_or_default()))
    };
    for _ in 0..TRIES {
        match once() {
            Ok(Some(code)) => return Answer::Code(code),
            Ok(None) => return Answer::Error("it answered what is no answer".to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Answer::Error(error.to_string()),
        }
    }
    Answer::Silence
}

/// A question for addresses, with recursion desired (RFC 1035 §4.1).
fn question(name: &str) -> Vec<u8> {
    let mut out = Vec::from(ID.to_be_bytes());
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let bytes: Vec<u8> = label.bytes().take(63).collect();
        out.push(u8::try_from(bytes.len()).unwrap_or(63));
        out.extend(bytes);
    }
    out.extend([0, 0, 1, 0, 1]);
    out
}

/// The code of an answer to our question.
fn code(answer: &[u8]) -> Option<u8> {
    let &[high, low, flags, more, ..] = answer else {
        return None;
    };
    let is_answer = u16::from_be_bytes([high, low]) == ID && flags & 0x80 != 0;
    is_answer.then_some(more & 0x0f)
}

/// `clusterDNS` of kubelet's configuration: a list of addresses, in a line or one to a line.
fn cluster_dns(text: &str) -> Vec<IpAddr> {
    let mut lines = text.lines();
    let Some(head) = lines.find_map(|line| line.strip_prefix("clusterDNS:")) else {
        return Vec::new();
    };
    let items = lines
        .map(str::trim)
        .take_while(|line| line.starts_with('-') || line.starts_with('#'))
        .map(|line| line.trim_start_matches('-'));
    let inline = head.split([',', '[', ']']);
    let words = inline.chain(items);
    words
        .filter_map(|word| word.trim().trim_matches(['"', '\'']).parse().ok())
        .collect()
}

/// Judges.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    if facts.answers.is_empty() {
        let why = format!(
            "{} names no clusterDNS: give its address by --dns",
            facts.kubelet_config
        );
        return vec![DNS.skipped(why)];
    }
    let name = &facts.name;
    let mut findings = Vec::new();
    for (server, answer) in &facts.answers {
        let restart = "kubectl -n kube-system rollout restart deployment/coredns";
        let finding = match answer {
            Answer::Code(0) => continue,
            Answer::Code(NXDOMAIN) => DNS.warning(
                format!("{server} answers, and does not know {name}"),
                "the cluster's domain is another one (say it by --dns-name), or this is not the cluster's DNS",
                "kubectl -n kube-system get configmap coredns -o yaml",
            ),
            Answer::Code(code) => DNS.failure(
                format!("{server} answers for {name} with code {code}"),
                "it cannot reach the API server, or whom it asks itself (2 is SERVFAIL, 5 REFUSED)",
                restart,
            ),
            Answer::Silence => DNS.failure(
                format!("{server} does not answer"),
                "its pods do not run, its Service has no endpoints or is not programmed on this node, or policy denies this \
                 node (see the checks of Services and policy above)",
                restart,
            ),
            Answer::Error(why) => DNS.failure(
                format!("{server} cannot be asked: {why}"),
                "a Service without endpoints refuses; without a route there is no way to it",
                restart,
            ),
        };
        findings.push(finding);
    }
    let count = facts.answers.len();
    DNS.or_ok(findings, format!("{count} servers know {name}"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn the_servers_are_read_from_kubelets_configuration_in_both_ways_of_writing() {
        let block = "kind: KubeletConfiguration\nclusterDNS:\n- 10.96.0.10\n- \"fd00::a\"\nclusterDomain: cluster.local\n";
        let expected: [IpAddr; 2] = [[10, 96, 0, 10].into(), "fd00::a".parse().unwrap()];
        assert_eq!(cluster_dns(block), expected);
        assert_eq!(
            cluster_dns("clusterDNS: [10.96.0.10, 'fd00::a']\n"),
            expected
        );
        assert_eq!(cluster_dns("clusterDomain: x\n"), Vec::<IpAddr>::new());
    }

    #[test]
    fn a_question_is_as_the_rfc_has_it_and_only_its_own_answer_counts() {
        let mut asked = question("a.bc");
        assert_eq!(
            asked.get(12..),
            Some(&[1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1][..])
        );
        assert_eq!(code(&asked), None);
        asked[2] |= 0x80;
        asked[3] = 0x83;
        assert_eq!(code(&asked), Some(NXDOMAIN));
        asked[0] ^= 1;
        assert_eq!(code(&asked), None);
    }

    #[test]
    fn each_answer_has_its_verdict() {
        let of = |answer| {
            let facts = Facts {
                name: "x".to_owned(),
                answers: vec![("10.96.0.10:53".parse().unwrap(), answer)],
                kubelet_config: String::new(),
            };
            judge(&facts)[0].verdict
        };
        assert_eq!(of(Answer::Code(0)), Verdict::Ok);
        assert_eq!(of(Answer::Code(NXDOMAIN)), Verdict::Warning);
        assert_eq!(of(Answer::Code(2)), Verdict::Failure);
        assert_eq!(of(Answer::Silence), Verdict::Failure);
        assert_eq!(of(Answer::Error("x".to_owned())), Verdict::Failure);
    }
}
