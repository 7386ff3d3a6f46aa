//! [`Process`]: this program once more, as a process that obeys lines on its standard input.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What can go wrong in a measurement: it ends it, and is told.
pub(crate) type Failure = Box<dyn Error>;

/// What an answer begins with that tells why the question was not.
const FAILED: &str = "failed: ";

/// A node in a process of its own; it ends when its standard input is closed, or at the latest with
/// this.
pub(crate) struct Process {
    node: u64,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts it with these arguments. Its first answer says that it is ready.
    pub(crate) fn start(
        node: u64,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Process, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a node's process has no pipes".into());
        };
        Ok(Process { node, child, input, output: BufReader::new(output) })
    }

    /// Says a line, and returns what it answers.
    pub(crate) fn ask(&mut self, question: &str) -> Result<String, Failure> {
        writeln!(self.input, "{question}")?;
        self.answer()
    }

    /// The next line that it says.
    pub(crate) fn answer(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("node {} ended: see its words above", self.node).into());
        }
        match line.trim_end().strip_prefix(FAILED) {
            Some(why) => Err(format!("node {}: {why}", self.node).into()),
            None => Ok(line.trim_end().to_owned()),
        }
    }

    /// The same for an answer that the process gives.
    pub(crate) fn say(answer: Result<String, Failure>) {
        match answer {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("{FAILED}{error}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already. A suspended one can be killed too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
