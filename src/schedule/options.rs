//! What a schedule was asked for, and the job that this makes of it together with what a cluster says. Pure.

use jiff::Zoned;
use jiff::tz::TimeZone;

use super::cron::{Schedule, zone};
use super::manifest::{Authority, Frequency, Job, Resources, SecretKey};
use super::operator::Settings;
use super::roles::{Roles, roles};
use crate::cache::detect::{Discovery, Place, Source, WorkloadKind};
use crate::cache::{Extent, Strategy};
use crate::cluster::ConnectionOptions;
use crate::error::Failure;
use crate::inventory::ResourceName;
use crate::registry::Via;
use crate::text::printable;
use crate::verify;

/// The image that is built from the `Containerfile`.
pub const IMAGE: &str = concat!("ghcr.io/oc-prune-images/oc-prune-images:v", env!("CARGO_PKG_VERSION"));

/// When it runs, where nothing else is said: as the cluster's own pruner does by default, but an hour later.
const SCHEDULE: &str = "0 1 * * *";

/// How many jobs are kept, by default: as many as by the operator.
const HISTORY: u32 = 3;

/// Everything that `cronjob` or `job` was asked for.
#[derive(Debug, Clone)]
pub struct ScheduleOptions {
    /// The words that were typed, the program's name first, for the first line of the output.
    pub words: String,
    /// `-v`.
    pub verbosity: u8,
    /// Whether JSON is wanted, instead of YAML.
    pub json: bool,
    /// A `CronJob`; a Job without.
    pub cron: Option<CronOptions>,
    /// `--name`.
    pub name: Option<String>,
    /// `--job-namespace`.
    pub namespace: Option<String>,
    /// `--image`.
    pub image: String,
    /// `--journal-claim`.
    pub journal_claim: Option<String>,
    /// `--requests` and `--limits`.
    pub requests: Option<Vec<(String, String)>>,
    /// See above.
    pub limits: Option<Vec<(String, String)>>,
    /// The prune's flags that were given, each with its value.
    pub flags: Vec<(String, String)>,
    /// What the job may do there depends on these.
    pub prune: Carried,
    /// `--apply`.
    pub apply: Option<Apply>,
    /// `--from-imagepruner`.
    pub from_imagepruner: bool,
    /// Which cluster, where one is needed.
    pub connection: ConnectionOptions,
}

/// What only a `CronJob` has.
#[derive(Debug, Clone)]
pub struct CronOptions {
    /// `--schedule`.
    pub schedule: Option<Schedule>,
    /// `--timezone`, the name of one.
    pub timezone: Option<String>,
    /// `--suspend`.
    pub suspend: Option<bool>,
    /// `--successful-jobs-history-limit`.
    pub successful: Option<u32>,
    /// `--failed-jobs-history-limit`.
    pub failed: Option<u32>,
}

/// What the flags of the prune mean for its rights and its volumes.
#[derive(Debug, Clone)]
pub struct Carried {
    /// `--registry-cache`; none with `--prune-registry=false`.
    pub step: Option<Strategy>,
    /// `--check`, if it was given.
    pub check: Option<Extent>,
    /// `--verify`, if it was given.
    pub verify: Option<verify::Extent>,
    /// `--registry-namespace` and `--registry-deployment`.
    pub place: Place,
    /// `--referrers-from`.
    pub referrers: Vec<ResourceName>,
    /// `--registry-via`.
    pub via: Option<Via>,
    /// Who signed the registry's certificate.
    pub authority: Authority,
    /// Whether `--redis-url` says where Redis is, or that there is none.
    pub redis_is_given: bool,
    /// `--redis-ca`, a PEM text.
    pub redis_ca: Option<String>,
    /// `--redis-secret`.
    pub redis_password: Option<SecretKey>,
    /// `--redis-client-secret`.
    pub redis_client: Option<String>,
    /// `--registry-secret` and `--registry-configmap`.
    pub sources: Vec<Source>,
    /// Whether it selects by size, which excludes revisions and age.
    pub by_size: bool,
    /// `--timeout`, in seconds.
    pub timeout: Option<u64>,
    /// `--field-manager`: also of what is applied.
    pub field_manager: Option<String>,
}

/// How it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Apply {
    /// `--confirm`: do it, rather than say what would change.
    pub confirm: bool,
    /// `--force-conflicts`: also fields that somebody else has set.
    pub force: bool,
}

/// What a cluster says, where one was asked.
#[derive(Debug, Clone, Default)]
pub struct Found<'a> {
    /// Its own pruner, whose settings are to be taken.
    pub settings: Option<&'a Settings>,
    /// Its registry.
    pub registry: Option<&'a Discovery>,
}

impl ScheduleOptions {
    /// The job. `now` names one that runs once.
    ///
    /// # Errors
    /// A setting of the cluster's own pruner that cannot be used.
    pub fn job(&self, found: &Found<'_>, now: &Zoned) -> Result<Job, Failure> {
        let Found { settings, registry } = found;
        let Carried { step, check, verify, place, referrers, redis_is_given, .. } = &self.prune;
        let frequency = self.frequency(*settings)?;
        let name = self.name.clone().unwrap_or_else(|| "prune-images".to_owned());
        let job_name = match (&frequency, &self.name) {
            // A Job cannot be changed, nor run again: each has a name of its own.
            (Frequency::Once, None) => format!("{name}-{}", now.strftime("%Y%m%d-%H%M%S")),
            _ => name.clone(),
        };
        let mut sources = self.prune.sources.clone();
        if let Some(registry) = registry {
            sources.extend(registry.sources.iter().map(|(source, _)| source.clone()));
        }
        sources.sort_unstable();
        sources.dedup();
        let workload = registry.and_then(|registry| registry.workload.get());
        let place = registry.map_or(place, |registry| &registry.place);
        let grants = roles(&Roles {
            place,
            kind: workload.map_or(WorkloadKind::Deployment, |workload| workload.kind),
            step: *step,
            checks: matches!(check, Some(Extent::Sample | Extent::All))
                || matches!(verify, Some(verify::Extent::Shared | verify::Extent::All)),
            sources: &sources,
            redis_is_given: *redis_is_given,
            via: self.prune.via,
            has_other_authority: matches!(self.prune.authority, Authority::Given(_))
                || self.prune.via == Some(Via::Route),
            referrers,
        });
        let [node_selector, tolerations, affinity] = settings.map(Settings::placement).unwrap_or_default();
        Ok(Job {
            frequency,
            name,
            job_name,
            namespace: self.namespace.clone().unwrap_or_else(|| Place::default().namespace),
            registry_namespace: place.namespace.clone(),
            image: self.image.clone(),
            journal_claim: self.journal_claim.clone(),
            flags: self.flags(*settings),
            grants,
            authority: self.prune.authority.clone(),
            redis_ca: self.prune.redis_ca.clone(),
            redis_password: self.prune.redis_password.clone(),
            redis_client: self.prune.redis_client.clone(),
            resources: self.resources(*settings),
            timeout: self.prune.timeout,
            node_selector,
            tolerations,
            affinity,
        })
    }

    fn frequency(&self, settings: Option<&Settings>) -> Result<Frequency, Failure> {
        let Some(CronOptions { schedule, timezone, suspend, successful, failed }) = &self.cron else {
            return Ok(Frequency::Once);
        };
        let schedule = match (schedule, settings) {
            (Some(schedule), _) => schedule.clone(),
            (None, Some(settings)) => Schedule::parse(settings.schedule()).map_err(|error| {
                let text = printable(settings.schedule()).into_owned();
                Failure::nothing_changed(format!(
                    "take the schedule of the cluster's own pruner: {text:?}: {error}"
                ))
                .hint("give another one: --schedule='0 1 * * *'")
            })?,
            (None, None) => Schedule::parse(SCHEDULE).map_err(|error| Failure::usage(error.to_string()))?,
        };
        let (kept, kept_failed) = settings.map(Settings::history).unwrap_or_default();
        Ok(Frequency::Scheduled {
            schedule: Box::new(schedule),
            timezone: timezone.clone(),
            suspend: suspend.unwrap_or_else(|| settings.is_some_and(Settings::is_suspended)),
            successful: successful.or(kept).unwrap_or(HISTORY),
            failed: failed.or(kept_failed).unwrap_or(HISTORY),
        })
    }

    /// The flags of the prune: those that were given, then those of the cluster's own pruner that were not.
    fn flags(&self, settings: Option<&Settings>) -> Vec<String> {
        let mut flags: Vec<(&str, &str)> =
            self.flags.iter().map(|(flag, value)| (flag.as_str(), value.as_str())).collect();
        let own = settings.map(Settings::flags).unwrap_or_default();
        for (flag, value) in &own {
            let excluded = self.prune.by_size && flag.starts_with("keep-");
            if !excluded && !flags.iter().any(|(given, _)| given == flag) {
                flags.push((flag, value));
            }
        }
        // Asking needs the right to pull every image of the cluster: only who wants it gets it.
        if self.prune.step.is_some() {
            for (flag, is_given) in
                [("check", self.prune.check.is_some()), ("verify", self.prune.verify.is_some())]
            {
                if !is_given {
                    flags.push((flag, "off"));
                }
            }
        }
        flags.into_iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
    }

    fn resources(&self, settings: Option<&Settings>) -> Resources {
        // What the operator gives its own pruner.
        let default = || Resources {
            requests: vec![("cpu".to_owned(), "100m".to_owned()), ("memory".to_owned(), "256Mi".to_owned())],
            limits: Vec::new(),
        };
        let own = settings.and_then(Settings::resources).unwrap_or_else(default);
        Resources {
            requests: self.requests.clone().unwrap_or(own.requests),
            limits: self.limits.clone().unwrap_or(own.limits),
        }
    }

    /// The time zone that run times are shown in: that of the schedule.
    #[must_use]
    pub fn zone(&self) -> TimeZone {
        let name = self.cron.as_ref().and_then(|cron| cron.timezone.as_deref());
        name.and_then(zone).unwrap_or(TimeZone::UTC)
    }
}
