//! The failures of the API server, worded as the recorded servers word them.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::access::{Rule, group};
use super::managed::Conflict;
use super::resource::{Resource, qualified};

/// A `Status` that reports a failure.
#[derive(Clone, Debug)]
pub struct Failure {
    pub(crate) code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Box<Value>>,
    /// The token to go on with after an expired one.
    continuation: Option<Box<str>>,
}

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, continuation: None }
    }

    fn about(mut self, name: &str, group: &str, kind: &str) -> Self {
        let mut details = Map::new();
        for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                details.insert(key.to_owned(), value.into());
            }
        }
        self.details = Some(Box::new(details.into()));
        self
    }

    fn because(mut self, causes: &[Value]) -> Self {
        if let Some(details) = &mut self.details {
            details["causes"] = causes.into();
        }
        self
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(who: &str, verb: &str, target: &Target<'_>) -> Self {
        let Target { group, resource, subresource, namespace, name } = *target;
        let what = qualified(resource, group);
        let named = if name.is_empty() { what } else { format!("{what} {name:?}") };
        let full =
            if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
        let scope = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {namespace:?}")
        };
        let message = format!(
            "{named} is forbidden: User {who:?} cannot {verb} resource {full:?} in API group {group:?} {scope}"
        );
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(name, group, resource)
    }

    /// Fields of an applied configuration that others have set to other values.
    pub(crate) fn apply_conflicts(resource: &Resource, name: &str, conflicts: &[Conflict]) -> Self {
        let version = resource.api_version();
        let mut managers: Vec<&str> = conflicts.iter().map(|conflict| conflict.manager.as_str()).collect();
        managers.sort_unstable();
        managers.dedup();
        let mut message = match conflicts.len() {
            1 => "Apply failed with 1 conflict: ".to_owned(),
            count => format!("Apply failed with {count} conflicts: "),
        };
        let parts: Vec<String> = managers
            .into_iter()
            .map(|manager| {
                let own = conflicts.iter().filter(|conflict| conflict.manager == manager);
                let fields: Vec<&str> = own.map(|conflict| conflict.field.as_str()).collect();
                match fields.as_slice() {
                    [field] => format!("conflict with {manager:?} using {version}: {field}"),
                    fields => {
                        format!("conflicts with {manager:?} using {version}:\n- {}", fields.join("\n- "))
                    }
                }
            })
            .collect();
        message.push_str(&parts.join("\n"));
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|Conflict { manager, field }| {
                let message = format!("conflict with {manager:?} using {version}");
                json!({ "reason": "FieldManagerConflict", "message": message, "field": field })
            })
            .collect();
        Self::new(StatusCode::CONFLICT, "Conflict", message)
            .about(name, resource.group, resource.plural)
            .because(&causes)
    }

    /// A role or a binding that would give what its author does not have.
    pub(crate) fn escalation(resource: &Resource, name: &str, who: &str, rule: &Rule) -> Self {
        let Rule { verbs, groups, resources, names, .. } = rule;
        let names = if names.is_empty() { String::new() } else { format!(", ResourceNames:{names:?}") };
        let message = format!(
            "{} {name:?} is forbidden: user {who:?} (groups=[{:?}]) is attempting to grant RBAC permissions not currently \
             held:\n{{APIGroups:{groups:?}, Resources:{resources:?}{names}, Verbs:{verbs:?}}}",
            resource.qualified(),
            group(who)
        );
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(name, resource.group, resource.plural)
    }

    pub(crate) fn forbidden_path(who: &str, verb: &str, path: &str) -> Self {
        let message = format!("forbidden: User {who:?} cannot {verb} path {path:?}");
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about("", "", "")
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        Self::not_found_as(resource.plural, resource.group, name)
    }

    pub(crate) fn not_found_as(plural: &str, group: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(plural, group));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(name, group, plural)
    }

    pub(crate) fn no_such_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about("", "", "")
    }

    pub(crate) fn not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).about("", "", "")
    }

    pub(crate) fn not_acceptable() -> Self {
        let message = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, \
                       application/vnd.kubernetes.protobuf, application/json;stream=watch, \
                       application/vnd.kubernetes.protobuf;stream=watch";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message).about("", "", "")
    }

    pub(crate) fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message).about("", "", "")
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", resource.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(name, resource.group, resource.plural)
    }

    pub(crate) fn unfit_patch() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about("", "", "")
    }

    /// An eviction that a budget does not allow.
    pub(crate) fn disruption(budget: &str, needed: i64, healthy: i64) -> Self {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let cause =
            format!("The disruption budget {budget} needs {needed} healthy pods and has {healthy} currently");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
            .about("", "", "")
            .because(&[json!({ "reason": "DisruptionBudget", "message": cause })])
    }

    pub(crate) fn several_budgets() -> Self {
        let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    pub(crate) fn modified(resource: &Resource, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the object has been modified; please apply your changes to \
             the latest version and try again",
            resource.qualified()
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(name, resource.group, resource.plural)
    }

    pub(crate) fn precondition(
        resource: &Resource,
        name: &str,
        what: &str,
        wanted: &str,
        found: &str,
    ) -> Self {
        let hint = if what == "UID" { "deleted and then recreated" } else { "modified" };
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the {what} in the precondition ({wanted}) does not match the \
             {what} in record ({found}). The object might have been {hint}",
            qualified(resource.kind, resource.group)
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(name, resource.group, resource.kind)
    }

    pub(crate) fn no_resource_version(resource: &Resource, name: &str) -> Self {
        let cause = "Invalid value: 0: must be specified for an update";
        let field = "metadata.resourceVersion";
        let message = format!("{} {name:?} is invalid: {field}: {cause}", resource.qualified());
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            .about(name, resource.group, resource.plural)
            .because(&[json!({ "reason": "FieldValueInvalid", "message": cause, "field": field })])
    }

    /// An invalid object: `times` is how often the server lists the cause.
    pub(crate) fn invalid(
        resource: &Resource,
        name: &str,
        reason: &str,
        field: &str,
        problem: &str,
        times: usize,
    ) -> Self {
        let kind = qualified(resource.kind, resource.group);
        let message = format!("{kind} {name:?} is invalid: {field}: {problem}");
        let cause = json!({ "reason": reason, "message": problem, "field": field });
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            .about(name, resource.group, resource.kind)
            .because(&vec![cause; times])
    }

    pub(crate) fn expired_continue(continuation: String) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a \
                       new list without the continue parameter, or use the continue token in this response to retrieve \
                       the remainder of the results. Continuing with the provided token results in an inconsistent list \
                       - objects that were created, modified, or deleted between the time the first chunk was returned \
                       and now may show up in the list.";
        let mut failure = Self::new(StatusCode::GONE, "Expired", message);
        failure.continuation = Some(continuation.into());
        failure
    }

    pub(crate) fn too_old(requested: u64, oldest: u64) -> Self {
        Self::new(StatusCode::GONE, "Expired", format!("too old resource version: {requested} ({oldest})"))
    }

    pub(crate) fn no_watch_list() -> Self {
        let message = "a watch stream was requested by the client but the required storage feature \
                       RequestWatchProgress is disabled";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// The `Status` object.
    pub(crate) fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        });
        if let Some(continuation) = &self.continuation {
            status["metadata"]["continue"] = continuation.as_ref().into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.as_ref().clone();
        }
        status["code"] = self.code.as_u16().into();
        status
    }
}

/// What a request is about, empty where it does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Target<'a> {
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}
