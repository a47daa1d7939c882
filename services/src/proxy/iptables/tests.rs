//! What the compiled chains do with a packet, against the rules' words; and that what is compiled hangs on what is alone.

mod beside_policy;
pub(crate) mod incremental;
pub(crate) mod interpreter;
pub(crate) mod reference;
mod shapes;
pub(crate) mod worlds;

use netfilter::{InterfaceName, Rule};

use super::*;
use crate::proxy::tests::World;

/// What starts the names of our pods' interfaces.
pub(super) fn options() -> Options {
    Options::new(InterfaceName::new("ptl").unwrap())
}

/// All of a world compiled at once.
pub(super) fn compiled(world: &World) -> Compiler {
    compiled_with(world, options())
}

/// The same by other options.
pub(super) fn compiled_with(world: &World, options: Options) -> Compiler {
    let mut compiler = Compiler::new(options);
    let all = world
        .model
        .services()
        .map(|(name, _)| name.clone())
        .collect();
    compiler.update(&world.model, &all);
    compiler
}

/// A chain as text.
pub(super) fn chain(compiler: &Compiler, family: Family, table: Table, name: &str) -> Vec<String> {
    let chains = &compiler.rules(family).tables[&table].chains;
    let found = chains.iter().find(|(chain, _)| chain.as_str() == name);
    let (_, rules) = found.unwrap_or_else(|| panic!("no chain {name} among {chains:?}"));
    rules.iter().map(Rule::render).collect()
}
