//! From BGPFilters to the chains of rules that the speaker judges routes by; pure.

use api::resources::{
    BgpFilter, Community, FilterPeerType, FilterPrefixes, FilterRule, MatchOperator, RuleAction,
    RuleOperation,
};
use bgp_proto::filter::{self, FilterChain, Match, Operation, PrefixMatch, PrefixOperator, Rule};
use bgp_proto::wire::{Asn, Family, LargeCommunity};

/// What a peer's routes are judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chains {
    /// What it sends us.
    pub(crate) import: FilterChain,
    /// What it is sent.
    pub(crate) export: FilterChain,
}

/// Joins the filters that a peer names, in its order. A rule is called `filter NAME importV4 rule 3`.
///
/// # Errors
/// The name of a filter that is not there. What it would have rejected must not pass: the peer is to be left out.
pub(crate) fn chains<'a>(
    names: &[String],
    find: impl Fn(&str) -> Option<&'a BgpFilter>,
) -> Result<Chains, String> {
    let found = names
        .iter()
        .map(|name| find(name).ok_or_else(|| name.clone()));
    let filters: Vec<&BgpFilter> = found.collect::<Result<_, _>>()?;
    let chain = |lists: [List; 2]| {
        FilterChain::new(filters.iter().flat_map(|filter| {
            lists.map(|list| {
                let rules = (list.rules)(filter).iter();
                let rules = rules.map(|one| rule(one, list.family)).collect();
                (format!("{} {}", filter.name, list.field), rules)
            })
        }))
    };
    Ok(Chains {
        import: chain([
            List::new("importV4", Family::IPV4_UNICAST, |filter| &filter.import_v4),
            List::new("importV6", Family::IPV6_UNICAST, |filter| &filter.import_v6),
        ]),
        export: chain([
            List::new("exportV4", Family::IPV4_UNICAST, |filter| &filter.export_v4),
            List::new("exportV6", Family::IPV6_UNICAST, |filter| &filter.export_v6),
        ]),
    })
}

/// One of the four lists of a BGPFilter.
#[derive(Clone, Copy)]
struct List {
    field: &'static str,
    family: Family,
    rules: fn(&BgpFilter) -> &[FilterRule],
}

impl List {
    fn new(field: &'static str, family: Family, rules: fn(&BgpFilter) -> &[FilterRule]) -> Self {
        Self {
            field,
            family,
            rules,
        }
    }
}

fn rule(written: &FilterRule, family: Family) -> Rule {
    let path = &written.as_path_prefix;
    Rule {
        matches: Match {
            family: Some(family),
            prefixes: written.prefixes.as_ref().map(prefixes),
            as_path_prefix: (!path.is_empty()).then(|| path.iter().copied().map(Asn).collect()),
            communities: written.communities.iter().copied().map(community).collect(),
            source: written.learned_only.then_some(filter::Source::Learned),
            peer_type: written.peer_type.map(|kind| match kind {
                FilterPeerType::External => filter::PeerType::External,
                FilterPeerType::Internal => filter::PeerType::Internal,
            }),
        },
        action: match &written.action {
            RuleAction::Reject => filter::Action::Reject,
            RuleAction::Accept(operations) => {
                filter::Action::Accept(operations.iter().copied().map(operation).collect())
            }
        },
    }
}

fn prefixes(written: &FilterPrefixes) -> PrefixMatch {
    PrefixMatch {
        net: written.cidr,
        operator: match written.operator {
            MatchOperator::Equal => PrefixOperator::Equal,
            MatchOperator::NotEqual => PrefixOperator::NotEqual,
            MatchOperator::In => PrefixOperator::In,
            MatchOperator::NotIn => PrefixOperator::NotIn,
        },
        length: written.length.clone(),
    }
}

fn operation(written: RuleOperation) -> Operation {
    match written {
        RuleOperation::SetLocalPref(value) => Operation::SetLocalPref(value),
        RuleOperation::SetMed(value) => Operation::SetMed(value),
        RuleOperation::PrependAs { as_number, times } => Operation::PrependAs {
            asn: as_number.map(Asn),
            times,
        },
        RuleOperation::AddCommunity(one) => Operation::AddCommunity(community(one)),
        RuleOperation::RemoveCommunity(one) => Operation::RemoveCommunity(community(one)),
    }
}

/// The community as the speaker has it.
pub(crate) fn community(written: Community) -> filter::Community {
    match written {
        Community::Standard(bits) => filter::Community::Standard(bits),
        Community::Large(global, local1, local2) => filter::Community::Large(LargeCommunity {
            global,
            local1,
            local2,
        }),
    }
}

#[cfg(test)]
mod tests {
    use api::Resource;
    use bgp_proto::filter::{Subject, Verdict};
    use bgp_proto::wire::PathAttributes;

    use super::*;

    fn filter(name: &str, spec: &str) -> BgpFilter {
        let text = format!(r#"{{"metadata": {{"name": "{name}"}}, "spec": {spec}}}"#);
        let value = serde_json::from_str(&text).unwrap();
        match api::parse("BGPFilter", "portolan.io/v1alpha1", value) {
            Ok(Some((_, Resource::BgpFilter(filter)))) => filter,
            other => panic!("{other:?}"),
        }
    }

    fn edge() -> BgpFilter {
        filter(
            "edge",
            r#"{
            "importV4": [
                {"cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"min": 16, "max": 24},
                 "communities": {"values": ["65000:1", "65000:1:2"]}, "asPathPrefix": [65001],
                 "peerType": "eBGP", "action": "Accept",
                 "operations": [{"setLocalPref": {"value": 200}}, {"addCommunity": {"value": "65000:9"}}]},
                {"cidr": "10.0.0.0/8", "matchOperator": "NotIn", "action": "Reject"}],
            "exportV4": [{"source": "RemotePeers", "action": "Accept"}],
            "exportV6": [{"action": "Reject"}]}"#,
        )
    }

    fn rest() -> BgpFilter {
        filter(
            "rest",
            r#"{"importV4": [{"action": "Reject"}], "importV6": [{"action": "Accept"}]}"#,
        )
    }

    fn both(names: &[&str]) -> Result<Chains, String> {
        let filters = [edge(), rest()];
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        chains(&names, |name| {
            filters.iter().find(|filter| filter.name == name)
        })
    }

    /// The rule that decides about a route from or to an external peer, and whether it is accepted.
    fn judged(chain: &FilterChain, prefix: &str, originated: bool, rich: bool) -> (String, bool) {
        let mut attributes = PathAttributes::originated([10, 0, 0, 1].into());
        if rich {
            attributes.communities = vec![65000 << 16 | 1];
            attributes.large_communities = vec![LargeCommunity {
                global: 65000,
                local1: 1,
                local2: 2,
            }];
            let prepend = Operation::PrependAs {
                asn: Some(Asn(65001)),
                times: 1,
            };
            let rule = Rule {
                matches: Match::default(),
                action: filter::Action::Accept(vec![prepend]),
            };
            let Verdict::Accept(changed) = rule.verdict(&attributes, Asn(1)) else {
                panic!()
            };
            attributes = changed.into_owned();
        }
        let outcome = chain.judge(&Subject {
            prefix: prefix.parse().unwrap(),
            attributes: &attributes,
            originated,
            peer_external: true,
            own_as: Asn(64512),
        });
        let name = outcome.rule.map_or("", |place| chain.name_of(place));
        let accepted = match outcome.verdict {
            Verdict::Accept(changed) => {
                assert!(!rich || changed.local_pref == Some(200));
                assert!(!rich || changed.communities == [65000 << 16 | 1, 65000 << 16 | 9]);
                true
            }
            Verdict::Reject | Verdict::NoMatch => false,
        };
        (name.to_owned(), accepted)
    }

    #[test]
    fn each_condition_and_operation_of_a_manifest_arrives() {
        let chains = both(&["edge", "rest"]).unwrap();
        let import = |prefix, rich| judged(&chains.import, prefix, false, rich);
        let is = |name: &str, accepted| (name.to_owned(), accepted);
        assert_eq!(
            import("10.1.0.0/16", true),
            is("filter edge importV4 rule 1", true)
        );
        assert_eq!(
            import("10.1.0.0/16", false),
            is("filter rest importV4 rule 1", false)
        );
        assert_eq!(
            import("10.1.0.0/28", false),
            is("filter rest importV4 rule 1", false)
        );
        assert_eq!(
            import("11.0.0.0/8", false),
            is("filter edge importV4 rule 2", false)
        );
        assert_eq!(
            import("fd00::/8", false),
            is("filter rest importV6 rule 1", true)
        );
        let export = |prefix, originated| judged(&chains.export, prefix, originated, false);
        assert_eq!(export("10.0.0.0/8", true), is("", false));
        assert_eq!(
            export("10.0.0.0/8", false),
            is("filter edge exportV4 rule 1", true)
        );
        assert_eq!(
            export("fd00::/8", true),
            is("filter edge exportV6 rule 1", false)
        );
    }

    #[test]
    fn filters_come_in_the_order_in_which_a_peer_names_them() {
        let chains = both(&["rest", "edge"]).unwrap();
        let (name, _) = judged(&chains.import, "11.0.0.0/8", false, false);
        assert_eq!(name, "filter rest importV4 rule 1");
        assert_eq!(both(&[]), Ok(Chains::default()));
    }

    #[test]
    fn a_filter_that_is_not_there_is_an_error_and_not_an_empty_one() {
        assert_eq!(both(&["edge", "gone"]), Err("gone".to_owned()));
    }
}
