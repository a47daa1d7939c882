//! What one message of the DNS says of addresses: its question, and the records that answer it.

use std::net::IpAddr;
use std::time::Duration;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::name::ToName;
use domain::base::{Message, ParsedName, ParsedRecord};
use domain::rdata::svcb::SvcParams;
use domain::rdata::{A, Aaaa, Cname, Https, Svcb};

/// More records than this of one answer are not looked at.
const RECORDS: usize = 1_024;

/// A good answer (NOERROR) to one question of class IN, as far as addresses hang on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// The name that was asked for: lower case, no dot at the end.
    pub question: String,
    /// A, AAAA and CNAME records of the answer section, and the address hints of HTTPS and SVCB records (RFC 9460), in
    /// their order.
    pub records: Vec<DnsRecord>,
    /// The TC bit: there is more, and the pod will ask again by TCP.
    pub truncated: bool,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRecord {
    /// Whose it is, written as [`DnsAnswer::question`] is.
    pub owner: String,
    /// For how long it holds.
    pub ttl: Duration,
    /// What it says.
    pub data: DnsData,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsData {
    /// A, AAAA, or a hint of an HTTPS or SVCB record: clients may use it as if it were one.
    Address(IpAddr),
    /// CNAME: ask for that name instead.
    Alias(String),
}

/// The octets are no message of the DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedAnswer;

impl DnsAnswer {
    /// Reads a message (RFC 1035 §4.1). `None`: it is none that an address could be taken from (a query, an error, another
    /// class, a name with octets that no host's name has).
    ///
    /// # Errors
    /// If the header, the question or a record of the answer section is cut short or points nowhere.
    pub fn read(message: &[u8]) -> Result<Option<Self>, MalformedAnswer> {
        let message = Message::from_octets(message).map_err(|_| MalformedAnswer)?;
        let header = message.header();
        let good = header.qr() && header.opcode() == Opcode::QUERY;
        if !good || header.rcode() != Rcode::NOERROR || message.header_counts().qdcount() != 1 {
            return Ok(None);
        }
        let question = message.sole_question().map_err(|_| MalformedAnswer)?;
        let Some(name) = host_name(question.qname()).filter(|_| question.qclass() == Class::IN)
        else {
            return Ok(None);
        };
        let mut records = Vec::new();
        for record in message.answer().map_err(|_| MalformedAnswer)?.take(RECORDS) {
            let record = record.map_err(|_| MalformedAnswer)?;
            let said = said(&record).ok_or(MalformedAnswer)?;
            let owner = host_name(&record.owner()).filter(|_| record.class() == Class::IN);
            if let Some(owner) = owner {
                let ttl = record.ttl().into_duration();
                let record = |data| DnsRecord {
                    owner: owner.clone(),
                    ttl,
                    data,
                };
                let room = RECORDS.saturating_sub(records.len());
                records.extend(said.into_iter().take(room).map(record));
            }
        }
        Ok(Some(Self {
            question: name,
            records,
            truncated: header.tc(),
        }))
    }
}

/// What a record says of its owner; `None` if it is malformed.
fn said(record: &ParsedRecord<'_, &[u8]>) -> Option<Vec<DnsData>> {
    let one = |address| vec![DnsData::Address(address)];
    Some(match record.rtype() {
        Rtype::A => {
            let record = record.to_record::<A>().ok()??;
            one(record.data().addr().into())
        }
        Rtype::AAAA => {
            let record = record.to_record::<Aaaa>().ok()??;
            one(record.data().addr().into())
        }
        Rtype::CNAME => {
            let record = record.to_record::<Cname<ParsedName<_>>>().ok()??;
            let alias = host_name(record.data().cname());
            alias.map(DnsData::Alias).into_iter().collect()
        }
        Rtype::HTTPS => {
            let record = record.to_record::<Https<_, ParsedName<_>>>().ok()??;
            hints(record.data().priority(), record.data().params())
        }
        Rtype::SVCB => {
            let record = record.to_record::<Svcb<_, ParsedName<_>>>().ok()??;
            hints(record.data().priority(), record.data().params())
        }
        _ => Vec::new(),
    })
}

/// The address hints of a service (RFC 9460 §7.3); an alias (priority 0) has none.
fn hints(priority: u16, parameters: &SvcParams<&[u8]>) -> Vec<DnsData> {
    if priority == 0 {
        return Vec::new();
    }
    let v4 = parameters.ipv4hint();
    let v4 = v4.iter().flat_map(|hint| hint.iter().map(IpAddr::from));
    let v6 = parameters.ipv6hint();
    let v6 = v6.iter().flat_map(|hint| hint.iter().map(IpAddr::from));
    v4.chain(v6).map(DnsData::Address).collect()
}

/// A name in lower case without its last dot; `None` if a label has an octet that no host's name has: a dot within a
/// label would look like two labels.
fn host_name(name: &impl ToName) -> Option<String> {
    let mut text = String::new();
    for label in name.iter_labels().filter(|label| !label.is_root()) {
        let octets: &[u8] = label.as_slice();
        let fits = |c: &u8| c.is_ascii_alphanumeric() || *c == b'-' || *c == b'_';
        if !octets.iter().all(fits) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(octets.iter().map(|c| char::from(c.to_ascii_lowercase())));
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `www.Example.test` asked for A: an alias to `cdn.test`, whose address is 192.0.2.7; names compressed, EDNS.
    const ANSWER: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\x01\
        \x03www\x07Example\x04test\0\0\x01\0\x01\
        \xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03cdn\xc0\x18\
        \xc0\x2e\0\x01\0\x01\0\0\0\x0a\0\x04\xc0\0\x02\x07\
        \0\0\x29\x04\xd0\0\0\0\0\0\0";

    #[test]
    fn an_answer_is_read_with_its_aliases_and_in_lower_case() {
        let answer = DnsAnswer::read(ANSWER).unwrap().unwrap();
        assert_eq!(answer.question, "www.example.test");
        assert!(!answer.truncated);
        let record = |owner: &str, seconds, data| DnsRecord {
            owner: owner.to_owned(),
            ttl: Duration::from_secs(seconds),
            data,
        };
        let address = "192.0.2.7".parse().unwrap();
        assert_eq!(
            answer.records,
            [
                record(
                    "www.example.test",
                    60,
                    DnsData::Alias("cdn.test".to_owned())
                ),
                record("cdn.test", 10, DnsData::Address(address)),
            ]
        );
    }

    /// `Example.test` asked for HTTPS: service 1, target itself, with ALPN and two addresses; then one of another owner,
    /// and an alias with a hint.
    const HINTS: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x03\0\0\0\0\
        \x07Example\x04test\0\0\x41\0\x01\
        \xc0\x0c\0\x41\0\x01\0\0\0\x0a\0\x26\0\x01\0\
        \0\x01\0\x03\x02h2\0\x04\0\x04\xc0\0\x02\x07\
        \0\x06\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\
        \xc0\x14\0\x40\0\x01\0\0\0\x05\0\x0b\0\x01\0\0\x04\0\x04\xc0\0\x02\x08\
        \xc0\x0c\0\x41\0\x01\0\0\0\x0a\0\x0b\0\0\0\0\x04\0\x04\xc0\0\x02\x09";

    #[test]
    fn hints_of_https_and_svcb_are_addresses_of_their_owner_and_those_of_an_alias_are_none() {
        let answer = DnsAnswer::read(HINTS).unwrap().unwrap();
        let said: Vec<(&str, &DnsData)> = answer
            .records
            .iter()
            .map(|record| (record.owner.as_str(), &record.data))
            .collect();
        let address = |text: &str| DnsData::Address(text.parse().unwrap());
        assert_eq!(
            said,
            [
                ("example.test", &address("192.0.2.7")),
                ("example.test", &address("2001:db8::7")),
                ("test", &address("192.0.2.8")),
            ]
        );
    }

    fn changed(at: usize, octet: u8) -> Vec<u8> {
        let mut octets = ANSWER.to_vec();
        octets[at] = octet;
        octets
    }

    #[test]
    fn queries_errors_and_odd_names_give_nothing() {
        for (at, octet) in [
            (2, 0x01),
            (3, 0x83),
            (5, 2),
            (32, 3),
            (13, b'.'),
            (13, b'\n'),
        ] {
            assert_eq!(DnsAnswer::read(&changed(at, octet)), Ok(None), "{at}");
        }
        assert!(
            DnsAnswer::read(&changed(2, 0x83))
                .unwrap()
                .unwrap()
                .truncated
        );
    }

    #[test]
    fn what_is_cut_short_or_points_at_itself_is_malformed() {
        for length in (0..12).chain(34..ANSWER.len() - 11) {
            let outcome = DnsAnswer::read(&ANSWER[..length]);
            assert_eq!(outcome, Err(MalformedAnswer), "{length}");
        }
        assert!(DnsAnswer::read(&changed(35, 0x22)).is_err(), "a loop");
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_a_panic(
            octets in prop::collection::vec(any::<u8>(), 0..300),
            at in 0..ANSWER.len(),
            octet: u8,
            hint in 0..HINTS.len(),
        ) {
            let mut hints = HINTS.to_vec();
            hints[hint] = octet;
            let _ = DnsAnswer::read(&hints);
            let _ = DnsAnswer::read(&octets);
            if let Ok(Some(answer)) = DnsAnswer::read(&changed(at, octet)) {
                prop_assert!(answer.records.len() <= 2);
            }
        }
    }
}
