//! Blocks over time, in virtual time.

use std::net::Ipv4Addr;

use api::crd::{AllowedUse, Encapsulation};
use api::resources::{IpPool, IpamBlock, Node};
use api::{Labels, Selector};

use super::super::pools::{View, plan};
use super::*;

const QUIET: Duration = Duration::from_secs(300);

/// A node, its pool, and what is claimed and held.
struct Lab {
    blocks: Blocks,
    node: Node,
    pool: IpPool,
    claimed: Vec<IpamBlock>,
    held: BTreeSet<IpAddr>,
    now: Instant,
}

impl Lab {
    fn new(block_size: u8) -> Self {
        let mut lab = Self {
            blocks: Blocks::new(QUIET),
            node: Node {
                name: "n1".to_owned(),
                labels: Labels::new(),
                internal_ips: Vec::new(),
                addresses: Vec::new(),
                pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
                as_number: None,
                router_id: None,
                cluster_id: None,
                bgp_drain: false,
                leaving: None,
            },
            pool: IpPool {
                name: "pods".to_owned(),
                cidr: "10.48.0.0/22".parse().unwrap(),
                block_size,
                encapsulation: Encapsulation::None,
                nat_outgoing: false,
                non_masquerade_cidrs: BTreeSet::new(),
                node_selector: Selector::all(),
                allowed_uses: [AllowedUse::Workload].into(),
                layer2: None,
                disabled: false,
            },
            claimed: Vec::new(),
            held: BTreeSet::new(),
            now: Instant::now(),
        };
        lab.look();
        lab
    }

    fn look(&mut self) -> Goal {
        let plan = plan(&View {
            node: &self.node,
            nodes: vec![&self.node],
            pools: vec![&self.pool],
            blocks: self.claimed.iter().collect(),
            reserved: Vec::new(),
        });
        self.blocks.set_plan(plan);
        self.look_again()
    }

    fn look_again(&mut self) -> Goal {
        let fill = |cidr: IpNet| {
            let hosts = 1_u128 << (32 - cidr.prefix_len());
            let held = self.held.iter().filter(|ip| cidr.contains(*ip)).count() as u128;
            Fill {
                cidr,
                free: hosts - held,
            }
        };
        let fills: Vec<Fill> = self.blocks.give().into_iter().map(fill).collect();
        self.blocks.update(self.now, &fills, &self.held);
        self.blocks.goal()
    }

    /// Carries the goal out.
    fn carry_out(&mut self) -> Goal {
        let goal = self.look();
        self.claimed
            .retain(|block| !goal.release.contains(&block.cidr));
        self.claimed.extend(goal.claim.iter().map(|cidr| IpamBlock {
            cidr: *cidr,
            node: "n1".to_owned(),
        }));
        self.look();
        goal
    }

    fn after(&mut self, time: Duration) -> Goal {
        self.now += time;
        self.look_again()
    }

    /// So many addresses are held, from the first block on.
    fn hold(&mut self, count: usize) {
        let blocks = self.claimed.iter().map(|block| block.cidr);
        let blocks: BTreeSet<IpNet> = blocks.collect();
        let addresses = blocks.iter().flat_map(|block| match block {
            IpNet::V4(block) => {
                let (first, last) = (u32::from(block.network()), u32::from(block.broadcast()));
                first..=last
            }
            IpNet::V6(_) => panic!("an IPv4 lab"),
        });
        let addresses = addresses.map(|bits| IpAddr::V4(Ipv4Addr::from(bits)));
        self.held = addresses.take(count).collect();
        assert_eq!(self.held.len(), count);
    }
}

#[test]
fn a_node_claims_one_block_at_once_and_a_further_one_before_it_runs_full() {
    let mut lab = Lab::new(26);
    assert_eq!(lab.carry_out().claim.len(), 1);
    assert_eq!(lab.look(), Goal::default());
    lab.hold(56);
    assert_eq!(lab.look(), Goal::default(), "8 are free");
    lab.hold(57);
    assert_eq!(lab.carry_out().claim.len(), 1);
    assert_eq!(lab.look(), Goal::default());
    assert_eq!(lab.blocks.give().len(), 2);
}

#[test]
fn an_empty_block_goes_after_the_quiet_time_but_never_the_last_one() {
    let mut lab = Lab::new(26);
    lab.carry_out();
    lab.hold(60);
    lab.carry_out();
    lab.hold(0);
    lab.look();
    let due = lab.blocks.poll_timeout().unwrap();
    assert_eq!(lab.after(QUIET - Duration::from_secs(1)), Goal::default());
    assert!(due <= lab.now + Duration::from_secs(1));
    let goal = lab.after(Duration::from_secs(1));
    assert_eq!(goal.release.len(), 1);
    assert_eq!(goal.claim.len(), 0);
    assert_eq!(
        lab.blocks.give().len(),
        1,
        "nothing is given of it any more"
    );
    assert!(!lab.blocks.own().contains(goal.release.first().unwrap()));
    lab.carry_out();
    assert_eq!(lab.claimed.len(), 1);
    assert_eq!(lab.after(10 * QUIET), Goal::default());
    assert_eq!(
        lab.blocks.poll_timeout(),
        None,
        "nothing to wait for: else the agent would spin"
    );
}

#[test]
fn a_block_in_use_stays_and_so_does_an_empty_one_that_is_needed_soon() {
    let mut lab = Lab::new(26);
    lab.carry_out();
    lab.hold(60);
    lab.carry_out();
    assert_eq!(
        lab.after(10 * QUIET),
        Goal::default(),
        "without it 4 would be free"
    );
    lab.hold(40);
    assert_eq!(lab.after(QUIET).release.len(), 1, "24 are left");
}

#[test]
fn a_pod_that_comes_in_time_keeps_its_block() {
    let mut lab = Lab::new(30);
    lab.carry_out();
    lab.hold(4);
    lab.carry_out();
    lab.hold(0);
    lab.after(Duration::from_secs(1));
    let all: Vec<IpNet> = lab.blocks.give();
    lab.after(QUIET - Duration::from_secs(2));
    lab.held = all.iter().map(IpNet::network).collect();
    assert_eq!(lab.after(Duration::from_secs(1)).release.len(), 0);
}

#[test]
fn blocks_of_a_disabled_pool_go_too_once_they_are_empty_and_no_other_comes() {
    let mut lab = Lab::new(26);
    lab.carry_out();
    lab.hold(3);
    lab.pool.disabled = true;
    assert_eq!(lab.carry_out(), Goal::default());
    assert_eq!(lab.after(QUIET), Goal::default(), "pods are in it");
    assert!(!lab.blocks.own().is_empty());
    lab.hold(0);
    lab.look();
    let goal = lab.after(QUIET);
    assert_eq!((goal.claim.len(), goal.release.len()), (0, 1));
}

#[test]
fn a_block_that_another_node_has_is_not_wanted_again_while_there_are_others() {
    let mut lab = Lab::new(26);
    let first = *lab.look().claim.first().unwrap();
    lab.blocks.handle_taken(first);
    let second = *lab.look().claim.first().unwrap();
    assert_ne!(first, second);
    for _ in 0..15 {
        let next = *lab.look().claim.first().unwrap();
        lab.blocks.handle_taken(next);
    }
    assert!(lab.look().claim.is_empty(), "all 16 are taken");
    assert!(!lab.look().claim.is_empty(), "one may be free again");
}

#[test]
fn what_a_pod_is_told_says_whether_a_block_is_coming() {
    let mut lab = Lab::new(26);
    let lacks = lab.blocks.lacks(&[]).unwrap();
    assert!(lacks.is_coming);
    assert_eq!(
        lacks.to_string(),
        "this node has no block of an IPPool with a free IPv4 address yet: it claims one"
    );
    assert_eq!(
        lab.blocks.lacks(&["10.48.0.9".parse().unwrap()]),
        None,
        "it asks for one by name"
    );
    lab.pool.disabled = true;
    lab.look();
    let lacks = lab.blocks.lacks(&[]).unwrap();
    assert!(!lacks.is_coming && lacks.to_string().contains("none is left to claim"));
    lab.pool.disabled = false;
    lab.carry_out();
    assert_eq!(lab.blocks.lacks(&[]), None);
}
