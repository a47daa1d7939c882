//! One cluster after another over each other in one lab: installed by the difference, asked about everything, changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};
use netfilter::Effort;
use policy::{Evaluator, Index, Settings};

use crate::kernel::{BackEnd, Kernel, Meanwhile, output};
use crate::lab::Lab;
use crate::packet::Transport;
use crate::prober::{Probe, Prober};
use crate::questions::{expected, questions, transport_of};
use crate::random_number::Random;
use crate::shrink;
use crate::world::World;

/// How many changes of a cluster follow it.
const CHANGES: usize = 2;
/// How many flows of each kind are watched while rules are written.
const WATCHED: usize = 4;
/// Every so many clusters everything is read back.
const CHECKED: u64 = 10;

/// How many labs there are, so that each lab reads back now and then.
pub(crate) const LABS: u64 = 4;

/// What a lab has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) clusters: u64,
    pub(crate) changes: u64,
    pub(crate) policies: u64,
    pub(crate) cluster_policies: u64,
    /// Probes of pairs and ports, each compared with the evaluator.
    pub(crate) probes: u64,
    pub(crate) arrived: u64,
    pub(crate) denied: u64,
    /// Packets of flows that were watched while something was written.
    pub(crate) watched: u64,
    pub(crate) rules_written: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.clusters += other.clusters;
        self.changes += other.changes;
        self.policies += other.policies;
        self.cluster_policies += other.cluster_policies;
        self.probes += other.probes;
        self.arrived += other.arrived;
        self.denied += other.denied;
        self.watched += other.watched;
        self.rules_written += other.rules_written;
    }
}

/// A lab, what is in its kernel, and the cluster there is.
pub(crate) struct Trial {
    pub(crate) prober: Prober,
    pub(crate) kernel: Kernel,
    index: Index,
    effort: Effort,
    pub(crate) world: World,
    pub(crate) settings: Settings,
    pub(crate) tally: Tally,
}

impl Trial {
    pub(crate) fn new(
        tag: &str,
        processor: usize,
        back_end: BackEnd,
        settings: Settings,
    ) -> Result<Self> {
        Ok(Self {
            prober: Prober::new(Lab::new(tag, processor)?),
            kernel: Kernel::new(back_end),
            index: Index::with_settings(settings.clone()),
            effort: Effort::Exact,
            world: World::default(),
            settings,
            tally: Tally::default(),
        })
    }

    /// A cluster of its own, over whatever was there before, and a few changes of it.
    pub(crate) fn cluster(&mut self, seed: u64) -> Result<()> {
        let mut random = Random::new(seed);
        let world = World::random(&mut random);
        self.tally.clusters += 1;
        self.tally.policies += u64::try_from(world.objects.policies.len())?;
        self.tally.cluster_policies += u64::try_from(world.objects.cluster_policies.len())?;
        let mut efforts = [Effort::Additive, Effort::Exact]
            .into_iter()
            .cycle()
            .skip(usize::from(seed.is_multiple_of(2)));
        let mut effort = || efforts.next().expect("it goes round and round");
        let what = format!("seed {seed}");
        self.step(world, effort(), Watch::Nothing, &mut random, &what)?;
        for number in 1..=CHANGES {
            let mut world = self.world.clone();
            let what = format!(
                "seed {seed}, change {number}: {}",
                world.change(&mut random)
            );
            self.step(world, effort(), Watch::Flows, &mut random, &what)?;
            self.tally.changes += 1;
        }
        if seed % CHECKED < LABS {
            self.check()?;
        }
        Ok(())
    }

    /// Puts a cluster in place of the one there is, and asks about everything.
    pub(crate) fn step(
        &mut self,
        world: World,
        effort: Effort,
        watch: Watch,
        random: &mut Random,
        what: &str,
    ) -> Result<()> {
        let probes = questions(&world, random);
        let flows = match watch {
            Watch::Nothing => Vec::new(),
            Watch::Flows => self.steady_flows(&world, &probes, random),
        };
        self.replace(world, effort, flows, what)?;
        let answers = self.ask(&probes)?;
        let evaluator = Evaluator::new(&self.world.objects, &self.settings);
        let mut wrong = Vec::new();
        for (probe, arrived) in probes.iter().zip(&answers) {
            if *arrived != expected(&self.world, &evaluator, probe).arrives() {
                wrong.push(*probe);
            }
        }
        ensure!(
            answers.len() == probes.len(),
            "{} answers to {} probes",
            answers.len(),
            probes.len()
        );
        let arrived = u64::try_from(answers.iter().filter(|arrived| **arrived).count())?;
        let all = u64::try_from(probes.len())?;
        self.tally.probes += all;
        self.tally.arrived += arrived;
        self.tally.denied += all - arrived;
        let Some(first) = wrong.first() else {
            return Ok(());
        };
        let least = if std::env::var_os("PORTOLAN_POLICY_QUICK").is_some() {
            format!("{first:?}")
        } else {
            shrink::least(self, *first)?
        };
        bail!(
            "{what}: kernel and evaluator differ about {} of {all} probes\n{least}",
            wrong.len()
        );
    }

    /// Reads back what is in the kernel.
    pub(crate) fn check(&mut self) -> Result<()> {
        let compiled = self.index.compile();
        self.kernel.check(&compiled, self.effort)
    }

    /// Asks the kernel.
    pub(crate) fn ask(&mut self, probes: &[Probe]) -> Result<Vec<bool>> {
        // What was asked before must not answer for what is asked now.
        output("conntrack", &["-F"])?;
        self.prober.ask(probes)
    }

    /// Installs a cluster over the one there is, with an eye on flows that it must not touch.
    pub(crate) fn replace(
        &mut self,
        world: World,
        effort: Effort,
        flows: Vec<(Probe, bool)>,
        what: &str,
    ) -> Result<()> {
        if world.services != self.world.services {
            self.install_services(&world)?;
        }
        for change in world.changes_from(&self.world.objects) {
            self.index.handle(&change);
        }
        let endpoints = world.objects.endpoints.iter();
        let endpoints = endpoints.map(|(name, one)| (name.as_str().to_owned(), one.clone()));
        self.index.set_endpoints(endpoints.collect());
        ensure!(
            *self.index.objects() == world.objects,
            "the index holds other objects"
        );
        let compiled = self.index.compile();
        self.world = world;
        let before = self.kernel.rules_written;
        let mut watch = Watching::new(&mut self.prober, flows);
        self.kernel.install(&mut watch, &compiled, effort)?;
        self.effort = effort;
        self.tally.watched += watch.finish(what)?;
        self.tally.rules_written += u64::try_from(self.kernel.rules_written - before)?;
        Ok(())
    }

    /// Flows that are allowed before and after, and such as are denied by the same side before and after.
    fn steady_flows(
        &self,
        after: &World,
        probes: &[Probe],
        random: &mut Random,
    ) -> Vec<(Probe, bool)> {
        let old = Evaluator::new(&self.world.objects, &self.settings);
        let new = Evaluator::new(&after.objects, &self.settings);
        let (mut allowed, mut denied) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            let probe = probes[random.below(probes.len())];
            let (old, new) = (
                expected(&self.world, &old, &probe),
                expected(after, &new, &probe),
            );
            if old.arrives() && new.arrives() && allowed.len() < WATCHED {
                allowed.push((probe, true));
            }
            if (!old.leaves && !new.leaves || !old.enters && !new.enters) && denied.len() < WATCHED
            {
                denied.push((probe, false));
            }
        }
        allowed.into_iter().chain(denied).collect()
    }

    fn install_services(&mut self, world: &World) -> Result<()> {
        for is_ipv4 in [true, false] {
            let mut text = "*nat\n:PREROUTING ACCEPT [0:0]\n".to_owned();
            for service in world
                .services
                .iter()
                .filter(|one| one.address.is_ipv4() == is_ipv4)
            {
                let (address, port, target) = (service.address, service.port, service.target);
                let protocol = match transport_of(service.transport) {
                    Transport::Udp => "udp",
                    _ => "tcp",
                };
                let to = std::net::SocketAddr::new(target.0, target.1);
                writeln!(
                    text,
                    "-A PREROUTING -d {address} -p {protocol} -m {protocol} --dport {port} -j DNAT --to-destination {to}"
                )?;
            }
            text += "COMMIT\n";
            let program = self.kernel.back_end.program(is_ipv4, "-restore");
            self.kernel
                .run(&mut self.prober, &program, &["-w"], &text)?;
        }
        Ok(())
    }
}

/// What is looked at while something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    Nothing,
    Flows,
}

impl Meanwhile for Prober {
    fn lab(&mut self) -> &mut Lab {
        &mut self.lab
    }

    fn meanwhile(&mut self) -> Result<()> {
        std::thread::sleep(std::time::Duration::from_micros(300));
        Ok(())
    }
}

/// Sends the same flows' packets over and over, each a new connection.
struct Watching<'a> {
    prober: &'a mut Prober,
    flows: Vec<(Probe, bool)>,
    sent: Vec<(u32, usize)>,
}

impl<'a> Watching<'a> {
    fn new(prober: &'a mut Prober, flows: Vec<(Probe, bool)>) -> Self {
        Self {
            prober,
            flows,
            sent: Vec::new(),
        }
    }

    /// How many packets were sent; an error if one did not fare as all of its flow must.
    fn finish(self, what: &str) -> Result<u64> {
        if self.sent.is_empty() {
            return Ok(0);
        }
        let arrived = self.prober.settle()?;
        let mut wrong = BTreeSet::new();
        for (number, flow) in &self.sent {
            if arrived.contains(number) != self.flows[*flow].1 {
                wrong.insert(*flow);
            }
        }
        if let Some(first) = wrong.first() {
            let (probe, allowed) = self.flows[*first];
            let of_it: Vec<bool> = self
                .sent
                .iter()
                .filter(|(_, flow)| flow == first)
                .map(|(number, _)| arrived.contains(number))
                .collect();
            let word = if allowed { "lost" } else { "let through" };
            let amiss = of_it.iter().filter(|arrived| **arrived != allowed).count();
            bail!(
                "{what}: {amiss} of {} packets {word} while it was installed: {probe:?}",
                of_it.len()
            );
        }
        Ok(u64::try_from(self.sent.len())?)
    }
}

impl Meanwhile for Watching<'_> {
    fn lab(&mut self) -> &mut Lab {
        &mut self.prober.lab
    }

    fn meanwhile(&mut self) -> Result<()> {
        if self.flows.is_empty() {
            return self.prober.meanwhile();
        }
        for (index, (probe, _)) in self.flows.iter().enumerate() {
            self.sent.push((self.prober.send(probe)?, index));
        }
        self.prober.drain()
    }
}
