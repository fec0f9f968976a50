//! Makes large clusters that look like real ones.

use std::fmt::Write as _;

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::Sandbox;
use crate::api::{Resource, timestamp};

/// What a generated cluster holds. The same values make the same cluster, times (relative to now) apart.
#[derive(Clone, Debug)]
pub struct Generator {
    /// How many images.
    pub images: usize,
    /// How many image streams they are spread over.
    pub streams: usize,
    /// How many layers an image has.
    pub layers_per_image: usize,
    /// The part of an image's layers that it shares with others.
    pub shared_fraction: f64,
    /// The part of the images that no stream names.
    pub orphaned_fraction: f64,
    /// How many pods, deployments and so on refer to images.
    pub referrers: usize,
    /// About how long the JSON of an image is.
    pub bytes_per_image: usize,
    /// Whether images carry their manifest, as those of old clusters do.
    pub manifests: bool,
    /// What chance begins with.
    pub seed: u64,
}

impl Default for Generator {
    fn default() -> Self {
        Self {
            images: 1000,
            streams: 50,
            layers_per_image: 12,
            shared_fraction: 0.6,
            orphaned_fraction: 0.02,
            referrers: 200,
            bytes_per_image: 6000,
            manifests: false,
            seed: 1,
        }
    }
}

/// How many streams share their lower layers.
const STREAMS_PER_BASE: usize = 10;
const STREAMS_PER_NAMESPACE: usize = 5;
/// The images of a stream are this many seconds apart.
const SECONDS_BETWEEN_IMAGES: usize = 3 * 3600;
const TAGS: [&str; 4] = ["latest", "v2", "v1", "dev"];

impl Sandbox {
    /// Adds a generated cluster to the objects.
    pub fn generate(&self, generator: &Generator) {
        let host = self.api().settings().registry_host;
        Generation { of: generator, host: &host, now: Timestamp::now() }.run(self);
    }
}

struct Generation<'a> {
    of: &'a Generator,
    host: &'a str,
    now: Timestamp,
}

impl Generation<'_> {
    fn run(&self, sandbox: &Sandbox) {
        let store = sandbox.store();
        let resource = |name: &str| Resource::named(name).expect("a resource of the sandbox");
        store.load(resource("images"), 0..self.of.images, |index, revision| self.image(index, revision));
        let streams = self.of.streams.max(1);
        store.load(resource("imagestreams"), 0..streams, |index, revision| self.stream(index, revision));
        for namespace in 0..streams.div_ceil(STREAMS_PER_NAMESPACE) {
            let name = format!("project-{namespace}");
            if store.get("namespaces", "", &name).is_none() {
                let created = self.ago(400 * 24 * 3600);
                let metadata = json!({ "name": name, "creationTimestamp": created });
                store.create("namespaces", json!({ "metadata": metadata, "status": { "phase": "Active" } }));
            }
        }
        for index in 0..self.of.referrers {
            self.referrer(index, sandbox);
        }
    }

    fn random(&self, what: u64, index: usize) -> Rng {
        // Odd factors keep the seeds of neighbours apart.
        let mixed =
            (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ what.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        Rng::with_seed(self.of.seed.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ mixed)
    }

    fn digest(&self, what: u64, index: usize) -> String {
        let mut random = self.random(what, index);
        let mut digest = String::with_capacity(71);
        digest.push_str("sha256:");
        for _ in 0..4 {
            let _ = write!(digest, "{:016x}", random.u64(..));
        }
        digest
    }

    fn uid(&self, what: u64, index: usize) -> String {
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

    fn image_digest(&self, index: usize) -> String {
        self.digest(0, index)
    }

    fn ago(&self, seconds: usize) -> String {
        let seconds = i64::try_from(seconds).expect("a time in range");
        timestamp(self.now - SignedDuration::from_secs(seconds))
    }

    fn stream_of(&self, image: usize) -> usize {
        image % self.of.streams.max(1)
    }

    /// When an image was pushed; the lower its index, the younger.
    fn age(&self, image: usize) -> usize {
        (image / self.of.streams.max(1)) * SECONDS_BETWEEN_IMAGES + self.stream_of(image) * 60 + 60
    }

    fn orphaned(&self, image: usize) -> bool {
        // The newest image of each stream stays: a stream without any is not what is wanted.
        image >= self.of.streams && self.random(9, image).f64() < self.of.orphaned_fraction
    }

    fn stream_name(index: usize) -> (String, String) {
        (format!("project-{}", index / STREAMS_PER_NAMESPACE), format!("app-{index}"))
    }

    fn repository(&self, stream: usize) -> String {
        let (namespace, name) = Self::stream_name(stream);
        format!("{}/{namespace}/{name}", self.host)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a count of layers is small"
    )]
    fn layers(&self, image: usize) -> Vec<(String, u64)> {
        let shared =
            (self.of.layers_per_image as f64 * self.of.shared_fraction.clamp(0.0, 1.0)).round() as usize;
        let base = self.stream_of(image) / STREAMS_PER_BASE;
        (0..self.of.layers_per_image)
            .map(|layer| {
                let (what, index) = if layer < shared { (1, base) } else { (2, image) };
                let index = index * self.of.layers_per_image + layer;
                (self.digest(what, index), self.random(what + 10, index).u64(1_000..80_000_000))
            })
            .collect()
    }

    /// An image as JSON text: building values first would take several times as long.
    fn image(&self, index: usize, revision: u64) -> (String, bytes::Bytes) {
        let digest = self.image_digest(index);
        let config = self.digest(3, index);
        let created = self.ago(self.age(index));
        let layers = self.layers(index);
        let size: u64 = layers.iter().map(|(_, size)| size).sum();
        let uid = self.uid(4, index);
        let repository = self.repository(self.stream_of(index));
        let mut json = String::with_capacity(self.of.bytes_per_image + 1000);
        let _ = write!(
            json,
            r#"{{"metadata":{{"name":"{digest}","uid":"{uid}","resourceVersion":"{revision}","creationTimestamp":"{created}","annotations":{{"image.openshift.io/dockerLayersOrder":"ascending","image.openshift.io/manifestBlobStored":"true","openshift.io/image.managed":"true"}}}},"dockerImageReference":"{repository}@{digest}","dockerImageMetadata":{{"kind":"DockerImage","apiVersion":"image.openshift.io/1.0","Id":"{config}","Created":"{created}","ContainerConfig":{{}},"Config":{{"User":"1001","Env":["PATH=/opt/app-root/src/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","container=oci","HOME=/opt/app-root/src","OPENSHIFT_BUILD_NAME=app-{index}"],"Cmd":["/usr/libexec/s2i/run"],"WorkingDir":"/opt/app-root/src","Labels":{{"architecture":"x86_64","vendor":"Example","io.openshift.build.commit.id":"{}""#,
            &config[7..47]
        );
        let manifest = if self.of.manifests { manifest(&config, &layers) } else { String::new() };
        let rest = layers.len() * 165 + manifest.len() + 300;
        let mut label = 0;
        while json.len() + rest < self.of.bytes_per_image {
            let _ = write!(
                json,
                r#","io.example.label-{label}":"Label {label} of image {index}, as builders write them: a sentence or two about what is in it.""#
            );
            label += 1;
        }
        let _ = write!(
            json,
            r#"}}}},"Architecture":"amd64","Size":{size}}},"dockerImageMetadataVersion":"1.0","dockerImageLayers":["#
        );
        for (position, (layer, size)) in layers.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            let _ = write!(
                json,
                r#"{comma}{{"name":"{layer}","size":{size},"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip"}}"#
            );
        }
        json.push(']');
        if !manifest.is_empty() {
            let _ = write!(json, r#","dockerImageManifest":{manifest:?}"#);
        }
        json.push_str(
            r#","dockerImageManifestMediaType":"application/vnd.docker.distribution.manifest.v2+json"}"#,
        );
        (digest, json.into())
    }

    fn stream(&self, index: usize, revision: u64) -> (String, bytes::Bytes) {
        let (namespace, name) = Self::stream_name(index);
        let repository = self.repository(index);
        let images =
            (index..self.of.images).step_by(self.of.streams.max(1)).filter(|image| !self.orphaned(*image));
        let mut tags: Vec<Vec<serde_json::Value>> = vec![Vec::new(); TAGS.len()];
        let mut random = self.random(5, index);
        for (position, image) in images.enumerate() {
            let digest = self.image_digest(image);
            let item = json!({
                "created": self.ago(self.age(image)),
                "dockerImageReference": format!("{repository}@{digest}"),
                "image": digest,
                "generation": 1,
            });
            // Most pushes go to the first tag; the newest image of all does.
            let tag = if position == 0 || random.bool() { 0 } else { random.usize(..TAGS.len()) };
            tags[tag].push(item);
        }
        let tags: Vec<_> = TAGS
            .iter()
            .zip(tags)
            .filter(|(_, items)| !items.is_empty())
            .map(|(tag, items)| json!({ "tag": tag, "items": items }))
            .collect();
        let stream = json!({
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": self.uid(6, index),
                "resourceVersion": revision.to_string(),
                "generation": 1,
                "creationTimestamp": self.ago(400 * 24 * 3600),
            },
            "spec": { "lookupPolicy": { "local": false } },
            "status": { "dockerImageRepository": repository, "tags": tags },
        });
        (format!("{namespace}/{name}"), stream.to_string().into())
    }

    /// One referrer: of any kind, by tag or by digest.
    fn referrer(&self, index: usize, sandbox: &Sandbox) {
        let mut random = self.random(7, index);
        let image = random.usize(..self.of.images.max(1));
        let stream = self.stream_of(image);
        let (namespace, _) = Self::stream_name(stream);
        let spec = if random.bool() {
            format!("{}:{}", self.repository(stream), TAGS[random.usize(..TAGS.len())])
        } else {
            format!("{}@{}", self.repository(stream), self.image_digest(image))
        };
        let pod = json!({ "containers": [{ "name": "app", "image": spec }], "restartPolicy": "Always" });
        let metadata = json!({
            "name": format!("app-{index}"),
            "namespace": namespace,
            "uid": self.uid(8, index),
            "creationTimestamp": self.ago(random.usize(3600..90 * 24 * 3600)),
            "labels": { "app": format!("app-{index}") },
        });
        let selector = json!({ "matchLabels": { "app": format!("app-{index}") } });
        let template = json!({ "metadata": { "labels": { "app": format!("app-{index}") } }, "spec": pod });
        let workload = json!({
            "metadata": metadata,
            "spec": { "replicas": 1, "selector": selector, "template": template },
        });
        let (resource, object) = match index % 10 {
            0..4 => {
                let phase = ["Running", "Running", "Succeeded", "Pending"][index % 4];
                ("pods", json!({ "metadata": metadata, "spec": pod, "status": { "phase": phase } }))
            }
            4 => ("deployments", workload),
            5 => ("replicasets", workload),
            6 => ("statefulsets", workload),
            7 => ("daemonsets", workload),
            8 => ("jobs", json!({ "metadata": metadata, "spec": { "template": template } })),
            _ => (
                "deploymentconfigs",
                json!({
                    "metadata": metadata,
                    "spec": { "replicas": 1, "template": template },
                    "status": { "latestVersion": 1 },
                }),
            ),
        };
        sandbox.store().create(resource, object);
    }
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
        "size": 4000,
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
