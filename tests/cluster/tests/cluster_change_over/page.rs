//! The commands of docs/from-kube-router.md, run as they stand there.

use std::path::Path;

use anyhow::{Context as _, Result};
use cluster::cluster::Cluster;
use tests::agent::binaries;

const PAGE: &str = include_str!("../../../../docs/from-kube-router.md");

/// A part of the section: what its paragraph begins with, and how many blocks it has.
#[derive(Clone, Copy)]
pub(crate) struct Part(&'static str, usize);

pub(crate) const BEFORE: Part = Part("**Before.**", 2);
pub(crate) const EACH: Part = Part("**Each node.**", 3);
pub(crate) const BACK: Part = Part("**Back again**", 1);

/// A block of commands.
pub(crate) struct Block {
    pub(crate) is_on_the_node: bool,
    script: &'static str,
}

impl Part {
    pub(crate) fn blocks(self) -> Vec<Block> {
        let (_, section) = PAGE.split_once("## The change-over, node by node").unwrap();
        let (_, part) = section.split_once(self.0).unwrap();
        // Up to the next paragraph that begins a part.
        let part = part.split("\n\n**").next().unwrap();
        let blocks: Vec<Block> = part.split("\n```sh").skip(1).map(block).collect();
        assert_eq!(blocks.len(), self.1, "{}", self.0);
        blocks
    }
}

fn block(text: &'static str) -> Block {
    let (kind, rest) = text.split_once('\n').unwrap();
    Block {
        is_on_the_node: match kind {
            "" => false,
            " on-the-node" => true,
            other => panic!("sh{other}"),
        },
        script: rest.split_once("\n```").unwrap().0,
    }
}

impl Block {
    /// Runs it, for a node.
    pub(crate) fn run(&self, cluster: &Cluster, work: &Path, node: &str) -> Result<String> {
        if self.is_on_the_node {
            let bash = ["120", "bash", "-euo", "pipefail", "-c", self.script];
            return cluster.on(node).run("timeout", &bash);
        }
        let path = binaries()?;
        let path = path.to_str().context("a path")?;
        let variables = [("NODE", node)];
        cluster
            .plane()
            .shell(work, self.script, &[path], &variables)
    }
}
