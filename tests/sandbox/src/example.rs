//! A small cluster that has been lived in: images really pushed, with a history, and workloads that use some of them.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::Cluster;
use crate::api::timestamp;
use crate::registry::Digest;
use crate::registry::client::{Broken, Client, Format, Pushed};

/// What was set up.
#[derive(Clone, Debug, Default)]
pub struct Example {
    /// What an administrator would say about it, a line each.
    pub story: Vec<String>,
    /// Images that the workloads need, as repository and digest, though they are old.
    pub in_use: Vec<(String, Digest)>,
    /// The image that no stream names, as repository and digest.
    pub orphan: Option<(String, Digest)>,
}

const BASE_SIZE: usize = 1 << 20;
const APP_SIZE: usize = 200 << 10;

/// The days between two pushes to a tag; the last push is a few minutes old.
const DAYS_BETWEEN: i64 = 9;

/// When the newest images were built, as their configs say. Fixed, so that every run has the same digests: the
/// documentation names them.
const BUILT: Timestamp = Timestamp::constant(1_768_467_600, 0);

struct Building<'a> {
    cluster: &'a Cluster,
    client: Client,
    base: Vec<u8>,
    random: fastrand::Rng,
    now: Timestamp,
}

impl Example {
    /// Pushes images of four streams and makes them old, and creates workloads that use some of them.
    pub async fn build(cluster: &Cluster) -> Result<Self, Broken> {
        let mut random = fastrand::Rng::with_seed(7);
        let base = bytes(&mut random, BASE_SIZE);
        let client = cluster.client("admin");
        let mut building = Building { cluster, client, base, random, now: Timestamp::now() };
        building.run().await
    }
}

impl Building<'_> {
    async fn run(&mut self) -> Result<Example, Broken> {
        for name in ["shop", "tools", "team"] {
            let metadata = json!({ "name": name, "creationTimestamp": self.ago(200) });
            let namespace = json!({ "metadata": metadata, "status": { "phase": "Active" } });
            self.cluster.sandbox().store().create("namespaces", namespace);
        }
        let web = self.history("shop/web", "latest", 6).await?;
        let api = self.history("shop/api", "latest", 5).await?;
        let cli = self.history("tools/cli", "latest", 5).await?;
        let stable = self.history("tools/cli", "stable", 1).await?;
        let multiarch = self.indexes("team/multiarch", "latest", 5).await?;
        let orphan = self.image("shop/web", None, Format::Docker, "amd64", 40).await?;
        self.age_image(&orphan.digest, 40);
        for stream in ["shop/web", "shop/api", "tools/cli", "team/multiarch"] {
            self.age(stream);
        }

        let host = self.cluster.registry_host().to_owned();
        self.workload("deployments", "shop", "web", &format!("{host}/shop/web:latest"));
        self.workload("deployments", "shop", "web-canary", &format!("{host}/shop/web@{}", web[4].digest));
        self.workload("cronjobs", "tools", "report", &format!("{host}/tools/cli:stable"));
        self.build("shop", "api-plugin-7", &format!("api@{}", api[3].digest));
        self.pod("shop", "web-7d9f", "Running", 1, &format!("{host}/shop/web:latest"));
        self.pod("team", "bench", "Running", 8, &format!("{host}/team/multiarch@{}", multiarch[3].digest));
        self.pod("tools", "migrate-1", "Succeeded", 20, &format!("{host}/tools/cli@{}", cli[4].digest));

        let named = |repository: &str, pushed: &Pushed| (repository.to_owned(), pushed.digest.clone());
        Ok(Example {
            story: [
                "shop/web        6 revisions; deployment web-canary runs the 5th by its digest",
                "shop/api        5 revisions; build api-plugin-7 starts from the 4th",
                "tools/cli       5 revisions; pod migrate-1, which ended 20 days ago, ran the 5th; cron job report runs :stable",
                "team/multiarch  5 revisions of an OCI index, for two architectures; pod bench runs the 4th",
                "shop/web        and an image that was pushed by its digest, so that no tag names it",
                "All images share their base layer. A newer revision came every 9 days, the newest just now.",
            ]
            .map(str::to_owned)
            .into(),
            in_use: vec![
                named("shop/web", &web[4]),
                named("shop/api", &api[3]),
                named("tools/cli", &stable[0]),
                named("team/multiarch", &multiarch[3]),
            ],
            orphan: Some(named("shop/web", &orphan)),
        })
    }

    /// Pushes revisions to a tag and returns them, the newest first.
    async fn history(&mut self, repository: &str, tag: &str, count: i64) -> Result<Vec<Pushed>, Broken> {
        let mut pushed = Vec::new();
        for position in (0..count).rev() {
            let days = position * DAYS_BETWEEN;
            pushed.insert(0, self.image(repository, Some(tag), Format::Docker, "amd64", days).await?);
        }
        Ok(pushed)
    }

    /// Pushes revisions of an index to a tag and returns them, the newest first.
    async fn indexes(&mut self, repository: &str, tag: &str, count: i64) -> Result<Vec<Pushed>, Broken> {
        let mut pushed = Vec::new();
        for position in (0..count).rev() {
            let days = position * DAYS_BETWEEN;
            let mut images = Vec::new();
            for architecture in ["amd64", "arm64"] {
                let image = self.image(repository, None, Format::Oci, architecture, days).await?;
                self.age_image(&image.digest, days);
                images.push((image, architecture));
            }
            pushed.insert(0, self.client.push_index(repository, Some(tag), Format::Oci, &images).await?);
        }
        Ok(pushed)
    }

    async fn image(
        &mut self,
        repository: &str,
        reference: Option<&str>,
        format: Format,
        architecture: &str,
        days: i64,
    ) -> Result<Pushed, Broken> {
        let layers = [self.base.clone(), bytes(&mut self.random, APP_SIZE)];
        let config = json!({
            "created": timestamp(BUILT - SignedDuration::from_hours(24 * days)),
            "architecture": architecture,
            "os": "linux",
            "config": { "User": "1001", "Cmd": ["/usr/bin/serve"], "Labels": { "name": repository } },
        });
        self.client.push_image(repository, reference, format, &layers, &config).await
    }

    fn ago(&self, days: i64) -> String {
        // A few minutes old is what was pushed "just now".
        timestamp(self.now - SignedDuration::from_hours(24 * days) - SignedDuration::from_mins(5))
    }

    /// Makes a stream, its items and their images as old as their positions in the history say.
    fn age(&self, stream: &str) {
        let (namespace, name) = stream.split_once('/').expect("a stream's name");
        let store = self.cluster.sandbox().store();
        let mut images = Vec::new();
        store.update("imagestreams", namespace, name, |stream| {
            stream["metadata"]["creationTimestamp"] = self.ago(200).into();
            let tags = stream["status"]["tags"].as_array_mut().into_iter().flatten();
            for items in tags.filter_map(|tag| tag["items"].as_array_mut()) {
                for (position, item) in (0..).zip(items) {
                    let days = position * DAYS_BETWEEN;
                    item["created"] = self.ago(days).into();
                    images.push((item["image"].as_str().unwrap_or_default().to_owned(), days));
                }
            }
        });
        for (image, days) in images {
            self.age_object("images", "", &image, days);
        }
    }

    fn age_image(&self, digest: &Digest, days: i64) {
        self.age_object("images", "", digest.as_str(), days);
    }

    fn age_object(&self, resource: &str, namespace: &str, name: &str, days: i64) {
        self.cluster.sandbox().store().update(resource, namespace, name, |object| {
            object["metadata"]["creationTimestamp"] = self.ago(days).into();
        });
    }

    fn create(&self, resource: &str, namespace: &str, name: &str, days: i64, mut object: Value) {
        object["metadata"] =
            json!({ "namespace": namespace, "name": name, "creationTimestamp": self.ago(days) });
        self.cluster.sandbox().store().create(resource, object);
    }

    fn workload(&self, resource: &str, namespace: &str, name: &str, image: &str) {
        let template = json!({ "spec": { "containers": [{ "name": "app", "image": image }] } });
        let spec = if resource == "cronjobs" {
            json!({ "schedule": "0 3 * * *", "jobTemplate": { "spec": { "template": template } } })
        } else {
            json!({ "replicas": 1, "template": template })
        };
        self.create(resource, namespace, name, 100, json!({ "spec": spec }));
    }

    fn build(&self, namespace: &str, name: &str, image: &str) {
        let from = json!({ "kind": "ImageStreamImage", "name": image });
        let spec = json!({ "strategy": { "type": "Source", "sourceStrategy": { "from": from } } });
        self.create(
            "builds",
            namespace,
            name,
            30,
            json!({ "spec": spec, "status": { "phase": "Complete" } }),
        );
    }

    fn pod(&self, namespace: &str, name: &str, phase: &str, days: i64, image: &str) {
        let spec = json!({ "containers": [{ "name": "app", "image": image }] });
        self.create("pods", namespace, name, days, json!({ "spec": spec, "status": { "phase": phase } }));
    }
}

/// What compressed layers look like.
fn bytes(random: &mut fastrand::Rng, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    bytes
}
