//! Why a prefix goes where it goes: each path's verdict and the step at which it lost, each peer's reason.

use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::decision::{Candidate, Step, decide_with};
use super::engine::Rib;
use super::export::{ExportKey, Refusal, family};
use super::import::{Judge, Verdict};
use super::paths::{LOCAL, Path, mark};
use super::peers::Peer;
use super::transmit::candidate;
use super::views::PathView;

/// All there is to say of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The prefix.
    pub prefix: IpNet,
    /// Every path, the best one first.
    pub paths: Vec<PathExplanation>,
    /// Every peer, by name: whether it is sent the best path; nothing where no path is used.
    pub exports: Vec<Export>,
}

/// A path, and why it is or is not the best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathExplanation {
    /// The path.
    pub path: PathView,
    /// The import filter's rule that decided about it.
    pub rule: Option<String>,
    /// Where it lost; `None` for the best path, and for one that took no part.
    pub lost: Option<Loss>,
}

/// A step of the decision process that a path did not survive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The step.
    pub step: Step,
    /// The peer of the path that was better; `None`: originated here.
    pub to: Option<Arc<str>>,
    /// What the step compared of this path.
    pub value: String,
    /// And of the better one.
    pub better: String,
}

/// Whether a peer is sent the best path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The peer.
    pub peer: Arc<str>,
    /// Why not.
    pub refusal: Option<Refusal>,
    /// The export filter's rule that refused it.
    pub rule: Option<String>,
}

impl Rib {
    /// Why a prefix goes where it goes; without paths if it is unknown.
    pub fn explain(&mut self, prefix: IpNet) -> Explanation {
        self.settle_all();
        let prefix = prefix.trunc();
        let id = self.prefixes.find(&prefix);
        let paths = id.map_or(&[][..], |id| self.paths.of(id));
        let best = paths.iter().find(|path| path.is(mark::BEST));
        let mut explained: Vec<PathExplanation> = self.explain_paths(&prefix, paths);
        explained.sort_by_key(|explained| {
            let lost = explained
                .lost
                .as_ref()
                .map(|lost| std::cmp::Reverse(lost.step));
            (!explained.path.best, explained.path.verdict, lost)
        });
        let mut exports = Vec::new();
        if let Some(best) = best {
            let peers = self.peers.iter();
            exports
                .extend(peers.map(|(id, peer)| self.explain_export(id.index, peer, &prefix, best)));
        }
        exports.sort_by(|one: &Export, other| one.peer.cmp(&other.peer));
        Explanation {
            prefix,
            paths: explained,
            exports,
        }
    }

    fn explain_paths(&self, prefix: &IpNet, paths: &[Path]) -> Vec<PathExplanation> {
        let mut places = Vec::new();
        let mut candidates: SmallVec<[Candidate; 8]> = SmallVec::new();
        for (at, path) in paths.iter().enumerate() {
            if let Some(found) = candidate(&self.paths, &self.peers, &self.store, path) {
                places.push(at);
                candidates.push(found);
            }
        }
        let mut losses = Vec::new();
        let outcome = decide_with(&candidates, &mut |index, step| losses.push((index, step)));
        let loss = |at: usize| {
            let index = places.iter().position(|place| *place == at)?;
            let (_, step) = losses.iter().find(|(lost, _)| *lost == index)?;
            let best = outcome.as_ref()?.best;
            // At MED the better path is one of the same neighbour, which need not be the best of all.
            let to = candidates.get(index)?.beaten_at(*step, best, &candidates)?;
            let winner = paths.get(*places.get(to)?)?;
            Some(Loss {
                step: *step,
                to: self.name_of(winner),
                value: candidates.get(index)?.value_at(*step),
                better: candidates.get(to)?.value_at(*step),
            })
        };
        let explain = |(at, path): (usize, &Path)| PathExplanation {
            path: self.view(path),
            rule: self.import_rule(prefix, path),
            lost: loss(at),
        };
        paths.iter().enumerate().map(explain).collect()
    }

    fn name_of(&self, path: &Path) -> Option<Arc<str>> {
        let peer = self.peers.at(path.peer)?;
        Some(Arc::clone(&peer.policy.name))
    }

    fn import_rule(&self, prefix: &IpNet, path: &Path) -> Option<String> {
        if !matches!(
            Verdict::from_marks(path.marks),
            Verdict::Accepted | Verdict::Filtered
        ) {
            return None;
        }
        let peer = self.peers.at(path.peer)?;
        let judge = Judge {
            config: &self.config,
            info: peer.info.as_ref()?,
            policy: &peer.policy,
        };
        let received = self.store.decode(self.paths.content(path).received);
        let prepared = judge.prepared(&received, path.is(mark::LONG_LIVED));
        let judged = judge.judge(prefix, prepared.as_ref().unwrap_or(&received));
        Some(peer.policy.import.filters.name_of(judged.rule?).to_owned())
    }

    fn explain_export(&self, index: u16, peer: &Peer, prefix: &IpNet, best: &Path) -> Export {
        let refusal = self.refusal(index, peer, prefix, best);
        let rule = match refusal {
            Some(Refusal::Filter(rule)) => {
                Some(peer.policy.export.filters.name_of(rule).to_owned())
            }
            _ => None,
        };
        Export {
            peer: Arc::clone(&peer.policy.name),
            refusal,
            rule,
        }
    }

    fn refusal(&self, index: u16, peer: &Peer, prefix: &IpNet, best: &Path) -> Option<Refusal> {
        let Some(info) = peer.info.as_ref().filter(|_| peer.up) else {
            return Some(Refusal::Down);
        };
        if !info.context.families.contains(&family(prefix)) {
            return Some(Refusal::Family);
        }
        if best.peer == index {
            return Some(Refusal::FromThere);
        }
        if self.held && best.peer != LOCAL {
            return Some(Refusal::Held);
        }
        let key = ExportKey::new(
            &self.config,
            (index, info, &peer.policy),
            self.shutting_down,
        );
        let source = super::transmit::source(&self.peers, best.peer)?;
        let attributes = self.store.decode(self.paths.effective(best));
        key.exported(source, prefix, attributes).err()
    }
}
