//! What a source has told so far. The tests with a small server and those with the real one (tests/cluster) both have it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use api::{Event, Key, Resource};
use datastore::Source;
use tokio::time::timeout;

pub(crate) struct Heard {
    pub(crate) source: Source,
    pub(crate) state: BTreeMap<Key, Resource>,
    /// Every change as `+key` or `-key`, and `InSync`.
    pub(crate) told: Vec<String>,
    /// How long anything may take.
    longest: Duration,
}

impl Heard {
    pub(crate) fn new(source: Source, longest: Duration) -> Self {
        Self {
            source,
            state: BTreeMap::new(),
            told: Vec::new(),
            longest,
        }
    }

    fn take(&mut self, event: Event) {
        let Event::Change(change) = event else {
            return self.told.push("InSync".to_owned());
        };
        let sign = if change.value.is_some() { '+' } else { '-' };
        self.told.push(format!("{sign}{}", change.key));
        match change.value {
            Some(value) => self.state.insert(change.key, value),
            None => self.state.remove(&change.key),
        };
    }

    /// Takes events until a condition holds; how long that took.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        condition: impl Fn(&Self) -> bool,
    ) -> Duration {
        let began = Instant::now();
        let waited = timeout(self.longest, async {
            while !condition(self) {
                let event = self.source.events.recv().await.expect("the source lives");
                self.take(event);
            }
        });
        if waited.await.is_err() {
            let last = self.told.get(self.told.len().saturating_sub(30)..);
            let problems = self.problems();
            panic!("not {what}; told last: {last:?}; problems: {problems:?}");
        }
        began.elapsed()
    }

    pub(crate) async fn until_in_sync(&mut self) -> Duration {
        self.until("in sync", Self::is_in_sync).await
    }

    pub(crate) fn is_in_sync(&self) -> bool {
        self.told.iter().any(|word| word == "InSync")
    }

    /// Has all read that the server holds now, and takes it in; how long that took.
    pub(crate) async fn refresh(&mut self) -> Duration {
        let began = Instant::now();
        let refresh = self.source.refresh.clone();
        let mut done = Box::pin(async move { refresh.refresh().await });
        let waited = timeout(self.longest, async {
            loop {
                tokio::select! {
                    biased;
                    Some(event) = self.source.events.recv() => self.take(event),
                    () = &mut done => return,
                }
            }
        });
        waited.await.expect("the refresh is answered");
        while let Ok(event) = self.source.events.try_recv() {
            self.take(event);
        }
        began.elapsed()
    }

    /// Takes events until none has come for so long.
    pub(crate) async fn until_silent(&mut self, silence: Duration) {
        while let Ok(Some(event)) = timeout(silence, self.source.events.recv()).await {
            self.take(event);
        }
    }

    /// The keys of a kind that are there, as text.
    pub(crate) fn keys(&self, kind: &str) -> Vec<String> {
        let keys = self.state.keys().map(ToString::to_string);
        let start = format!("{kind} ");
        keys.filter_map(|key| Some(key.strip_prefix(&start)?.to_owned()))
            .collect()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.source.problems.borrow();
        problems.iter().map(ToString::to_string).collect()
    }
}
