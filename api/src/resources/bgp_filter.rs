//! BGPFilter: which routes are taken from peers and sent to them, and what is changed on the way.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::Community;
use super::node::is_usable_as;
use crate::ParseError;
use crate::crd::{BGPFilter, FilterAction, FilterOperation, FilterPeerType, MatchOperator};
use crate::metadata::Subject;

/// A BGPFilter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpFilter {
    /// Its name.
    pub name: String,
    /// `importV4`.
    pub import_v4: Vec<FilterRule>,
    /// `importV6`.
    pub import_v6: Vec<FilterRule>,
    /// `exportV4`.
    pub export_v4: Vec<FilterRule>,
    /// `exportV6`.
    pub export_v6: Vec<FilterRule>,
}

/// One rule: every condition that is there must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// `cidr`, `matchOperator` and `prefixLength`.
    pub prefixes: Option<FilterPrefixes>,
    /// `asPathPrefix`; empty if absent.
    pub as_path_prefix: Vec<u32>,
    /// `communities.values`: all must be there.
    pub communities: Vec<Community>,
    /// `source: RemotePeers`: only routes that were learned.
    pub learned_only: bool,
    /// `peerType`.
    pub peer_type: Option<FilterPeerType>,
    /// `action` with its `operations`.
    pub action: RuleAction,
}

/// A condition on the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterPrefixes {
    /// `cidr`, host bits cleared; of the family of the rule's list.
    pub cidr: IpNet,
    /// `matchOperator`.
    pub operator: MatchOperator,
    /// `prefixLength` (never empty, within what the CIDR allows): only with `In` and `NotIn`.
    pub length: Option<RangeInclusive<u8>>,
}

/// What becomes of a route that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// It is taken or sent, changed in this order.
    Accept(Vec<RuleOperation>),
    /// It is not.
    Reject,
}

/// A change of a route's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleOperation {
    /// `setLocalPref`.
    SetLocalPref(u32),
    /// `setMED`.
    SetMed(u32),
    /// `prependAS`.
    PrependAs {
        /// `asNumber`; the node's own if absent.
        as_number: Option<u32>,
        /// `times` (1), at most 10.
        times: u8,
    },
    /// `addCommunity`.
    AddCommunity(Community),
    /// `removeCommunity`.
    RemoveCommunity(Community),
}

impl TryFrom<BGPFilter> for BgpFilter {
    type Error = ParseError;

    fn try_from(filter: BGPFilter) -> Result<Self, ParseError> {
        let subject = Subject::cluster("BGPFilter", &filter.metadata)?;
        let spec = filter.spec;
        let list = |field, import, v4, rules: Option<Vec<_>>| {
            let list = List { import, v4 };
            read_list(list, rules.unwrap_or_default())
                .map_err(|(index, why)| subject.error(format!("spec.{field}[{index}]{why}")))
        };
        Ok(Self {
            import_v4: list("importV4", true, true, spec.import_v4)?,
            import_v6: list("importV6", true, false, spec.import_v6)?,
            export_v4: list("exportV4", false, true, spec.export_v4)?,
            export_v6: list("exportV6", false, false, spec.export_v6)?,
            name: subject.name().to_owned(),
        })
    }
}

const MAX_RULES: usize = 256;
const MAX_OPERATIONS: usize = 10;
const MAX_TIMES: u8 = 10;

/// Which of the four lists a rule stands in.
#[derive(Clone, Copy)]
struct List {
    import: bool,
    v4: bool,
}

type Written = crate::crd::FilterRule;

/// The error is the index of a rule, and what is wrong with it.
fn read_list(list: List, rules: Vec<Written>) -> Result<Vec<FilterRule>, (usize, String)> {
    if rules.len() > MAX_RULES {
        return Err((
            MAX_RULES,
            format!(": there are more than {MAX_RULES} rules"),
        ));
    }
    let numbered = rules.into_iter().enumerate();
    numbered
        .map(|(index, rule)| read_rule(list, rule).map_err(|why| (index, why)))
        .collect()
}

fn read_rule(list: List, rule: Written) -> Result<FilterRule, String> {
    if list.import && rule.source.is_some() {
        return Err(
            ".source is for export rules: all that is imported is from remote peers".into(),
        );
    }
    let as_path_prefix = rule.as_path_prefix.clone().unwrap_or_default();
    if as_path_prefix.contains(&0) {
        return Err(".asPathPrefix: AS 0 stands in no path".into());
    }
    let communities = rule.communities.iter().flat_map(|wanted| &wanted.values);
    Ok(FilterRule {
        prefixes: prefixes(list, &rule)?,
        as_path_prefix,
        communities: communities
            .map(|text| community(".communities.values", text))
            .collect::<Result<_, _>>()?,
        learned_only: rule.source.is_some(),
        peer_type: rule.peer_type,
        action: action(&rule)?,
    })
}

fn prefixes(list: List, rule: &Written) -> Result<Option<FilterPrefixes>, String> {
    let (text, operator) = match (&rule.cidr, rule.match_operator) {
        (Some(text), Some(operator)) => (text, operator),
        (None, None) if rule.prefix_length.is_some() => {
            return Err(".prefixLength needs a cidr and a matchOperator, In or NotIn".into());
        }
        (None, None) => return Ok(None),
        (Some(_), None) => {
            return Err(
                ".matchOperator is missing: a cidr needs Equal, NotEqual, In or NotIn".into(),
            );
        }
        (None, Some(_)) => return Err(".cidr is missing: the matchOperator needs one".into()),
    };
    let cidr: IpNet = text
        .parse()
        .map_err(|_| format!(".cidr: {text:?} is no CIDR"))?;
    if cidr.addr().is_ipv4() != list.v4 {
        let (is, other) = if list.v4 { ("4", "V6") } else { ("6", "V4") };
        return Err(format!(
            ".cidr: {cidr} is not IPv{is}: its rule belongs in the list that ends in {other}"
        ));
    }
    Ok(Some(FilterPrefixes {
        length: lengths(rule, &cidr, operator)?,
        cidr: cidr.trunc(),
        operator,
    }))
}

fn lengths(
    rule: &Written,
    cidr: &IpNet,
    operator: MatchOperator,
) -> Result<Option<RangeInclusive<u8>>, String> {
    let Some(wanted) = rule.prefix_length else {
        return Ok(None);
    };
    if matches!(operator, MatchOperator::Equal | MatchOperator::NotEqual) {
        return Err(".prefixLength needs matchOperator In or NotIn: Equal has one length".into());
    }
    let longest = cidr.max_prefix_len();
    if wanted.min.max(wanted.max).is_some_and(|len| len > longest) {
        return Err(format!(".prefixLength: the longest prefix is {longest}"));
    }
    let min = wanted.min.unwrap_or(0).max(cidr.prefix_len());
    let max = wanted.max.unwrap_or(longest);
    if min > max {
        return Err(format!(
            ".prefixLength: no prefix inside {cidr} has such a length"
        ));
    }
    Ok(Some(min..=max))
}

fn action(rule: &Written) -> Result<RuleAction, String> {
    let operations = rule.operations.as_deref().unwrap_or_default();
    if operations.len() > MAX_OPERATIONS {
        return Err(format!(".operations: there are more than {MAX_OPERATIONS}"));
    }
    match rule.action {
        FilterAction::Reject if !operations.is_empty() => {
            Err(".operations need action Accept: a rejected route is not changed".into())
        }
        FilterAction::Reject => Ok(RuleAction::Reject),
        FilterAction::Accept => operations
            .iter()
            .enumerate()
            .map(|(index, one)| operation(one).map_err(|why| format!(".operations[{index}]{why}")))
            .collect::<Result<_, _>>()
            .map(RuleAction::Accept),
    }
}

fn operation(written: &FilterOperation) -> Result<RuleOperation, String> {
    let mut found = Vec::new();
    found.extend(
        written
            .set_local_pref
            .map(|set| RuleOperation::SetLocalPref(set.value)),
    );
    found.extend(written.set_med.map(|set| RuleOperation::SetMed(set.value)));
    if let Some(prepend) = written.prepend_as {
        let times = prepend.times.unwrap_or(1);
        if !(1..=MAX_TIMES).contains(&times) {
            return Err(format!(".prependAS.times is not from 1 to {MAX_TIMES}"));
        }
        let as_number = prepend.as_number;
        if let Some(number) = as_number.filter(|number| !is_usable_as(*number)) {
            return Err(format!(".prependAS.asNumber: {number} is reserved"));
        }
        found.push(RuleOperation::PrependAs { as_number, times });
    }
    if let Some(add) = &written.add_community {
        found.push(RuleOperation::AddCommunity(community(
            ".addCommunity.value",
            &add.value,
        )?));
    }
    if let Some(remove) = &written.remove_community {
        let gone = community(".removeCommunity.value", &remove.value)?;
        found.push(RuleOperation::RemoveCommunity(gone));
    }
    match found.as_slice() {
        [one] => Ok(*one),
        _ => Err(" has not exactly one of setLocalPref, setMED, prependAS, addCommunity and removeCommunity".into()),
    }
}

fn community(field: &str, text: &str) -> Result<Community, String> {
    text.parse().map_err(|error| format!("{field}: {error}"))
}
