//! What is asked of the API server (I/O; decides nothing).

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::operator::{AutomaticPruner, OwnJob, Settings, warnings};
use crate::cluster::{ApiError, ApiRequest, Cluster, Retry};
use crate::text::sanitize;

/// The settings of the cluster's own pruner.
const PRUNER: &str = "/apis/imageregistry.operator.openshift.io/v1/imagepruners/cluster";

/// The job that the operator makes of them.
const OWN_JOB: &str = "/apis/batch/v1/namespaces/openshift-image-registry/cronjobs/image-pruner";

/// The settings of the cluster's own pruner; none if there is no such operator.
///
/// # Errors
/// They may not be read, or could not be.
pub async fn settings(cluster: &Cluster) -> Result<Option<Settings>, ApiError> {
    read(cluster, PRUNER, Settings::read).await
}

/// The values that the cluster's own pruner selects by.
pub async fn automatic_pruner(cluster: &Cluster) -> AutomaticPruner {
    AutomaticPruner::of(settings(cluster).await)
}

/// What the administrator should know of a second pruner, as far as it may be read.
pub async fn second_pruner(cluster: &Cluster) -> Vec<String> {
    let (settings, job) = tokio::join!(settings(cluster), read(cluster, OWN_JOB, OwnJob::read));
    let told = |error: &ApiError| tracing::info!("the cluster's own pruner cannot be looked at: {error}");
    let settings = settings.inspect_err(told).ok().flatten();
    let job = job.inspect_err(told).ok().flatten();
    warnings(settings.as_ref(), job.as_ref())
}

async fn read<T>(
    cluster: &Cluster,
    path: &str,
    decode: impl FnOnce(&[u8]) -> Result<T, serde_json::Error>,
) -> Result<Option<T>, ApiError> {
    // Nothing depends on it so much that it should be waited for.
    match cluster.request(ApiRequest { retry: Retry::Never, ..ApiRequest::get(path) }).await {
        Ok(answer) => {
            let decoded = decode(&answer.body);
            decoded.map(Some).map_err(|error| ApiError::Malformed(sanitize(&error.to_string())))
        }
        Err(ApiError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The object as it is now; none if there is none.
///
/// # Errors
/// It could not be read.
pub async fn live(cluster: &Cluster, path: &str) -> Result<Option<Value>, ApiError> {
    match cluster.request(ApiRequest::get(path)).await {
        Ok(answer) => json(&answer.body).map(Some),
        Err(ApiError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Applies an object on the server, or only asks what would become of it; returns that.
///
/// # Errors
/// What the server says, [`ApiError::Conflict`] where somebody else owns a field and `force` is not given.
pub async fn apply(
    cluster: &Cluster,
    path: &str,
    object: &Value,
    force: bool,
    dry_run: bool,
) -> Result<Value, ApiError> {
    let dry_run = if dry_run { "&dryRun=All" } else { "" };
    let request = ApiRequest {
        body: Some(Bytes::from(object.to_string())),
        content_type: "application/apply-patch+yaml",
        // Applied twice it is the same.
        retry: Retry::Idempotent,
        ..ApiRequest::new(Method::PATCH, format!("{path}?force={force}{dry_run}"))
    };
    json(&cluster.request(request).await?.body)
}

fn json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::Malformed(sanitize(&error.to_string())))
}
