//! Questions to the DNS, many a second, as resolvers in pods ask them: how many were asked, answered and lost, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::AllRecordData;
use tests::netns::Netns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, timeout};

/// As long as resolvers wait before they ask again: what isn't answered by then is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Below the one second after which the kernel repeats a lost SYN, so that a lost SYN is a lost question.
const CONNECT: Duration = Duration::from_millis(900);
/// The greatest message without EDNS, by RFC 1035 §4.2.1, and more.
const LONGEST: usize = 4096;

/// A question, and what must be answered.
#[derive(Clone, Debug)]
pub struct Question {
    name: Name<Vec<u8>>,
    kind: Rtype,
    answers: BTreeSet<String>,
}

impl Question {
    /// Asks for the records of a kind (`A`, `SRV`) of a whole name; `answers` are their data as `dig +short` writes them.
    ///
    /// # Errors
    /// When there is no such kind, or the name is none.
    pub fn new(name: &str, kind: &str, answers: &[String]) -> Result<Self> {
        let answers = answers.iter().map(|data| plain(data));
        Ok(Self {
            name: name.parse().with_context(|| name.to_owned())?,
            kind: kind.parse().ok().with_context(|| kind.to_owned())?,
            answers: answers.collect(),
        })
    }

    fn message(&self, id: u16) -> Result<Vec<u8>> {
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(id);
        message.header_mut().set_rd(true);
        let mut question = message.question();
        question.push((&self.name, self.kind))?;
        Ok(question.finish())
    }

    /// Whether a message answers it, and rightly.
    fn judge(&self, bytes: &[u8]) -> Result<()> {
        let message = Message::from_octets(bytes)?;
        let header = message.header();
        ensure!(header.qr() && !header.tc(), "{header:?}");
        ensure!(header.rcode() == Rcode::NOERROR, "{}", header.rcode());
        let mut found = BTreeSet::new();
        for record in message.answer()?.limit_to::<AllRecordData<_, _>>() {
            found.insert(plain(&record?.data().to_string()));
        }
        ensure!(found == self.answers, "{found:?}");
        Ok(())
    }
}

/// Names with and without their last dot are the same to us.
fn plain(data: &str) -> String {
    data.trim_end_matches('.').to_owned()
}

/// How a resolver asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As C libraries do: by UDP, each time from a port of its own, and A and AAAA at once.
    Udp,
    /// As forwarders do: by UDP from one port that they keep.
    UdpOnePort,
    /// By a connection of its own each time.
    Tcp,
}

/// Who asks.
#[derive(Debug)]
pub struct Asker<'a> {
    /// As tables name it.
    pub name: String,
    /// From where.
    pub from: &'a Netns,
    /// Whom.
    pub server: SocketAddr,
    /// How.
    pub way: Way,
    /// How often a second; each time all questions of one group are asked.
    pub rate: u32,
}

/// What became of one question.
#[derive(Clone, Debug)]
struct Asked {
    at: Instant,
    took: Duration,
    lost: Option<String>,
}

/// What became of all questions.
#[derive(Debug)]
pub struct Report {
    began: Instant,
    askers: Vec<(String, Way, Vec<Asked>)>,
}

/// How many questions somebody asked, and how many were not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// In what way.
    pub way: Way,
    /// All.
    pub asked: usize,
    /// Of these, those without the right answer in time.
    pub lost: usize,
    /// From the first to the last of those that were lost one after the other, the longest such time.
    pub silence: Duration,
    /// The longest time that an answer took.
    pub slowest: Duration,
}

impl Report {
    /// Of each who asked.
    pub fn counts(&self) -> impl Iterator<Item = Counts> + '_ {
        self.askers.iter().map(|(_, way, asked)| Counts {
            way: *way,
            asked: asked.len(),
            lost: asked.iter().filter(|one| one.lost.is_some()).count(),
            silence: silence(asked),
            slowest: slowest(asked),
        })
    }

    /// How many all asked.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.counts().map(|one| one.asked).sum()
    }

    /// How many were lost of all.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.counts().map(|one| one.lost).sum()
    }

    /// A line for each who asked, and some of what was lost, with the time after the beginning.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, _, asked) in &self.askers {
            let lost: Vec<&Asked> = asked.iter().filter(|one| one.lost.is_some()).collect();
            text += &format!(
                "\n  {name}: asked {}, lost {}, {} ms without an answer, the slowest one took {} ms",
                asked.len(),
                lost.len(),
                silence(asked).as_millis(),
                slowest(asked).as_millis(),
            );
            for one in lost.iter().take(3) {
                let after = one.at.duration_since(self.began).as_secs_f32();
                let why = one.lost.as_deref().unwrap_or_default();
                text += &format!("\n    {after:.2} s: {why}");
            }
        }
        text
    }
}

fn slowest(asked: &[Asked]) -> Duration {
    let answered = asked.iter().filter(|one| one.lost.is_none());
    answered.map(|one| one.took).max().unwrap_or_default()
}

fn silence(asked: &[Asked]) -> Duration {
    let mut in_order: Vec<&Asked> = asked.iter().collect();
    in_order.sort_by_key(|one| one.at);
    let (mut longest, mut since) = (Duration::ZERO, None);
    for one in in_order {
        if one.lost.is_none() {
            since = None;
            continue;
        }
        let began = *since.get_or_insert(one.at);
        longest = longest.max(one.at.duration_since(began));
    }
    longest
}

/// Asks the groups of questions in turn, all askers at once, as long as `during` runs.
///
/// # Errors
/// When an asker asked less than nine tenths of what it should have, which proves nothing; when a namespace can't be entered; or
/// when `during` fails.
pub fn ask_while<T>(
    askers: &[Asker<'_>],
    groups: &[Vec<Question>],
    during: impl FnOnce() -> Result<T>,
) -> Result<(Report, T)> {
    let is_over = AtomicBool::new(false);
    let began = Instant::now();
    let (happened, asked) = std::thread::scope(|scope| {
        let each = askers.iter();
        let threads: Vec<_> = each
            .map(|asker| {
                let is_over = &is_over;
                scope.spawn(move || asker.from.inside(|| asker.ask(groups, is_over))?)
            })
            .collect();
        let happened = {
            // Told on a panic, too: the askers would never end.
            let _told = Told(&is_over);
            during()
        };
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(asked) => asked,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        (happened, joined.collect::<Result<Vec<_>>>())
    });
    let each = askers.iter().zip(asked?);
    let each = each.map(|(asker, asked)| (asker.name.clone(), asker.way, asked));
    let report = Report {
        began,
        askers: each.collect(),
    };
    Ok((report, happened?))
}

struct Told<'a>(&'a AtomicBool);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Asker<'_> {
    /// One thread, this one, which is in the namespace: every socket is made here.
    fn ask(&self, groups: &[Vec<Question>], is_over: &AtomicBool) -> Result<Vec<Asked>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let asked = runtime.block_on(self.ask_each(groups, is_over));
        asked.with_context(|| self.name.clone())
    }

    async fn ask_each(&self, groups: &[Vec<Question>], is_over: &AtomicBool) -> Result<Vec<Asked>> {
        ensure!(!groups.is_empty(), "no questions");
        let kept = match self.way {
            Way::UdpOnePort => Some(Arc::new(Port::open(self.server).await?)),
            _ => None,
        };
        let period = Duration::from_secs(1) / self.rate.max(1);
        let begun = Instant::now();
        let mut ticks = interval_at(begun + period, period);
        let mut tasks = tokio::task::JoinSet::new();
        let (mut due, mut id) = (0_usize, 0_u16);
        for group in groups.iter().cycle() {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            ticks.tick().await;
            due += group.len();
            let batch = Batch::new(group, &mut id)?;
            let (server, way, kept) = (self.server, self.way, kept.clone());
            tasks.spawn(async move {
                match (way, kept) {
                    (Way::Tcp, _) => batch.by_tcp(server).await,
                    (_, Some(port)) => batch.by(&port).await,
                    (_, None) => match Port::open(server).await {
                        Ok(port) => batch.by(&port).await,
                        Err(error) => batch.all_lost(&format!("{error:#}")),
                    },
                }
            });
        }
        // A clock that was late has caught up, or else too little was asked.
        let planned = begun.elapsed().as_secs_f64() * f64::from(self.rate);
        let ticked = tasks.len() as f64;
        ensure!(
            ticked >= planned * 0.9,
            "asked {ticked} times of {planned:.0}: too little to prove anything"
        );
        let asked: Vec<Asked> = tasks.join_all().await.into_iter().flatten().collect();
        ensure!(asked.len() == due, "{} of {due} are counted", asked.len());
        Ok(asked)
    }
}

/// Questions that are asked at once.
struct Batch {
    at: Instant,
    questions: Vec<(u16, Question, Vec<u8>)>,
}

impl Batch {
    fn new(group: &[Question], id: &mut u16) -> Result<Self> {
        let mut questions = Vec::new();
        for question in group {
            *id = id.wrapping_add(1);
            questions.push((*id, question.clone(), question.message(*id)?));
        }
        Ok(Self {
            at: Instant::now(),
            questions,
        })
    }

    fn all_lost(&self, why: &str) -> Vec<Asked> {
        let lost = self.questions.iter().map(|(_, question, _)| Asked {
            at: self.at,
            took: self.at.elapsed(),
            lost: Some(format!("{} {}: {why}", question.name, question.kind)),
        });
        lost.collect()
    }

    /// What became of each, given the answers by their ids.
    fn judged(&self, answers: &BTreeMap<u16, Vec<u8>>, why: &str) -> Vec<Asked> {
        let judged = self.questions.iter().map(|(id, question, _)| {
            let said = match answers.get(id) {
                Some(bytes) => question.judge(bytes).map_err(|error| format!("{error:#}")),
                None => Err(why.to_owned()),
            };
            let what = |why| format!("{} {}: {why}", question.name, question.kind);
            Asked {
                at: self.at,
                took: self.at.elapsed(),
                lost: said.err().map(what),
            }
        });
        judged.collect()
    }

    async fn by(&self, port: &Port) -> Vec<Asked> {
        let mut answers = port.wait_for(self.questions.iter().map(|(id, ..)| *id));
        let mut why = "no answer".to_owned();
        for (_, _, message) in &self.questions {
            if let Err(error) = port.socket.send(message).await {
                why = format!("no answer, after {error}");
            }
        }
        let mut got = BTreeMap::new();
        let all = async {
            while got.len() < self.questions.len() {
                let Some((id, bytes)) = answers.recv().await else {
                    break;
                };
                got.insert(id, bytes);
            }
        };
        let _ = timeout(PATIENCE, all).await;
        self.judged(&got, &why)
    }

    async fn by_tcp(&self, server: SocketAddr) -> Vec<Asked> {
        let mut got = BTreeMap::new();
        let outcome = timeout(PATIENCE, self.talk(server, &mut got)).await;
        let why = match outcome {
            Ok(Ok(())) => "no answer".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no answer in time".to_owned(),
        };
        self.judged(&got, &why)
    }

    /// Messages follow their lengths (RFC 1035 §4.2.2).
    async fn talk(&self, server: SocketAddr, got: &mut BTreeMap<u16, Vec<u8>>) -> Result<()> {
        let connect = timeout(CONNECT, TcpStream::connect(server)).await;
        let mut stream = connect.context("connect")?.context("connect")?;
        let mut words = Vec::new();
        for (_, _, message) in &self.questions {
            words.extend(u16::try_from(message.len())?.to_be_bytes());
            words.extend(message);
        }
        stream.write_all(&words).await?;
        while got.len() < self.questions.len() {
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await?;
            got.insert(id_of(&bytes).context("no message")?, bytes);
        }
        Ok(())
    }
}

fn id_of(bytes: &[u8]) -> Option<u16> {
    let (id, _) = bytes.split_first_chunk()?;
    Some(u16::from_be_bytes(*id))
}

type Waiting = Mutex<BTreeMap<u16, mpsc::Sender<(u16, Vec<u8>)>>>;

/// A UDP port: it hands each answer to who asked. Its reader ends with it.
struct Port {
    socket: Arc<UdpSocket>,
    waiting: Arc<Waiting>,
    reader: tokio::task::JoinHandle<()>,
}

impl Port {
    async fn open(server: SocketAddr) -> Result<Self> {
        let any = if server.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        let (socket, waiting) = (Arc::new(socket), Arc::<Waiting>::default());
        let reader = tokio::spawn(read(Arc::clone(&socket), Arc::clone(&waiting)));
        Ok(Self {
            socket,
            waiting,
            reader,
        })
    }

    fn wait_for(&self, ids: impl Iterator<Item = u16>) -> mpsc::Receiver<(u16, Vec<u8>)> {
        // One answer a question, and duplicates are nobody's.
        let (sender, answers) = mpsc::channel(2);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(ids.map(|id| (id, sender.clone())));
        answers
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(socket: Arc<UdpSocket>, waiting: Arc<Waiting>) {
    let mut buffer = vec![0; LONGEST];
    loop {
        // A refusal is told by an error, once: the next answer may be good.
        let Ok(length) = socket.recv(&mut buffer).await else {
            continue;
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        let Some(id) = id_of(bytes) else { continue };
        let asker = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        if let Some(asker) = asker {
            let _ = asker.send((id, bytes.to_owned())).await;
        }
    }
}

#[cfg(test)]
mod tests_of_answers {
    use domain::base::iana::Class;
    use domain::rdata::{A, Srv};

    use super::*;

    fn answer(id: u16, records: &[[u8; 4]]) -> Vec<u8> {
        let name: Name<Vec<u8>> = "web.shop.svc.cluster.local".parse().unwrap();
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(id);
        message.header_mut().set_qr(true);
        let mut question = message.question();
        question.push((&name, Rtype::A)).unwrap();
        let mut answer = question.answer();
        for address in records {
            let data = A::new((*address).into());
            answer.push((&name, Class::IN, 1, data)).unwrap();
        }
        answer.finish()
    }

    #[test]
    fn an_answer_is_one_only_with_the_very_records() {
        let wanted = ["10.96.0.7".to_owned()];
        let question = Question::new("web.shop.svc.cluster.local", "A", &wanted).unwrap();
        question.judge(&answer(1, &[[10, 96, 0, 7]])).unwrap();
        for wrong in [
            &[][..],
            &[[10, 96, 0, 8]],
            &[[10, 96, 0, 7], [10, 96, 0, 8]],
        ] {
            question.judge(&answer(1, wrong)).unwrap_err();
        }
        let asked = question.message(7).unwrap();
        assert_eq!(id_of(&asked), Some(7));
        question.judge(&asked).unwrap_err();
    }

    #[test]
    fn a_silence_lasts_as_long_as_one_loss_follows_another() {
        let start = Instant::now();
        let one = |milliseconds: u64, lost: bool| Asked {
            at: start + Duration::from_millis(milliseconds),
            took: Duration::ZERO,
            lost: lost.then(String::new),
        };
        let asked = [
            one(400, true),
            one(0, true),
            one(50, false),
            one(100, true),
            one(300, true),
            one(700, false),
        ];
        assert_eq!(silence(&asked), Duration::from_millis(300));
        assert_eq!(silence(&asked[5..]), Duration::ZERO);
    }

    #[test]
    fn services_records_are_compared_as_dig_writes_them() {
        let target: Name<Vec<u8>> = "web.shop".parse().unwrap();
        let data = Srv::new(0, 50, 80, target).to_string();
        assert_eq!(plain(&data), plain("0 50 80 web.shop."));
    }
}
