//! The shapes of the feature level.

use serde::{Deserialize, Serialize};

/// `GET /v1/features`: the feature level, and who supports which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// The level that is finalized.
    pub level: u32,
    /// The levels that the asked node's version supports.
    pub supported: FeatureRange,
    /// The levels that the registered brokers support.
    pub brokers: Vec<BrokerFeatures>,
}

/// Feature levels, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureRange {
    /// The lowest.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

/// The feature levels of one broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerFeatures {
    /// The broker.
    pub id: u64,
    /// What it supports.
    #[serde(flatten)]
    pub supported: FeatureRange,
}

/// The body of `POST /v1/features`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetFeatureLevel {
    /// The level to finalize.
    pub level: u32,
}

/// The answer to `POST /v1/features`: the level is finalized, whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureLevelSet {
    /// The level.
    pub level: u32,
    /// The log index at which it was so.
    pub index: u64,
}
