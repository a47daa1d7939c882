//! A node to play with, and its ToR, with nothing running on it: prints the node's folder and runs until its standard input ends.

use std::io::{Read as _, Write as _};

use anyhow::Result;
use cluster::fabric::{Fabric, Link};
use cluster::host::Host;
use cluster::node::Node;
use cluster::{Scratch, leftovers};

fn main() -> Result<()> {
    let _host = Host::take()?;
    let scratch = Scratch::new(&leftovers::prefix()?)?;
    let fabric = Fabric::start(1)?;
    let netns = fabric.plug("n1", Link(1))?;
    let node = Node::start("n1", netns, scratch.path(), &[])?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", node.dir().display())?;
    stdout.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
