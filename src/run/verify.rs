//! `verify`, and what is asked after a prune: whether the images that stay can be pulled.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use super::look;
use super::page::PageFile;
use super::signals::{interrupted, unless_ended};
use super::write_document;
use crate::cli::{Keep, OutputFormat, PruneOptions, VerifyOptions};
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::execute::{Change, Executed, Stop};
use crate::model::Id;
use crate::plan::{References, Rules};
use crate::registry::{self, Registry, Settings};
use crate::report::document::API_VERSION;
use crate::text::printable;
use crate::ui::{Bar, Ui};
use crate::verify::{self, Check, Extent, Place, Verification, places, sample, sharing};

/// The document of `verify`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageVerification {
    /// `prune-images/v1alpha1`.
    pub api_version: &'static str,
    /// `ImageVerification`.
    pub kind: &'static str,
    /// The URL of the API server.
    pub server: String,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "flattened: the schema takes the fields' own texts")]
    pub verification: Verification,
}

/// What helps where the registry may not be asked.
pub(super) const MAY_ASK: &str = "asking the registry takes the right to get imagestreams/layers.image.openshift.io (oc adm policy add-cluster-role-to-user registry-viewer <user>)";

/// Asks, and says what was answered. Nothing is changed.
pub(super) async fn run(options: &VerifyOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let file = options.report.as_deref().map(PageFile::begin).transpose()?;
    let found = unless_ended(ui, interrupted, ask(options, ui)).await?;
    let write = |out: &mut dyn std::io::Write| {
        writeln!(out, "{}", found.verification.line())?;
        found.verification.write_broken(out)
    };
    if let Some(file) = file {
        file.finish_with_text("Whether images can be pulled", &found.server, write)?;
    }
    match options.output {
        OutputFormat::Json | OutputFormat::Yaml => write_document(ui, options.output, &found),
        OutputFormat::Text | OutputFormat::Wide | OutputFormat::Name => ui.result(write),
    }
    conclusion(&found.verification, Exit::NothingChanged).map_or(Ok(Exit::Done), Err)
}

async fn ask(options: &VerifyOptions, ui: &Arc<Ui>) -> Result<ImageVerification, Failure> {
    let access = &options.cluster;
    let cluster = look::connect(&access.connection, ui).await?;
    if cluster.bearer_token().await?.is_none() {
        return Err(registry::no_token());
    }
    let prune = everything(options.namespace.clone());
    let look = look::read_and_show(&cluster, &prune, ui).await?;
    for warning in &look.warnings {
        ui.warning(warning);
    }
    let inventory = &look.inventory;
    let all: Vec<Place> = places(inventory, options.namespace.as_deref()).collect();
    let mut verification = Verification::default();
    if !all.is_empty() {
        let address = look.registry_address(access.registry.url.as_ref())?;
        let settings = Settings::of(&access.registry, &cluster, address, ui.warnings());
        let registry = registry::reach(&cluster, &access.place, settings).await?;
        ui.message(&format!("Registry: {}, reached {}", registry.url(), registry.way()));
        let references = References::collect(inventory, &look::rules(&prune, look.now));
        let candidates = all.len();
        let chosen = match options.sample {
            Some(size) => sample(all, size, &mut fastrand::Rng::new()),
            None => all,
        };
        let chosen: Vec<Check> = chosen.into_iter().map(|place| verify::check(inventory, place)).collect();
        let _asking = Bar::endless(ui, "asking the registry");
        verification =
            verify::verify(&cluster, &registry, inventory, &references, &chosen, candidates, &|| true).await;
    }
    Ok(ImageVerification {
        api_version: API_VERSION,
        kind: "ImageVerification",
        server: cluster.server().to_owned(),
        verification,
    })
}

/// What is read to see everything that refers to images.
fn everything(namespace: Option<String>) -> PruneOptions {
    PruneOptions {
        all: true,
        keep: Keep::Revisions { keep_tag_revisions: 0, keep_younger_than: SignedDuration::ZERO },
        ignore_invalid_refs: true,
        namespace,
        selector: None,
        referrers_from: Vec::new(),
        prune_registry: true,
    }
}

/// Asks after a prune for what stays, as far as `extent` says; nothing where nothing was deleted that it could have
/// shared. A run that is to end asks nothing more.
pub(super) async fn after(
    cluster: &Cluster,
    registry: &Registry,
    executed: &Executed,
    rules: &Rules,
    extent: Extent,
    stop: &watch::Receiver<Option<Stop>>,
) -> Option<Verification> {
    let inventory = executed.inventory();
    let deleted: BTreeSet<Id> = executed
        .outcome
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Image { name } => inventory.names.find(name),
            _ => None,
        })
        .collect();
    let changed_registry = executed.outcome.changes.iter().any(|change| {
        matches!(change, Change::Blob { .. } | Change::LayerLink { .. } | Change::ManifestLink { .. })
    });
    if extent == Extent::Off || !changed_registry {
        return None;
    }
    let all = places(inventory, None);
    let chosen = match extent {
        Extent::Shared => sharing(inventory, all, &deleted),
        Extent::Off | Extent::All => all.map(|place| verify::check(inventory, place)).collect(),
    };
    let references = References::collect(inventory, rules);
    let goes_on = || stop.borrow().is_none();
    Some(verify::verify(cluster, registry, inventory, &references, &chosen, chosen.len(), &goes_on).await)
}

/// What is told on stderr, and the exit code: `unverified` where something could not be asked.
pub(super) fn conclusion(found: &Verification, unverified: Exit) -> Option<Failure> {
    if !found.broken.is_empty() {
        let message = format!("verify: {} image(s) cannot be pulled", found.broken.len());
        return Some(
            Failure { exit: Exit::Failures, message, hints: Vec::new() }
                .hint("push these images again, or build them again: what is missing is uploaded anew then")
                .hint("a tag whose image is lost can be set to an older one that is whole: oc tag NAMESPACE/STREAM@DIGEST NAMESPACE/STREAM:TAG"),
        );
    }
    if found.is_clean() {
        return None;
    }
    let mut failure = Failure {
        exit: unverified,
        message: "verify: not every question was answered".to_owned(),
        hints: Vec::new(),
    };
    for answer in &found.unknown_answers {
        let _ = write!(failure.message, "\n  {}", printable(answer));
    }
    Some(if found.not_allowed > 0 { failure.hint(MAY_ASK) } else { failure })
}
