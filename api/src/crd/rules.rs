//! CEL rules for texts that many fields hold. They take what the directory mode takes, and say what to write.

use serde_json::{Value, json};

/// What [`crate::GoDuration`] reads, as a CEL condition.
const IS_DURATION: &str =
    r"self.matches('^[+]?(0|(([0-9]+[.]?[0-9]*|[.][0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$')";

/// A duration of any length.
pub(crate) fn duration() -> Value {
    rule(IS_DURATION, "write a duration such as 90s or 1m30s")
}

/// A duration of which `condition` holds: it calls the duration `it`.
pub(crate) fn duration_where(condition: &str, message: &str) -> Value {
    let condition = condition.replace("it", "duration(self)");
    rule(&format!("{IS_DURATION} && ({condition})"), message)
}

/// A duration of whole seconds of which `condition` holds.
pub(crate) fn seconds_where(condition: &str, message: &str) -> Value {
    let whole = "it.getMilliseconds() % 1000 == 0";
    duration_where(&format!("{whole} && ({condition})"), message)
}

/// A CIDR.
pub(crate) fn cidr() -> Value {
    rule(
        "isCIDR(self)",
        "write a CIDR such as 10.0.0.0/8 or fd00::/8",
    )
}

/// A list of them.
pub(crate) fn cidrs() -> Value {
    rule(
        "self.all(text, isCIDR(text))",
        "write CIDRs such as 10.0.0.0/8 or fd00::/8",
    )
}

/// A community, standard or large.
pub(crate) fn community() -> Value {
    rule(
        "self.matches('^(0|[1-9][0-9]{0,9})(:(0|[1-9][0-9]{0,9})){1,2}$') && self.split(':').all(number, \
         int(number) <= (self.matches(':.*:') ? 4294967295 : 65535))",
        COMMUNITY,
    )
}

/// A list of them. What the server lets a rule cost in lists of lists is not enough to compare the numbers.
pub(crate) fn communities() -> Value {
    rule(
        "self.all(text, text.matches('^(0|[1-9][0-9]{0,9})(:(0|[1-9][0-9]{0,9})){1,2}$'))",
        COMMUNITY,
    )
}

const COMMUNITY: &str =
    "write a community as aa:nn (each up to 65535) or aa:nn:mm (each up to 4294967295)";

fn rule(rule: &str, message: &str) -> Value {
    json!([{ "rule": rule, "message": message }])
}
