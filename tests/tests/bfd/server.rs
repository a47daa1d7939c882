//! BFD as a process of its own: agents come and go by its socket, and its sessions don't notice.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use bgp_speaker::bfd::connect;
use bgp_speaker::bfd::server::run_server;
use tokio::sync::oneshot;

use super::*;

/// A server on a thread of its own, in place of the process.
struct Server {
    dir: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Server {
    fn start(netns: &Netns) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bfd.sock");
        let (stop, stopped) = oneshot::channel();
        let netns = netns.path();
        let thread = std::thread::spawn(move || serve(&netns, &socket, stopped));
        let server = Self {
            dir,
            stop: Some(stop),
            thread: Some(thread),
        };
        eventually(DEADLINE, "the socket", || {
            connect(&server.socket()).map(drop)
        })
        .unwrap();
        server
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("bfd.sock")
    }

    fn agent(&self) -> Ours {
        let (handle, events) = connect(&self.socket()).unwrap();
        Ours { handle, events }
    }

    /// A planned stop.
    fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap();
        assert!(!self.socket().exists());
    }
}

fn serve(netns: &Path, socket: &Path, stopped: oneshot::Receiver<()>) -> std::io::Result<()> {
    let file = std::fs::File::open(netns)?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run_server(socket, BfdSettings::default(), async {
        let _ = stopped.await;
    }))
}

#[test]
fn sessions_outlive_the_agent_with_c_set_and_the_next_agent_adopts_them() {
    require_root!();
    let lab = Lab::new("bfdo");
    let (near, far) = (Server::start(&lab.node), Server::start(&lab.tor));
    let mode = std::fs::metadata(near.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let to_tor = || peer(TOR, timers(50, 50, 3));
    let (mut agent, mut theirs) = (near.agent(), far.agent());
    agent.configure(to_tor());
    theirs.configure(peer(NODE, timers(50, 50, 3)));
    agent.expect_up(String::new);
    theirs.expect_up(String::new);
    agent.settled(millis(150));
    let before = agent.status();
    assert!(before.session.control_plane_independent);

    drop(agent);
    std::thread::sleep(millis(700));
    assert_eq!(theirs.status().session.state, SessionState::Up);

    let mut agent = near.agent();
    agent.expect_up(String::new);
    let after = agent.status();
    assert_eq!(
        after.session.local_discriminator,
        before.session.local_discriminator
    );
    assert!(after.received > before.received + 5, "{before:?} {after:?}");
    agent.configure(to_tor());
    assert!(
        !agent.status().session.polling,
        "the same set changes nothing"
    );

    lab.cut();
    let (_, event) = agent.next().unwrap();
    let BfdEvent::Down {
        control_plane_independent: true,
        remote_admin_down: false,
        ..
    } = event
    else {
        panic!("{event:?}");
    };
    lab.heal();
    agent.expect_up(String::new);
}

#[test]
fn with_frr_the_server_comes_up_and_a_planned_stop_says_admin_down() {
    require_root!();
    let lab = Lab::new("bfdg");
    let frr = frr(&lab, FRR_PEER);
    let server = Server::start(&lab.node);
    let mut agent = server.agent();
    agent.configure(peer(TOR, timers(50, 50, 3)));
    agent.expect_up(|| frr.log_end());
    server.stop();
    frr_is(&frr, "status", &"down".into());
    frr_is(&frr, "remote-diagnostic", &"administratively down".into());
    assert!(agent.handle.status().is_err(), "the server is gone");
    eventually(DEADLINE, "the end of events", || {
        match agent.events.try_recv() {
            Err(mpsc::error::TryRecvError::Disconnected) => Ok(()),
            other => Err(anyhow!("{other:?}")),
        }
    })
    .unwrap();
}

#[test]
fn admin_down_by_an_agent_holds_until_another_agent_configures() {
    require_root!();
    let lab = Lab::new("bfdh");
    let server = Server::start(&lab.node);
    let mut theirs = Ours::start(
        &lab.tor,
        BfdSettings::default(),
        peer(NODE, timers(50, 50, 3)),
    );
    let mut first = server.agent();
    first.configure(peer(TOR, timers(50, 50, 3)));
    first.expect_up(String::new);
    theirs.expect_up(String::new);
    first.handle.admin_down_all().unwrap();
    theirs.expect_down(Diagnostic::NeighborSignaledSessionDown, true);
    first.configure(peer(TOR, timers(50, 50, 3)));
    assert_eq!(first.status().session.state, SessionState::AdminDown);
    let mut second = server.agent();
    assert_eq!(second.status().session.state, SessionState::AdminDown);
    assert!(
        first.handle.status().is_err(),
        "the last to come is the one served"
    );
    second
        .handle
        .configure(named_tor(peer(TOR, timers(50, 50, 3))))
        .unwrap();
    second.expect_up(String::new);
    theirs.expect_up(String::new);
}

#[test]
fn a_second_server_on_the_same_socket_is_refused() {
    require_root!();
    let lab = Lab::new("bfdi");
    let server = Server::start(&lab.node);
    let agent = server.agent();
    let (_stop, stopped) = oneshot::channel();
    let (netns, socket) = (lab.node.path(), server.socket());
    let second = std::thread::spawn(move || serve(&netns, &socket, stopped));
    let error = second.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    agent.handle.status().unwrap();
}
