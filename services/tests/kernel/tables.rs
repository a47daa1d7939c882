//! The tables of nftables in the kernel, as the agent writes and reads them.

use netfilter::Family;
use netfilter::nft::{
    self, Counted, Message, Name, Parts, Reading, Steps, counters, element_request, repair,
    requests,
};
use routes::{NfTables, NftRequest};
use tokio::runtime::Runtime;

/// A socket in the caller's network namespace.
pub(crate) struct Tables {
    runtime: Runtime,
    socket: NfTables,
    family: Family,
}

fn request(message: Message) -> NftRequest {
    NftRequest {
        kind: message.kind,
        flags: message.flags,
        body: message.body,
    }
}

impl Tables {
    /// Everything on this thread: its network namespace is the test's.
    pub(crate) fn open(family: Family) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let socket = runtime.block_on(async { NfTables::open().unwrap() });
        Self {
            runtime,
            socket,
            family,
        }
    }

    fn ask(&mut self, message: Message) -> Vec<(u8, Vec<u8>)> {
        let asked = self.socket.dump(request(message));
        self.runtime.block_on(asked).unwrap()
    }

    pub(crate) fn read(&mut self) -> Reading {
        let mut reading = Reading::default();
        for message in requests(self.family) {
            for (kind, body) in self.ask(message) {
                reading.take(kind, &body);
            }
        }
        for message in reading.element_requests(self.family) {
            for (kind, body) in self.ask(message) {
                reading.take(kind, &body);
            }
        }
        reading
    }

    /// Writes; returns how many requests that took.
    pub(crate) fn write(&mut self, steps: Steps) -> usize {
        let count = steps.requests();
        for transaction in steps.transactions {
            let requests = transaction.into_iter().map(request).collect();
            let committed = self.socket.commit(requests);
            self.runtime.block_on(committed).unwrap();
        }
        count
    }

    /// Writes what is wanted, as after a start; what is read back must be it.
    pub(crate) fn apply(&mut self, wanted: &Parts) -> usize {
        let read = self.read();
        let count = self.write(repair(self.family, &read, wanted));
        self.check(wanted);
        count
    }

    /// What is there must be what is wanted.
    pub(crate) fn check(&mut self, wanted: &Parts) {
        let read = self.read();
        let more = repair(self.family, &read, wanted);
        assert!(
            more.is_empty(),
            "not what was wanted: {:?}, {} requests more",
            read.sizes(),
            more.requests()
        );
    }

    /// Writes what changed, as the agent does it.
    pub(crate) fn change(&mut self, held: &Parts, wanted: &Parts) -> usize {
        let count = self.write(nft::plan(self.family, held, wanted));
        self.check(wanted);
        count
    }

    /// Packets that found each element.
    pub(crate) fn counted(&mut self, map: &'static str) -> Vec<Counted> {
        let answers = self.ask(element_request(self.family, &Name::fixed(map)));
        answers
            .iter()
            .flat_map(|(_, body)| counters(body))
            .collect()
    }
}
