//! Checks of Services: something programs them on this node, and those that kube-proxy refuses for lack of endpoints.

use std::collections::BTreeSet;
use std::path::Path;

use netfilter::COMMENT_PREFIX;

use super::bound;
use super::catalog::{SERVICE_ENDPOINTS, SERVICE_PORTS, SERVICE_PROXY};
use super::finding::Finding;
use super::listing::{Listing, comment, target};
use crate::exec;
use crate::report::Report;
use crate::service::ServicesReport;
use crate::service_proxy::is_ipvs_used;

/// kube-proxy's chain of all Services.
const SERVICES: &str = "KUBE-SERVICES";
/// What kube-proxy writes beside the rule that refuses.
const NO_ENDPOINTS: &str = " has no endpoints";
/// How many Services are told.
const TOLD: usize = 16;

/// What there is besides rules of iptables.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Why there should be Services; none where nothing says so.
    cluster: Option<String>,
    /// kube-proxy's map of Services without endpoints in its own nftables tables, if it has those.
    nftables: Option<String>,
    /// The kernel's IPVS holds something.
    has_ipvs: bool,
    /// An agent has answered.
    has_agent: bool,
    /// What the agent says, if it serves Services.
    ours: Option<ServicesReport>,
}

impl Facts {
    /// Looks.
    pub(super) fn gather(report: Option<&Report>, kubelet_config: &Path) -> Self {
        let mut sources = report.into_iter().flat_map(|report| &report.sources);
        let cluster = if sources.any(|source| source.kind == "kubernetes") {
            Some("the agent asks an API server".to_owned())
        } else if kubelet_config.is_file() {
            Some(format!("{} is there", kubelet_config.display()))
        } else {
            None
        };
        Self {
            cluster,
            nftables: nftables(),
            has_ipvs: is_ipvs_used(),
            has_agent: report.is_some(),
            ours: report.and_then(|report| report.services.clone()),
        }
    }
}

/// Both families' maps; none where kube-proxy has no tables, or there is no `nft` to ask with.
fn nftables() -> Option<String> {
    let map = |family| {
        let words = ["list", "map", family, "kube-proxy", "no-endpoint-services"];
        let asked = bound::asynchronous(async move { exec::run("nft", &words, None).await });
        asked.ok().and_then(Result::ok)
    };
    match (map("ip"), map("ip6")) {
        (None, None) => None,
        (v4, v6) => Some([v4, v6].into_iter().flatten().collect()),
    }
}

/// Judges.
pub(super) fn judge(facts: &Facts, listings: &Result<Vec<Listing>, String>) -> Vec<Finding> {
    let mut findings = ports(facts);
    match listings {
        Ok(listings) => {
            findings.push(proxy(facts, listings));
            findings.extend(refused(facts, listings));
        }
        Err(why) => findings.extend(
            [&SERVICE_PROXY, &SERVICE_ENDPOINTS]
                .map(|check| check.skipped(format!("rules cannot be read: {why}"))),
        ),
    }
    findings
}

/// What load balancers ask for where another listens.
fn ports(facts: &Facts) -> Vec<Finding> {
    let Some(ours) = &facts.ours else {
        if !facts.has_agent {
            return vec![SERVICE_PORTS.skipped("no agent says whether it serves Services")];
        }
        return vec![SERVICE_PORTS.ok("the agent does not serve Services: none is needed")];
    };
    let refused = ours.ports_refused.iter().map(|one| {
        SERVICE_PORTS.warning(
            one.why.clone(),
            "a load balancer that asks there hears another program or nobody, and sends this node nothing, or what it cannot serve",
            format!("ss -Hltnp 'sport = :{}'", one.port),
        )
    });
    let well = format!(
        "{} ports of Services for health checks are ours",
        ours.health_ports
    );
    SERVICE_PORTS.or_ok(refused.collect(), well)
}

/// Where the agent should serve.
fn of_agent(ours: &ServicesReport) -> Finding {
    match &ours.left_to {
        None => SERVICE_PROXY.ok(format!("the agent serves Services by {}", ours.mode)),
        Some(sign) => SERVICE_PROXY.warning(
            format!("Services are left to another proxy, whose {sign} is here"),
            "the agent has `services` in its --features, but two proxies on one node would empty each other's chains: the agent's come \
             within seconds of the other's going. What the other wrote last serves until then, whether it runs or not",
            "kubectl -n kube-system get daemonset kube-proxy; kube-proxy --cleanup",
        ),
    }
}

fn proxy(facts: &Facts, listings: &[Listing]) -> Finding {
    if let Some(ours) = &facts.ours {
        return of_agent(ours);
    }
    let by_iptables = listings
        .iter()
        .find(|listing| listing.chain("nat", SERVICES).is_some());
    if let Some(listing) = by_iptables {
        return SERVICE_PROXY.ok(format!("{SERVICES} is there ({})", listing.program()));
    }
    if facts.nftables.is_some() {
        return SERVICE_PROXY.ok("kube-proxy's nftables tables are there");
    }
    if facts.has_ipvs {
        return SERVICE_PROXY.ok("IPVS holds Services");
    }
    match &facts.cluster {
        None => SERVICE_PROXY.skipped("nothing says that this is a node of a cluster"),
        Some(why) => SERVICE_PROXY.failure(
            format!("nothing programs Services on this node, and {why}"),
            "kube-proxy is not running here, or has not written anything yet, and the agent does not serve Services (`services` in \
             its --features): no pod of this node reaches a Service, the DNS's \
             first of all (an eBPF replacement of kube-proxy is not seen by this check)",
            "kubectl -n kube-system rollout restart daemonset/kube-proxy",
        ),
    }
}

fn refused(facts: &Facts, listings: &[Listing]) -> Vec<Finding> {
    let mut ports: BTreeSet<String> = BTreeSet::new();
    for listing in listings {
        let chains = listing.chains.iter();
        for chain in chains.filter(|chain| chain.name.starts_with("KUBE-")) {
            let refusing = chain.rules.iter();
            let refusing = refusing.filter(|rule| matches!(target(rule), Some("REJECT" | "DROP")));
            let said = refusing.filter_map(|rule| without_endpoints(rule));
            ports.extend(said.map(str::to_owned));
        }
    }
    ports.extend(of_map(facts.nftables.as_deref().unwrap_or_default()));
    let findings = ports.iter().take(TOLD).map(|port| {
        let (service, _) = port.split_once(':').unwrap_or((port, ""));
        let (namespace, name) = service.split_once('/').unwrap_or(("", service));
        SERVICE_ENDPOINTS.warning(
            format!("Service {port} has no endpoints, and connections to it are refused"),
            "its selector matches no pod, its pods are not ready, or it has no selector and nobody wrote its EndpointSlice",
            format!("kubectl -n {namespace} get endpointslices,pods -o wide; kubectl -n {namespace} describe service {name}"),
        )
    });
    let findings = findings.collect();
    SERVICE_ENDPOINTS.or_ok(findings, "no Service is refused for lack of endpoints")
}

/// The port of whose lack of endpoints a rule's comment tells, kube-proxy's or ours.
fn without_endpoints(rule: &str) -> Option<&str> {
    let said = comment(rule)?;
    let ours = said.strip_prefix(COMMENT_PREFIX);
    let said = ours.map_or(Some(said), |ours| Some(ours.split_once(' ')?.1));
    said?.strip_suffix(NO_ENDPOINTS)
}

/// The comments of a map's elements.
fn of_map(text: &str) -> Vec<String> {
    let mut ports = Vec::new();
    let elements = text.split("elements = {").skip(1);
    for part in elements {
        let inside = part.split('}').next().unwrap_or_default();
        let quoted = inside.split("comment \"").skip(1);
        ports.extend(quoted.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::listing::tests::nft;
    use super::*;

    const PROXY: &str = "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n\
        -A KUBE-SERVICES -d 10.96.0.11/32 -p tcp -m comment --comment \"shop/web:http has no endpoints\" -m tcp --dport 80 -j REJECT\n\
        -A FORWARD -m comment --comment \"not/kube has no endpoints\" -j REJECT\nCOMMIT\n";

    #[test]
    fn a_service_without_endpoints_is_named_by_kube_proxys_comment() {
        let findings = judge(&Facts::default(), &Ok(vec![nft(PROXY)]));
        assert_eq!(findings.len(), 3);
        assert_eq!(findings[1].verdict, Verdict::Ok);
        assert!(findings[2].what.starts_with("Service shop/web:http "));
        assert!(
            findings[2]
                .remedy
                .ends_with("kubectl -n shop describe service web")
        );
    }

    #[test]
    fn a_service_without_endpoints_is_named_by_our_own_comment() {
        let ours = PROXY.replace("\"shop/", "\"ptl:0a1b2c shop/");
        let findings = judge(&Facts::default(), &Ok(vec![nft(&ours)]));
        assert!(findings[2].what.starts_with("Service shop/web:http "));
    }

    #[test]
    fn rule_149_another_proxy_beside_the_agent_is_a_warning_and_its_own_mode_is_told() {
        let said = |left_to: Option<&str>| {
            let ours = ServicesReport {
                left_to: left_to.map(str::to_owned),
                ..ServicesReport::example()
            };
            let facts = Facts {
                ours: Some(ours),
                cluster: Some("x".to_owned()),
                ..Facts::default()
            };
            let finding = judge(&facts, &Ok(vec![nft("")])).remove(1);
            (finding.verdict, finding.what)
        };
        let (verdict, what) = said(None);
        assert_eq!(verdict, Verdict::Ok);
        assert!(what.ends_with("by nftables"), "{what}");
        let (verdict, what) = said(Some("table ip kube-proxy"));
        assert_eq!(verdict, Verdict::Warning);
        assert!(what.contains("table ip kube-proxy"), "{what}");
    }

    #[test]
    fn without_any_proxy_a_cluster_fails_and_a_lone_node_is_skipped() {
        let verdict = |facts: &Facts| judge(facts, &Ok(vec![nft("")]))[1].verdict;
        let mut facts = Facts::default();
        assert_eq!(verdict(&facts), Verdict::Skipped);
        facts.cluster = Some("x".to_owned());
        assert_eq!(verdict(&facts), Verdict::Failure);
        facts.has_ipvs = true;
        assert_eq!(verdict(&facts), Verdict::Ok);
    }

    #[test]
    fn the_nftables_mode_tells_by_its_map() {
        let map = "table ip kube-proxy {\n map no-endpoint-services {\n comment \"vmap to drop\"\n elements = { 10.96.0.11 . tcp . 80 comment \"a/b:p\" : goto reject-chain,\n 10.96.0.12 . tcp . 80 comment \"a/c\" : drop }\n }\n}\n";
        let facts = Facts {
            nftables: Some(map.to_owned()),
            ..Facts::default()
        };
        let findings = judge(&facts, &Ok(vec![nft("")]));
        assert_eq!(findings[1].verdict, Verdict::Ok);
        assert!(findings[2].what.contains("a/b:p") && findings[3].what.contains("a/c"));
    }
}
