//! From what changed to messages: what each group is to be told now, grouped by attributes and packed when there is room.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use ipnet::IpNet;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::decision::{Candidate, best_of};
use super::export::{ExportKey, Refusal, Source, family};
use super::groups::{Audience, Chunk, Group, Route, Routes};
use super::members::{Dump, FAMILIES, Member, Position, slot};
use super::paths::{LOCAL, Path, Paths, mark};
use super::peers::Peers;
use super::prefixes::Prefixes;
use super::store::{AttributeStore, AttributesId};
use crate::wire::{
    Family, Message, Nlri, PathAttributes, RefreshKind, RouteRefresh, WireContext,
    encode_end_of_rib, encode_updates, encode_withdrawals,
};

/// The most prefixes that are looked at for one chunk.
const MOST_PREFIXES: usize = 16 * 1024;
/// The fewest, so that a small budget does not make small messages.
const FEWEST_PREFIXES: usize = 64;

/// The tables as the sending side reads them.
pub(super) struct Tables<'a> {
    pub(super) prefixes: &'a Prefixes,
    pub(super) paths: &'a Paths,
    pub(super) peers: &'a Peers,
    pub(super) store: &'a mut AttributeStore,
    /// Learned routes that were not sent yet are held back.
    pub(super) held: bool,
    /// Nothing is left to be decided, so that what is sent now is all there is.
    pub(super) settled: bool,
}

impl Tables<'_> {
    /// The paths of a prefix that a group would be told if its rules let them all through.
    fn candidates(&self, key: &ExportKey, id: u32, prefix: &IpNet) -> Routes {
        let paths = self.paths.of(id);
        let several = key.context.add_path_send.contains(&family(prefix));
        let route = |path: &Path| Route {
            attributes: self.paths.effective(path),
            source: path.peer,
            path_id: if several { u32::from(path.out_id) } else { 0 },
        };
        let count = key.paths(family(prefix));
        if count == 1 {
            let best = paths.iter().find(|path| path.is(mark::BEST));
            return best
                .map(route)
                .filter(|route| key.alone != Some(route.source))
                .into_iter()
                .collect();
        }
        let usable: SmallVec<[(&Path, Candidate); 4]> = paths
            .iter()
            .filter(|path| key.alone != Some(path.peer))
            .filter_map(|path| Some((path, candidate(self.paths, self.peers, self.store, path)?)))
            .collect();
        let candidates: SmallVec<[Candidate; 4]> = usable.iter().map(|(_, c)| *c).collect();
        best_of(&candidates, count)
            .into_iter()
            .filter_map(|at| usable.get(at))
            .map(|(path, _)| route(path))
            .collect()
    }
}

/// Where the paths of the peer in a slot come from.
pub(super) fn source(peers: &Peers, index: u16) -> Option<Source> {
    if index == LOCAL {
        return Some(Source::Local);
    }
    let peer = peers.at(index)?;
    let info = peer.info.as_ref()?;
    Some(Source::Peer {
        external: info.external,
        client: peer.policy.route_reflector_client,
        router_id: info.router_id,
    })
}

/// A path as the decision sees it, if it can be used.
pub(super) fn candidate(
    paths: &Paths,
    peers: &Peers,
    store: &AttributeStore,
    path: &Path,
) -> Option<Candidate> {
    if path.marks & mark::VERDICT != 0 {
        return None;
    }
    let attributes = paths.effective(path);
    if path.peer == LOCAL {
        return Some(Candidate::local_with_key(store.key(attributes)));
    }
    let cost = store.next_hop(attributes)?.cost?;
    let info = peers.at(path.peer)?.info.as_ref()?;
    let path_id = paths.content(path).path_id;
    Some(Candidate::with_key(
        store.key(attributes),
        (info.external, cost),
        info.router_id,
        info.address,
        path_id,
    ))
}

/// What a group's rules make of paths, each asked once.
#[derive(Default)]
pub(super) struct Exports {
    answers: Vec<Result<Arc<PathAttributes>, Refusal>>,
    by_path: HashMap<Question, usize, FxBuildHasher>,
    last: Option<(Question, usize)>,
}

/// Attributes, source, and whether the prefix is IPv6: families differ in next hops, and in whether they are spoken.
type Question = (AttributesId, u16, bool);

impl Exports {
    /// The place of the answer for a path.
    pub(super) fn ask(
        &mut self,
        key: &ExportKey,
        tables: &Tables<'_>,
        prefix: &IpNet,
        route: &Route,
    ) -> usize {
        let six = matches!(prefix, IpNet::V6(_));
        let question = (route.attributes, route.source, six);
        let blind = key.is_blind_to_prefixes();
        if let Some((asked, at)) = self.last
            && asked == question
            && blind
        {
            return at;
        }
        if blind && let Some(at) = self.by_path.get(&question) {
            self.last = Some((question, *at));
            return *at;
        }
        let answer = match source(tables.peers, route.source) {
            None => Err(Refusal::Down),
            Some(source) => {
                let attributes = tables.store.decode(route.attributes);
                key.exported(source, prefix, attributes).map(Arc::new)
            }
        };
        if let Some((asked, at)) = self.last
            && asked == question
            && self.answers.get(at) == Some(&answer)
        {
            return at;
        }
        self.answers.push(answer);
        let at = self.answers.len() - 1;
        self.last = Some((question, at));
        if blind {
            self.by_path.insert(question, at);
        }
        at
    }

    pub(super) fn answer(&self, at: usize) -> Option<&Arc<PathAttributes>> {
        self.answers.get(at)?.as_ref().ok()
    }
}

/// What is to be said, before it is put into messages.
#[derive(Default)]
struct Batch {
    exports: Exports,
    /// Source, place of the answer, prefix.
    announced: Vec<(u16, u32, Nlri)>,
    withdrawn: Vec<(Audience, Nlri)>,
    /// About how many octets that makes, and not many fewer than it will.
    octets: usize,
}

/// An UPDATE without attributes and prefixes, and what an attribute set costs at least.
const MESSAGE_OCTETS: usize = 64;
/// The longest prefix on the wire, with a Path Identifier.
const PREFIX_OCTETS: usize = 4 + 1 + 16;

impl Batch {
    fn announce(&mut self, prefix: IpNet, route: &Route, export: usize) {
        let path_id = route.path_id;
        let same = |last: &(u16, u32, Nlri)| (last.0, last.1 as usize) == (route.source, export);
        if !self.announced.last().is_some_and(same) {
            let attributes = self.exports.answer(export);
            self.octets += MESSAGE_OCTETS + attributes.map_or(0, |held| octets_of(held));
        }
        self.octets += PREFIX_OCTETS.min(5 + usize::from(prefix.prefix_len()).div_ceil(8));
        let export = u32::try_from(export).unwrap_or(u32::MAX);
        self.announced
            .push((route.source, export, Nlri { prefix, path_id }));
    }

    fn withdraw(&mut self, audience: Audience, prefix: IpNet, path_id: u32) {
        self.octets += PREFIX_OCTETS;
        self.withdrawn.push((audience, Nlri { prefix, path_id }));
    }

    /// Everything as messages.
    fn encode(mut self, key: &ExportKey) -> Chunk {
        let context = &key.context;
        let mut writer = Writer::default();
        // With ADD-PATH a new path comes before the old one goes; else the order means nothing, as the prefixes differ.
        if key.alone.is_none() {
            self.write_withdrawals(context, &mut writer);
        }
        // Mostly in order already, as they came: equal attributes one after the other.
        self.announced
            .sort_by_key(|(source, export, _)| (*source, *export));
        let mut prefixes: Vec<Nlri> = Vec::new();
        for run in self
            .announced
            .chunk_by(|one, other| (one.0, one.1) == (other.0, other.1))
        {
            let Some((source, export, _)) = run.first() else {
                continue;
            };
            if let Some(attributes) = self.exports.answer(*export as usize) {
                prefixes.clear();
                prefixes.extend(run.iter().map(|(_, _, nlri)| *nlri));
                encode_updates(attributes, &prefixes, context, &mut writer.out);
                writer.end_run(Audience::AllBut(*source));
            }
        }
        if key.alone.is_some() {
            self.write_withdrawals(context, &mut writer);
        }
        Chunk {
            octets: writer.out.freeze(),
            runs: writer.runs,
            ids: Vec::new(),
        }
    }

    fn write_withdrawals(&mut self, context: &WireContext, writer: &mut Writer) {
        let order = |audience: &Audience| match audience {
            Audience::AllBut(index) => (0, *index),
            Audience::Only(index) => (1, *index),
        };
        self.withdrawn.sort_by_key(|(audience, _)| order(audience));
        for run in self.withdrawn.chunk_by(|one, other| one.0 == other.0) {
            let prefixes: Vec<Nlri> = run.iter().map(|(_, nlri)| *nlri).collect();
            encode_withdrawals(&prefixes, context, &mut writer.out);
            if let Some((audience, _)) = run.first() {
                writer.end_run(*audience);
            }
        }
    }
}

/// About how many octets the parts of variable length take.
fn octets_of(attributes: &PathAttributes) -> usize {
    let path = attributes.as_path.iter();
    let path: usize = path.map(|segment| 2 + 4 * segment.asns.len()).sum();
    let unknown = attributes.unknown.iter();
    let unknown: usize = unknown.map(|one| 4 + one.value.len()).sum();
    path + unknown
        + 4 * (attributes.communities.len() + attributes.cluster_list.len())
        + 8 * attributes.extended_communities.len()
        + 12 * attributes.large_communities.len()
}

#[derive(Default)]
struct Writer {
    out: BytesMut,
    runs: SmallVec<[(Audience, usize); 2]>,
}

impl Writer {
    fn end_run(&mut self, audience: Audience) {
        let end = self.out.len();
        match self.runs.last_mut() {
            Some((last, end_of_last)) if *last == audience => *end_of_last = end,
            _ => self.runs.push((audience, end)),
        }
    }
}

impl Group {
    /// Messages for a member, about `budget` octets of them; `None`: nothing is due.
    pub(super) fn poll(
        &mut self,
        tables: &mut Tables<'_>,
        index: u16,
        budget: usize,
    ) -> Option<Bytes> {
        loop {
            let member = self.members.get(&index)?;
            if matches!(member.position, Position::Behind(_)) {
                let octets = self.catch_up(tables, index, budget);
                if !octets.is_empty() {
                    return Some(octets);
                }
            } else if let Some(octets) = self.read(index) {
                return Some(octets);
            } else if !self.pending.is_empty() || self.scan.is_some() {
                self.advance(tables, budget);
            } else {
                let octets = self.ends_of_rib(tables, index);
                if !octets.is_empty() {
                    return Some(octets);
                }
                if !self.begin_refresh(index) {
                    return None;
                }
            }
        }
    }

    /// Brings all that the group was told up to date, as if every member had asked.
    pub(super) fn bring_up_to_date(&mut self, tables: &mut Tables<'_>) {
        while !self.pending.is_empty() || self.scan.is_some() {
            self.advance(tables, usize::MAX);
        }
    }

    /// Brings what the group was told up to date for some prefixes, and says so in the stream.
    fn advance(&mut self, tables: &mut Tables<'_>, budget: usize) {
        let wanted = self.prefixes_in(budget);
        let mut batch = Batch::default();
        let mut changed = Vec::new();
        let mut seen = 0;
        while seen < wanted && batch.octets < budget {
            let next = self.pending.pop().or_else(|| self.next_scanned(tables));
            let Some(id) = next else { break };
            seen += 1;
            if self.update(tables, id, &mut batch) {
                changed.push(id);
            }
        }
        let mut chunk = batch.encode(&self.key);
        if !changed.is_empty() {
            self.octets_per_prefix = (chunk.octets.len() / changed.len()).max(1);
        }
        let is_behind = |member: &Member| matches!(member.position, Position::Behind(_));
        if self.members.values().any(is_behind) {
            for id in &changed {
                let v4 = tables.prefixes.is_of(*id, Family::IPV4_UNICAST);
                self.note(
                    *id,
                    if v4 {
                        Family::IPV4_UNICAST
                    } else {
                        Family::IPV6_UNICAST
                    },
                );
            }
        }
        chunk.ids = changed;
        self.push(chunk);
    }

    fn next_scanned(&mut self, tables: &Tables<'_>) -> Option<u32> {
        let next = self.scan?;
        let end = tables.prefixes.end();
        let found = (next..end).find(|id| !tables.paths.of(*id).is_empty());
        self.scan = found.map(|id| id + 1);
        found
    }

    /// Compares what the group was told of a prefix with what it should be; whether that differs.
    fn update(&mut self, tables: &mut Tables<'_>, id: u32, batch: &mut Batch) -> bool {
        let Some(prefix) = tables.prefixes.get(id) else {
            return false;
        };
        let forced = self.forced.contains(id);
        if forced {
            self.forced.remove(id);
        }
        let told = self.told.get(id);
        let mut now = tables.candidates(&self.key, id, &prefix);
        if !forced && now == told {
            return false;
        }
        if tables.held && told.is_empty() {
            now.retain(|route| route.source == LOCAL);
        }
        let known = |route: &Route| !forced && told.contains(route);
        let mut exports: SmallVec<[usize; 1]> = SmallVec::new();
        now.retain(|route| {
            if known(route) {
                exports.push(usize::MAX);
                return true;
            }
            let export = batch.exports.ask(&self.key, tables, &prefix, route);
            let goes = batch.exports.answer(export).is_some();
            if goes {
                exports.push(export);
            }
            goes
        });
        for (route, export) in now.iter().zip(&exports) {
            if *export != usize::MAX {
                batch.announce(prefix, route, *export);
            }
        }
        if self.key.alone.is_some() {
            for old in &told {
                if now.iter().all(|route| route.path_id != old.path_id) {
                    batch.withdraw(Audience::AllBut(LOCAL), prefix, old.path_id);
                }
            }
        } else if let Some(old) = told.first() {
            match now.first() {
                None => batch.withdraw(Audience::AllBut(old.source), prefix, 0),
                Some(new) if new.source != old.source && new.source != LOCAL => {
                    batch.withdraw(Audience::Only(new.source), prefix, 0);
                }
                Some(_) => {}
            }
        }
        if now == told {
            return forced;
        }
        self.tell(tables.store, id, &now);
        true
    }

    /// The next messages for a member that is told on its own; once there are none it goes with the others.
    fn catch_up(&mut self, tables: &mut Tables<'_>, index: u16, budget: usize) -> Bytes {
        let wanted = self.prefixes_in(budget);
        let Some(member) = self.members.get_mut(&index) else {
            return Bytes::new();
        };
        let enhanced = member.enhanced_refresh;
        let Position::Behind(behind) = &mut member.position else {
            return Bytes::new();
        };
        let mut batch = Batch::default();
        let mut seen = 0;
        while seen < wanted
            && batch.octets < budget
            && let Some(id) = behind.queue.pop()
        {
            seen += 1;
            retell(&self.told, &self.key, tables, (index, id), &mut batch, true);
        }
        let mut out = BytesMut::new();
        let mut done = behind.queue.is_empty();
        if let Some(dump) = behind.dump.as_mut().filter(|_| done) {
            if !dump.begun && enhanced {
                mark_refresh(dump, RefreshKind::Begin, &self.key.context, &mut out);
            }
            dump.begun = true;
            let end = tables.prefixes.end();
            while seen < wanted && batch.octets < budget && dump.next < end {
                let id = dump.next;
                dump.next += 1;
                if dump.refresh.is_none_or(|of| tables.prefixes.is_of(id, of)) {
                    let told = retell(
                        &self.told,
                        &self.key,
                        tables,
                        (index, id),
                        &mut batch,
                        false,
                    );
                    seen += usize::from(told);
                }
            }
            done = dump.next >= end;
        }
        out.extend_from_slice(&batch.encode(&self.key).octets);
        if done {
            if let Some(dump) = behind.dump.as_ref().filter(|_| enhanced) {
                mark_refresh(dump, RefreshKind::End, &self.key.context, &mut out);
            }
            let end = self.end();
            if let Some(member) = self.members.get_mut(&index) {
                member.position = end;
            }
        }
        out.freeze()
    }

    /// End-of-RIB of what is due, now that nothing is left to be said (RFC 4724 §2).
    fn ends_of_rib(&mut self, tables: &Tables<'_>, index: u16) -> Bytes {
        let mut out = BytesMut::new();
        if tables.held || !tables.settled {
            return out.freeze();
        }
        if let Some(member) = self.members.get_mut(&index) {
            for (family, owes) in FAMILIES.into_iter().zip(&mut member.owes_end) {
                if std::mem::take(owes) {
                    encode_end_of_rib(family, &self.key.context, &mut out);
                }
            }
        }
        out.freeze()
    }

    /// Starts the answer to a ROUTE-REFRESH; not before End-of-RIB of the family (RFC 7313 §4).
    fn begin_refresh(&mut self, index: u16) -> bool {
        let Some(member) = self.members.get_mut(&index) else {
            return false;
        };
        let due = |family: &Family| {
            let at = slot(*family);
            member.asked.get(at) == Some(&true) && member.owes_end.get(at) == Some(&false)
        };
        let Some(family) = FAMILIES.into_iter().find(due) else {
            return false;
        };
        if let Some(asked) = member.asked.get_mut(slot(family)) {
            *asked = false;
        }
        self.detach(index);
        if let Some(member) = self.members.get_mut(&index)
            && let Position::Behind(behind) = &mut member.position
        {
            behind.dump = Some(Dump {
                next: 0,
                refresh: Some(family),
                begun: false,
            });
        }
        true
    }

    /// How many prefixes make about `budget` octets.
    fn prefixes_in(&self, budget: usize) -> usize {
        (budget / self.octets_per_prefix).clamp(FEWEST_PREFIXES, MOST_PREFIXES)
    }
}

/// Says again to one member what the group was told of a prefix; whether there is anything. With `withdraw` also that
/// there is nothing.
fn retell(
    told: &super::groups::Told,
    key: &ExportKey,
    tables: &Tables<'_>,
    (index, id): (u16, u32),
    batch: &mut Batch,
    withdraw: bool,
) -> bool {
    let Some(prefix) = tables.prefixes.get(id) else {
        return false;
    };
    let mut any = false;
    for route in told.get(id).iter().filter(|route| route.source != index) {
        let export = batch.exports.ask(key, tables, &prefix, route);
        batch.announce(prefix, route, export);
        any = true;
    }
    if !any && withdraw {
        batch.withdraw(Audience::Only(index), prefix, 0);
    }
    any
}

fn mark_refresh(dump: &Dump, kind: RefreshKind, context: &WireContext, out: &mut BytesMut) {
    if let Some(family) = dump.refresh {
        Message::RouteRefresh(RouteRefresh { family, kind }).encode(context, out);
    }
}
