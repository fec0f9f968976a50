//! A prune on a schedule, or once, in the cluster: the objects for it, and what the cluster's own pruner does.
//!
//! `cron` reads a schedule as Kubernetes does, `options` says what was asked for and what that means in this cluster,
//! `roles` which rights the job needs, `manifest` makes the objects, `difference` compares them with what is there,
//! `operator` takes what counts of the cluster's own pruner (all pure); `api` asks and tells the API server (I/O).

pub mod api;
mod cron;
mod difference;
mod manifest;
pub mod operator;
mod options;
mod roles;

pub use cron::{Schedule, ScheduleError, zone};
pub use difference::difference;
pub use manifest::{
    Authority, Document, Frequency, Job, Resources, SecretKey, documents, list, path, title, yaml,
};
pub use options::{Apply, Carried, CronOptions, Found, IMAGE, ScheduleOptions};
