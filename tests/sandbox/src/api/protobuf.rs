//! Lists in Kubernetes' protobuf, by the published `generated.proto` files: the fields that tell who uses which image,
//! and some that a client has to skip.

use serde_json::Value;

/// What a field holds.
enum Type {
    /// A string; an absent one is sent empty, as Go's encoder does.
    Text,
    /// An integer; absent is 0.
    Int,
    /// `metav1.Time`; absent is an empty message.
    Time,
    /// `runtime.RawExtension`, with the JSON in it.
    Raw,
    /// `resource.Quantity`.
    Quantity,
    /// A map with strings as keys.
    Map(&'static Self),
    /// A message, which is not sent if it is absent.
    Message(&'static Message),
    /// Any number of these.
    List(&'static Self),
}

use Type::{Int, List, Map, Quantity, Raw, Text, Time};

/// The fields of a message: name in JSON, number, type. A field without a name holds fields of the object around it.
type Message = [(&'static str, u32, Type)];

const fn of(message: &'static Message) -> Type {
    Type::Message(message)
}

static METADATA: &Message = &[
    ("name", 1, Text),
    ("generateName", 2, Text),
    ("namespace", 3, Text),
    ("selfLink", 4, Text),
    ("uid", 5, Text),
    ("resourceVersion", 6, Text),
    ("generation", 7, Int),
    ("creationTimestamp", 8, Time),
    ("labels", 11, Map(&Text)),
    ("annotations", 12, Map(&Text)),
    ("ownerReferences", 13, List(&of(OWNER))),
    ("managedFields", 17, List(&of(MANAGED_FIELDS))),
];
static MANAGED_FIELDS: &Message = &[
    ("manager", 1, Text),
    ("operation", 2, Text),
    ("apiVersion", 3, Text),
    ("time", 4, Time),
    ("fieldsType", 6, Text),
    ("fieldsV1", 7, Raw),
    ("subresource", 8, Text),
];
static OWNER: &Message = &[
    ("kind", 1, Text),
    ("name", 3, Text),
    ("uid", 4, Text),
    ("apiVersion", 5, Text),
    ("controller", 6, Int),
];
static REFERENCE: &Message = &[("kind", 1, Text), ("namespace", 2, Text), ("name", 3, Text)];

static IMAGE: &Message = &[
    ("metadata", 1, of(METADATA)),
    ("dockerImageReference", 2, Text),
    ("dockerImageMetadata", 3, Raw),
    ("dockerImageMetadataVersion", 4, Text),
    ("dockerImageManifest", 5, Text),
    ("dockerImageLayers", 6, List(&of(&[("name", 1, Text), ("size", 2, Int), ("mediaType", 3, Text)]))),
    ("dockerImageManifestMediaType", 9, Text),
    ("dockerImageConfig", 10, Text),
    (
        "dockerImageManifests",
        11,
        List(&of(&[
            ("digest", 1, Text),
            ("mediaType", 2, Text),
            ("manifestSize", 3, Int),
            ("architecture", 4, Text),
            ("os", 5, Text),
        ])),
    ),
];
static IMAGE_STREAM: &Message = &[
    ("metadata", 1, of(METADATA)),
    (
        "spec",
        2,
        of(&[(
            "tags",
            2,
            List(&of(&[
                ("name", 1, Text),
                ("from", 3, of(REFERENCE)),
                ("reference", 4, Int),
                ("generation", 5, Int),
                ("importPolicy", 6, of(&[("scheduled", 2, Int)])),
            ])),
        )]),
    ),
    (
        "status",
        3,
        of(&[
            ("dockerImageRepository", 1, Text),
            (
                "tags",
                2,
                List(&of(&[
                    ("tag", 1, Text),
                    (
                        "items",
                        2,
                        List(&of(&[
                            ("created", 1, Time),
                            ("dockerImageReference", 2, Text),
                            ("image", 3, Text),
                            ("generation", 4, Int),
                        ])),
                    ),
                    (
                        "conditions",
                        3,
                        List(&of(&[("type", 1, Text), ("status", 2, Text), ("generation", 6, Int)])),
                    ),
                ])),
            ),
        ]),
    ),
];
static LIMIT_RANGE: &Message = &[
    ("metadata", 1, of(METADATA)),
    ("spec", 2, of(&[("limits", 1, List(&of(&[("type", 1, Text), ("max", 2, Map(&Quantity))])))])),
];
static NAMESPACE: &Message = &[("metadata", 1, of(METADATA))];

static CONTAINER: &Message = &[("name", 1, Text), ("image", 2, Text), ("imagePullPolicy", 14, Text)];
static CONTAINER_STATUS: &Message = &[("name", 1, Text), ("image", 6, Text), ("imageID", 7, Text)];
static POD_SPEC: &Message = &[
    (
        "volumes",
        1,
        List(&of(&[("name", 1, Text), ("", 2, of(&[("image", 30, of(&[("reference", 1, Text)]))]))])),
    ),
    ("containers", 2, List(&of(CONTAINER))),
    ("restartPolicy", 3, Text),
    ("initContainers", 20, List(&of(CONTAINER))),
    ("ephemeralContainers", 34, List(&of(&[("", 1, of(CONTAINER))]))),
];
static POD: &Message = &[
    ("metadata", 1, of(METADATA)),
    ("spec", 2, of(POD_SPEC)),
    (
        "status",
        3,
        of(&[
            ("phase", 1, Text),
            ("containerStatuses", 8, List(&of(CONTAINER_STATUS))),
            ("initContainerStatuses", 10, List(&of(CONTAINER_STATUS))),
            ("ephemeralContainerStatuses", 13, List(&of(CONTAINER_STATUS))),
        ]),
    ),
];
static TEMPLATE: &Message = &[("metadata", 1, of(METADATA)), ("spec", 2, of(POD_SPEC))];
static TEMPLATE_IN_2: &Message =
    &[("metadata", 1, of(METADATA)), ("spec", 2, of(&[("template", 2, of(TEMPLATE))]))];
static TEMPLATE_IN_3: &Message =
    &[("metadata", 1, of(METADATA)), ("spec", 2, of(&[("template", 3, of(TEMPLATE))]))];
static TEMPLATE_IN_8: &Message =
    &[("metadata", 1, of(METADATA)), ("spec", 2, of(&[("template", 8, of(TEMPLATE))]))];
static JOB: &Message = &[("metadata", 1, of(METADATA)), ("spec", 2, of(&[("template", 6, of(TEMPLATE))]))];
static CRON_JOB: &Message =
    &[("metadata", 1, of(METADATA)), ("spec", 2, of(&[("schedule", 1, Text), ("jobTemplate", 5, of(JOB))]))];
static REVISION: &Message = &[("metadata", 1, of(METADATA)), ("data", 2, Raw), ("revision", 3, Int)];

static WITH_FROM: &Message = &[("from", 1, of(REFERENCE))];
static BUILD_COMMON: &Message = &[
    ("serviceAccount", 1, Text),
    ("source", 2, of(&[("type", 1, Text), ("images", 5, List(&of(WITH_FROM)))])),
    (
        "strategy",
        4,
        of(&[
            ("type", 1, Text),
            ("dockerStrategy", 2, of(WITH_FROM)),
            ("sourceStrategy", 3, of(WITH_FROM)),
            ("customStrategy", 4, of(WITH_FROM)),
        ]),
    ),
];
static BUILD: &Message = &[("metadata", 1, of(METADATA)), ("spec", 2, of(&[("", 1, of(BUILD_COMMON))]))];
static BUILD_CONFIG: &Message =
    &[("metadata", 1, of(METADATA)), ("spec", 2, of(&[("runPolicy", 2, Text), ("", 3, of(BUILD_COMMON))]))];

static STATUS: &Message = &[
    ("metadata", 1, of(&[("selfLink", 1, Text), ("resourceVersion", 2, Text), ("continue", 3, Text)])),
    ("status", 2, Text),
    ("message", 3, Text),
    ("reason", 4, Text),
    (
        "details",
        5,
        of(&[
            ("name", 1, Text),
            ("group", 2, Text),
            ("kind", 3, Text),
            ("retryAfterSeconds", 5, Int),
            ("uid", 6, Text),
        ]),
    ),
    ("code", 6, Int),
];

/// The fields of an object of this kind; `None` for kinds that are sent in JSON alone.
fn message(kind: &str) -> Option<&'static Message> {
    Some(match kind {
        "Image" => IMAGE,
        "ImageStream" => IMAGE_STREAM,
        "LimitRange" => LIMIT_RANGE,
        "Namespace" => NAMESPACE,
        "Pod" => POD,
        "DaemonSet" => TEMPLATE_IN_2,
        "ReplicationController" | "Deployment" | "ReplicaSet" | "StatefulSet" => TEMPLATE_IN_3,
        "DeploymentConfig" => TEMPLATE_IN_8,
        "Job" => JOB,
        "CronJob" => CRON_JOB,
        "ControllerRevision" => REVISION,
        "Build" => BUILD,
        "BuildConfig" => BUILD_CONFIG,
        _ => return None,
    })
}

/// The content type.
pub(super) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Whether objects of this kind are sent in protobuf.
pub(super) fn speaks_of(kind: &str) -> bool {
    message(kind).is_some()
}

/// An object of a kind that is sent in protobuf, without an envelope.
pub(crate) fn object(kind: &str, object: &Value) -> Vec<u8> {
    encoded(message(kind).expect("a kind that is sent in protobuf"), object)
}

/// The list of these encoded objects as one answer.
pub(super) fn list(
    kind: &str,
    api_version: &str,
    about: &Value,
    items: impl Iterator<Item = Vec<u8>>,
) -> Vec<u8> {
    let mut raw = Vec::new();
    let about_type = of(&[
        ("selfLink", 1, Text),
        ("resourceVersion", 2, Text),
        ("continue", 3, Text),
        ("remainingItemCount", 4, Int),
    ]);
    field(&mut raw, 1, &about_type, about);
    for object in items {
        bytes(&mut raw, 2, &object);
    }
    enveloped(&format!("{kind}List"), api_version, &raw)
}

/// A failure as one answer.
pub(super) fn status(failure: &Value) -> Vec<u8> {
    enveloped("Status", "v1", &encoded(STATUS, failure))
}

/// `runtime.Unknown` behind the four magic bytes.
fn enveloped(kind: &str, api_version: &str, raw: &[u8]) -> Vec<u8> {
    let mut about = Vec::new();
    bytes(&mut about, 1, api_version.as_bytes());
    bytes(&mut about, 2, kind.as_bytes());
    let mut answer = b"k8s\0".to_vec();
    bytes(&mut answer, 1, &about);
    bytes(&mut answer, 2, raw);
    bytes(&mut answer, 3, b"");
    bytes(&mut answer, 4, b"");
    answer
}

fn encoded(message: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, number, of_type) in message {
        field(&mut out, *number, of_type, if name.is_empty() { value } else { &value[*name] });
    }
    out
}

fn field(out: &mut Vec<u8>, number: u32, of_type: &Type, value: &Value) {
    match of_type {
        Text => bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Int => {
            let value = value.as_i64().or_else(|| value.as_bool().map(i64::from));
            self::number(out, number, value.unwrap_or_default().cast_unsigned());
        }
        Time => {
            let time: Option<jiff::Timestamp> = value.as_str().and_then(|text| text.parse().ok());
            let mut message = Vec::new();
            if let Some(time) = time {
                field(&mut message, 1, &Int, &time.as_second().into());
                field(&mut message, 2, &Int, &0.into());
            }
            bytes(out, number, &message);
        }
        Raw if value.is_null() => bytes(out, number, b""),
        Raw => {
            let mut message = Vec::new();
            bytes(&mut message, 1, value.to_string().as_bytes());
            bytes(out, number, &message);
        }
        Quantity => {
            let mut message = Vec::new();
            bytes(
                &mut message,
                1,
                value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_bytes(),
            );
            bytes(out, number, &message);
        }
        Map(of_value) => {
            for (key, value) in value.as_object().into_iter().flatten() {
                let mut entry = Vec::new();
                bytes(&mut entry, 1, key.as_bytes());
                field(&mut entry, 2, of_value, value);
                bytes(out, number, &entry);
            }
        }
        Type::Message(_) if value.is_null() => {}
        Type::Message(message) => bytes(out, number, &encoded(message, value)),
        List(of_item) => {
            for item in value.as_array().into_iter().flatten() {
                field(out, number, of_item, item);
            }
        }
    }
}

/// A field with a number in it.
pub(crate) fn number(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number) << 3);
    varint(out, value);
}

/// A field with a string, bytes or a message in it.
pub(crate) fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}
