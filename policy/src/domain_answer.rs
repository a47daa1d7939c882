//! What one message of the DNS says of addresses: its question, and the records that answer it.

use std::net::IpAddr;
use std::time::Duration;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::name::ToName;
use domain::base::{Message, ParsedName};
use domain::rdata::{A, Aaaa, Cname};

/// More records than this of one answer are not looked at.
const RECORDS: usize = 1_024;

/// A good answer (NOERROR) to one question of class IN, as far as addresses hang on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// The name that was asked for: lower case, no dot at the end.
    pub question: String,
    /// A, AAAA and CNAME records of the answer section, in their order.
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
    /// A or AAAA.
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
            let data = match record.rtype() {
                Rtype::A => record
                    .to_record::<A>()
                    .map_err(|_| MalformedAnswer)?
                    .map(|record| DnsData::Address(IpAddr::V4(record.data().addr()))),
                Rtype::AAAA => record
                    .to_record::<Aaaa>()
                    .map_err(|_| MalformedAnswer)?
                    .map(|record| DnsData::Address(IpAddr::V6(record.data().addr()))),
                Rtype::CNAME => record
                    .to_record::<Cname<ParsedName<_>>>()
                    .map_err(|_| MalformedAnswer)?
                    .and_then(|record| host_name(record.data().cname()).map(DnsData::Alias)),
                _ => None,
            };
            let owner = host_name(&record.owner()).filter(|_| record.class() == Class::IN);
            if let (Some(owner), Some(data)) = (owner, data) {
                let ttl = record.ttl().into_duration();
                records.push(DnsRecord { owner, ttl, data });
            }
        }
        Ok(Some(Self {
            question: name,
            records,
            truncated: header.tc(),
        }))
    }
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
        ) {
            let _ = DnsAnswer::read(&octets);
            if let Ok(Some(answer)) = DnsAnswer::read(&changed(at, octet)) {
                prop_assert!(answer.records.len() <= 2);
            }
        }
    }
}
