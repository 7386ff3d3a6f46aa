//! The commands that change who belongs to the quorum, and who leads it.

use std::io::{self, Write};

use quorate_admin::views::{
    ChangeKind, ChangeMembers, LeaderTransferred, MemberChange, MembersChanged, SetAddress,
    TransferLeader,
};

use crate::args::{Global, Members, Output};
use crate::failure::Failure;
use crate::output;
use crate::query::{self, client};

/// `quorate members`, all of it.
pub(crate) fn run(global: &Global, command: &Members) -> Result<(), Failure> {
    let (changes, dry_run) = match command {
        Members::Ls => return query::members(global),
        Members::SetAddress { node, addr } => {
            let path = format!("/v1/members/{node}/address");
            let request = SetAddress { addr: addr.to_string() };
            let changed: MembersChanged = client(global)?.post(&path, &request)?;
            return print(global, &changed);
        }
        Members::Add(named) => (named.changes(ChangeKind::Add)?, named.dry_run),
        Members::Promote(named) => (named.changes(ChangeKind::Promote)?, named.dry_run),
        Members::Demote(named) => (named.changes(ChangeKind::Demote)?, named.dry_run),
        Members::Remove(named) => (named.changes(ChangeKind::Remove)?, named.dry_run),
        Members::Change(args) => (args.changes()?, args.dry_run),
    };
    change(global, changes, dry_run)
}

fn change(global: &Global, changes: Vec<MemberChange>, dry_run: bool) -> Result<(), Failure> {
    let request = ChangeMembers { changes, dry_run };
    let changed: MembersChanged = client(global)?.post("/v1/members", &request)?;
    print(global, &changed)
}

/// The members as they are now; for people, with a word on what became of the request.
fn print(global: &Global, changed: &MembersChanged) -> Result<(), Failure> {
    match global.output() {
        Output::Json => output::print_json(changed),
        Output::Table => {
            let said = match changed.dry_run {
                true => "this would be accepted; nothing was changed".to_owned(),
                false => format!("the members are changed, at index {}", changed.index),
            };
            // A stderr that nobody reads changes nothing about what was done.
            drop(writeln!(io::stderr(), "quorate: {said}"));
            output::print_rows(Output::Table, &changed.members)
        }
    }
}

/// `quorate leader transfer`.
pub(crate) fn transfer(global: &Global, to: Option<u64>) -> Result<(), Failure> {
    let request = TransferLeader { to };
    let moved: LeaderTransferred = client(global)?.post("/v1/leader/transfer", &request)?;
    output::print_fields(global.output(), &moved, &[("leader_id", moved.leader_id.to_string())])
}
