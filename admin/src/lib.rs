//! HTTP for a Quorate node: status, health and the JSON API.

pub mod views;
