//! What every command that decides does first: reads the cluster, and decides by the flags.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::cli::{self, PruneOptions};
use crate::cluster::{ApiError, ApiRequest, ApiResponse, Cluster, ConnectionOptions, Environment, Retry};
use crate::error::Failure;
use crate::inventory::{self, ListState, Read, Scope};
use crate::journal::{self, Loaded};
use crate::model::{Inventory, Selector, Target};
use crate::plan::{self, Plan, Reimport, Rules, Stage2, StreamVerdict};
use crate::registry::{self, Address, RegistryUrl};
use crate::report::document::{Context, InvalidEntry, ReferrerEntry, View};
use crate::report::{bytes, printable, text};
use crate::ui::{Counters, Ui};

/// How far the local clock and the server's may be apart without a warning, in seconds.
const SKEW: i64 = 10;

/// What was read of a cluster. Any number of plans can be made from it.
pub(super) struct Look {
    pub(super) inventory: Inventory,
    /// Each host in `status.dockerImageRepository` of streams, with its slash, and the creation time, in seconds, of the
    /// newest of these streams.
    pub(super) repositories: Vec<(i64, String)>,
    /// Hosts in `dockerImageReference` of managed images, with how many name them.
    pub(super) managed_hosts: BTreeMap<Box<str>, usize>,
    /// The time that ages are counted from.
    pub(super) now: Timestamp,
    /// What the administrator should know of the reading.
    pub(super) warnings: Vec<String>,
    /// The rights that are missing to read what would protect more.
    pub(super) unread: BTreeSet<String>,
    /// The lists that were read, each with the state of the cluster that it shows.
    pub(super) states: Vec<ListState>,
}

/// Connects to the cluster; what the server warns of is said.
pub(super) async fn connect(options: &ConnectionOptions, ui: &Arc<Ui>) -> Result<Cluster, Failure> {
    let cluster = Cluster::connect(options, &Environment::of_process()).await?;
    Ok(cluster.on_warning(ui.server_warnings()))
}

/// Reads everything that a decision needs; at a terminal the counts of the lists are seen meanwhile.
///
/// # Errors
/// A list that may not be read, an Image whose metadata cannot be decoded.
pub(super) async fn read_and_show(
    cluster: &Cluster,
    options: &PruneOptions,
    ui: &Arc<Ui>,
) -> Result<Look, Failure> {
    let counters = Counters::new(ui);
    let unread = Mutex::new(BTreeSet::new());
    let tell = |event: inventory::Event| {
        match &event {
            inventory::Event::Progress(resource, count) => counters.set(resource, *count),
            inventory::Event::Forbidden(resource, _) => {
                let mut unread = unread.lock().unwrap_or_else(PoisonError::into_inner);
                unread.insert(format!("list {}", printable(resource)));
            }
            inventory::Event::Skipped(..) | inventory::Event::Restarted(_) => {}
        }
        log_reading(event);
    };
    let mut warnings = Vec::new();
    let now = now(cluster, &mut warnings).await?;
    let read = inventory::read(cluster, &scope(options), &tell).await?;
    let Read { mut inventory, repositories, managed_hosts, undecodable, warnings: more, states } = read;
    warnings.extend(more);
    refuse_undecodable(&undecodable)?;
    let missing = plan::missing_images(&inventory, &rules(options, now), &inventory.streams);
    inventory::add_appeared(cluster, &mut inventory, &missing).await?;
    inventory.names.rest();
    let unread = unread.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Look { inventory, repositories, managed_hosts, now, warnings, unread, states })
}

/// Who the API server takes us for; where it does not say, the kubeconfig's name.
pub(super) async fn user(cluster: &Cluster) -> String {
    const PATH: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = br#"{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}"#;
    let request = ApiRequest {
        body: Some(review.as_slice().into()),
        retry: Retry::Never,
        ..ApiRequest::new(http::Method::POST, PATH)
    };
    let named = |answer: ApiResponse| {
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        answer.pointer("/status/userInfo/username")?.as_str().map(ToOwned::to_owned)
    };
    let said = cluster.request(request).await.ok().and_then(named);
    let known = || cluster.impersonated_user().or(cluster.user_name()).map(ToOwned::to_owned);
    said.or_else(known).unwrap_or_else(|| "(unknown: whoever the token belongs to)".to_owned())
}

impl Look {
    /// Where the registry is: at `url`, or else where the cluster says.
    ///
    /// # Errors
    /// As those of [`registry::choose`].
    pub(super) fn registry_address(&self, url: Option<&RegistryUrl>) -> Result<Address, Failure> {
        let hosts = self.managed_hosts.iter();
        let managed = hosts.flat_map(|(host, count)| std::iter::repeat_n(format!("{host}/"), *count));
        registry::choose(url, self.repositories.clone(), managed)
    }

    /// Makes every stream count, whatever `--selector` says, which is returned: for what shows a part of a whole.
    pub(super) async fn select_all(
        &mut self,
        cluster: &Cluster,
        options: &PruneOptions,
    ) -> Result<Option<Selector>, Failure> {
        let selector = self.inventory.selector.take();
        if selector.is_some() {
            for stream in &mut self.inventory.streams {
                stream.selected = true;
            }
            let rules = rules(options, self.now);
            let missing = plan::missing_images(&self.inventory, &rules, &self.inventory.streams);
            inventory::add_appeared(cluster, &mut self.inventory, &missing).await?;
        }
        Ok(selector)
    }

    /// Decides by these flags; with what the administrator should know of the plan.
    ///
    /// # Errors
    /// References that do not parse, without `--ignore-invalid-refs`.
    pub(super) fn decide(&self, options: &PruneOptions, ui: &Ui) -> Result<(Plan, Vec<String>), Failure> {
        let rules = rules(options, self.now);
        let plan = tokio::task::block_in_place(|| plan::decide(&self.inventory, &rules));
        refuse_invalid(&self.inventory, &plan, options.ignore_invalid_refs, ui)?;
        let mut warnings = Vec::new();
        plan_warnings(&self.inventory, &plan, &mut warnings);
        Ok((plan, warnings))
    }

    /// Decides what is left of a journal's plan, by these flags; with what the administrator should know of it.
    ///
    /// # Errors
    /// As [`decide`](Self::decide).
    pub(super) fn decide_left(
        &mut self,
        loaded: &Loaded,
        options: &PruneOptions,
        ui: &Ui,
    ) -> Result<(Plan, Vec<String>), Failure> {
        let rules = rules(options, self.now);
        let plan = tokio::task::block_in_place(|| journal::left(loaded, &mut self.inventory, &rules));
        refuse_invalid(&self.inventory, &plan, options.ignore_invalid_refs, ui)?;
        let mut warnings = Vec::new();
        plan_warnings(&self.inventory, &plan, &mut warnings);
        Ok((plan, warnings))
    }

    /// What a document says beside a plan made from this. What the administrator should know is said, unless it was
    /// before.
    pub(super) fn context(
        &self,
        cluster: &Cluster,
        options: &PruneOptions,
        warnings: impl IntoIterator<Item = String>,
        said: &mut BTreeSet<String>,
        ui: &Ui,
    ) -> Context {
        let warnings: Vec<String> =
            warnings.into_iter().map(|warning| printable(&warning).into_owned()).collect();
        for warning in &warnings {
            if said.insert(warning.clone()) {
                ui.warning(warning);
            }
        }
        Context {
            server: cluster.server().to_owned(),
            now: self.now,
            ignore_invalid_refs: options.ignore_invalid_refs,
            registry: None,
            warnings,
        }
    }

    /// Decides, and says what there is to be said of the reading and of the plan.
    ///
    /// # Errors
    /// As [`decide`](Self::decide).
    pub(super) fn decide_and_tell(
        &self,
        cluster: &Cluster,
        options: &PruneOptions,
        ui: &Ui,
    ) -> Result<(Plan, Context), Failure> {
        let (plan, more) = self.decide(options, ui)?;
        let warnings = self.warnings.iter().cloned().chain(more);
        let context = self.context(cluster, options, warnings, &mut BTreeSet::new(), ui);
        Ok((plan, context))
    }
}

/// The earlier of the local clock and the server's: what is young for either stays.
async fn now(cluster: &Cluster, warnings: &mut Vec<String>) -> Result<Timestamp, Failure> {
    let local = Timestamp::now();
    let answer = match cluster.request(ApiRequest::get("/version")).await {
        Ok(answer) => answer,
        Err(ApiError::Forbidden { .. } | ApiError::NotFound { .. }) => return Ok(local),
        Err(error) => return Err(cluster.failure(&error, "reach the API server")),
    };
    let date = answer.headers.get(http::header::DATE).and_then(|date| date.to_str().ok());
    let Some(server) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else { return Ok(local) };
    let server = server.timestamp();
    let ahead = local.as_second() - server.as_second();
    if ahead.abs() > SKEW {
        let (which, seconds) = if ahead > 0 { ("ahead of", ahead) } else { ("behind", -ahead) };
        warnings.push(format!(
            "the local clock is {seconds} seconds {which} the API server's: ages are counted from the earlier of the two"
        ));
    }
    Ok(local.min(server))
}

pub(super) fn scope(options: &cli::PruneOptions) -> Scope {
    Scope {
        namespace: options.namespace.clone(),
        referrers_from: options.referrers_from.clone(),
        selector: options.selector.clone(),
    }
}

pub(super) fn rules(options: &cli::PruneOptions, now: Timestamp) -> Rules {
    let cli::PruneOptions {
        all,
        keep,
        ignore_invalid_refs: _,
        namespace,
        selector: _,
        prune_registry,
        referrers_from: _,
    } = options;
    let keep = match keep {
        cli::Keep::Revisions { keep_tag_revisions, keep_younger_than } => plan::Keep::Recent {
            tag_revisions: *keep_tag_revisions,
            cutoff: now.as_nanosecond() - keep_younger_than.as_nanos(),
        },
        cli::Keep::OverSizeLimit => plan::Keep::WithinSizeLimit,
    };
    Rules { keep, all: *all, namespace: namespace.clone(), prune_registry: *prune_registry }
}

fn log_reading(event: inventory::Event) {
    match event {
        inventory::Event::Progress(resource, count) => tracing::info!("{count} {resource} read"),
        inventory::Event::Restarted(resource) => tracing::info!("the list of {resource} starts again"),
        inventory::Event::Skipped(resource, why) | inventory::Event::Forbidden(resource, why) => {
            tracing::info!("{resource} are not read: {why}");
        }
    }
}

fn refuse_undecodable(undecodable: &[(String, String)]) -> Result<(), Failure> {
    const SHOWN: usize = 20;
    let Some((name, error)) = undecodable.first() else { return Ok(()) };
    let mut message = format!(
        "read image metadata - no changes made: failed to read image metadata for {}: {error}",
        printable(name)
    );
    for (name, error) in undecodable.iter().skip(1).take(SHOWN - 1) {
        let _ = write!(message, "\n  failed to read image metadata for {}: {error}", printable(name));
    }
    if undecodable.len() > SHOWN {
        let _ = write!(message, "\n  and {} more", undecodable.len() - SHOWN);
    }
    Err(Failure::nothing_changed(message).hint(format!(
        "nobody knows which config such an image needs; look at it: oc get image {} -o yaml",
        printable(name)
    )))
}

/// References that do not parse stop the run, in the reference's words; with `--ignore-invalid-refs` each is named.
fn refuse_invalid(inventory: &Inventory, plan: &Plan, ignore: bool, ui: &Ui) -> Result<(), Failure> {
    if plan.references.invalid().is_empty() {
        return Ok(());
    }
    let entries = View { inventory, plan }.invalid_references();
    if ignore {
        for entry in &entries {
            ui.warning(&text::invalid_line(entry));
        }
        return Ok(());
    }
    let mut message =
        "Failed to build graph!\n\nThe following objects have invalid references:\n\n".to_owned();
    for entry in &entries {
        let _ = writeln!(message, "  {}", printable(&entry.message));
    }
    message.push_str("\nEither fix the references or delete the objects to make the pruner proceed.");
    for InvalidEntry { referrer, .. } in &entries {
        if let Some(owner) = &referrer.owner {
            let ReferrerEntry { kind, namespace, name, .. } = referrer;
            let object = format!("{kind}/{name} namespace={namespace}");
            let _ = write!(message, "\n- {} is {}", printable(&object), text::owner_text(owner));
        }
    }
    ui.message(&message);
    Err(Failure::nothing_changed("failed to build graph - no changes made")
        .hint("prune without what these references protect: --ignore-invalid-refs"))
}

/// What a prune of it does not last, because the server imports it again.
fn reimport_warning(view: View<'_>) -> Option<String> {
    let counts = view.reimport_counts();
    let (first, item, _) = view.reimports().next()?;
    let at_once = view.reimports().filter(|(.., reimport)| *reimport == Reimport::AtOnce).count();
    let stream = &view.inventory.streams[first];
    let command = text::end_of_import(&stream.repository(), view.word(stream.tags[item.tag as usize].name));
    let more = match counts.items {
        1 => String::new(),
        items => format!(" (and {} more)", items - 1),
    };
    Some(format!(
        "{} item(s) that go will be imported again, because spec.tags asks for them: {at_once} at once, {} with the next scheduled import; {} of what is freed fills up again; no more after: {command}{more}",
        counts.items,
        counts.items - at_once,
        bytes(counts.bytes)
    ))
}

fn plan_warnings(inventory: &Inventory, plan: &Plan, warnings: &mut Vec<String>) {
    if let Some(namespace) = &plan.rules.namespace
        && inventory.streams.is_empty()
    {
        warnings.push(format!("there is no image stream in namespace {namespace}: nothing to prune"));
    }
    for place in plan.references.unknown_kinds() {
        let referrer = place.referrer(inventory);
        let text = |word| inventory.names.words.text(word);
        if let Target::UnknownKind(kind) = &place.mention(inventory).target {
            warnings.push(format!(
                "{}/{} namespace={}: the build's source is of kind {:?}, which refers to no image stream: ignored",
                referrer.kind.word(),
                text(referrer.name),
                text(referrer.namespace),
                text(*kind)
            ));
        }
    }
    warnings.extend(reimport_warning(View { inventory, plan }));
    for (stream, decision) in inventory.streams.iter().zip(&plan.streams) {
        if let StreamVerdict::MetadataAbsent(image) = decision.verdict {
            let image = inventory.names.text(inventory.images.all()[image].name);
            warnings.push(format!(
                "image stream {} stays as it is: its image {image} has no metadata",
                stream.repository()
            ));
        }
    }
    if let Stage2::SkippedForMetadata(image) = plan.stage2 {
        let image = inventory.names.text(inventory.images.all()[image].name);
        warnings.push(format!(
            "no image is deleted: image {image} has no metadata, and nobody knows which config it needs"
        ));
    }
}
