//! [`Server`]: another's program, in a process of its own.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::process::{Failure, cpu_time_of};

/// Servers of one system; they end with this.
pub(super) struct Servers(Vec<Server>);

/// A program that runs until this is dropped.
struct Server(Child);

impl Servers {
    /// Starts these commands. What they say is written into `dir`, one file for each.
    pub(super) fn start(
        commands: impl IntoIterator<Item = Command>,
        dir: &Path,
    ) -> Result<Servers, Failure> {
        let start = |(at, mut command): (usize, Command)| {
            let log = File::create_new(dir.join(format!("{}.log", at + 1)))?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            Ok::<_, Failure>(Server(command.spawn()?))
        };
        Ok(Servers(commands.into_iter().enumerate().map(start).collect::<Result<_, _>>()?))
    }

    /// CPU time of all of them.
    pub(super) fn cpu_time(&self) -> Result<Duration, Failure> {
        self.0.iter().map(|server| cpu_time_of(server.0.id())).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether there is such a program, by its version; a line for people where there is none.
pub(super) fn is_installed(program: &str, package: &str) -> bool {
    let version = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    match version {
        Ok(version) => {
            let said = String::from_utf8_lossy(&version.stdout);
            eprintln!("compare: {}", said.lines().next().unwrap_or(program));
            true
        }
        Err(error) => {
            eprintln!(
                "compare: {program} is left out ({error}): install it (Debian: `apt-get install \
                 {package}`), or choose others with --systems"
            );
            false
        }
    }
}
