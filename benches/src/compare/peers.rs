//! The peers that need crates of others: only in a build with the feature `peers`, so that nobody else
//! builds these.

mod etcd;
mod openraft;

pub(super) use etcd::start as start_etcd;
pub(super) use openraft::start as start_openraft;
