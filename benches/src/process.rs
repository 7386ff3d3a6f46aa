//! [`Process`]: this program once more, as a process that obeys lines on its standard input.

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// What can go wrong in a measurement: it ends it, and is told.
pub(crate) type Failure = Box<dyn Error>;

/// What an answer begins with that tells why the question was not.
const FAILED: &str = "failed: ";

/// Longest wait for an answer, unless it is said otherwise: no measurement takes as long.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// Answers that may wait to be taken; beyond that the process waits as it says them.
const ANSWERS_MAX: usize = 64;

/// Clock ticks of a second in /proc, the same on every machine that this runs on.
const USER_HZ: u64 = 100;

/// A node in a process of its own; it ends when its standard input is closed, or at the latest with
/// this.
pub(crate) struct Process {
    node: u64,
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    /// Answers that have not been taken, the one at the beginning among them.
    owed: u32,
    patience: Duration,
}

impl Process {
    /// Starts it with these arguments. Its first answer says that it is ready.
    pub(crate) fn start(
        node: u64,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Process, Failure> {
        let mut command = Process::command()?;
        command.args(args);
        Process::spawn(node, command)
    }

    /// This program once more, without arguments.
    pub(crate) fn command() -> Result<Command, Failure> {
        Ok(Command::new(std::env::current_exe()?))
    }

    /// Starts it as it is told to. As [`Process::start`].
    pub(crate) fn spawn(node: u64, mut command: Command) -> Result<Process, Failure> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a node's process has no pipes".into());
        };
        // Read by a thread of its own, which ends with the process: only so can be waited for a line
        // for a time.
        let (said, answers) = sync_channel(ANSWERS_MAX);
        std::thread::Builder::new().name(format!("answers-{node}")).spawn(move || {
            let lines = BufReader::new(output).lines();
            lines.map_while(Result::ok).try_for_each(|line| said.send(line))
        })?;
        Ok(Process { node, child, input, answers, owed: 1, patience: PATIENCE })
    }

    /// The same, and an answer that takes longer than this is an error.
    pub(crate) fn answering_within(mut self, patience: Duration) -> Process {
        self.patience = patience;
        self
    }

    /// Says a line, and returns what it answers. Answers to what it was told before are passed over.
    pub(crate) fn ask(&mut self, question: &str) -> Result<String, Failure> {
        self.tell(question)?;
        while self.owed > 1 {
            self.answer()?;
        }
        self.answer()
    }

    /// Says a line, and does not wait for the answer.
    pub(crate) fn tell(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.input, "{line}")?;
        self.owed += 1;
        Ok(())
    }

    /// The next line that it says.
    pub(crate) fn answer(&mut self) -> Result<String, Failure> {
        match self.answers.recv_timeout(self.patience) {
            Ok(line) => self.take(&line),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("node {} did not answer within {:?}", self.node, self.patience).into())
            }
        }
    }

    /// Whether it has answered everything by now.
    pub(crate) fn has_answered(&mut self) -> Result<bool, Failure> {
        loop {
            match self.answers.try_recv() {
                Ok(line) => self.take(&line).map(drop)?,
                Err(TryRecvError::Empty) => return Ok(self.owed == 0),
                Err(TryRecvError::Disconnected) => return Err(self.ended()),
            }
        }
    }

    fn take(&mut self, line: &str) -> Result<String, Failure> {
        self.owed = self.owed.saturating_sub(1);
        match line.strip_prefix(FAILED) {
            Some(why) => Err(format!("node {}: {why}", self.node).into()),
            None => Ok(line.to_owned()),
        }
    }

    fn ended(&self) -> Failure {
        format!("node {} ended by itself: see its words", self.node).into()
    }

    /// The same for an answer that the process gives.
    pub(crate) fn say(answer: Result<String, Failure>) {
        match answer {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("{FAILED}{error}"),
        }
    }

    /// Stops it where it is, as an overloaded host would.
    pub(crate) fn suspend(&self) -> Result<(), Failure> {
        self.signal(Signal::STOP)
    }

    /// Ends it with SIGKILL, and does not wait for that.
    pub(crate) fn kill(&self) -> Result<(), Failure> {
        self.signal(Signal::KILL)
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) -> Result<(), Failure> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = Pid::from_child(&self.child);
        Ok(kill_process(pid, signal)?)
    }

    /// Resident memory, now and at most since [`Process::forget_peak`].
    pub(crate) fn memory(&self) -> Result<Memory, Failure> {
        let status = fs::read_to_string(self.proc("status"))?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            kib.map(|kib| kib * 1024).ok_or_else(|| format!("/proc/PID/status has no {name}"))
        };
        Ok(Memory { now_bytes: bytes("VmRSS:")?, peak_bytes: bytes("VmHWM:")? })
    }

    /// The peak of resident memory begins anew.
    pub(crate) fn forget_peak(&self) -> Result<(), Failure> {
        // proc_pid_clear_refs(5): 5 resets the high water mark.
        Ok(fs::write(self.proc("clear_refs"), "5")?)
    }

    /// CPU time of all its threads.
    pub(crate) fn cpu_time(&self) -> Result<Duration, Failure> {
        cpu_time_of(self.child.id())
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already. A suspended one can be killed too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of all threads of a process.
pub(crate) fn cpu_time_of(pid: u32) -> Result<Duration, Failure> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before it may have blanks; user and system time are the 12th and 13th behind.
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/PID/stat has no name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 1_000 / USER_HZ))
}

/// Resident memory of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) now_bytes: u64,
    pub(crate) peak_bytes: u64,
}
