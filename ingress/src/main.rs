//! `portolan-ingress`: reads its flags and serves.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use ingress::config::Args;
use ingress::kubernetes;
use ingress::run::run;
use ingress::source::Source;
use ingress::source::directory::Directory;
use mimalloc::MiMalloc;
use tracing_subscriber::EnvFilter;

/// A request takes sixteen pieces of memory, two of them of 8 KiB to read into: glibc's are no smaller part of what it costs
/// than all that is done with it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "portolan-ingress: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_new(&args.log).context("--log")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if let Some(folder) = args.manifests.clone() {
            let source = Source::Directory(Directory::new(folder));
            return run(args, source, None).await;
        }
        let (watches, duties) = kubernetes::start(&args.kubernetes()?).await?;
        let source = Source::Kubernetes(watches);
        let outcome = run(args, source, Some(duties.verdicts())).await;
        duties.stop().await;
        outcome
    })
}
