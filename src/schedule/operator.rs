//! The cluster's own, automatic pruner, which the image-registry operator runs: what it is set to, and whether it runs. Pure.

use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::Value;

use super::manifest::Resources;
use crate::cli::duration;
use crate::cluster::ApiError;
use crate::text::sanitize;

/// The command that keeps the cluster's own pruner from running.
pub const SUSPEND: &str = "oc patch imagepruners.imageregistry.operator.openshift.io/cluster --type=merge -p '{\"spec\":{\"suspend\":true}}'";

/// The settings of the cluster's own pruner (`spec` of the `ImagePruner` named `cluster`).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    schedule: Option<String>,
    suspend: Option<bool>,
    keep_tag_revisions: Option<i64>,
    /// In nanoseconds; the older field.
    keep_younger_than: Option<i64>,
    keep_younger_than_duration: Option<String>,
    ignore_invalid_image_references: Option<bool>,
    resources: Option<Amounts>,
    successful_jobs_history_limit: Option<u32>,
    failed_jobs_history_limit: Option<u32>,
    node_selector: Option<Value>,
    tolerations: Option<Value>,
    affinity: Option<Value>,
    log_level: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Amounts {
    requests: serde_json::Map<String, Value>,
    limits: serde_json::Map<String, Value>,
}

/// What is known of the values that the automatic pruner selects by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AutomaticPruner {
    /// Its settings.
    Found(PrunerSettings),
    /// The cluster has none.
    Absent,
    /// It cannot be told, and why.
    Unknown(String),
}

/// The settings that decide what the automatic pruner deletes; those that are absent have the operator's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunerSettings {
    /// `spec.suspend`: it never runs.
    pub suspended: bool,
    /// `spec.keepTagRevisions`; 3 if absent.
    pub keep_tag_revisions: u32,
    /// `spec.keepYoungerThanDuration`, else the deprecated `spec.keepYoungerThan` in nanoseconds; an hour if absent.
    pub keep_younger_than: SignedDuration,
}

impl Default for PrunerSettings {
    fn default() -> Self {
        Self { suspended: false, keep_tag_revisions: 3, keep_younger_than: SignedDuration::from_mins(60) }
    }
}

impl AutomaticPruner {
    /// From what the server answered. That the settings are not there or may not be read is an answer, too.
    #[must_use]
    pub fn of(settings: Result<Option<Settings>, ApiError>) -> Self {
        match settings {
            Ok(Some(settings)) => settings.selection().map_or_else(Self::Unknown, Self::Found),
            Ok(None) => Self::Absent,
            Err(ApiError::Forbidden { .. }) => Self::Unknown(
                "reading it takes the right to get imagepruners.imageregistry.operator.openshift.io"
                    .to_owned(),
            ),
            Err(ApiError::Malformed(why)) => Self::Unknown(why),
            Err(error) => Self::Unknown(sanitize(&error.to_string())),
        }
    }
}

/// What the operator does where nothing is set: every day at midnight.
const SCHEDULE: &str = "0 0 * * *";

impl Settings {
    /// Reads an `ImagePruner`.
    ///
    /// # Errors
    /// It is none.
    pub fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct ImagePruner {
            #[serde(default)]
            spec: Settings,
        }
        serde_json::from_slice::<ImagePruner>(body).map(|pruner| pruner.spec)
    }

    /// When it runs.
    #[must_use]
    pub fn schedule(&self) -> &str {
        self.schedule.as_deref().filter(|schedule| !schedule.is_empty()).unwrap_or(SCHEDULE)
    }

    /// Whether it does not run at present.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspend.unwrap_or_default()
    }

    /// The values that it selects by.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn selection(&self) -> Result<PrunerSettings, String> {
        let default = PrunerSettings::default();
        let keep_younger_than = match (self.younger(), self.keep_younger_than) {
            (Some(text), _) => duration::parse(text)
                .map_err(|error| format!("spec.keepYoungerThanDuration: {}", sanitize(&error.to_string())))?,
            (None, Some(nanoseconds)) => SignedDuration::from_nanos(nanoseconds),
            (None, None) => default.keep_younger_than,
        };
        Ok(PrunerSettings {
            suspended: self.is_suspended(),
            // The operator refuses negative numbers, and no tag has 2^32 revisions.
            keep_tag_revisions: self.keep_tag_revisions.map_or(default.keep_tag_revisions, |number| {
                u32::try_from(number.max(0)).unwrap_or(u32::MAX)
            }),
            keep_younger_than: keep_younger_than.max(SignedDuration::ZERO),
        })
    }

    fn younger(&self) -> Option<&str> {
        self.keep_younger_than_duration.as_deref().filter(|text| !text.is_empty())
    }

    /// The prune's flags that mean the same, each with its value. What is not set is as the flags' defaults are.
    #[must_use]
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        let younger = self.younger().map(ToOwned::to_owned);
        let younger =
            younger.or_else(|| self.keep_younger_than.map(|nanoseconds| format!("{nanoseconds}ns")));
        // As far as the operator's own job tells them apart.
        let verbosity = match self.log_level.as_deref() {
            Some("Debug") => Some("4"),
            Some("Trace") => Some("6"),
            Some("TraceAll") => Some("8"),
            _ => None,
        };
        let flags = [
            ("keep-tag-revisions", self.keep_tag_revisions.map(|number| number.to_string())),
            ("keep-younger-than", younger),
            ("ignore-invalid-refs", self.ignore_invalid_image_references.map(|ignore| ignore.to_string())),
            ("v", verbosity.map(ToOwned::to_owned)),
        ];
        flags.into_iter().filter_map(|(flag, value)| Some((flag, value?))).collect()
    }

    /// Requests and limits, if there are any.
    #[must_use]
    pub fn resources(&self) -> Option<Resources> {
        let amounts = self.resources.as_ref()?;
        let list = |amounts: &serde_json::Map<String, Value>| {
            let text = |amount: &Value| amount.as_str().map_or_else(|| amount.to_string(), ToOwned::to_owned);
            amounts.iter().map(|(name, amount)| (name.clone(), text(amount))).collect::<Vec<_>>()
        };
        Some(Resources { requests: list(&amounts.requests), limits: list(&amounts.limits) })
    }

    /// How many jobs are kept that went well, and that failed.
    #[must_use]
    pub fn history(&self) -> (Option<u32>, Option<u32>) {
        (self.successful_jobs_history_limit, self.failed_jobs_history_limit)
    }

    /// Node selector, tolerations and affinity of its pods.
    #[must_use]
    pub fn placement(&self) -> [Option<Value>; 3] {
        [&self.node_selector, &self.tolerations, &self.affinity].map(Clone::clone)
    }
}

/// The `CronJob` that the operator makes for it, which the role of pruners may read, unlike the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnJob {
    schedule: String,
    suspend: bool,
    /// The jobs that run.
    active: Vec<String>,
}

impl OwnJob {
    /// Reads a `CronJob`.
    ///
    /// # Errors
    /// It is none.
    pub fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct CronJob {
            spec: Spec,
            status: Status,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Spec {
            schedule: String,
            suspend: Option<bool>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Status {
            active: Vec<Reference>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Reference {
            name: String,
        }
        let CronJob { spec, status } = serde_json::from_slice(body)?;
        let active = status.active.into_iter().map(|Reference { name }| name).collect();
        Ok(Self { schedule: spec.schedule, suspend: spec.suspend.unwrap_or_default(), active })
    }
}

/// What the administrator should know of a second pruner; nothing if there is none.
#[must_use]
pub fn warnings(settings: Option<&Settings>, job: Option<&OwnJob>) -> Vec<String> {
    let mut warnings = Vec::new();
    let schedule = match (settings, job) {
        (Some(settings), _) if !settings.is_suspended() => Some(settings.schedule()),
        (None, Some(job)) if !job.suspend => Some(job.schedule.as_str()),
        _ => None,
    };
    if let Some(schedule) = schedule {
        warnings.push(format!(
            "the cluster's own pruner is active (schedule {schedule:?}): two pruners at once get into each other's way, and it clears no cache of the registry; to suspend it: {SUSPEND}"
        ));
    }
    if let Some(job) = job.filter(|job| !job.active.is_empty()) {
        warnings.push(format!(
            "the cluster's own pruner is running right now (job {} in namespace openshift-image-registry): wait until it has ended",
            job.active.join(", ")
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_settings_become_flags() {
        let pruner = br#"{"kind":"ImagePruner","spec":{"schedule":"30 2 * * *","suspend":false,"keepTagRevisions":5,
            "keepYoungerThan":3600000000000,"keepYoungerThanDuration":"96h","ignoreInvalidImageReferences":true,
            "resources":{"requests":{"cpu":"100m","memory":"256Mi"}},"logLevel":"Trace","failedJobsHistoryLimit":1}}"#;
        let settings = Settings::read(pruner).unwrap();
        assert_eq!((settings.schedule(), settings.is_suspended()), ("30 2 * * *", false));
        let flags = settings.flags();
        let flags: Vec<(&str, &str)> = flags.iter().map(|(flag, value)| (*flag, value.as_str())).collect();
        let wanted = [
            ("keep-tag-revisions", "5"),
            ("keep-younger-than", "96h"),
            ("ignore-invalid-refs", "true"),
            ("v", "6"),
        ];
        assert_eq!(flags, wanted);
        let requests = vec![("cpu".to_owned(), "100m".to_owned()), ("memory".to_owned(), "256Mi".to_owned())];
        assert_eq!(settings.resources(), Some(Resources { requests, limits: vec![] }));
        assert_eq!(settings.history(), (None, Some(1)));
        let older = Settings::read(br#"{"spec":{"keepYoungerThan":3600000000000}}"#).unwrap();
        assert_eq!(older.flags(), [("keep-younger-than", "3600000000000ns".to_owned())]);
        assert_eq!(older.schedule(), "0 0 * * *");
        assert!(Settings::read(br#"{"spec":"x"}"#).is_err());
    }

    fn selection(object: &str) -> Result<PrunerSettings, String> {
        Settings::read(object.as_bytes()).map_err(|error| error.to_string())?.selection()
    }

    #[test]
    fn absent_settings_have_the_defaults_of_the_operator() {
        for object in ["{}", r#"{"spec":{}}"#, r#"{"spec":{"keepTagRevisions":null,"suspend":null}}"#] {
            assert_eq!(selection(object), Ok(PrunerSettings::default()), "{object}");
        }
    }

    #[test]
    fn settings_are_read_and_the_newer_field_counts() {
        let both = r#"{"spec":{"keepTagRevisions":5,"keepYoungerThan":1,"keepYoungerThanDuration":"96h","suspend":true,
            "schedule":"0 0 * * *","ignoreInvalidImageReferences":true}}"#;
        let settings = PrunerSettings {
            suspended: true,
            keep_tag_revisions: 5,
            keep_younger_than: SignedDuration::from_hours(96),
        };
        assert_eq!(selection(both), Ok(settings));
        let old = selection(r#"{"spec":{"keepYoungerThan":7200000000000,"keepTagRevisions":-1}}"#);
        assert_eq!(
            old.map(|old| (old.keep_younger_than, old.keep_tag_revisions)),
            Ok((SignedDuration::from_hours(2), 0))
        );
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for object in ["", "7", r#"{"spec":{"keepYoungerThanDuration":"3d"}}"#, r#"{"spec":{"suspend":1}}"#] {
            assert!(selection(object).is_err(), "{object}");
        }
    }

    #[test]
    fn a_second_pruner_is_told_of() {
        let job = |text: &str| OwnJob::read(text.as_bytes()).unwrap();
        let settings = |text: &str| Settings::read(text.as_bytes()).unwrap();
        let running = job(
            r#"{"spec":{"schedule":"0 0 * * *","suspend":false},"status":{"active":[{"name":"image-pruner-1"}]}}"#,
        );
        let suspended = job(r#"{"spec":{"schedule":"0 0 * * *","suspend":true}}"#);
        assert_eq!(warnings(None, None), Vec::<String>::new());
        assert_eq!(warnings(None, Some(&suspended)), Vec::<String>::new());
        assert_eq!(warnings(Some(&settings(r#"{"spec":{"suspend":true}}"#)), None), Vec::<String>::new());
        // The settings are what the operator carries over next.
        assert_eq!(warnings(Some(&settings(r#"{"spec":{}}"#)), Some(&suspended)).len(), 1);
        let both = warnings(None, Some(&running));
        assert!(both[0].contains(SUSPEND) && both[1].contains("job image-pruner-1 in namespace"), "{both:?}");
    }
}
