//! The API server: from a request to an answer.

mod access;
mod discovery;
pub(crate) mod evict;
pub mod exec;
mod image;
mod managed;
mod openapi;
mod patch;
mod portforward;
pub(crate) mod protobuf;
mod rbac;
mod resource;
mod select;
mod status;
pub(crate) mod store;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{FutureExt, StreamExt, stream};
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, USER_AGENT, WARNING, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};

pub use access::{
    ANONYMOUS, Access, REGISTRY_ACCOUNT, Rule, endpoint_reader, evictor, executor, image_pruner,
    operator_configurator, port_forwarder, pruner_and, restarter, route_reader, service_ca_reader,
    settings_reader,
};
pub use portforward::Forwards;
pub use resource::{OPERATOR_GROUPS, RESOURCES, Resource};
pub use status::Failure;
pub(crate) use store::metadata;
pub use store::{Store, now, timestamp};

use crate::generate::Generation;
use crate::lock;
use crate::serve::{Body, Handler, User, full};
use protobuf::PROTOBUF;
use resource::aggregated;
use select::Selector;
use status::Target;
use store::{Object, Page, Preconditions};
use watch::Watch;

/// How an API server behaves; can be changed while requests come in.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Settings {
    /// The registry's host in what the server computes (`status.dockerImageRepository`).
    pub registry_host: String,
    /// Groups that are not registered: 404.
    pub disabled_groups: BTreeSet<String>,
    /// Whether the aggregated API server of OpenShift is down: 503.
    pub aggregated_api_down: bool,
    /// Whether watches may ask for initial events; the recorded servers (etcd 3.4) refuse.
    pub watch_list: bool,
    /// Whether loaded streams and images are rewritten to `registry_host`.
    pub rewrite_registry_host: bool,
    /// Whether lists are sent in protobuf to who asks for it.
    pub protobuf: bool,
    /// Whether lists of metadata alone are sent to who asks for them; otherwise they get the whole objects.
    pub partial_metadata: bool,
    /// How often watches that want bookmarks get one.
    pub bookmark_interval: Duration,
    /// After how many further pages of lists a continue token is found expired, once.
    pub expire_continue_after: Option<usize>,
    /// How many evictions are still refused, as if a budget did not allow for them.
    pub refuse_evictions: usize,
    /// Whether something stands for the nodes: a pod that is deleted is then only marked, until its node lets it go.
    pub nodes: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registry_host: "image-registry.openshift-image-registry.svc:5000".to_owned(),
            disabled_groups: OPERATOR_GROUPS.map(ToOwned::to_owned).into(),
            aggregated_api_down: false,
            watch_list: false,
            rewrite_registry_host: false,
            protobuf: true,
            partial_metadata: true,
            bookmark_interval: Duration::from_secs(2),
            expire_continue_after: None,
            refuse_evictions: 0,
            nodes: false,
        }
    }
}

/// An API server; clones share everything.
#[derive(Clone, Debug)]
pub struct Api {
    pub(crate) store: Store,
    pub(crate) access: Access,
    settings: Arc<Mutex<Settings>>,
    forwards: Forwards,
    /// What is not in the store.
    generated: Arc<OnceLock<Arc<Generation>>>,
    execs: exec::Execs,
    /// Held by the eviction that is being decided.
    evicting: Arc<Mutex<()>>,
}

impl Default for Api {
    fn default() -> Self {
        let api = Self {
            store: Store::default(),
            access: Access::default(),
            settings: Arc::default(),
            forwards: Forwards::default(),
            generated: Arc::default(),
            execs: exec::Execs::default(),
            evicting: Arc::default(),
        };
        rbac::prepare(&api.store);
        api
    }
}

/// A request's path and verb, as authorization sees them.
#[derive(Debug, Default)]
struct Info {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

impl Info {
    fn target(&self) -> Target<'_> {
        Target {
            group: &self.group,
            resource: &self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
        }
    }
}

type Query = HashMap<String, String>;

/// The part of a request that answers depend on once it is clear who asks what.
struct Call<'a> {
    info: &'a Info,
    method: &'a Method,
    headers: &'a HeaderMap,
    query: &'a Query,
    body: &'a Bytes,
    user: &'a str,
    /// All values of `ports`.
    ports: Vec<String>,
    /// All values of `command`.
    commands: Vec<String>,
    /// The connection, for what is no HTTP.
    upgrade: Option<OnUpgrade>,
}

impl Call<'_> {
    /// Whether fields that the kind does not have are refused.
    fn is_strict(&self) -> bool {
        self.query.get("fieldValidation").is_some_and(|value| value == "Strict")
    }

    /// Who says that they write.
    fn manager(&self) -> &str {
        let agent = || self.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        let named = self.query.get("fieldManager").map(String::as_str).filter(|name| !name.is_empty());
        named.or_else(|| agent()?.split('/').next()).unwrap_or("unknown")
    }

    fn dry_run(&self) -> bool {
        self.query.get("dryRun").is_some_and(|value| value == "All")
    }

    /// The body as an object of this kind.
    fn object(&self, kind: &str) -> Result<Value, Failure> {
        let content_type =
            self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if content_type.contains("protobuf") || content_type == "application/yaml" {
            return Err(Failure::unsupported_media_type("application/json"));
        }
        serde_json::from_slice(self.body).map_err(|error| {
            let reason = if error.is_eof() { "unexpected end of JSON input".to_owned() } else { error.to_string() };
            let text = String::from_utf8_lossy(self.body);
            let beginning: String = text.chars().take(30).collect();
            Failure::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse \
                 error: {reason} ({beginning} ...)"
            ))
        })
    }
}

impl Api {
    /// The API server as a handler.
    #[must_use]
    pub fn handler(&self) -> Handler {
        let api = self.clone();
        Arc::new(move |request| {
            let api = api.clone();
            async move { api.answer(&request) }.boxed()
        })
    }

    /// The objects.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The users.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// A copy of the settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        lock(&self.settings).clone()
    }

    /// Serves a generated cluster, for the resources that it has. There can be one.
    pub(crate) fn generate_on_demand(&self, generation: Generation) {
        assert!(self.generated.set(Arc::new(generation)).is_ok(), "one generated cluster");
    }

    /// Changes the settings.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.settings));
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Body> {
        match self.authenticate(request) {
            Err(failure) => failed(request.headers(), &failure),
            Ok(user) => {
                let mut answer = self.authorized(request, &user).unwrap_or_else(|failure| {
                    let mut answer = failed(request.headers(), &failure);
                    if failure.code == StatusCode::FORBIDDEN {
                        answer
                            .headers_mut()
                            .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                    }
                    answer
                });
                answer.extensions_mut().insert(User(user));
                answer
            }
        }
    }

    fn authenticate(&self, request: &Request<Bytes>) -> Result<String, Failure> {
        let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let user = match authorization.and_then(|value| value.strip_prefix("Bearer ")) {
            Some(token) => self.access.user(token).ok_or_else(Failure::unauthorized)?,
            None => {
                request.extensions().get::<User>().map_or_else(|| ANONYMOUS.to_owned(), |user| user.0.clone())
            }
        };
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        for (name, resource) in [("impersonate-user", "users"), ("impersonate-group", "groups")] {
            let Some(impersonated) = header(name) else { continue };
            let target = Target { resource, name: impersonated, ..Target::default() };
            if self.reason(&user, "impersonate", &target).is_none() {
                return Err(Failure::forbidden(&user, "impersonate", &target));
            }
        }
        match header("impersonate-user") {
            // Rights are users' rights here; one group is known to have them all.
            Some(_) if header("impersonate-group") == Some("system:masters") => Ok("admin".to_owned()),
            Some(impersonated) => Ok(impersonated.to_owned()),
            None => Ok(user),
        }
    }

    fn authorized(&self, request: &Request<Bytes>, user: &str) -> Result<Response<Body>, Failure> {
        let query: Query = url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
        let path = request.uri().path();
        let Some(info) = info(request.method(), path, &query) else {
            if user == ANONYMOUS && !["/healthz", "/livez", "/readyz", "/version"].contains(&path) {
                let verb = request.method().as_str().to_lowercase();
                return Err(Failure::forbidden_path(user, &verb, path));
            }
            return self.discovery(path);
        };
        if self.reason(user, info.verb, &info.target()).is_none() {
            let verb = info.verb;
            return Err(Failure::forbidden(user, verb, &info.target()));
        }
        if let Some(answer) = self.unreachable(&info.group, &info.version) {
            return Ok(answer);
        }
        let call = Call {
            info: &info,
            method: request.method(),
            headers: request.headers(),
            query: &query,
            body: request.body(),
            user,
            ports: portforward::values(request.uri().query(), "ports"),
            commands: portforward::values(request.uri().query(), "command"),
            upgrade: request.extensions().get().cloned(),
        };
        let mut answer = self.call(&call).unwrap_or_else(|failure| failed(call.headers, &failure));
        if aggregated(&info.group) {
            answer.headers_mut().append(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if info.resource == "deploymentconfigs" {
            let warning = "299 - \"apps.openshift.io/v1 DeploymentConfig is deprecated in v4.14+, unavailable in \
                           v4.10000+\"";
            answer.headers_mut().append(WARNING, HeaderValue::from_static(warning));
        }
        Ok(answer)
    }

    /// The answer for a group or version that is not there, or not at the moment.
    fn unreachable(&self, group: &str, version: &str) -> Option<Response<Body>> {
        let settings = lock(&self.settings);
        let registered = group.is_empty() || resource::groups().contains(&group);
        if !registered || version != "v1" || settings.disabled_groups.contains(group) {
            return Some(text(StatusCode::NOT_FOUND, "404 page not found\n"));
        }
        (settings.aggregated_api_down && aggregated(group)).then(|| {
            let problem =
                "error trying to reach service: dial tcp 127.0.0.1:21003: connect: connection refused\n";
            text(StatusCode::SERVICE_UNAVAILABLE, problem)
        })
    }

    fn call(&self, call: &Call<'_>) -> Result<Response<Body>, Failure> {
        let info = call.info;
        let (namespace, name) = (info.namespace.as_str(), info.name.as_str());
        if info.resource.starts_with("selfsubject") || info.resource == "subjectaccessreviews" {
            return self.review(call);
        }
        if (info.resource.as_str(), info.subresource.as_str()) == ("pods", "portforward")
            && info.group.is_empty()
        {
            return self.port_forward(call);
        }
        if (info.resource.as_str(), info.subresource.as_str()) == ("pods", "exec") && info.group.is_empty() {
            return self.execute(call);
        }
        let form = match Form::accepted(call.headers)? {
            // Who reads a list in pages reads the few fields that are encoded; `kubectl`'s own types want all of them.
            Form::Partial if !self.settings().partial_metadata => Form::Whole,
            Form::Protobuf if !self.settings().protobuf || !call.query.contains_key("limit") => Form::Whole,
            form => form,
        };
        match (info.group.as_str(), info.resource.as_str(), info.subresource.as_str(), call.method) {
            ("image.openshift.io", "imagestreamtags", "", &Method::GET) if !name.is_empty() => {
                return Ok(answered(StatusCode::OK, &self.stream_tag_object(namespace, name)?));
            }
            ("image.openshift.io", "imagestreamtags", "", &Method::DELETE) if !name.is_empty() => {
                let uid = self.delete_stream_tag(namespace, name)?;
                return Ok(deleted(name, &info.group, &info.resource, &uid));
            }
            ("image.openshift.io", "imagestreammappings", "", &Method::POST) => {
                let mapping = call.object("ImageStreamMapping")?;
                let tag = mapping["tag"].as_str().filter(|tag| !tag.is_empty());
                self.map_image(namespace, metadata(&mapping, "name"), tag, mapping["image"].clone())?;
                let done =
                    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" });
                return Ok(answered(StatusCode::CREATED, &done));
            }
            ("image.openshift.io", "imagestreams", "layers", &Method::GET) => {
                return Ok(answered(StatusCode::OK, &self.layers(namespace, name)?));
            }
            _ => {}
        }
        let resource = Resource::find(&info.group, &info.resource)
            .filter(|resource| resource.namespaced || namespace.is_empty() || resource.plural == "namespaces")
            .ok_or_else(Failure::no_such_resource)?;
        match (info.verb, info.subresource.as_str()) {
            ("get", "") => self.get(resource, call),
            ("get", "status") if resource.status => self.get(resource, call),
            ("list", "") => self.list(resource, call, form),
            ("watch", "") => self.watch(resource, call),
            ("create", "") if name.is_empty() => self.create(resource, call),
            ("create", "eviction") if resource.plural == "pods" => self.evict(call),
            ("update", "") => self.update(resource, call, false),
            ("update", "status") if resource.status => self.update(resource, call, true),
            ("patch", "") => self.patch(resource, call, false),
            ("patch", "status") if resource.status => self.patch(resource, call, true),
            ("delete", "") => self.delete(resource, call),
            (_, "") => Err(Failure::not_allowed()),
            _ => Err(Failure::no_such_resource()),
        }
    }

    fn get(&self, resource: &'static Resource, call: &Call<'_>) -> Result<Response<Body>, Failure> {
        let Info { namespace, name, .. } = call.info;
        let found = self.store.find(resource, namespace, name);
        let found = found.or_else(|| self.generated.get()?.find(resource, namespace, name));
        let found = found.ok_or_else(|| Failure::not_found(resource, name))?;
        Ok(sent(StatusCode::OK, resource, &found))
    }

    fn list(
        &self,
        resource: &'static Resource,
        call: &Call<'_>,
        form: Form,
    ) -> Result<Response<Body>, Failure> {
        let limit = match call.query.get("limit").map(String::as_str) {
            None | Some("" | "0") => None,
            Some(text) => Some(text.parse::<usize>().map_err(|_| {
                Failure::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            })?),
        };
        let namespace = &call.info.namespace;
        let prefix = if resource.namespaced && !namespace.is_empty() {
            format!("{namespace}/")
        } else {
            String::new()
        };
        let selector = selector(call.query)?;
        let chosen = |object: &Object| selector.matches(&object.value());
        let wanted: Option<&dyn Fn(&Object) -> bool> = if selector.is_empty() { None } else { Some(&chosen) };

        let token = call.query.get("continue").filter(|token| !token.is_empty());
        let token = token.map(|token| Continue::decode(token)).transpose()?;
        let (at, start) = match &token {
            Some(token) => (u64::try_from(token.revision).ok(), Some(format!("{prefix}{}", token.start))),
            None => (None, None),
        };
        let expired = at.is_some() && self.continue_expires();
        let limit_or_all = limit.unwrap_or(usize::MAX);
        let generated = self.generated.get().filter(|generation| generation.count(resource).is_some());
        let page = if let Some(generation) = generated {
            let mut page = generation.page(resource, &prefix, start.as_deref(), limit_or_all);
            if let Some(wanted) = wanted {
                // Pages of what is selected are short here, not filled up from what follows.
                page.items = Items::Stored(page.items.in_json().filter(wanted).collect());
            }
            Some(page)
        } else {
            let page = self.store.page(resource, namespace, at, start.as_deref(), limit_or_all, wanted);
            page.map(Listed::from)
        };
        let Some(page) = page.filter(|_| !expired) else {
            let start = token.map(|token| token.start).unwrap_or_default();
            return Err(Failure::expired_continue(Continue { revision: -1, start }.encode()));
        };
        if limit.is_some() {
            self.page_served();
        }
        Ok(listed(resource, page, &prefix, !selector.is_empty(), form))
    }

    /// Whether the next continue token is to be found expired; that happens once.
    fn continue_expires(&self) -> bool {
        let mut settings = lock(&self.settings);
        let expires = settings.expire_continue_after == Some(0);
        if expires {
            settings.expire_continue_after = None;
        }
        expires
    }

    fn page_served(&self) {
        let mut settings = lock(&self.settings);
        settings.expire_continue_after = settings.expire_continue_after.map(|pages| pages.saturating_sub(1));
    }

    fn watch(&self, resource: &'static Resource, call: &Call<'_>) -> Result<Response<Body>, Failure> {
        let flag = |name: &str| call.query.get(name).is_some_and(|value| value == "true" || value == "1");
        let settings = self.settings();
        let from = call.query.get("resourceVersion").map_or("", String::as_str);
        let initial = flag("sendInitialEvents");
        let body = if initial && !settings.watch_list {
            watch::failed(&Failure::no_watch_list())
        } else {
            let after = match from {
                "" | "0" => None,
                revision => Some(revision.parse::<u64>().map_err(|_| {
                    Failure::bad_request(format!(
                        "resourceVersion: Invalid value: {revision:?}: strconv.ParseUint"
                    ))
                })?),
            };
            let seconds = call.query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok());
            Watch {
                resource,
                namespace: call.info.namespace.clone(),
                selector: Arc::new(selector(call.query)?),
                after: after.filter(|_| !initial),
                mark_initial: initial,
                bookmarks: flag("allowWatchBookmarks"),
                bookmark_interval: settings.bookmark_interval,
                timeout: seconds.map(Duration::from_secs),
            }
            .run(self.store.clone())
        };
        Ok(respond(StatusCode::OK, "application/json", body))
    }

    fn create(&self, resource: &'static Resource, call: &Call<'_>) -> Result<Response<Body>, Failure> {
        let mut object = call.object(resource.kind)?;
        checked(resource, &object)?;
        if call.is_strict() {
            openapi::strictly(resource, &object)?;
        }
        if resource.namespaced {
            object["metadata"]["namespace"] = call.info.namespace.as_str().into();
        }
        if resource.plural == "imagestreams" {
            self.prepare_stream(&mut object);
        }
        let name = metadata(&object, "name").to_owned();
        if resource.plural == "images" && !object["dockerImageReference"].is_string() {
            let problem = "Required value";
            let (reason, field) = ("FieldValueRequired", "dockerImageReference");
            return Err(Failure::invalid(resource, &name, reason, field, problem, 1));
        }
        lease_checked(resource, &name, &object)?;
        // The server gives these, whatever the client says.
        if let Some(fields) = object["metadata"].as_object_mut() {
            for field in ["uid", "resourceVersion", "creationTimestamp"] {
                fields.shift_remove(field);
            }
        }
        if resource.plural == "secrets"
            && let Some(Value::Object(texts)) =
                object.as_object_mut().and_then(|fields| fields.shift_remove("stringData"))
        {
            for (key, text) in texts {
                object["data"][key] = STANDARD.encode(text.as_str().unwrap_or_default()).into();
            }
        }
        if counts_generations(resource) {
            object["metadata"]["generation"] = 1.into();
        }
        self.no_escalation(resource, call.user, &object)?;
        managed::written(resource, call.manager(), None, &mut object);
        let created = self.store.insert(resource, object)?;
        if call.dry_run() {
            self.store.remove(resource, &call.info.namespace, &name, &Preconditions::default())?;
        }
        Ok(sent(StatusCode::CREATED, resource, &created))
    }

    fn update(
        &self,
        resource: &'static Resource,
        call: &Call<'_>,
        status: bool,
    ) -> Result<Response<Body>, Failure> {
        let name = &call.info.name;
        let object = call.object(resource.kind)?;
        checked(resource, &object)?;
        let named = metadata(&object, "name");
        if named != name {
            return Err(Failure::bad_request(format!(
                "the name of the object ({named}) does not match the name on the URL ({name})"
            )));
        }
        self.no_escalation(resource, call.user, &object)?;
        let updated = self.change(resource, call, |stored| {
            let version = metadata(&object, "resourceVersion");
            // Leases allow no unconditional update either.
            if version.is_empty() && (aggregated(resource.group) || resource.plural == "leases") {
                return Err(Failure::no_resource_version(resource, name));
            }
            if !version.is_empty() && version != metadata(stored, "resourceVersion") {
                return Err(Failure::modified(resource, name));
            }
            let uid = metadata(&object, "uid");
            if !uid.is_empty() && uid != metadata(stored, "uid") {
                return Err(Failure::precondition(resource, name, "UID", uid, metadata(stored, "uid")));
            }
            labels_checked(resource, name, &object)?;
            lease_checked(resource, name, &object)?;
            environment_checked(resource, name, &object)?;
            immutable_checked(resource, name, stored, &object)?;
            let before = stored.clone();
            merged(resource, stored, object.clone(), status);
            managed::written(resource, call.manager(), Some(&before), stored);
            Ok(())
        })?;
        Ok(sent(StatusCode::OK, resource, &updated))
    }

    fn patch(
        &self,
        resource: &'static Resource,
        call: &Call<'_>,
        status: bool,
    ) -> Result<Response<Body>, Failure> {
        let Info { namespace, name, .. } = call.info;
        let content_type =
            call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let apply = content_type.starts_with("application/apply-patch");
        // Resources that are defined by objects have no strategy.
        let strategic = content_type.starts_with("application/strategic-merge-patch+json");
        let defined = OPERATOR_GROUPS.contains(&resource.group);
        let known = ["application/json-patch+json", "application/merge-patch+json"]
            .iter()
            .any(|known| content_type.starts_with(known));
        if !(apply || known || strategic && !defined) {
            return Err(Failure::unsupported_media_type(if defined {
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            } else {
                "application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json, application/apply-patch+yaml"
            }));
        }
        let patch = call.object(resource.kind)?;
        if apply && managed::tracked(resource) {
            return self.apply(resource, call, patch);
        }
        if apply && self.store.find(resource, namespace, name).is_none() {
            let mut object = patch;
            object["metadata"]["name"] = name.as_str().into();
            if resource.namespaced {
                object["metadata"]["namespace"] = namespace.as_str().into();
            }
            let created = self.store.insert(resource, object)?;
            return Ok(sent(StatusCode::CREATED, resource, &created));
        }
        let patched = self.change(resource, call, |stored| {
            let version = metadata(&patch, "resourceVersion");
            if !version.is_empty() && version != metadata(stored, "resourceVersion") {
                return Err(Failure::modified(resource, name));
            }
            let mut object = stored.clone();
            if content_type.starts_with("application/json-patch+json") {
                patch::operations(&mut object, &patch)
            } else if strategic {
                patch::strategic(&mut object, &patch)
            } else {
                patch::merge(&mut object, &patch);
                Ok(())
            }
            .map_err(|problem| match problem {
                patch::Problem::Malformed(message) => Failure::bad_request(message),
                patch::Problem::Unfit => Failure::unfit_patch(),
            })?;
            labels_checked(resource, name, &object)?;
            environment_checked(resource, name, &object)?;
            immutable_checked(resource, name, stored, &object)?;
            let before = stored.clone();
            merged(resource, stored, object, status);
            managed::written(resource, call.manager(), Some(&before), stored);
            Ok(())
        })?;
        Ok(sent(StatusCode::OK, resource, &patched))
    }

    /// Server-side apply.
    fn apply(
        &self,
        resource: &'static Resource,
        call: &Call<'_>,
        mut configuration: Value,
    ) -> Result<Response<Body>, Failure> {
        let Info { namespace, name, .. } = call.info;
        let Some(manager) = call.query.get("fieldManager").filter(|manager| !manager.is_empty()) else {
            return Err(Failure::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        };
        checked(resource, &configuration)?;
        openapi::strictly(resource, &configuration)?;
        configuration["metadata"]["name"] = name.as_str().into();
        if resource.namespaced {
            configuration["metadata"]["namespace"] = namespace.as_str().into();
        }
        self.no_escalation(resource, call.user, &configuration)?;
        let force = call.query.get("force").is_some_and(|force| force == "true");
        let applied = |live: Option<&Value>| {
            managed::apply(resource, live, &configuration, manager, force)
                .map_err(|conflicts| Failure::apply_conflicts(resource, name, &conflicts))
        };
        if self.store.find(resource, namespace, name).is_none() {
            if self.reason(call.user, "create", &call.info.target()).is_none() {
                return Err(Failure::forbidden(call.user, "create", &call.info.target()));
            }
            let mut object = applied(None)?;
            if counts_generations(resource) {
                object["metadata"]["generation"] = 1.into();
            }
            if call.dry_run() {
                let object = Object { bytes: object.to_string().into(), revision: 0 };
                return Ok(sent(StatusCode::CREATED, resource, &object));
            }
            let created = self.store.insert(resource, object)?;
            return Ok(sent(StatusCode::CREATED, resource, &created));
        }
        let changed = self.change(resource, call, |stored| {
            let object = applied(Some(stored))?;
            labels_checked(resource, name, &object)?;
            immutable_checked(resource, name, stored, &object)?;
            merged(resource, stored, object, false);
            Ok(())
        })?;
        Ok(sent(StatusCode::OK, resource, &changed))
    }

    /// Changes the object of a call, or only says what it would look like.
    fn change(
        &self,
        resource: &'static Resource,
        call: &Call<'_>,
        change: impl FnOnce(&mut Value) -> Result<(), Failure>,
    ) -> Result<Object, Failure> {
        let Info { namespace, name, .. } = call.info;
        if !call.dry_run() {
            return self.store.modify(resource, namespace, name, change);
        }
        let found = self.store.find(resource, namespace, name);
        let found = found.ok_or_else(|| Failure::not_found(resource, name))?;
        let mut object = found.value();
        change(&mut object)?;
        Ok(Object { bytes: object.to_string().into(), revision: found.revision })
    }

    fn delete(&self, resource: &'static Resource, call: &Call<'_>) -> Result<Response<Body>, Failure> {
        let Info { namespace, name, .. } = call.info;
        let options = if call.body.is_empty() { json!({}) } else { call.object("DeleteOptions")? };
        let dry_run = call.dry_run() || options["dryRun"] == json!(["All"]);
        let conditions = Preconditions { dry_run, ..Preconditions::of(&options) };
        // A pod is answered with itself: it goes gracefully.
        if resource.plural == "pods" {
            let pod = self.delete_pod(namespace, name, &options, &conditions)?;
            return Ok(sent(StatusCode::OK, resource, &pod));
        }
        let object = self.store.remove(resource, namespace, name, &conditions)?;
        Ok(deleted(name, resource.group, resource.plural, metadata(&object.value(), "uid")))
    }

    /// Deletes a pod, as a controller does.
    pub(crate) fn delete_pod_gracefully(&self, namespace: &str, name: &str) {
        // It may be gone already.
        let _ = self.delete_pod(namespace, name, &json!({}), &Preconditions::default());
    }

    /// Deletes a pod: at once, or as soon as its node lets it go.
    fn delete_pod(
        &self,
        namespace: &str,
        name: &str,
        options: &Value,
        conditions: &Preconditions,
    ) -> Result<Object, Failure> {
        let pods = Resource::find("", "pods").ok_or_else(Failure::no_such_resource)?;
        let found = self.store.find(pods, namespace, name).ok_or_else(|| Failure::not_found(pods, name))?;
        let pod = found.value();
        let scheduled = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
        let grace = options["gracePeriodSeconds"]
            .as_i64()
            .or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64())
            .unwrap_or(30);
        if conditions.dry_run || !self.settings().nodes || !scheduled || grace == 0 {
            return self.store.remove(pods, namespace, name, conditions);
        }
        self.store.modify(pods, namespace, name, |pod| {
            conditions.check(pods, name, pod)?;
            if !evict::terminating(pod) {
                let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
                pod["metadata"]["deletionTimestamp"] = timestamp(end).into();
                pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            }
            Ok(())
        })
    }

    fn review(&self, call: &Call<'_>) -> Result<Response<Body>, Failure> {
        let resource = call.info.resource.as_str();
        if call.info.verb != "create" {
            return Err(Failure::not_allowed());
        }
        let review = call.object("SelfSubjectReview")?;
        let answer = match resource {
            "selfsubjectreviews" => {
                let groups = [access::group(call.user)];
                json!({
                    "kind": "SelfSubjectReview",
                    "apiVersion": "authentication.k8s.io/v1",
                    "metadata": { "creationTimestamp": now() },
                    "status": { "userInfo": { "username": call.user, "uid": call.user, "groups": groups } },
                })
            }
            "selfsubjectaccessreviews" | "subjectaccessreviews" => {
                let spec = &review["spec"];
                let attributes = &spec["resourceAttributes"];
                let text = |field: &str| attributes[field].as_str().unwrap_or_default();
                let target = Target {
                    group: text("group"),
                    resource: text("resource"),
                    subresource: text("subresource"),
                    namespace: text("namespace"),
                    name: text("name"),
                };
                let is_own = resource == "selfsubjectaccessreviews";
                let user = if is_own { call.user } else { spec["user"].as_str().unwrap_or_default() };
                let status = match self.reason(user, text("verb"), &target) {
                    Some(reason) => json!({ "allowed": true, "reason": reason }),
                    None => json!({ "allowed": false }),
                };
                json!({
                    "kind": if is_own { "SelfSubjectAccessReview" } else { "SubjectAccessReview" },
                    "apiVersion": "authorization.k8s.io/v1",
                    "metadata": {},
                    "spec": spec,
                    "status": status,
                })
            }
            "selfsubjectrulesreviews" => {
                let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
                json!({
                    "kind": "SelfSubjectRulesReview",
                    "apiVersion": "authorization.k8s.io/v1",
                    "metadata": {},
                    "spec": {},
                    "status": {
                        "resourceRules": self.resource_rules(call.user, namespace),
                        "nonResourceRules": [
                            { "verbs": ["get"], "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/readyz", "/version", "/version/"] },
                        ],
                        "incomplete": false,
                    },
                })
            }
            _ => return Err(Failure::no_such_resource()),
        };
        Ok(answered(StatusCode::CREATED, &answer))
    }

    /// The `resourceRules` of a `SelfSubjectRulesReview`.
    fn resource_rules(&self, user: &str, namespace: &str) -> Value {
        let everybodys = json!({
            "verbs": ["create"],
            "apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        });
        let own = self.rules_of(user, namespace);
        std::iter::once(everybodys).chain(own.iter().map(rbac::written)).collect()
    }
}

/// The form of an answer that the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Whole,
    Partial,
    Protobuf,
}

impl Form {
    fn accepted(headers: &HeaderMap) -> Result<Self, Failure> {
        let Some(accept) = headers.get(ACCEPT).and_then(|value| value.to_str().ok()) else {
            return Ok(Self::Whole);
        };
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            if media_type == PROTOBUF && parts.clone().next().is_none() {
                return Ok(Self::Protobuf);
            }
            if !["application/json", "application/*", "*/*"].contains(&media_type) {
                continue;
            }
            match parts.find_map(|part| part.strip_prefix("as=")) {
                None => return Ok(Self::Whole),
                Some("PartialObjectMetadataList" | "PartialObjectMetadata") => return Ok(Self::Partial),
                Some(_) => {}
            }
        }
        Err(Failure::not_acceptable())
    }
}

/// A continue token.
#[derive(Debug)]
struct Continue {
    /// The revision of the list; -1 goes on with the newest.
    revision: i64,
    /// The key of the next object, without the namespace if the list has one.
    start: String,
}

impl Continue {
    fn encode(&self) -> String {
        let token = json!({ "v": "meta.k8s.io/v1", "rv": self.revision, "start": self.start });
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(token: &str) -> Result<Self, Failure> {
        let invalid = |why: &str| {
            Failure::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes =
            URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid("illegal base64 data at input byte 0"))?;
        let token: Value = serde_json::from_slice(&bytes).map_err(|_| invalid(&json_problem(&bytes)))?;
        match (token["v"].as_str(), token["rv"].as_i64(), token["start"].as_str()) {
            (Some("meta.k8s.io/v1"), Some(revision), Some(start)) if revision != 0 => {
                Ok(Self { revision, start: start.to_owned() })
            }
            _ => Err(invalid("incorrect encoded resourceVersion (version meta.k8s.io/v1)")),
        }
    }
}

/// What Go's decoder finds wrong with the first value of a text.
fn json_problem(text: &[u8]) -> String {
    let Some(first) = text.first() else { return "unexpected end of JSON input".to_owned() };
    let literal =
        ["null", "true", "false"].into_iter().find(|literal| literal.as_bytes().first() == Some(first));
    match literal {
        Some(literal) => literal.bytes().zip(text).find(|(expected, found)| expected != *found).map_or_else(
            || "unexpected end of JSON input".to_owned(),
            |(expected, found)| {
                let (expected, found) = (char::from(expected), char::from(*found));
                format!("invalid character '{found}' in literal {literal} (expecting '{expected}')")
            },
        ),
        None => format!("invalid character '{}' looking for beginning of value", char::from(*first)),
    }
}

/// What a resource request is about; `None` for all other paths.
fn info(method: &Method, path: &str, query: &Query) -> Option<Info> {
    let segments: Vec<String> = path.trim_matches('/').split('/').map(percent_decoded).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        // `namespaces/x/status` is about the namespace itself.
        ["namespaces", namespace, rest @ ..]
            if !rest.is_empty() && !["status", "finalize"].contains(&rest[0]) =>
        {
            (*namespace, rest)
        }
        ["namespaces", namespace, ..] => (*namespace, rest),
        rest => ("", rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, "", String::new()),
        [resource, name, subresource @ ..] => (*resource, *name, subresource.join("/")),
        [] => return None,
    };
    let watches = query.get("watch").is_some_and(|value| value != "false" && value != "0");
    let verb = match (method.as_str(), name.is_empty()) {
        ("GET" | "HEAD", true) if watches => "watch",
        ("GET" | "HEAD", true) => "list",
        ("GET" | "HEAD", false) => "get",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        ("DELETE", false) => "delete",
        _ => "create",
    };
    Some(Info {
        verb,
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        subresource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

fn percent_decoded(text: &str) -> String {
    // A `+` in a path is a `+`; the decoder of forms would make it a space.
    let escaped = format!("={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(escaped.as_bytes())
        .next()
        .map(|(_, text)| text.into_owned())
        .unwrap_or_default()
}

fn selector(query: &Query) -> Result<Selector, Failure> {
    let parameter = |name: &str| query.get(name).map_or("", String::as_str);
    Selector::parse(parameter("labelSelector"), parameter("fieldSelector"))
}

/// Whether the objects of this resource have a generation from the start.
fn counts_generations(resource: &Resource) -> bool {
    resource.status
        && (["apps", "policy"].contains(&resource.group) || OPERATOR_GROUPS.contains(&resource.group))
}

/// Checks that the parts of an object have the types they must have.
fn checked(resource: &Resource, object: &Value) -> Result<(), Failure> {
    let kind = resource.kind;
    for part in ["metadata", "spec", "status"] {
        let found = match &object[part] {
            Value::Null | Value::Object(_) => continue,
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
        };
        let go_type = match part {
            "metadata" => "v1.ObjectMeta".to_owned(),
            "spec" => format!("v1.{kind}Spec"),
            _ => format!("v1.{kind}Status"),
        };
        return Err(Failure::bad_request(format!(
            "{kind} in version \"v1\" cannot be handled as a {kind}: json: cannot unmarshal {found} into Go struct field \
             {kind}.{part} of type {go_type}"
        )));
    }
    Ok(())
}

/// Checks a Lease: its times are `MicroTime`s, with six digits and no others, and it lasts some time.
fn lease_checked(resource: &Resource, name: &str, object: &Value) -> Result<(), Failure> {
    if resource.plural != "leases" {
        return Ok(());
    }
    for field in ["acquireTime", "renewTime"] {
        let Some(time) = object["spec"][field].as_str() else { continue };
        let digits = time
            .split_once('.')
            .and_then(|(_, rest)| rest.split_once('Z'))
            .map_or(0, |(digits, _)| digits.len());
        if digits != 6 || time.parse::<jiff::Timestamp>().is_err() {
            return Err(Failure::bad_request(format!(
                "Lease in version \"v1\" cannot be handled as a Lease: parsing time {time:?} as \
                 \"2006-01-02T15:04:05.000000Z07:00\": cannot parse"
            )));
        }
    }
    let seconds = &object["spec"]["leaseDurationSeconds"];
    if !seconds.is_null() && seconds.as_i64().is_none_or(|seconds| seconds <= 0) {
        let problem = format!("Invalid value: {seconds}: must be greater than 0");
        let (reason, field) = ("FieldValueInvalid", "spec.leaseDurationSeconds");
        return Err(Failure::invalid(resource, name, reason, field, &problem, 1));
    }
    Ok(())
}

/// Checks the label keys of an object.
fn labels_checked(resource: &Resource, name: &str, object: &Value) -> Result<(), Failure> {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    for (key, _) in labels {
        let name_part = key.rsplit('/').next().unwrap_or_default();
        let ends = |character: char| character.is_ascii_alphanumeric();
        let legal = |character: char| ends(character) || "-_.".contains(character);
        if !(name_part.starts_with(ends) && name_part.ends_with(ends) && name_part.chars().all(legal)) {
            let problem = format!(
                "Invalid value: {key:?}: name part must consist of alphanumeric characters, '-', '_' or '.', and must \
                 start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used \
                 for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            );
            // The recorded server validates streams three times and lists each finding.
            let times = if resource.plural == "imagestreams" { 3 } else { 1 };
            return Err(Failure::invalid(
                resource,
                name,
                "FieldValueInvalid",
                "metadata.labels",
                &problem,
                times,
            ));
        }
    }
    Ok(())
}

/// Checks that what is decided once is not changed: the pods of a Job, the role of a binding.
fn immutable_checked(resource: &Resource, name: &str, stored: &Value, object: &Value) -> Result<(), Failure> {
    let (field, pointer, problem) = match resource.plural {
        "jobs" => ("spec.template", "/spec/template", "field is immutable"),
        "rolebindings" | "clusterrolebindings" => ("roleRef", "/roleRef", "cannot change roleRef"),
        _ => return Ok(()),
    };
    // A status update brings the rest as it was, or not at all.
    let (Some(new), Some(old)) = (object.pointer(pointer), stored.pointer(pointer)) else { return Ok(()) };
    if new == old {
        return Ok(());
    }
    let problem = format!("Invalid value: {new}: {problem}");
    Err(Failure::invalid(resource, name, "FieldValueInvalid", field, &problem, 1))
}

/// Checks that no variable of a workload's containers has two values: a patch easily gives it a second one.
fn environment_checked(resource: &Resource, name: &str, object: &Value) -> Result<(), Failure> {
    let containers = object["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten();
    for (number, container) in containers.enumerate() {
        for (index, variable) in container["env"].as_array().into_iter().flatten().enumerate() {
            if variable["valueFrom"].is_object()
                && variable["value"].as_str().is_some_and(|value| !value.is_empty())
            {
                let field = format!("spec.template.spec.containers[{number}].env[{index}].valueFrom");
                let problem = "Invalid value: \"\": may not be specified when `value` is not empty";
                return Err(Failure::invalid(resource, name, "FieldValueInvalid", &field, problem, 1));
            }
        }
    }
    Ok(())
}

/// Puts a new version of an object, or only its status, in place of the stored one.
fn merged(resource: &Resource, stored: &mut Value, mut object: Value, status: bool) {
    for field in ["uid", "creationTimestamp", "namespace", "generation"] {
        match stored["metadata"].get(field) {
            Some(kept) => object["metadata"][field] = kept.clone(),
            None => {
                if let Some(fields) = object["metadata"].as_object_mut() {
                    fields.shift_remove(field);
                }
            }
        }
    }
    if status {
        stored["status"] = object["status"].take();
        // OpenShift's server lets a status update change labels and annotations; that of Kubernetes does not.
        if aggregated(resource.group) {
            replaced(&mut stored["metadata"], object["metadata"].take());
        }
        return;
    }
    if resource.status
        && let Some(kept) = stored.get("status")
    {
        object["status"] = kept.clone();
    }
    if let Some(generation) = stored["metadata"]["generation"].as_i64()
        && stored["spec"] != object["spec"]
    {
        object["metadata"]["generation"] = (generation + 1).into();
    }
    replaced(stored, object);
}

/// Replaces the fields of an object; those that stay keep their place.
fn replaced(stored: &mut Value, object: Value) {
    if let (Value::Object(stored), Value::Object(object)) = (stored, object) {
        stored.retain(|field, _| object.contains_key(field));
        stored.extend(object);
        stored.shift_remove("kind");
        stored.shift_remove("apiVersion");
    }
}

fn respond(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer
}

fn answered(code: StatusCode, value: &Value) -> Response<Body> {
    respond(code, "application/json", full(format!("{value}\n")))
}

fn sent(code: StatusCode, resource: &Resource, object: &Object) -> Response<Body> {
    let mut body = BytesMut::from(object.complete(resource).as_ref());
    body.put_u8(b'\n');
    respond(code, "application/json", full(body.freeze()))
}

fn failed(headers: &HeaderMap, failure: &Failure) -> Response<Body> {
    match Form::accepted(headers) {
        Ok(Form::Protobuf) => respond(failure.code, PROTOBUF, full(protobuf::status(&failure.to_json()))),
        _ => answered(failure.code, &failure.to_json()),
    }
}

fn text(code: StatusCode, body: &'static str) -> Response<Body> {
    let mut answer = respond(code, "text/plain; charset=utf-8", full(body));
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn deleted(name: &str, group: &str, plural: &str, uid: &str) -> Response<Body> {
    let mut details = json!({ "name": name });
    if !group.is_empty() {
        details["group"] = group.into();
    }
    details["kind"] = plural.into();
    details["uid"] = uid.into();
    let done = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details });
    answered(StatusCode::OK, &done)
}

/// Bodies of lists up to this length are sent with a `Content-Length`, longer ones chunked, as the recorded servers do.
const CHUNKED_FROM: usize = 4096;

/// A page of a list, with what its objects are made of.
pub(crate) struct Listed {
    pub(crate) revision: u64,
    /// Where the next page begins, and how many objects follow.
    pub(crate) next: Option<(String, usize)>,
    pub(crate) items: Items,
}

/// The objects of a page.
pub(crate) enum Items {
    Stored(Vec<Object>),
    /// These positions of a generated list.
    Generated(Arc<Generation>, &'static Resource, Range<usize>),
}

impl From<Page> for Listed {
    fn from(page: Page) -> Self {
        Self { revision: page.revision, next: page.next, items: Items::Stored(page.items) }
    }
}

impl Items {
    /// The objects in JSON, made one after the other.
    fn in_json(self) -> Box<dyn Iterator<Item = Object> + Send> {
        match self {
            Self::Stored(objects) => Box::new(objects.into_iter()),
            Self::Generated(generation, resource, positions) => {
                Box::new(positions.map(move |position| generation.object(resource, position)))
            }
        }
    }

    /// The objects in protobuf.
    fn in_protobuf(self, kind: &str) -> Box<dyn Iterator<Item = Vec<u8>> + '_> {
        match self {
            Self::Stored(objects) => {
                Box::new(objects.into_iter().map(move |object| protobuf::object(kind, &object.value())))
            }
            Self::Generated(generation, resource, positions) => {
                Box::new(positions.map(move |position| generation.protobuf(resource, position)))
            }
        }
    }
}

fn listed(resource: &Resource, page: Listed, prefix: &str, selective: bool, form: Form) -> Response<Body> {
    let mut about = json!({ "resourceVersion": page.revision.to_string() });
    if let Some((key, following)) = &page.next {
        let start = key.strip_prefix(prefix).unwrap_or(key).to_owned();
        let revision = i64::try_from(page.revision).expect("a revision that fits");
        about["continue"] = Continue { revision, start }.encode().into();
        if !selective {
            about["remainingItemCount"] = (*following).into();
        }
    }
    if form == Form::Protobuf && protobuf::speaks_of(resource.kind) {
        let items = page.items.in_protobuf(resource.kind);
        let body = protobuf::list(resource.kind, &resource.api_version(), &about, items);
        return respond(StatusCode::OK, PROTOBUF, full(body));
    }
    let (kind, api_version) = match form {
        Form::Whole | Form::Protobuf => (format!("{}List", resource.kind), resource.api_version()),
        Form::Partial => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
    };
    let head = format!(r#"{{"kind":{kind:?},"apiVersion":{api_version:?},"metadata":{about},"items":["#);
    let item = move |object: Object| match form {
        Form::Whole | Form::Protobuf => object.bytes,
        Form::Partial => {
            let metadata = object.value()["metadata"].take();
            let partial = json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata });
            partial.to_string().into()
        }
    };
    // Objects are copied into pieces of a size that suits the network, one piece at a time.
    let mut pieces = Some((BytesMut::from(head.as_bytes()), page.items.in_json().peekable()));
    let mut pieces = std::iter::from_fn(move || {
        let (mut piece, mut items) = pieces.take()?;
        while let Some(object) = items.next() {
            piece.extend_from_slice(&item(object));
            if items.peek().is_some() {
                piece.put_u8(b',');
                if piece.len() >= 64 * 1024 {
                    pieces = Some((BytesMut::with_capacity(80 * 1024), items));
                    return Some(piece.freeze());
                }
            }
        }
        piece.extend_from_slice(b"]}\n");
        Some(piece.freeze())
    });
    let first = pieces.next().unwrap_or_default();
    if first.len() <= CHUNKED_FROM {
        return respond(StatusCode::OK, "application/json", full(first));
    }
    let frames = stream::iter(std::iter::once(first).chain(pieces)).map(|piece| Ok(Frame::data(piece)));
    respond(StatusCode::OK, "application/json", StreamBody::new(frames).boxed_unsync())
}
