//! `oc prune-images`: prune OpenShift images and make the registry's caches forget them.
//!
//! Data flows one way, and each room below is one step of it:
//! `cli` (flags) → `cluster` + `inventory` (I/O) → `plan` (pure) → `execute` + `registry` (I/O) → `report`.
//! `run` walks through them; `ui` is the only room that knows a terminal.

pub mod cli;
pub mod cluster;
pub mod error;
pub mod execute;
pub mod inventory;
pub mod model;
pub mod plan;
pub mod registry;
pub mod report;
pub mod run;
pub mod ui;
