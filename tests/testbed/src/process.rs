//! Ends a child process by its id, politely first.

use std::process::Child;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::raw::wait_for;

/// Sends SIGTERM and, if the process is still there after `limit`, SIGKILL.
pub fn terminate(child: &mut Child, limit: Duration) {
    if let Ok(pid) = i32::try_from(child.id())
        && matches!(child.try_wait(), Ok(None))
    {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if wait_for(limit, || child.try_wait().ok().flatten()).is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
}
