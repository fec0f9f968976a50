//! What is asked of the API server, one request each (I/O; decides nothing).

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::super::detect::{Place, Reading, Rule, WorkloadKind, discover};
use super::seen::{self, Controller, Endpoint, Seen};
use super::ways::Operator;
use crate::cluster::{ApiError, ApiRequest, Cluster, Retry, is_object_name};
use crate::text::sanitize;

/// The operator's configuration.
const OPERATOR: &str = "/apis/imageregistry.operator.openshift.io/v1/configs/cluster";

/// How these writes are named in `managedFields`.
const MANAGER: &str = "oc-prune-images";

/// Where it is read who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndpointSource {
    Slices,
    Endpoints,
    /// Neither may be read.
    None,
}

/// The registry at the API server.
#[derive(Debug)]
pub(in crate::cache) struct Api<'a> {
    cluster: &'a Cluster,
    place: Place,
    kind: WorkloadKind,
    /// Whether the workload is there and may be read.
    is_readable: bool,
    is_absent: bool,
    selector: String,
    container: Mutex<Option<String>>,
    endpoints: Mutex<EndpointSource>,
}

/// What kept the registry from being found.
#[derive(Debug)]
pub(in crate::cache) enum FindError {
    /// The flags name what cannot be an object.
    Name(String),
    /// What the server said.
    Unreadable(String),
}

impl<'a> Api<'a> {
    /// Finds the registry's workload and what selects its pods.
    pub(in crate::cache) async fn find(cluster: &'a Cluster, place: &Place) -> Result<Self, FindError> {
        for name in [&place.namespace, &place.deployment] {
            if !is_object_name(name) {
                return Err(FindError::Name(format!("{} is no name of an object", sanitize(name))));
            }
        }
        let found = discover(cluster, place).await;
        let (kind, is_readable, is_absent) = match &found.workload {
            Reading::Is(workload) => (workload.kind, true, false),
            Reading::Absent => (WorkloadKind::Deployment, false, true),
            // The pods can be replaced without.
            Reading::Unreadable { rule: Some(_), .. } => (WorkloadKind::Deployment, false, false),
            Reading::Unreadable { why, rule: None } => return Err(FindError::Unreadable(why.clone())),
        };
        Ok(Self {
            cluster,
            place: found.place,
            kind,
            is_readable,
            is_absent,
            selector: found.selector,
            container: Mutex::default(),
            endpoints: Mutex::new(EndpointSource::Slices),
        })
    }

    pub(in crate::cache) fn place(&self) -> &Place {
        &self.place
    }

    pub(in crate::cache) fn kind(&self) -> WorkloadKind {
        self.kind
    }

    pub(in crate::cache) fn selector(&self) -> &str {
        &self.selector
    }

    /// `deployment/image-registry`.
    pub(in crate::cache) fn name(&self) -> String {
        format!("{}/{}", self.kind.word(), self.place.deployment)
    }

    fn path(&self) -> String {
        let Place { namespace, deployment } = &self.place;
        let resource = match self.kind {
            WorkloadKind::Deployment => "apps/v1",
            WorkloadKind::DeploymentConfig => "apps.openshift.io/v1",
        };
        format!("/apis/{resource}/namespaces/{namespace}/{}s/{deployment}", self.kind.word())
    }

    /// Looks once. What serves is read first and the pods last: a pod that is gone from the second but not from the
    /// first still gets requests.
    pub(in crate::cache) async fn look(&self) -> Result<Seen, ApiError> {
        let (endpoints, shows_ending) = self.endpoints().await?;
        let controller = self.controller().await?;
        if let Some(workload) = controller.workload() {
            self.container.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&workload.container);
        }
        let container = self.container.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let selector: String = url::form_urlencoded::byte_serialize(self.selector.as_bytes()).collect();
        let path = format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", self.place.namespace);
        let pods = self.read(path, |body| seen::pods(body, container.as_deref())).await?;
        Ok(Seen { controller, pods, endpoints, shows_ending })
    }

    async fn controller(&self) -> Result<Controller, ApiError> {
        if self.is_absent {
            return Ok(Controller::Absent);
        }
        if !self.is_readable {
            return Ok(Controller::Hidden);
        }
        match self.read(self.path(), seen::workload).await {
            Ok(workload) => Ok(Controller::Is(Box::new(workload))),
            Err(ApiError::NotFound { .. }) => Ok(Controller::Absent),
            Err(ApiError::Forbidden { .. }) => Ok(Controller::Hidden),
            Err(error) => Err(error),
        }
    }

    async fn endpoints(&self) -> Result<(Option<Vec<Endpoint>>, bool), ApiError> {
        let Place { namespace, deployment } = &self.place;
        loop {
            let source = *self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
            let (answer, next) = match source {
                EndpointSource::Slices => {
                    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
                    (self.read(path, seen::slices).await, EndpointSource::Endpoints)
                }
                EndpointSource::Endpoints => {
                    let path = format!("/api/v1/namespaces/{namespace}/endpoints/{deployment}");
                    (self.read(path, seen::endpoints).await, EndpointSource::None)
                }
                EndpointSource::None => return Ok((None, false)),
            };
            match answer {
                Ok(endpoints) => return Ok((Some(endpoints), source == EndpointSource::Slices)),
                Err(ApiError::Forbidden { .. } | ApiError::NotFound { .. }) => {
                    *self.endpoints.lock().unwrap_or_else(PoisonError::into_inner) = next;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Who looks after the workload: only the default one has an operator.
    pub(in crate::cache) async fn operator(&self) -> Result<Operator, ApiError> {
        if self.place != Place::default() {
            return Ok(Operator::Absent);
        }
        let decode = |body: &[u8]| {
            let object: Value = serde_json::from_slice(body)?;
            Ok(object["spec"]["managementState"].as_str().unwrap_or("Managed").to_owned())
        };
        match self.read(OPERATOR.to_owned(), decode).await {
            Ok(state) => Ok(Operator::Is(state)),
            Err(ApiError::NotFound { .. }) => Ok(Operator::Absent),
            Err(ApiError::Forbidden { .. }) => Ok(Operator::Hidden),
            Err(error) => Err(error),
        }
    }

    /// Whether this user has the right; `None` if that cannot be found out.
    pub(in crate::cache) async fn may(&self, rule: &Rule) -> Result<Option<bool>, ApiError> {
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let request =
            ApiRequest { retry: Retry::Never, ..body(Method::POST, path.to_owned(), &rule.review()) };
        match self.cluster.request(request).await {
            Ok(answer) => Ok(json_of(&answer.body)?["status"]["allowed"].as_bool()),
            Err(ApiError::Forbidden { .. } | ApiError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets an annotation of the pod template.
    pub(in crate::cache) async fn annotate(&self, key: &str, value: &str) -> Result<(), ApiError> {
        let change = json!({ "spec": { "template": { "metadata": { "annotations": { key: value } } } } });
        let path = format!("{}?fieldManager={MANAGER}", self.path());
        let request = ApiRequest {
            content_type: "application/merge-patch+json",
            retry: Retry::Never,
            ..body(Method::PATCH, path, &change)
        };
        self.cluster.request(request).await.map(drop)
    }

    /// Has the operator set an annotation of the pod template. A conflict is for the caller to try again.
    pub(in crate::cache) async fn configure(&self, key: &str, value: &str) -> Result<(), ApiError> {
        let mut config = self.operator_config().await?;
        let unfit =
            || ApiError::Malformed("spec.unsupportedConfigOverrides of the operator is no object".to_owned());
        let mut place = &mut config["spec"];
        for name in ["unsupportedConfigOverrides", "deployment", "annotations"] {
            if place.is_null() {
                *place = json!({});
            }
            place = place.as_object_mut().ok_or_else(unfit)?.entry(name).or_insert(Value::Null);
        }
        if place.is_null() {
            *place = json!({});
        }
        place.as_object_mut().ok_or_else(unfit)?.insert(key.to_owned(), value.into());
        self.put_operator_config(&config).await
    }

    /// The operator's configuration as it is.
    pub(in crate::cache) async fn operator_config(&self) -> Result<Value, ApiError> {
        self.read(OPERATOR.to_owned(), |body| serde_json::from_slice(body)).await
    }

    /// Updates the operator's configuration, if it is still the one that was read.
    pub(in crate::cache) async fn put_operator_config(&self, config: &Value) -> Result<(), ApiError> {
        self.put(format!("{OPERATOR}?fieldManager={MANAGER}"), config).await
    }

    /// The workload as it is.
    pub(in crate::cache) async fn workload(&self) -> Result<Value, ApiError> {
        self.read(self.path(), |body| serde_json::from_slice(body)).await
    }

    /// Updates the workload, if it is still the one that was read.
    pub(in crate::cache) async fn put_workload(&self, workload: &Value) -> Result<(), ApiError> {
        self.put(format!("{}?fieldManager={MANAGER}", self.path()), workload).await
    }

    /// Asks for the eviction of a pod, if it is still this one.
    pub(in crate::cache) async fn evict(&self, name: &str, uid: &str) -> Result<(), ApiError> {
        let answer = self.evict_with("policy/v1", name, uid).await;
        match answer {
            // Clusters before Kubernetes 1.22.
            Err(ApiError::Invalid { message }) if message.contains("policy/v1") => {
                self.evict_with("policy/v1beta1", name, uid).await
            }
            answer => answer,
        }
    }

    async fn evict_with(&self, version: &str, name: &str, uid: &str) -> Result<(), ApiError> {
        let eviction = json!({
            "apiVersion": version,
            "kind": "Eviction",
            "metadata": { "name": name, "namespace": self.place.namespace },
            "deleteOptions": { "preconditions": { "uid": uid } },
        });
        let path = format!("{}/eviction", self.pod_path(name)?);
        let request = ApiRequest { retry: Retry::Never, ..body(Method::POST, path, &eviction) };
        self.cluster.request(request).await.map(drop)
    }

    /// Deletes a pod, if it is still this one.
    pub(in crate::cache) async fn delete(&self, name: &str, uid: &str) -> Result<(), ApiError> {
        let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": uid } });
        let request =
            ApiRequest { retry: Retry::Never, ..body(Method::DELETE, self.pod_path(name)?, &options) };
        self.cluster.request(request).await.map(drop)
    }

    fn pod_path(&self, name: &str) -> Result<String, ApiError> {
        if is_object_name(name) {
            Ok(format!("/api/v1/namespaces/{}/pods/{name}", self.place.namespace))
        } else {
            Err(ApiError::Malformed(format!("{} is no name of a pod", sanitize(name))))
        }
    }

    async fn put(&self, path: String, object: &Value) -> Result<(), ApiError> {
        let request = ApiRequest { retry: Retry::Never, ..body(Method::PUT, path, object) };
        self.cluster.request(request).await.map(drop)
    }

    /// Reads once: whoever looks again and again needs no retries.
    async fn read<T>(
        &self,
        path: String,
        decode: impl FnOnce(&[u8]) -> Result<T, serde_json::Error>,
    ) -> Result<T, ApiError> {
        let answer =
            self.cluster.request(ApiRequest { retry: Retry::Never, ..ApiRequest::get(path) }).await?;
        decode(&answer.body).map_err(|error| ApiError::Malformed(sanitize(&error.to_string())))
    }
}

fn body(method: Method, path: String, value: &Value) -> ApiRequest {
    ApiRequest { body: Some(Bytes::from(value.to_string())), ..ApiRequest::new(method, path) }
}

fn json_of(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::Malformed(sanitize(&error.to_string())))
}
