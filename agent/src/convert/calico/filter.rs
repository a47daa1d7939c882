//! Calico's BGPFilter: rule by rule; a filter with a rule that cannot be said is left out as a whole.

use serde_json::{Map, Value, json};

use super::super::communities;
use super::super::input::{Reader, as_number, at};
use super::super::output::{Draft, Output};
use super::super::report::{Outcome, join};

/// Why a rule with a condition that we do not have takes the whole filter with it.
const LEFT_OUT: &str = "without this condition the rule would match more than it did, so the whole filter is left out, and peers that name it \
make no session until you have written it";

pub(super) fn convert(reader: &mut Reader<'_>, output: &mut Output) {
    let mut draft = output.draft("BGPFilter", &reader.input.name);
    let mut name = draft.itself();
    name.field = "metadata.name".to_owned();
    reader.common(Some(name));
    let mut broken = false;
    for list in ["importV4", "importV6", "exportV4", "exportV6"] {
        let path = format!("spec.{list}");
        if reader.get(&path).is_none() {
            continue;
        }
        let mut rules = Vec::new();
        for (index, rule) in reader.list(&path).iter().enumerate() {
            let place = Rule {
                path: format!("{path}[{index}]"),
                import: list.starts_with("import"),
            };
            match convert_rule(reader, &draft, list, &place, rule) {
                Some(rule) => rules.push(Value::Object(rule)),
                None => broken = true,
            }
        }
        draft.set(list, rules);
    }
    match broken {
        true => {
            let (kind, name) = ("BGPFilter", reader.input.name.clone());
            reader
                .report
                .withdraw(kind, &name, "a rule of it cannot be said");
        }
        false => output.add(draft),
    }
}

struct Rule {
    path: String,
    import: bool,
}

/// `None`: the rule cannot be said.
fn convert_rule(
    reader: &mut Reader<'_>,
    draft: &Draft,
    list: &str,
    place: &Rule,
    rule: &Value,
) -> Option<Map<String, Value>> {
    let Some(fields) = rule.as_object() else {
        reader.none(&place.path, "it is no rule");
        return None;
    };
    let mut ours = Map::new();
    let mut sayable = true;
    for (key, value) in fields {
        let field = join(&place.path, key);
        let empty = value.as_str().is_some_and(str::is_empty);
        let said = match key.as_str() {
            _ if value.is_null() => Said::Nothing,
            _ if empty => Said::Moot("it is empty"),
            "cidr" | "matchOperator" | "peerType" | "action" => Said::So(value.clone()),
            "prefixLength" => prefix_length(fields, value),
            "source" if place.import => Said::Moot("what is imported is from remote peers"),
            "source" => Said::So(value.clone()),
            "communities" => community_match(value),
            "asPathPrefix" => as_path(value),
            "operations" => {
                let operations = operations(reader, draft, list, &field, value);
                if !operations.is_empty() {
                    ours.insert("operations".to_owned(), operations.into());
                }
                continue;
            }
            "interface" => Said::Not("routes are not matched by interface"),
            "priority" => Said::Not("routes are not matched by the kernel's metric"),
            _ => Said::Not("Portolan does not know this field"),
        };
        match said {
            Said::Nothing => {}
            Said::So(value) => {
                ours.insert(key.clone(), value);
                reader.carried(&field, draft.place(list));
            }
            Said::Moot(why) => reader.not_needed(&field, why),
            Said::Not(why) => {
                reader.none(&field, &format!("{why}; {LEFT_OUT}"));
                sayable = false;
            }
        }
    }
    sayable.then_some(ours)
}

/// What a condition becomes.
enum Said {
    Nothing,
    So(Value),
    Moot(&'static str),
    Not(&'static str),
}

/// With Equal the length is the CIDR's own here; without a CIDR Calico does not look at it.
fn prefix_length(rule: &Map<String, Value>, value: &Value) -> Said {
    let text = |key| rule.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("cidr").is_empty() {
        return Said::Moot("without a cidr nothing is compared with it");
    }
    if value.as_object().is_some_and(Map::is_empty) {
        return Said::Moot("it is empty");
    }
    match text("matchOperator") {
        "In" | "NotIn" => Said::So(value.clone()),
        _ => Said::Not("with Equal and NotEqual the length is the cidr's own"),
    }
}

fn community_match(value: &Value) -> Said {
    let values = at(value, "values").and_then(Value::as_array);
    let read = |one: &Value| communities::of_calico(one.as_str()?).map(|found| found.to_string());
    let found: Option<Vec<String>> = values.into_iter().flatten().map(read).collect();
    match found {
        Some(found) if !found.is_empty() => Said::So(json!({"values": found})),
        _ => Said::Not("its values are no communities aa:nn or aa:nn:mm"),
    }
}

fn as_path(value: &Value) -> Said {
    let numbers = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if numbers.is_empty() {
        return Said::Moot("it is empty");
    }
    match numbers.iter().map(as_number).collect::<Option<Vec<u32>>>() {
        Some(numbers) => Said::So(numbers.into()),
        None => Said::Not("it holds something that is no AS number"),
    }
}

/// Operations change attributes: what has no counterpart is left out, and the rule stays.
fn operations(
    reader: &mut Reader<'_>,
    draft: &Draft,
    list: &str,
    path: &str,
    value: &Value,
) -> Vec<Value> {
    let mut ours = Vec::new();
    let written = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if written.is_empty() {
        reader.not_needed(path, "it is empty");
    }
    for (index, operation) in written.iter().enumerate() {
        for (key, value) in operation.as_object().into_iter().flatten() {
            let field = join(&format!("{path}[{index}]"), key);
            let to = vec![draft.place(list)];
            match key.as_str() {
                _ if value.is_null() => {}
                "addCommunity" => match at(value, "value").and_then(Value::as_str).and_then(communities::of_calico) {
                    Some(community) => {
                        ours.push(json!({"addCommunity": {"value": community.to_string()}}));
                        reader.carried_so(&field, to, "");
                    }
                    None => reader.none(&field, "it is no community aa:nn or aa:nn:mm"),
                },
                "prependASPath" => match prepended(value) {
                    Some(numbers) => {
                        // Calico's list stands in the path as it is written: the last is put before the path first.
                        let each = numbers.iter().rev();
                        ours.extend(each.map(|number| json!({"prependAS": {"asNumber": number}})));
                        reader.carried_so(&field, to, "");
                    }
                    None => reader.none(&field, "it holds no AS numbers"),
                },
                "setPriority" => reader.none(
                    &field,
                    "the kernel's metric is 179 for all routes; a community or MED tells other routers what to prefer, setLocalPref the nodes",
                ),
                _ => reader.report.note(&field, Outcome::NoCounterpart, Vec::new(), "Portolan does not know this operation"),
            }
        }
    }
    ours
}

fn prepended(value: &Value) -> Option<Vec<u32>> {
    let numbers = at(value, "prefix")?.as_array()?;
    let numbers: Vec<u32> = numbers.iter().map(as_number).collect::<Option<_>>()?;
    (!numbers.is_empty()).then_some(numbers)
}
