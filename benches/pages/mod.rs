//! Pages of a large cluster as an API server sends them, in JSON and in protobuf, made one at a time from a seed.

#![allow(clippy::cast_possible_truncation, reason = "parts of well mixed bits, and lengths of pages")]

/// The format of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `application/json`.
    Json,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// A cluster. The same values make the same pages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cluster {
    /// How many images.
    pub(crate) images: usize,
    /// How many image streams hold them, in four tags each.
    pub(crate) streams: usize,
    /// How many pods, replica sets and builds refer to them.
    pub(crate) referrers: usize,
    /// How long an image's labels are, in bytes: nothing reads them.
    pub(crate) padding: usize,
}

/// Objects of a page.
pub(crate) const PAGE: usize = 500;
/// The time that ages are counted from, in seconds.
pub(crate) const NOW: i64 = 1_767_225_600;

const HOST: &str = "image-registry.openshift-image-registry.svc:5000";
const LAYERS: usize = 12;
/// As many of an image's layers are those of its base, which ten streams share.
const SHARED: usize = 7;
const TAGS: [&str; 4] = ["latest", "v2", "v1", "dev"];
/// Of so many images one is an index, and the two after it are its sub-manifests.
const INDEX_EVERY: usize = 50;

impl Cluster {
    /// A cluster of the proportions that the targets of speed and memory are for.
    pub(crate) fn of(images: usize) -> Self {
        Self { images, streams: (images / 20).max(1), referrers: images / 5, padding: 100 }
    }

    /// All pages, in the order in which they are read.
    pub(crate) fn pages(self, format: Format) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
        type List = (&'static str, fn(&Cluster, usize) -> Object, usize);
        let referrers = |part: usize| self.referrers * part / 10;
        let lists: [List; 5] = [
            ("images", Self::image, self.images),
            ("imagestreams", Self::stream, self.streams),
            ("pods", Self::pod, referrers(5)),
            ("replicasets", Self::replica_set, referrers(4)),
            ("builds", Self::build, referrers(1)),
        ];
        lists.into_iter().flat_map(move |(resource, object, count)| {
            (0..count).step_by(PAGE).map(move |first| {
                let objects = (first..count.min(first + PAGE)).map(|number| object(&self, number));
                (resource, page(format, objects))
            })
        })
    }

    fn is_index(number: usize) -> bool {
        number.is_multiple_of(INDEX_EVERY)
    }

    /// One in ten is named by no stream, and neither are sub-manifests.
    fn is_in_stream(number: usize) -> bool {
        !(1..=2).contains(&(number % INDEX_EVERY)) && !mixed(9, number).is_multiple_of(10)
    }

    fn image(&self, number: usize) -> Object {
        let created = NOW - 3600 - 3600 * i64::try_from(number / self.streams).unwrap_or(0);
        let stream = number % self.streams;
        let name = digest(0, number);
        let mut metadata = metadata(&name, "", created);
        let label = "x".repeat(self.padding);
        metadata.push(("labels", 11, Field::Map(vec![("padding", label)])));
        metadata.push((
            "annotations",
            12,
            Field::Map(vec![("openshift.io/image.managed", "true".to_owned())]),
        ));
        let mut layers = Vec::new();
        let mut manifests = Vec::new();
        if Self::is_index(number) {
            for below in (number + 1..self.images).take(2) {
                manifests.push(vec![
                    ("digest", 1, Field::Text(digest(0, below))),
                    ("mediaType", 2, Field::text("application/vnd.oci.image.manifest.v1+json")),
                    ("manifestSize", 3, Field::Number(2000)),
                    ("architecture", 4, Field::text("amd64")),
                    ("os", 5, Field::text("linux")),
                ]);
            }
        } else {
            for layer in 0..LAYERS {
                let (what, owner) = if layer < SHARED { (1, stream / 10) } else { (2, number) };
                let unit = owner * LAYERS + layer;
                layers.push(vec![
                    ("name", 1, Field::Text(digest(what, unit))),
                    ("size", 2, Field::Number(mixed(what + 10, unit) % 80_000_000)),
                    ("mediaType", 3, Field::text("application/vnd.oci.image.layer.v1.tar+gzip")),
                ]);
            }
        }
        let config = digest(3, number);
        let docker = format!(
            r#"{{"kind":"DockerImage","apiVersion":"image.openshift.io/1.0","Id":"{config}","Created":"2025-01-02T03:04:05Z","ContainerConfig":{{}},"Config":{{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Labels":{{"architecture":"x86_64"}}}},"Architecture":"amd64","Size":480000000}}"#
        );
        let media_type = if Self::is_index(number) {
            "application/vnd.oci.image.index.v1+json"
        } else {
            "application/vnd.oci.image.manifest.v1+json"
        };
        vec![
            ("metadata", 1, Field::Message(metadata)),
            ("dockerImageReference", 2, Field::Text(format!("{}@{name}", repository(stream)))),
            ("dockerImageMetadata", 3, Field::Raw(docker)),
            ("dockerImageMetadataVersion", 4, Field::text("1.0")),
            ("dockerImageLayers", 6, Field::List(layers)),
            ("dockerImageManifestMediaType", 9, Field::text(media_type)),
            ("dockerImageManifests", 11, Field::List(manifests)),
        ]
    }

    fn stream(&self, number: usize) -> Object {
        let mut tags: Vec<Vec<Object>> = vec![Vec::new(); TAGS.len()];
        let images = (number..self.images).step_by(self.streams);
        for (position, image) in images.filter(|image| Self::is_in_stream(*image)).enumerate() {
            let created = NOW - 3600 - 3600 * i64::try_from(image / self.streams).unwrap_or(0);
            let name = digest(0, image);
            tags[position % TAGS.len()].push(vec![
                ("created", 1, Field::Time(created)),
                ("dockerImageReference", 2, Field::Text(format!("{}@{name}", repository(number)))),
                ("image", 3, Field::Text(name)),
                ("generation", 4, Field::Number(1)),
            ]);
        }
        let tags = TAGS.iter().zip(tags).filter(|(_, items)| !items.is_empty());
        let tags =
            tags.map(|(tag, items)| vec![("tag", 1, Field::text(tag)), ("items", 2, Field::List(items))]);
        let (namespace, name) = stream_name(number);
        vec![
            ("metadata", 1, Field::Message(metadata(&name, &namespace, NOW - 400 * 86_400))),
            (
                "status",
                3,
                Field::Message(vec![
                    ("dockerImageRepository", 1, Field::Text(repository(number))),
                    ("tags", 2, Field::List(tags.collect())),
                ]),
            ),
        ]
    }

    /// What a referrer names: its stream by tag, or by digest an image of it.
    fn target(&self, what: u64, number: usize) -> (usize, String, String) {
        let image = usize::try_from(mixed(what, number)).unwrap_or(0) % self.images;
        let stream = image % self.streams;
        let by_digest = format!("{}@{}", repository(stream), digest(0, image));
        let spec = if number.is_multiple_of(2) {
            format!("{}:{}", repository(stream), TAGS[number / 2 % TAGS.len()])
        } else {
            by_digest.clone()
        };
        (stream, spec, by_digest)
    }

    fn pod(&self, number: usize) -> Object {
        let (stream, spec, runs) = self.target(20, number);
        let (namespace, name) = stream_name(stream);
        let set = format!("{name}-{:08x}", mixed(22, number) as u32);
        let mut metadata = metadata(&format!("{set}-{number:05x}"), &namespace, NOW - 7200);
        metadata.push((
            "ownerReferences",
            13,
            Field::List(vec![vec![
                ("kind", 1, Field::text("ReplicaSet")),
                ("name", 3, Field::Text(set)),
                ("controller", 6, Field::Flag(true)),
            ]]),
        ));
        let status = vec![("name", 1, Field::text("app")), ("imageID", 7, Field::Text(runs))];
        vec![
            ("metadata", 1, Field::Message(metadata)),
            ("spec", 2, Field::Message(containers(spec))),
            (
                "status",
                3,
                Field::Message(vec![
                    ("phase", 1, Field::text("Running")),
                    ("containerStatuses", 8, Field::List(vec![status])),
                ]),
            ),
        ]
    }

    fn replica_set(&self, number: usize) -> Object {
        let (stream, spec, _) = self.target(30, number);
        let (namespace, name) = stream_name(stream);
        let metadata = metadata(&format!("{name}-{number:010x}"), &namespace, NOW - 7200);
        let template = vec![("spec", 2, Field::Message(containers(spec)))];
        vec![
            ("metadata", 1, Field::Message(metadata)),
            ("spec", 2, Field::Message(vec![("template", 3, Field::Message(template))])),
        ]
    }

    fn build(&self, number: usize) -> Object {
        let (stream, ..) = self.target(40, number);
        let (namespace, name) = stream_name(stream);
        let metadata = metadata(&format!("{name}-{number}"), &namespace, NOW - 7200);
        let from = vec![
            ("kind", 1, Field::text("ImageStreamTag")),
            ("namespace", 2, Field::Text(namespace)),
            ("name", 3, Field::Text(format!("{name}:latest"))),
        ];
        let source = vec![("from", 1, Field::Message(from))];
        let strategy = vec![("sourceStrategy", 3, Field::Message(source))];
        // What builds and their configs share stands in a message of its own in protobuf.
        let spec = vec![("", 1, Field::Message(vec![("strategy", 4, Field::Message(strategy))]))];
        vec![("metadata", 1, Field::Message(metadata)), ("spec", 2, Field::Message(spec))]
    }
}

fn containers(image: String) -> Object {
    let container = vec![("name", 1, Field::text("app")), ("image", 2, Field::Text(image))];
    vec![("containers", 2, Field::List(vec![container]))]
}

fn metadata(name: &str, namespace: &str, created: i64) -> Object {
    let id = digest(50, usize::try_from(mixed(51, name.len()) % 1_000_000).unwrap_or(0));
    let uid = format!("{}-{}-4{}-8{}-{}", &id[7..15], &id[15..19], &id[19..22], &id[22..25], &id[25..37]);
    vec![
        ("name", 1, Field::text(name)),
        ("namespace", 3, Field::text(namespace)),
        ("uid", 5, Field::Text(uid)),
        ("resourceVersion", 6, Field::text("123456789")),
        ("creationTimestamp", 8, Field::Time(created)),
    ]
}

fn stream_name(number: usize) -> (String, String) {
    (format!("project-{}", number / 5), format!("app-{number}"))
}

fn repository(stream: usize) -> String {
    let (namespace, name) = stream_name(stream);
    format!("{HOST}/{namespace}/{name}")
}

/// Well mixed bits (the finalizer of `SplitMix64`).
fn mixed(what: u64, number: usize) -> u64 {
    let mut bits =
        (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ what.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

fn digest(what: u64, number: usize) -> String {
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for part in 0..4 {
        let bits = mixed(what + 100 * part, number);
        for shift in (0..16).rev() {
            text.push(char::from(b"0123456789abcdef"[(bits >> (4 * shift) & 15) as usize]));
        }
    }
    text
}

/// Fields by name and number; a field without a name holds fields of the object around it.
type Object = Vec<(&'static str, u32, Field)>;

#[derive(Debug, Clone)]
enum Field {
    Text(String),
    Number(u64),
    Flag(bool),
    Time(i64),
    Raw(String),
    Map(Vec<(&'static str, String)>),
    Message(Object),
    List(Vec<Object>),
}

impl Field {
    fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

fn page(format: Format, objects: impl Iterator<Item = Object>) -> Vec<u8> {
    match format {
        Format::Json => {
            let mut page =
                br#"{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":["#.to_vec();
            for (position, object) in objects.enumerate() {
                if position > 0 {
                    page.push(b',');
                }
                page.push(b'{');
                json_fields(&mut page, &object, &mut false);
                page.push(b'}');
            }
            page.extend_from_slice(b"]}");
            page
        }
        Format::Protobuf => {
            let mut list = Vec::new();
            bytes_field(&mut list, 1, &{
                let mut metadata = Vec::new();
                bytes_field(&mut metadata, 2, b"1");
                metadata
            });
            for object in objects {
                bytes_field(&mut list, 2, &protobuf(&object));
            }
            let mut page = b"k8s\0".to_vec();
            bytes_field(&mut page, 2, &list);
            page
        }
    }
}

fn json_fields(out: &mut Vec<u8>, object: &Object, is_begun: &mut bool) {
    for (name, _, field) in object {
        if let ("", Field::Message(inner)) = (*name, field) {
            json_fields(out, inner, is_begun);
            continue;
        }
        if std::mem::replace(is_begun, true) {
            out.push(b',');
        }
        out.extend_from_slice(format!("{name:?}:").as_bytes());
        match field {
            Field::Text(text) => json_text(out, text),
            Field::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Field::Flag(flag) => out.extend_from_slice(flag.to_string().as_bytes()),
            Field::Time(seconds) => {
                let time = jiff::Timestamp::from_second(*seconds).unwrap_or_default().to_string();
                json_text(out, &time);
            }
            Field::Raw(json) => out.extend_from_slice(json.as_bytes()),
            Field::Map(entries) => {
                out.push(b'{');
                for (position, (key, value)) in entries.iter().enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    json_text(out, key);
                    out.push(b':');
                    json_text(out, value);
                }
                out.push(b'}');
            }
            Field::Message(inner) => {
                out.push(b'{');
                json_fields(out, inner, &mut false);
                out.push(b'}');
            }
            Field::List(objects) => {
                out.push(b'[');
                for (position, inner) in objects.iter().enumerate() {
                    out.extend_from_slice(if position > 0 { b",{" } else { b"{" });
                    json_fields(out, inner, &mut false);
                    out.push(b'}');
                }
                out.push(b']');
            }
        }
    }
}

/// No text here needs escapes.
fn json_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn protobuf(object: &Object) -> Vec<u8> {
    let mut out = Vec::new();
    for (_, number, field) in object {
        match field {
            Field::Text(text) => bytes_field(&mut out, *number, text.as_bytes()),
            Field::Number(value) => number_field(&mut out, *number, *value),
            Field::Flag(flag) => number_field(&mut out, *number, u64::from(*flag)),
            Field::Time(seconds) => {
                let mut time = Vec::new();
                number_field(&mut time, 1, seconds.cast_unsigned());
                bytes_field(&mut out, *number, &time);
            }
            Field::Raw(json) => {
                let mut raw = Vec::new();
                bytes_field(&mut raw, 1, json.as_bytes());
                bytes_field(&mut out, *number, &raw);
            }
            Field::Map(entries) => {
                for (key, value) in entries {
                    let mut entry = Vec::new();
                    bytes_field(&mut entry, 1, key.as_bytes());
                    bytes_field(&mut entry, 2, value.as_bytes());
                    bytes_field(&mut out, *number, &entry);
                }
            }
            Field::Message(inner) => bytes_field(&mut out, *number, &protobuf(inner)),
            Field::List(objects) => {
                for inner in objects {
                    bytes_field(&mut out, *number, &protobuf(inner));
                }
            }
        }
    }
    out
}

fn bytes_field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number << 3 | 2));
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn number_field(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number << 3));
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
