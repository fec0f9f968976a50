//! `oc prune-images`: prune OpenShift images and make the registry's caches forget them.
//!
//! Data flows one way, and each room below is one step of it:
//! `cli` (flags) → `cluster` + `inventory` (I/O) → `plan` (pure) → `execute` + `registry` (I/O) → `report`.
//! `cache` makes the registry's caches forget what was deleted; `verify` asks whether what stays can be pulled.
//! `throttle` says how many requests are on their way to a server at once.
//! `hard_prune` has the registry delete what the API no longer knows of.
//! `schedule` makes the objects of a prune that the cluster runs.
//! `run` walks through them; `ui` is the only room that knows a terminal.
//! `cause`, `text` and `wire` serve them all: why a connection failed, text from outside made safe to print, protobuf.

pub mod cache;
mod cause;
pub mod cli;
pub mod cluster;
pub mod error;
pub mod execute;
pub mod hard_prune;
pub mod inventory;
pub mod journal;
pub mod model;
pub mod plan;
pub mod registry;
pub mod report;
pub mod run;
pub mod schedule;
mod text;
pub mod throttle;
pub mod ui;
pub mod verify;
mod wire;
