//! How `portolan policy drops` prints a packet.

use std::net::IpAddr;

use super::ring::Dropped;

/// Above the lines.
pub(crate) const HEADING: &str = "TIME (UTC)       WAY      PROTOCOL  FROM → TO  (POLICY)";

/// One packet, one line.
pub(crate) fn line(packet: &Dropped) -> String {
    let from = end(
        packet.source,
        packet.source_port,
        packet.from_pod.as_deref(),
    );
    let to = end(
        packet.destination,
        packet.destination_port,
        packet.to_pod.as_deref(),
    );
    let policies = if packet.policies.is_empty() {
        format!("chain {}", packet.chain)
    } else {
        packet.policies.join(", ")
    };
    let time = time_of_day(packet.time_micros);
    let (way, protocol) = (&packet.direction, &packet.protocol);
    format!("{time}  {way:<7}  {protocol:<8}  {from} → {to}  ({policies})")
}

fn end(address: IpAddr, port: Option<u16>, pod: Option<&str>) -> String {
    let address = match (address, port) {
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        (address, Some(port)) => format!("{address}:{port}"),
        (address, None) => address.to_string(),
    };
    match pod {
        Some(pod) => format!("{pod} {address}"),
        None => address,
    }
}

fn time_of_day(micros: u64) -> String {
    let seconds = micros / 1_000_000 % 86_400;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let (seconds, millis) = (seconds % 60, micros / 1_000 % 1_000);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{millis:03}")
}

#[cfg(test)]
mod tests {
    use super::super::ring::tests::example;
    use super::*;

    #[test]
    fn a_line_says_who_whom_by_what_and_which_policy() {
        let mut packet = example();
        assert_eq!(
            line(&packet),
            "22:13:20.250  ingress  tcp       10.0.0.1:40000 → shop/db [fd00::2]:5432  \
             (NetworkPolicy shop/db-only-from-web)"
        );
        packet.policies.clear();
        packet.destination_port = None;
        assert!(line(&packet).ends_with("→ shop/db fd00::2  (chain PTL-GI-0123)"));
    }
}
