//! Reads one kind: lists it whole, watches it from there, and goes on or begins anew when that ends.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::Connection;
use super::backoff::{Backoff, between};
use super::decode::{Lens, WatchEvent};
use super::failure::Failure;
use super::kind::{Absence, Kind};
use super::query::Query;
use super::request::Answer;
use super::told::Told;
use super::world::Wanted;

/// How long a kind that the server does not know is left alone.
const ABSENT: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(40));

/// How often, and after which pauses, the server must say that it does not know a kind of which there were objects.
const ABSENT_ANSWERS: u32 = 3;
const ABSENT_PAUSE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(6));

/// A watch that ends sooner than this is not begun anew at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// How many streamed lists may break off before the next one is read in pages.
const BROKEN_STREAMS: u32 = 2;

/// Up to how many objects a kind is listed anew where all of it must be known to be read.
const SMALL: usize = 500;

/// How many short watches may end without having reached the newest version, before all is listed anew.
const SHORT_WATCHES: u32 = 4;

/// Asks for all that the server holds at this moment; answered when it has been sent.
pub(super) type Request = oneshot::Sender<()>;

/// Reads one kind.
pub(super) struct Reflector {
    connection: Connection,
    kind: Kind,
    query: Query,
    told: mpsc::Sender<Told>,
    /// Since when the server has not answered; shared by the readers of all kinds.
    away: watch::Sender<Option<Instant>>,
    requests: mpsc::Receiver<Request>,
    /// Which objects are read of a kind that is not always read whole.
    wanted: Option<watch::Receiver<Wanted>>,
    names: Wanted,
    /// The version that has been read and told; none where all has to be listed.
    at: Option<String>,
    /// At least so many objects there are.
    size: usize,
    was_listed: bool,
    is_troubled: bool,
    backoff: Backoff,
    absent_answers: u32,
    broken_streams: u32,
    /// Those who wait for all that the server held when they came.
    asked: Vec<Request>,
    /// The version that those who wait need, and how many watches have not reached it.
    needed: Option<(u64, u32)>,
}

/// Why a list or a watch has ended.
enum End {
    /// It was over, as every watch is after some minutes.
    Over,
    /// Someone must know that all has been read, or other Secrets are wanted.
    Asked,
    /// It failed.
    Failed(Failure),
    /// Nobody listens any more.
    Unheard,
}

impl Reflector {
    pub(super) fn new(
        connection: Connection,
        kind: Kind,
        (told, away): (mpsc::Sender<Told>, watch::Sender<Option<Instant>>),
        requests: mpsc::Receiver<Request>,
        wanted: Option<watch::Receiver<Wanted>>,
    ) -> Self {
        Self {
            query: Query::new(kind, &connection.namespace),
            connection,
            kind,
            told,
            away,
            requests,
            wanted,
            names: None,
            at: None,
            size: 0,
            was_listed: false,
            is_troubled: false,
            backoff: Backoff::default(),
            absent_answers: 0,
            broken_streams: 0,
            asked: Vec::new(),
            needed: None,
        }
    }

    /// Runs until nobody listens.
    pub(super) async fn run(mut self) {
        loop {
            let began = Instant::now();
            let end = match self.look_at_names().await {
                Ok(true) => self.read().await,
                Ok(false) => continue,
                Err(end) => end,
            };
            let goes_on = match end {
                End::Unheard => false,
                End::Asked => true,
                End::Over if began.elapsed() >= SHORT_LIFE => true,
                End::Over => {
                    let pause = self.backoff.fail(None);
                    self.pause(pause, false).await
                }
                End::Failed(failure) => self.recover(failure).await,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// One list or one watch.
    async fn read(&mut self) -> End {
        let Some(at) = self.at.clone() else {
            return self.list().await;
        };
        if self.asked.is_empty() {
            return self.watch(&self.query.watch(&at, None)).await;
        }
        match self.catch_up(&at).await {
            Ok(Some(path)) => self.watch(&path).await,
            Ok(None) => {
                self.at = None;
                End::Asked
            }
            Err(end) => end,
        }
    }

    /// For those who wait: a watch that soon says how far it has come, or none where a list is cheaper, or the only way.
    async fn catch_up(&mut self, at: &str) -> Result<Option<String>, End> {
        // Of one kind versions can be compared, if they are numbers (KEP-5504). Others are opaque.
        let (Ok(reached), true) = (at.parse::<u64>(), self.size > SMALL) else {
            return Ok(None);
        };
        let (needed, watches) = match self.needed {
            Some(needed) => needed,
            None => {
                let newest = self.newest_version().await.map_err(End::Failed)?;
                let Ok(newest) = newest.parse() else {
                    return Ok(None);
                };
                (newest, 0)
            }
        };
        if watches >= SHORT_WATCHES {
            return Ok(None);
        }
        self.needed = Some((needed, watches + 1));
        self.note_reached(reached).await?;
        Ok(Some(self.query.watch(at, Some(SHORT_WATCH))))
    }

    /// The version of the kind at this moment, as etcd has it.
    async fn newest_version(&self) -> Result<String, Failure> {
        let mut answer = self.ask(&self.query.newest()).await?;
        let mut items = super::items::Items::default();
        while let Some(text) = answer.chunk().await? {
            items.take(&text)?;
        }
        Ok(items.end()?.resource_version)
    }

    async fn list(&mut self) -> End {
        if self.broken_streams >= BROKEN_STREAMS {
            return self.list_in_pages().await;
        }
        let answer = match self.ask(&self.query.streamed_list()).await {
            Ok(answer) => answer,
            // An older server, or one on which streamed lists are switched off.
            Err(failure) if failure.is_not_understood() => return self.list_in_pages().await,
            Err(failure) => return End::Failed(failure),
        };
        self.broken_streams += 1;
        if let Err(end) = self.tell(Told::Began(self.kind)).await {
            return end;
        }
        self.size = 0;
        self.follow(answer, true).await
    }

    async fn list_in_pages(&mut self) -> End {
        match self.pages().await {
            Ok(()) => End::Asked,
            Err(end) => end,
        }
    }

    async fn pages(&mut self) -> Result<(), End> {
        self.tell(Told::Began(self.kind)).await?;
        self.size = 0;
        // At the start any state will do that the server has at hand; later none that is older than what was told.
        let is_any = !self.was_listed && self.asked.is_empty() && self.backoff.failures() == 0;
        let mut page = String::new();
        loop {
            let path = self.query.page(is_any, &page);
            let mut answer = self.ask(&path).await.map_err(End::Failed)?;
            let mut items = super::items::Items::default();
            while let Some(text) = answer.chunk().await.map_err(End::Failed)? {
                for item in items.take(&text).map_err(End::Failed)? {
                    if let Some(object) = self.lens().item(&item).map_err(End::Failed)? {
                        self.size += 1;
                        self.tell(Told::Is(object)).await?;
                    }
                }
            }
            let end = items.end().map_err(End::Failed)?;
            page = end.continue_;
            if page.is_empty() {
                return self.listed(end.resource_version).await;
            }
        }
    }

    async fn watch(&mut self, path: &str) -> End {
        let answer = match self.ask(path).await {
            Ok(answer) => answer,
            Err(failure) => return End::Failed(failure),
        };
        match self.is_well().await {
            Ok(()) => self.follow(answer, false).await,
            Err(end) => end,
        }
    }

    /// Takes in a watch until it ends; `is_list`: it begins with a list.
    async fn follow(&mut self, mut answer: Answer, mut is_list: bool) -> End {
        loop {
            let line = tokio::select! {
                () = self.told.closed() => return End::Unheard,
                request = self.requests.recv(), if !is_list => {
                    let Some(request) = request else { return End::Unheard };
                    self.asked.push(request);
                    return End::Asked;
                }
                () = changed(&mut self.wanted), if !is_list => return End::Asked,
                line = answer.line() => line,
            };
            let done = match line {
                Ok(Some(line)) => self.take(&line, &mut is_list).await,
                Ok(None) if is_list => Err(End::Failed(Failure::Unanswered(
                    "the list breaks off".to_owned(),
                ))),
                Ok(None) => Err(End::Over),
                Err(failure) => Err(End::Failed(failure)),
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn take(&mut self, line: &[u8], is_list: &mut bool) -> Result<(), End> {
        let (event, version) = self.lens().event(line).map_err(End::Failed)?;
        match event {
            WatchEvent::Is(object) => {
                self.size += 1;
                self.tell(Told::Is(object)).await?;
            }
            WatchEvent::Gone(name) => self.tell(Told::Gone(self.kind, name)).await?,
            WatchEvent::Bookmark { ends_list } if *is_list && ends_list => {
                *is_list = false;
                return self.listed(version.unwrap_or_default()).await;
            }
            WatchEvent::Bookmark { .. } => {}
            WatchEvent::Error(failure) => return Err(End::Failed(failure)),
        }
        let Some(version) = version.filter(|_| !*is_list) else {
            return Ok(());
        };
        self.backoff.reset();
        let reached = version.parse().ok();
        self.at = Some(version);
        match reached {
            Some(reached) => self.note_reached(reached).await,
            None => Ok(()),
        }
    }

    /// Everything of a list has been told.
    async fn listed(&mut self, version: String) -> Result<(), End> {
        if version.is_empty() {
            let why = "the server has sent a list without a resourceVersion".to_owned();
            return Err(End::Failed(Failure::Unanswered(why)));
        }
        self.tell(Told::Listed(self.kind)).await?;
        self.at = Some(version);
        self.was_listed = true;
        self.absent_answers = 0;
        self.broken_streams = 0;
        self.backoff.reset();
        self.is_well().await?;
        self.answer_all().await
    }

    async fn note_reached(&mut self, reached: u64) -> Result<(), End> {
        match self.needed {
            Some((needed, _)) if reached >= needed => self.answer_all().await,
            _ => Ok(()),
        }
    }

    /// Who waits is told, once all that was read has been sent.
    async fn answer_all(&mut self) -> Result<(), End> {
        self.needed = None;
        for request in std::mem::take(&mut self.asked) {
            self.tell(Told::Barrier(request)).await?;
        }
        Ok(())
    }

    async fn is_well(&mut self) -> Result<(), End> {
        if std::mem::take(&mut self.is_troubled) {
            self.tell(Told::Trouble(self.kind, None)).await?;
        }
        Ok(())
    }

    /// After a failure: says so, waits, and decides from where to go on. False if nobody listens.
    async fn recover(&mut self, failure: Failure) -> bool {
        tracing::debug!(kind = self.kind.name(), %failure, "read");
        if failure.is_expired() && self.at.take().is_some() {
            // What has happened since is not known any more: all is listed, and told as differences.
            return true;
        }
        if failure.is_not_found() && self.kind.absence() != Absence::Never {
            return self.is_absent().await;
        }
        self.is_troubled = true;
        let trouble = Told::Trouble(self.kind, Some(failure.to_string()));
        let pause = self.backoff.fail(failure.retry_after());
        let may_hurry = failure.retry_after().is_none();
        self.tell(trouble).await.is_ok() && self.pause(pause, may_hurry).await
    }

    /// The server does not know the kind: then there is no object of it. That it has forgotten one that it knew is
    /// believed only after it has said so some times: a network's peers hang on it.
    async fn is_absent(&mut self) -> bool {
        self.at = None;
        self.absent_answers = self.absent_answers.saturating_add(1);
        if self.was_listed && self.size > 0 && self.absent_answers < ABSENT_ANSWERS {
            return self
                .pause(between(ABSENT_PAUSE.0, ABSENT_PAUSE.1), false)
                .await;
        }
        self.size = 0;
        let told = [
            self.is_well().await,
            self.tell(Told::Absent(self.kind)).await,
        ];
        if told.iter().any(Result::is_err) || self.answer_all().await.is_err() {
            return false;
        }
        self.pause(between(ABSENT.0, ABSENT.1), true).await
    }

    /// Waits, or as long as nobody asks; false if nobody listens.
    async fn pause(&mut self, pause: Duration, may_hurry: bool) -> bool {
        tokio::select! {
            () = self.told.closed() => false,
            () = tokio::time::sleep(pause) => true,
            request = self.requests.recv(), if may_hurry => {
                self.asked.extend(request);
                true
            }
        }
    }

    /// Of Secrets and BGPNodeStatuses: waits until some are wanted, and has all listed anew if more are. False if none are.
    async fn look_at_names(&mut self) -> Result<bool, End> {
        let Some(wanted) = &mut self.wanted else {
            return Ok(true);
        };
        let names = wanted.borrow_and_update().clone();
        let has_more = match (&names, &self.names) {
            (Some(names), Some(before)) => !names.is_within(before),
            (names, _) => names.is_some(),
        };
        self.names.clone_from(&names);
        match &names {
            Some(names) if !names.is_nothing() => {
                if has_more {
                    self.at = None;
                }
                return Ok(true);
            }
            Some(_) => {
                self.at = None;
                self.is_well().await?;
                self.tell(Told::Began(self.kind)).await?;
                self.tell(Told::Listed(self.kind)).await?;
                self.answer_all().await?;
            }
            None => {}
        }
        tokio::select! {
            () = self.told.closed() => return Err(End::Unheard),
            () = changed(&mut self.wanted) => {}
            request = self.requests.recv() => self.asked.extend(request),
        }
        Ok(false)
    }

    fn lens(&self) -> Lens<'_> {
        Lens {
            kind: self.kind,
            names: self.names.as_deref(),
        }
    }

    /// Asks the server, and notes whether it is there: a refusal is an answer, too.
    async fn ask(&self, path: &str) -> Result<Answer, Failure> {
        let answer = Answer::to(&self.connection.client, path).await;
        let is_away = matches!(answer, Err(Failure::Unanswered(_)));
        self.away.send_if_modified(|since| {
            let was_away = since.is_some();
            if was_away != is_away {
                *since = is_away.then(Instant::now);
            }
            was_away != is_away
        });
        answer
    }

    async fn tell(&self, told: Told) -> Result<(), End> {
        self.told.send(told).await.map_err(|_| End::Unheard)
    }
}

/// How long a watch lasts that is to say soon how far it has come: servers send a bookmark two seconds before its end.
const SHORT_WATCH: Duration = Duration::from_secs(3);

async fn changed(wanted: &mut Option<watch::Receiver<Wanted>>) {
    let is_over = match wanted {
        Some(wanted) => wanted.changed().await.is_err(),
        None => true,
    };
    if is_over {
        std::future::pending::<()>().await;
    }
}
