//! The cluster's automatic pruner: `imagepruners.imageregistry.operator.openshift.io/cluster`, which OpenShift's image
//! registry operator turns into the cron job `openshift-image-registry/image-pruner`.

use jiff::SignedDuration;
use serde::Deserialize;

use crate::cli::duration;
use crate::cluster::{ApiError, ApiRequest, Cluster};
use crate::text::sanitize;

/// Where the object is.
pub const PATH: &str = "/apis/imageregistry.operator.openshift.io/v1/imagepruners/cluster";

/// What is known of the automatic pruner.
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
    /// `spec.schedule`; empty means daily at midnight.
    pub schedule: String,
    /// `spec.keepTagRevisions`; 3 if absent.
    pub keep_tag_revisions: u32,
    /// `spec.keepYoungerThanDuration`, else the deprecated `spec.keepYoungerThan` in nanoseconds; an hour if absent.
    pub keep_younger_than: SignedDuration,
    /// `spec.ignoreInvalidImageReferences`.
    pub ignore_invalid_refs: bool,
}

impl Default for PrunerSettings {
    fn default() -> Self {
        Self {
            suspended: false,
            schedule: String::new(),
            keep_tag_revisions: 3,
            keep_younger_than: SignedDuration::from_mins(60),
            ignore_invalid_refs: false,
        }
    }
}

/// Reads the object. That it is not there or may not be read is an answer, too.
pub async fn read(cluster: &Cluster) -> AutomaticPruner {
    match cluster.request(ApiRequest::get(PATH)).await {
        Ok(answer) => decode(&answer.body).map_or_else(AutomaticPruner::Unknown, AutomaticPruner::Found),
        Err(ApiError::NotFound { .. }) => AutomaticPruner::Absent,
        Err(ApiError::Forbidden { .. }) => AutomaticPruner::Unknown(
            "reading it takes the right to get imagepruners.imageregistry.operator.openshift.io".to_owned(),
        ),
        Err(error) => AutomaticPruner::Unknown(sanitize(&error.to_string())),
    }
}

/// Reads the settings from the object.
///
/// # Errors
/// What is wrong with it.
pub fn decode(object: &[u8]) -> Result<PrunerSettings, String> {
    let Object { spec } = serde_json::from_slice(object).map_err(|error| sanitize(&error.to_string()))?;
    let default = PrunerSettings::default();
    let keep_younger_than = match (spec.keep_younger_than_duration, spec.keep_younger_than) {
        (Some(text), _) => duration::parse(&text)
            .map_err(|error| format!("spec.keepYoungerThanDuration: {}", sanitize(&error.to_string())))?,
        (None, Some(nanoseconds)) => SignedDuration::from_nanos(nanoseconds),
        (None, None) => default.keep_younger_than,
    };
    Ok(PrunerSettings {
        suspended: spec.suspend.unwrap_or_default(),
        schedule: spec.schedule.unwrap_or_default(),
        // The operator refuses negative numbers, and no tag has 2^32 revisions.
        keep_tag_revisions: spec
            .keep_tag_revisions
            .map_or(default.keep_tag_revisions, |number| u32::try_from(number.max(0)).unwrap_or(u32::MAX)),
        keep_younger_than: keep_younger_than.max(SignedDuration::ZERO),
        ignore_invalid_refs: spec.ignore_invalid_image_references.unwrap_or_default(),
    })
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    suspend: Option<bool>,
    schedule: Option<String>,
    keep_tag_revisions: Option<i64>,
    keep_younger_than_duration: Option<String>,
    keep_younger_than: Option<i64>,
    ignore_invalid_image_references: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_settings_have_the_defaults_of_the_operator() {
        for object in ["{}", r#"{"spec":{}}"#, r#"{"spec":{"keepTagRevisions":null,"suspend":null}}"#] {
            assert_eq!(decode(object.as_bytes()), Ok(PrunerSettings::default()), "{object}");
        }
    }

    #[test]
    fn settings_are_read_and_the_newer_field_counts() {
        let both = r#"{"spec":{"keepTagRevisions":5,"keepYoungerThan":1,"keepYoungerThanDuration":"96h","suspend":true,
            "schedule":"0 0 * * *","ignoreInvalidImageReferences":true}}"#;
        let settings = PrunerSettings {
            suspended: true,
            schedule: "0 0 * * *".into(),
            keep_tag_revisions: 5,
            keep_younger_than: SignedDuration::from_hours(96),
            ignore_invalid_refs: true,
        };
        assert_eq!(decode(both.as_bytes()), Ok(settings));
        let old = decode(br#"{"spec":{"keepYoungerThan":7200000000000,"keepTagRevisions":-1}}"#);
        assert_eq!(
            old.map(|old| (old.keep_younger_than, old.keep_tag_revisions)),
            Ok((SignedDuration::from_hours(2), 0))
        );
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for object in ["", "7", r#"{"spec":{"keepYoungerThanDuration":"3d"}}"#, r#"{"spec":{"suspend":1}}"#] {
            assert!(decode(object.as_bytes()).is_err(), "{object}");
        }
    }
}
