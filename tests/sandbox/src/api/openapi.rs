//! What kubectl wants to know of the resources before it applies anything: `/openapi/v2`, in protobuf
//! (`openapi.v2.Document` of google/gnostic), as far as kubectl reads it. And the checks that it leaves to the server.

use std::sync::OnceLock;

use bytes::Bytes;
use k8s_openapi::api::{batch, core, rbac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::resource::{RESOURCES, Resource};
use super::status::Failure;

/// The media type of the answer: the one that is asked for, made one that parses.
pub(super) const TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document.
pub(super) fn document() -> Bytes {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    DOCUMENT.get_or_init(|| encoded().into()).clone()
}

/// A message or a string in a message: its field's number, its length, itself.
fn field(number: u32, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut bytes = Vec::with_capacity(content.len() + 6);
    varint(&mut bytes, u64::from(number << 3 | 2));
    varint(&mut bytes, content.len() as u64);
    bytes.extend_from_slice(content);
    bytes
}

fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

/// The extension that says which kind something is about.
fn kind_extension(yaml: &str) -> Vec<u8> {
    let any = field(2, yaml);
    [field(1, "x-kubernetes-group-version-kind"), field(2, any)].concat()
}

fn encoded() -> Vec<u8> {
    let info = [field(1, "Kubernetes"), field(2, "v1.36.2")].concat();
    let (mut paths, mut definitions) = (Vec::new(), Vec::new());
    for resource in &RESOURCES {
        let Resource { group, plural, kind, .. } = resource;
        let about = format!("{{group: {group:?}, kind: {kind}, version: v1}}");
        // Only whether an operation takes `fieldValidation` and `dryRun` is looked at.
        let parameter =
            |name: &str| field(1, field(2, field(3, [field(2, "query"), field(4, name)].concat())));
        let operation = [
            field(8, parameter("dryRun")),
            field(8, parameter("fieldValidation")),
            field(13, kind_extension(&about)),
        ];
        let path = format!("/{}/{plural}/{{name}}", resource.api_version());
        paths.extend(field(2, [field(1, path), field(2, field(8, operation.concat()))].concat()));
        // A schema without properties takes anything: the fields are checked by the server.
        let schema = field(31, kind_extension(&format!("[{about}]")));
        let name = format!("io.k8s.api.{group}.v1.{kind}");
        definitions.extend(field(1, [field(1, name), field(2, schema)].concat()));
    }
    [field(1, "2.0"), field(2, info), field(8, paths), field(9, definitions)].concat()
}

/// Checks with `fieldValidation=Strict` that an object has no field that its kind does not have.
pub(super) fn strictly(resource: &Resource, object: &Value) -> Result<(), Failure> {
    let known = match resource.kind {
        "ClusterRole" => typed::<rbac::v1::ClusterRole>(object),
        "ClusterRoleBinding" => typed::<rbac::v1::ClusterRoleBinding>(object),
        "ConfigMap" => typed::<core::v1::ConfigMap>(object),
        "CronJob" => typed::<batch::v1::CronJob>(object),
        "Job" if resource.group == "batch" => typed::<batch::v1::Job>(object),
        "Role" => typed::<rbac::v1::Role>(object),
        "RoleBinding" => typed::<rbac::v1::RoleBinding>(object),
        "ServiceAccount" => typed::<core::v1::ServiceAccount>(object),
        _ => return Ok(()),
    };
    let kind = resource.kind;
    let known = known.map_err(|error| {
        Failure::bad_request(format!("{kind} in version \"v1\" cannot be handled as a {kind}: {error}"))
    })?;
    match unknown(object, &known, "") {
        Some(path) => {
            Err(Failure::bad_request(format!("strict decoding error: unknown field {:?}", &path[1..])))
        }
        None => Ok(()),
    }
}

fn typed<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, serde_json::Error> {
    serde_json::from_value::<T>(object.clone()).and_then(serde_json::to_value)
}

/// The first field that got lost on the way through the kind.
fn unknown(object: &Value, known: &Value, path: &str) -> Option<String> {
    match (object, known) {
        (Value::Object(fields), known) => fields.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            match known.get(name) {
                Some(known) => unknown(value, known, &path),
                // What is empty need not be written.
                None => (!value.is_null()).then_some(path),
            }
        }),
        (Value::Array(values), Value::Array(known)) => values
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(number, (value, known))| unknown(value, known, &format!("{path}[{number}]"))),
        _ => None,
    }
}
