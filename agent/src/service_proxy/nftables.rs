//! The mode nftables: tables of our own, written by what differs, in transactions; mended where another changed them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netfilter::Family;
use netfilter::nft::{self, Message, Parts, Reading, Steps, TABLE};
use routes::rule_notices::{RuleNotice, RuleNotices};
use routes::{Error, NfTables, NftRequest};
use tracing::{debug, warn};

/// What both families' tables are to hold: IPv4's, then IPv6's.
pub(crate) type Tables = [Arc<Parts>; 2];

/// Between two readings some times what the last one cost.
const GAP_PER_COST: u32 = 4;
const LEAST_GAP: Duration = Duration::from_millis(250);

/// Writes our tables, and hears of others who do.
#[derive(Debug, Default)]
pub(super) struct Writer {
    socket: Option<NfTables>,
    /// What is there, unless that is anybody's guess.
    held: Option<Tables>,
    /// None before the first write, and where nobody can listen.
    notices: Option<RuleNotices>,
    /// No other reading before.
    next_reading: Option<Instant>,
}

/// What bringing a state did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Brought {
    pub(super) has_written: bool,
    /// Another had changed what we wrote.
    pub(super) has_mended: bool,
}

impl Writer {
    /// Brings the kernel from what is there to what is wanted.
    ///
    /// # Errors
    /// If the kernel refuses or cannot be asked; what it holds is looked at anew then.
    pub(super) async fn bring(&mut self, wanted: &Tables) -> Result<Brought, Error> {
        if self.notices.is_none() {
            let notices = RuleNotices::open();
            if let Err(error) = &notices {
                warn!(%error, "damage to the tables of Services is not noticed");
            }
            self.notices = notices.ok();
        }
        let was_known = self.held.is_some();
        match self.write(wanted).await {
            Err(Error::Refused { what, source, said }) if was_known => {
                // Another may have changed what we believed in: once more, from what is really there.
                debug!(what, %source, said, "reading back and trying again");
                self.held = None;
                self.write(wanted).await
            }
            outcome => outcome,
        }
    }

    async fn write(&mut self, wanted: &Tables) -> Result<Brought, Error> {
        // Until all is written, what is there is anybody's guess.
        let held = self.held.take();
        let is_doubted = self.next_reading.is_some() && held.is_none();
        let mut requests = 0;
        for (place, family) in Family::ALL.into_iter().enumerate() {
            let Some(wanted) = wanted.get(place) else {
                continue;
            };
            let before = held.as_ref().and_then(|held| held.get(place));
            let steps = match before {
                Some(held) if Arc::ptr_eq(held, wanted) => continue,
                Some(held) => nft::plan(family, held, wanted),
                None => nft::repair(family, &self.read(family).await?, wanted),
            };
            requests += steps.requests();
            self.commit(steps).await?;
        }
        self.held = Some(wanted.clone());
        if requests > 0 {
            debug!(requests, "nftables written");
        }
        Ok(Brought {
            has_written: requests > 0,
            has_mended: requests > 0 && is_doubted,
        })
    }

    /// Takes our tables away, if there are any.
    ///
    /// # Errors
    /// If the kernel refuses or cannot be asked.
    pub(super) async fn remove(&mut self) -> Result<bool, Error> {
        let mut is_gone = false;
        for family in Family::ALL {
            let mut reading = Reading::default();
            for message in nft::requests(family) {
                self.ask(message, &mut reading).await?;
            }
            if !reading.is_empty() {
                self.commit(nft::removal(family)).await?;
                is_gone = true;
            }
        }
        self.held = None;
        Ok(is_gone)
    }

    /// Waits until another may have changed our tables, and it is time to look; a wait that is given up loses nothing.
    pub(super) async fn next_doubt(&mut self) {
        let own = self.socket.as_ref().map(NfTables::port);
        loop {
            let Some(notices) = &mut self.notices else {
                return std::future::pending().await;
            };
            if self.held.is_some() {
                let notice = notices.next().await;
                if !is_anothers(&notice, own) {
                    continue;
                }
                debug!(?notice, "another changed the tables of Services");
                self.held = None;
            }
            if let Some(at) = self.next_reading {
                tokio::time::sleep_until(at.into()).await;
            }
            return;
        }
    }

    async fn read(&mut self, family: Family) -> Result<Reading, Error> {
        let start = Instant::now();
        let mut reading = Reading::default();
        for message in nft::requests(family) {
            self.ask(message, &mut reading).await?;
        }
        for message in reading.element_requests(family) {
            self.ask(message, &mut reading).await?;
        }
        let end = Instant::now();
        self.next_reading = Some(end + ((end - start) * GAP_PER_COST).max(LEAST_GAP));
        Ok(reading)
    }

    async fn ask(&mut self, message: Message, reading: &mut Reading) -> Result<(), Error> {
        for (kind, body) in self.socket()?.dump(request(message)).await? {
            reading.take(kind, &body);
        }
        Ok(())
    }

    async fn commit(&mut self, steps: Steps) -> Result<(), Error> {
        for transaction in steps.transactions {
            let requests = transaction.into_iter().map(request).collect();
            self.socket()?.commit(requests).await?;
        }
        Ok(())
    }

    fn socket(&mut self) -> Result<&mut NfTables, Error> {
        match &mut self.socket {
            Some(socket) => Ok(socket),
            empty => Ok(empty.insert(NfTables::open()?)),
        }
    }
}

/// How often each element of a set of ours was found.
///
/// # Errors
/// If the kernel cannot be asked, or has no such set.
pub(crate) async fn counted(family: Family, set: &'static str) -> Result<Vec<nft::Counted>, Error> {
    let asked = request(nft::element_request(family, &nft::Name::fixed(set)));
    let answers = NfTables::open()?.dump(asked).await?;
    let counted = answers.iter().flat_map(|(_, body)| nft::counters(body));
    Ok(counted.collect())
}

fn request(message: Message) -> NftRequest {
    let Message { kind, flags, body } = message;
    NftRequest { kind, flags, body }
}

/// Whether a notice may be of another's change of our tables.
fn is_anothers(notice: &RuleNotice, own: Option<u32>) -> bool {
    match notice {
        RuleNotice::Overrun => true,
        RuleNotice::Tables(changed) => {
            Some(changed.port) != own && changed.tables.iter().any(|(_, name)| name == TABLE)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use routes::rule_notices::{NftFamily, TablesChanged};

    use super::*;

    #[test]
    fn what_others_change_in_our_tables_and_what_may_have_been_missed_is_looked_at() {
        let notice = |name: &str, port| {
            RuleNotice::Tables(TablesChanged {
                tables: BTreeSet::from([(NftFamily::Ip, name.to_owned())]),
                process: None,
                port,
                program: "nft".to_owned(),
            })
        };
        assert!(is_anothers(&notice(TABLE, 7), Some(8)));
        assert!(is_anothers(&notice(TABLE, 7), None));
        assert!(is_anothers(&RuleNotice::Overrun, Some(8)));
        assert!(!is_anothers(&notice(TABLE, 8), Some(8)));
        assert!(!is_anothers(&notice("filter", 7), Some(8)));
    }
}
