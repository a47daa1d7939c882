//! A control plane to play with: prints its kubeconfig's path and runs until its standard input ends.

use std::io::{Read as _, Write as _};

use cluster::{ControlPlane, Options};

fn main() -> std::io::Result<()> {
    let plane = ControlPlane::start(Options {
        controller_manager: true,
        scheduler: true,
        ..Options::default()
    });
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", plane.admin_kubeconfig().display())?;
    stdout.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
