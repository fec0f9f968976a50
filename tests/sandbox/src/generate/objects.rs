//! The objects: each is a function of what is generated and of its position in the list.

use std::sync::Arc;

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Generator;
use super::template::{self, Hole, Template};
use crate::api::store::{Object, key};
use crate::api::{Items, Listed, Resource, protobuf, timestamp};

/// How many streams share their lower layers.
const STREAMS_PER_BASE: usize = 10;
const STREAMS_PER_NAMESPACE: usize = 5;
/// The images of a stream are this many seconds apart.
const SECONDS_BETWEEN_IMAGES: usize = 3 * 3600;
const TAGS: [&str; 4] = ["latest", "v2", "v1", "dev"];
/// The revision before that of the first object. All revisions have eight digits.
const REVISION: u64 = 10_000_000;
/// How long an image's config is.
const CONFIG_SIZE: u64 = 4000;
/// All sizes of layers have eight digits.
const LAYER_SIZES: std::ops::Range<u64> = 10_000_000..100_000_000;

/// The kinds that refer to images, and which ten of each ten referrers are of it.
const REFERRERS: [(&str, &[usize]); 7] = [
    ("pods", &[0, 1, 2, 3]),
    ("deployments", &[4]),
    ("replicasets", &[5]),
    ("statefulsets", &[6]),
    ("daemonsets", &[7]),
    ("jobs", &[8]),
    ("deploymentconfigs", &[9]),
];

/// What chance decides, each by itself.
#[derive(Clone, Copy)]
enum Chance {
    Image,
    SharedLayer,
    OwnLayer,
    Config,
    ImageUid,
    Tag,
    StreamUid,
    Referrer,
    ReferrerUid,
    Orphan,
    SharedLayerSize,
    OwnLayerSize,
    Mark,
}

/// A resource with its objects.
#[derive(Clone, Debug)]
struct Table {
    resource: &'static Resource,
    count: usize,
    /// How many objects stand before these, in all lists.
    before: usize,
}

/// A generated cluster.
#[derive(Debug)]
pub(crate) struct Generation {
    of: Generator,
    host: String,
    tables: Vec<Table>,
    order: Order,
    layer_sizes: std::ops::Range<u64>,
    in_json: Template,
    in_protobuf: Template,
}

impl Generation {
    pub(super) fn new(of: &Generator, host: &str) -> Self {
        let of = Generator { streams: of.streams.max(1), ..of.clone() };
        let resource = |name: &str| Resource::named(name).expect("a resource of the sandbox");
        let mut counts = vec![("images", of.images), ("imagestreams", of.streams)];
        counts.extend(REFERRERS.iter().map(|(plural, places)| {
            let rest = of.referrers % 10;
            (*plural, of.referrers / 10 * places.len() + places.iter().filter(|place| **place < rest).count())
        }));
        let mut before = 0;
        let tables = counts.into_iter().map(|(plural, count)| {
            let table = Table { resource: resource(plural), count, before };
            before += count;
            table
        });
        let empty = Template::of(Vec::new(), &[]);
        let mut generation = Self {
            tables: tables.collect(),
            order: Order::new(of.images),
            layer_sizes: layer_sizes(of.layers_per_image as u64),
            in_json: empty.clone(),
            in_protobuf: empty,
            host: host.to_owned(),
            of,
        };
        (generation.in_json, generation.in_protobuf) = generation.templates();
        generation
    }

    /// The resources that are generated.
    pub(crate) fn resources(&self) -> impl Iterator<Item = &'static Resource> {
        self.tables.iter().map(|table| table.resource)
    }

    /// The names of the namespaces.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = String> {
        (0..self.of.streams.div_ceil(STREAMS_PER_NAMESPACE)).map(namespace)
    }

    fn table(&self, resource: &Resource) -> &Table {
        self.tables.iter().find(|table| table.resource == resource).expect("a generated resource")
    }

    /// How many objects of this resource there are; `None` if none are generated.
    pub(crate) fn count(&self, resource: &Resource) -> Option<usize> {
        self.tables.iter().find(|table| table.resource == resource).map(|table| table.count)
    }

    /// The revision of the newest object.
    pub(crate) fn latest(&self) -> u64 {
        let objects: usize = self.tables.iter().map(|table| table.count).sum();
        REVISION + objects as u64
    }

    /// The revision of an object.
    pub(crate) fn revision(&self, resource: &Resource, index: usize) -> u64 {
        REVISION + 1 + (self.table(resource).before + index) as u64
    }

    /// The key of an object; they are in order.
    pub(crate) fn key(&self, resource: &Resource, index: usize) -> String {
        match resource.plural {
            "images" => self.image_digest(index),
            "imagestreams" => repository(index),
            plural => {
                let referrer = referrer_at(plural, index);
                format!("{}/{}", self.referrer_namespace(referrer), referrer_name(referrer))
            }
        }
    }

    /// The position of the first object whose key is not less than this.
    pub(crate) fn position(&self, resource: &Resource, key: &str) -> usize {
        let (mut low, mut high) = (0, self.table(resource).count);
        while low < high {
            let middle = low.midpoint(high);
            if *self.key(resource, middle) < *key { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// A page of the list of a resource: those whose keys begin with `prefix`, from the key `start` on.
    pub(crate) fn page(
        self: &Arc<Self>,
        resource: &'static Resource,
        prefix: &str,
        start: Option<&str>,
        limit: usize,
    ) -> Listed {
        let first = self.position(resource, start.unwrap_or(prefix));
        let end = match prefix.strip_suffix('/') {
            // `0` follows `/`.
            Some(namespace) => self.position(resource, &format!("{namespace}0")),
            None => self.table(resource).count,
        };
        let last = first.saturating_add(limit).min(end);
        // The next page starts right behind this key.
        let next = || (format!("{}\0", self.key(resource, last - 1)), end - last);
        Listed {
            revision: self.latest(),
            next: (last > first && last < end).then(next),
            items: Items::Generated(Arc::clone(self), resource, first..last),
        }
    }

    /// An object by its name.
    pub(crate) fn find(&self, resource: &'static Resource, namespace: &str, name: &str) -> Option<Object> {
        let key = key(resource, namespace, name);
        let count = self.count(resource)?;
        let position = self.position(resource, &key);
        (position < count && self.key(resource, position) == key).then(|| self.object(resource, position))
    }

    /// An object as it would be stored.
    pub(crate) fn object(&self, resource: &Resource, index: usize) -> Object {
        let revision = self.revision(resource, index);
        let bytes = match resource.plural {
            "images" => {
                let mut out = Vec::with_capacity(self.of.bytes_per_image + 1000);
                self.in_json.write(&mut out, self.image(index, revision));
                out
            }
            "imagestreams" => self.stream(index, revision).into_bytes(),
            plural => self.referrer(plural, index, revision).to_string().into_bytes(),
        };
        Object { bytes: bytes.into(), revision }
    }

    /// An object as an item of a list in protobuf.
    pub(crate) fn protobuf(&self, resource: &Resource, index: usize) -> Vec<u8> {
        let revision = self.revision(resource, index);
        match resource.plural {
            "images" => {
                let mut out = Vec::with_capacity(self.of.bytes_per_image + 1000);
                self.in_protobuf.write(&mut out, self.image(index, revision));
                out
            }
            "imagestreams" => self.stream_in_protobuf(index, revision),
            plural => protobuf::object(resource.kind, &self.referrer(plural, index, revision)),
        }
    }

    fn random(&self, what: Chance, index: usize) -> Rng {
        // Odd factors keep the seeds of neighbours apart.
        let mixed = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ (what as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        Rng::with_seed(self.of.seed.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ mixed)
    }

    fn words(&self, what: Chance, index: usize) -> [u64; 4] {
        let mut random = self.random(what, index);
        [(); 4].map(|()| random.u64(..))
    }

    fn digest(&self, what: Chance, index: usize) -> String {
        text_of(self.words(what, index))
    }

    /// The digest of an image. Lists are in the order of names, so the digests grow with the index.
    fn image_words(&self, index: usize) -> [u64; 4] {
        let mut words = self.words(Chance::Image, index);
        let step = u64::MAX / self.of.images.max(1) as u64;
        words[0] = index as u64 * step + words[0] % step;
        words
    }

    fn image_digest(&self, index: usize) -> String {
        text_of(self.image_words(index))
    }

    fn uid(&self, what: Chance, index: usize) -> String {
        let digest = self.digest(what, index);
        format!(
            "{}-{}-4{}-8{}-{}",
            &digest[7..15],
            &digest[15..19],
            &digest[19..22],
            &digest[22..25],
            &digest[25..37]
        )
    }

    fn time(&self, age: usize) -> Timestamp {
        self.of.now - SignedDuration::from_secs(i64::try_from(age).expect("a time in range"))
    }

    /// How old a push is: the lower its number, the younger.
    fn age(&self, push: usize) -> usize {
        (push / self.of.streams) * SECONDS_BETWEEN_IMAGES + self.stream_of(push) * 60 % 3000 + 60
    }

    fn stream_of(&self, push: usize) -> usize {
        push % self.of.streams
    }

    fn orphaned(&self, push: usize) -> bool {
        // The newest image of each stream stays: a stream without any is not what is wanted.
        push >= self.of.streams && self.random(Chance::Orphan, push).f64() < self.of.orphaned_fraction
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a count of layers is small"
    )]
    fn shared_layers(&self) -> usize {
        (self.of.layers_per_image as f64 * self.of.shared_fraction.clamp(0.0, 1.0)).round() as usize
    }

    /// The digest and the size of a layer of a pushed image.
    fn layer(&self, push: usize, layer: usize) -> ([u64; 4], u64) {
        let (what, sizes, index) = if layer < self.shared_layers() {
            (Chance::SharedLayer, Chance::SharedLayerSize, self.stream_of(push) / STREAMS_PER_BASE)
        } else {
            (Chance::OwnLayer, Chance::OwnLayerSize, push)
        };
        let index = index * self.of.layers_per_image + layer;
        (self.words(what, index), self.random(sizes, index).u64(self.layer_sizes.clone()))
    }

    /// An image with marks where images differ, in both encodings.
    fn templates(&self) -> (Template, Template) {
        let mark = |number: usize| self.digest(Chance::Mark, number);
        let (name, config) = (mark(0), mark(1));
        let (uid, revision, size) = (self.uid(Chance::Mark, 2), "91827364", self.total_of(&self.layer_sizes));
        let created = Timestamp::from_second(981_173_106).expect("a time");
        let repository = "project-#####/app-######";
        let layers: Vec<(String, u64)> =
            (0..self.of.layers_per_image).map(|layer| (mark(3 + layer), 73_000_000 + layer as u64)).collect();

        let object = self.sample(&name, &config, &uid, (revision, created, repository), &layers, size);
        let mut marks: Vec<(Hole, Vec<u8>)> = vec![
            (Hole::Name, name.into()),
            (Hole::Config, config.into()),
            (Hole::Uid, uid.into()),
            (Hole::Revision, revision.into()),
            (Hole::Created, created.to_string().into()),
            (Hole::Repository, repository.into()),
            (Hole::Size, format!("\"Size\":{size}").into()),
        ];
        for (number, (digest, size)) in layers.into_iter().enumerate() {
            marks.push((Hole::Layer(number), digest.into()));
            marks.push((Hole::LayerSize(number), size.to_string().into()));
        }
        let in_json = Template::of(object.to_string().into_bytes(), &marks);
        let as_varint = |number: u64| {
            let mut out = Vec::new();
            protobuf::varint(&mut out, number);
            out
        };
        marks.push((Hole::CreatedSeconds, as_varint(created.as_second().cast_unsigned())));
        for number in 0..self.of.layers_per_image {
            marks.push((Hole::LayerSizeVarint(number), as_varint(73_000_000 + number as u64)));
        }
        (in_json, Template::of(protobuf::object("Image", &object), &marks))
    }

    /// A size that is as wide as those of all images.
    fn total_of(&self, sizes: &std::ops::Range<u64>) -> u64 {
        sizes.start * self.of.layers_per_image as u64 + CONFIG_SIZE
    }

    fn sample(
        &self,
        name: &str,
        config: &str,
        uid: &str,
        (revision, created, repository): (&str, Timestamp, &str),
        layers: &[(String, u64)],
        size: u64,
    ) -> Value {
        let created = timestamp(created);
        let annotations = json!({
            "image.openshift.io/dockerLayersOrder": "ascending",
            "image.openshift.io/manifestBlobStored": "true",
            "openshift.io/image.managed": "true",
        });
        let fields = json!({
            "f:dockerImageConfig": {},
            "f:dockerImageLayers": {},
            "f:dockerImageManifest": {},
            "f:dockerImageManifestMediaType": {},
            "f:dockerImageMetadata": {},
            "f:dockerImageMetadataVersion": {},
            "f:dockerImageReference": {},
            "f:metadata": { "f:annotations": {
                ".": {},
                "f:image.openshift.io/dockerLayersOrder": {},
                "f:image.openshift.io/manifestBlobStored": {},
                "f:openshift.io/image.managed": {},
            } },
        });
        let layer_type = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let layer_objects: Vec<Value> = layers
            .iter()
            .map(|(name, size)| json!({ "name": name, "size": size, "mediaType": layer_type }))
            .collect();
        let mut image = json!({
            "metadata": {
                "name": name,
                "uid": uid,
                "resourceVersion": revision,
                "creationTimestamp": created,
                "annotations": annotations,
                "managedFields": [{
                    "manager": "dockerregistry",
                    "operation": "Update",
                    "apiVersion": "image.openshift.io/v1",
                    "time": created,
                    "fieldsType": "FieldsV1",
                    "fieldsV1": fields,
                }],
            },
            "dockerImageReference": format!("{}/{repository}@{name}", self.host),
            "dockerImageMetadata": {
                "kind": "DockerImage",
                "apiVersion": "image.openshift.io/1.0",
                "Id": config,
                "Created": created,
                "ContainerConfig": {},
                "Config": {
                    "User": "1001",
                    "Env": [
                        "PATH=/opt/app-root/src/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                        "container=oci",
                        "HOME=/opt/app-root/src",
                        "JAVA_OPTS=-Dname=\"app\" -Xmx512m",
                    ],
                    "Cmd": ["/usr/libexec/s2i/run"],
                    "WorkingDir": "/opt/app-root/src",
                    "Labels": { "architecture": "x86_64", "vendor": "Example" },
                },
                "Architecture": "amd64",
                "Size": size,
            },
            "dockerImageMetadataVersion": "1.0",
            "dockerImageLayers": layer_objects,
        });
        if self.of.manifests {
            image["dockerImageManifest"] = manifest(config, layers).into();
        }
        let manifest_type = "application/vnd.docker.distribution.manifest.v2+json";
        image["dockerImageManifestMediaType"] = manifest_type.into();
        let mut length = image.to_string().len();
        let mut label = 0;
        while length + 130 <= self.of.bytes_per_image {
            let key = format!("io.example.label-{label}");
            let text = "A label as builders write them: a sentence or two about what is in the image, and who made it.";
            length += key.len() + text.len() + 6;
            image["dockerImageMetadata"]["Config"]["Labels"][key] = text.into();
            label += 1;
        }
        image
    }

    /// Fills the template of images.
    fn image(&self, index: usize, revision: u64) -> impl FnMut(Hole, &mut [u8]) {
        let push = self.order.push(index);
        let name = self.image_words(index);
        let layers: Vec<([u64; 4], u64)> =
            (0..self.of.layers_per_image).map(|layer| self.layer(push, layer)).collect();
        let created = self.time(self.age(push));
        let created_text = timestamp(created);
        let size = layers.iter().map(|(_, size)| size).sum::<u64>() + CONFIG_SIZE;
        let repository = repository(self.stream_of(push));
        move |hole, bytes| match hole {
            Hole::Name => template::digest(bytes, name),
            Hole::Uid => template::text(bytes, &self.uid(Chance::ImageUid, index)),
            Hole::Revision => template::decimal(bytes, revision),
            Hole::Created => template::text(bytes, &created_text),
            Hole::CreatedSeconds => template::varint(bytes, created.as_second().cast_unsigned()),
            Hole::Repository => template::text(bytes, &repository),
            Hole::Config => template::digest(bytes, self.words(Chance::Config, index)),
            Hole::Size => template::decimal(&mut bytes["\"Size\":".len()..], size),
            Hole::Layer(layer) => template::digest(bytes, layers[layer].0),
            Hole::LayerSize(layer) => template::decimal(bytes, layers[layer].1),
            Hole::LayerSizeVarint(layer) => template::varint(bytes, layers[layer].1),
        }
    }

    /// The tags of a stream, with their pushes.
    fn tags(&self, stream: usize) -> impl Iterator<Item = (&'static str, Vec<usize>)> {
        let pushes = (stream..self.of.images).step_by(self.of.streams).filter(|push| !self.orphaned(*push));
        let mut tags = TAGS.map(|tag| (tag, Vec::new()));
        let mut random = self.random(Chance::Tag, stream);
        for (position, push) in pushes.enumerate() {
            // Most pushes go to the first tag; the newest image of all does.
            let tag = if position == 0 || random.bool() { 0 } else { random.usize(..TAGS.len()) };
            tags[tag].1.push(push);
        }
        tags.into_iter().filter(|(_, pushes)| !pushes.is_empty())
    }

    fn stream(&self, index: usize, revision: u64) -> String {
        let repository = format!("{}/{}", self.host, repository(index));
        let mut text = self.stream_head(index, revision).to_string();
        // The status, in front of the bracket that closes the object.
        text.pop();
        text.push_str(r#","status":{"dockerImageRepository":""#);
        text.push_str(&repository);
        text.push('"');
        for (number, (tag, pushes)) in self.tags(index).enumerate() {
            text.push_str(if number == 0 { r#","tags":[{"tag":""# } else { r#",{"tag":""# });
            text.push_str(tag);
            for (number, push) in pushes.into_iter().enumerate() {
                let digest = self.image_digest(self.order.index(push));
                text.push_str(if number == 0 { r#"","items":[{"created":""# } else { r#",{"created":""# });
                text.push_str(&timestamp(self.time(self.age(push))));
                text.push_str(r#"","dockerImageReference":""#);
                text.push_str(&repository);
                text.push('@');
                text.push_str(&digest);
                text.push_str(r#"","image":""#);
                text.push_str(&digest);
                text.push_str(r#"","generation":1}"#);
            }
            text.push_str("]}");
        }
        text.push_str(if text.ends_with('}') { "]}}" } else { "}}" });
        text
    }

    /// A stream without its status.
    fn stream_head(&self, index: usize, revision: u64) -> Value {
        json!({
            "metadata": {
                "name": stream_name(index),
                "namespace": namespace(index / STREAMS_PER_NAMESPACE),
                "uid": self.uid(Chance::StreamUid, index),
                "resourceVersion": revision.to_string(),
                "generation": 1,
                "creationTimestamp": timestamp(self.time(400 * 24 * 3600)),
            },
            "spec": { "lookupPolicy": { "local": false } },
        })
    }

    fn stream_in_protobuf(&self, index: usize, revision: u64) -> Vec<u8> {
        let repository = format!("{}/{}", self.host, repository(index));
        let mut status = Vec::new();
        protobuf::bytes(&mut status, 1, repository.as_bytes());
        let (mut items, mut item, mut created) = (Vec::new(), Vec::new(), Vec::new());
        for (tag, pushes) in self.tags(index) {
            items.clear();
            protobuf::bytes(&mut items, 1, tag.as_bytes());
            for push in pushes {
                item.clear();
                created.clear();
                let seconds = self.time(self.age(push)).as_second().cast_unsigned();
                protobuf::number(&mut created, 1, seconds);
                protobuf::number(&mut created, 2, 0);
                protobuf::bytes(&mut item, 1, &created);
                let digest = self.image_digest(self.order.index(push));
                protobuf::bytes(&mut item, 2, format!("{repository}@{digest}").as_bytes());
                protobuf::bytes(&mut item, 3, digest.as_bytes());
                protobuf::number(&mut item, 4, 1);
                protobuf::bytes(&mut items, 2, &item);
            }
            protobuf::bytes(&mut status, 2, &items);
        }
        let mut out = protobuf::object("ImageStream", &self.stream_head(index, revision));
        protobuf::bytes(&mut out, 3, &status);
        out
    }

    fn referrer_stream(&self, referrer: usize) -> usize {
        // Lists are in the order of namespaces.
        referrer * self.of.streams / self.of.referrers.max(1)
    }

    fn referrer_namespace(&self, referrer: usize) -> String {
        namespace(self.referrer_stream(referrer) / STREAMS_PER_NAMESPACE)
    }

    /// One referrer: by tag or by digest.
    fn referrer(&self, plural: &str, index: usize, revision: u64) -> Value {
        let referrer = referrer_at(plural, index);
        let mut random = self.random(Chance::Referrer, referrer);
        let stream = self.referrer_stream(referrer);
        let pushes = self.of.images.saturating_sub(stream).div_ceil(self.of.streams);
        let push = random.usize(..pushes.max(1)) * self.of.streams + stream;
        let digest = (push < self.of.images).then(|| self.image_digest(self.order.index(push)));
        let repository = format!("{}/{}", self.host, repository(stream));
        let spec = match &digest {
            Some(digest) if random.bool() => format!("{repository}@{digest}"),
            _ => format!("{repository}:{}", TAGS[random.usize(..TAGS.len())]),
        };
        let name = referrer_name(referrer);
        let pod = json!({ "containers": [{ "name": "app", "image": spec }], "restartPolicy": "Always" });
        let metadata = json!({
            "name": name,
            "namespace": self.referrer_namespace(referrer),
            "uid": self.uid(Chance::ReferrerUid, referrer),
            "resourceVersion": revision.to_string(),
            "creationTimestamp": timestamp(self.time(random.usize(3600..90 * 24 * 3600))),
            "labels": { "app": name },
        });
        let selector = json!({ "matchLabels": { "app": name } });
        let template = json!({ "metadata": { "labels": { "app": name } }, "spec": pod });
        match plural {
            "pods" => {
                let phase = ["Running", "Running", "Succeeded", "Pending"][referrer % 4];
                let mut status = json!({ "phase": phase });
                if let Some(digest) = digest.filter(|_| phase != "Pending") {
                    let id = format!("{repository}@{digest}");
                    status["containerStatuses"] = json!([{ "name": "app", "image": spec, "imageID": id }]);
                }
                json!({ "metadata": metadata, "spec": pod, "status": status })
            }
            "jobs" => json!({ "metadata": metadata, "spec": { "template": template } }),
            "deploymentconfigs" => json!({
                "metadata": metadata,
                "spec": { "replicas": 1, "template": template },
                "status": { "latestVersion": 1 },
            }),
            _ => json!({
                "metadata": metadata,
                "spec": { "replicas": 1, "selector": selector, "template": template },
            }),
        }
    }
}

fn text_of(words: [u64; 4]) -> String {
    let mut digest = vec![0; 71];
    template::digest(&mut digest, words);
    String::from_utf8(digest).expect("hex digits")
}

fn namespace(number: usize) -> String {
    format!("project-{number:05}")
}

fn stream_name(stream: usize) -> String {
    format!("app-{stream:06}")
}

/// `namespace/name` of a stream.
fn repository(stream: usize) -> String {
    format!("{}/{}", namespace(stream / STREAMS_PER_NAMESPACE), stream_name(stream))
}

fn referrer_name(referrer: usize) -> String {
    format!("app-{referrer:07}")
}

/// The number of the referrer at a position in the list of its resource.
fn referrer_at(plural: &str, position: usize) -> usize {
    let kind = REFERRERS.iter().find(|(known, _)| *known == plural);
    let (_, places) = kind.expect("a resource of referrers");
    position / places.len() * 10 + places[position % places.len()]
}

/// What sizes so many layers may have for the sums to be equally wide.
fn layer_sizes(layers: u64) -> std::ops::Range<u64> {
    let fitting = (8..=18).map(|digits| {
        let (least, most) = (10_u64.pow(digits - 1), 10_u64.pow(digits) - 1 - CONFIG_SIZE);
        let first =
            least.checked_div(layers).map_or(LAYER_SIZES.start, |size| size.max(LAYER_SIZES.start) + 1);
        let end = most.checked_div(layers).map_or(LAYER_SIZES.end, |size| size.min(LAYER_SIZES.end));
        first..end
    });
    fitting.max_by_key(|sizes| sizes.end.saturating_sub(sizes.start)).expect("several widths")
}

/// In which order images were pushed, other than that of their names: a permutation and its inverse.
#[derive(Clone, Debug)]
struct Order {
    images: u128,
    factor: u128,
    inverse: u128,
}

impl Order {
    fn new(images: usize) -> Self {
        let images = images.max(1) as u128;
        // About the golden ratio: neighbours in one order are far apart in the other.
        let mut factor = (images * 618_034 / 1_000_000).max(1);
        loop {
            match inverse(factor, images) {
                Some(inverse) => return Self { images, factor, inverse },
                None => factor += 1,
            }
        }
    }

    fn push(&self, index: usize) -> usize {
        (index as u128 * self.factor % self.images) as usize
    }

    fn index(&self, push: usize) -> usize {
        (push as u128 * self.inverse % self.images) as usize
    }
}

/// The inverse of a factor, by Euclid's algorithm; `None` if there is none.
fn inverse(factor: u128, modulus: u128) -> Option<u128> {
    let (mut old, mut rest) = (modulus, factor % modulus);
    let (mut before, mut now) = (0, 1 % modulus);
    while rest > 0 {
        let quotient = old / rest;
        (old, rest) = (rest, old % rest);
        let next = (before + modulus * quotient - now * quotient % modulus) % modulus;
        (before, now) = (now, next);
    }
    (old == 1).then_some(before)
}

fn manifest(config: &str, layers: &[(String, u64)]) -> String {
    let layers: Vec<_> = layers
        .iter()
        .map(|(digest, size)| {
            json!({
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": size,
                "digest": digest,
            })
        })
        .collect();
    let config = json!({
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "size": CONFIG_SIZE,
        "digest": config,
    });
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": config,
        "layers": layers,
    })
    .to_string()
}
