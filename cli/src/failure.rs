//! How a command ends when it does not end well: one sentence for stderr and an exit status.

/// The reason a command did not do what it was asked, as `main` reports it.
///
/// The sentence names the remedy, so that nobody has to read the source to go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line, or a file it names, cannot be obeyed. Nothing was tried. Exit status 2.
    #[error("{0}")]
    Usage(String),
    /// The command was understood and failed, or found damage. Exit status 1.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// The process's exit status for this failure; 0 is success and never comes from here.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
        }
    }
}
