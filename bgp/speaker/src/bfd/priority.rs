//! The BFD thread ahead of others: real-time round robin, else a better nice value, else as it is.
#![expect(
    unsafe_code,
    reason = "no crate we have wraps sched_setscheduler(2) and setpriority(2) for one thread"
)]

use std::io;

use nix::errno::Errno;
use nix::libc;

/// Low among the real-time priorities: ahead of every ordinary thread, behind the kernel's own.
const REAL_TIME_PRIORITY: i32 = 10;
const NICE: i32 = -15;

/// Raises the calling thread's priority as far as is permitted; says how far in the log.
pub(super) fn raise() {
    let Err(real_time) = round_robin() else {
        return;
    };
    match nice() {
        Ok(()) => {
            tracing::info!("BFD without real-time scheduling ({real_time}), with nice {NICE}")
        }
        Err(nice) => tracing::warn!(
            "BFD runs at ordinary priority, so that a busy node may look dead to its peers: {real_time}; {nice}"
        ),
    }
}

/// What the kernel reads. A C library's type of that name may be longer, and musl's own function refuses.
#[repr(C)]
struct Parameters {
    sched_priority: libc::c_int,
}

fn round_robin() -> io::Result<()> {
    let parameters = Parameters {
        sched_priority: REAL_TIME_PRIORITY,
    };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `parameters` outlives the call, which only reads it; 0 is the calling thread.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            policy,
            &raw const parameters,
        )
    };
    Ok(Errno::result(answer).map(drop)?)
}

fn nice() -> io::Result<()> {
    // SAFETY: no pointers; 0 is the calling thread on Linux.
    let answer = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    Ok(Errno::result(answer).map(drop)?)
}
