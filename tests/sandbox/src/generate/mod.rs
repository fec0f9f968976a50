//! Makes large clusters that look like real ones.
//!
//! Each object is a function of the seed and its position, so that a cluster of millions of objects needs no memory: its
//! lists are made while they are sent ([`Sandbox::generate_on_demand`]). A smaller one can be stored, and changed.

mod objects;
mod template;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::Sandbox;
use crate::api::timestamp;
pub(crate) use objects::Generation;

/// What a generated cluster holds. The same values make the same cluster.
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
    /// What the ages of objects are counted from.
    pub now: Timestamp,
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
            now: Timestamp::now(),
        }
    }
}

impl Sandbox {
    /// Adds a generated cluster to the objects.
    pub fn generate(&self, generator: &Generator) {
        let generation = self.generation(generator);
        for resource in generation.resources() {
            let all = 0..generation.count(resource).unwrap_or(0);
            self.store().load(resource, generation.revision(resource, 0), all, |index| {
                (generation.key(resource, index), generation.object(resource, index).bytes)
            });
        }
    }

    /// Serves the lists of a generated cluster, whose objects nobody can change: they are made while they are sent.
    /// Resources that are not generated are served from the store.
    pub fn generate_on_demand(&self, generator: &Generator) {
        self.api().generate_on_demand(self.generation(generator));
    }

    /// The cluster, and its namespaces in the store.
    fn generation(&self, generator: &Generator) -> Generation {
        let generation = Generation::new(generator, &self.api().settings().registry_host);
        let created = timestamp(generator.now - SignedDuration::from_hours(400 * 24));
        for name in generation.namespaces() {
            if self.store().get("namespaces", "", &name).is_none() {
                let metadata = json!({ "name": name, "creationTimestamp": created });
                self.store()
                    .create("namespaces", json!({ "metadata": metadata, "status": { "phase": "Active" } }));
            }
        }
        generation
    }
}
