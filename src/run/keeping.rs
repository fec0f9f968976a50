//! What a confirmed run keeps before its first change: the lock, and the journal.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::look::{self, Look};
use super::prune;
use crate::cache::CacheOutcome;
use crate::cause::io_text;
use crate::cli::{Keep, Options, PruneOptions};
use crate::cluster::Cluster;
use crate::error::Failure;
use crate::execute::{Change, Outcome};
use crate::inventory::{ResourceName, whole_images};
use crate::journal::{
    self, End, FORMAT_VERSION, Found, Header, Held, Holder, Journal, LinkKind, Loaded, Locks, Object, Pace,
    Place, Planned, Resumed, Selection, Standing,
};
use crate::model::{Inventory, Selector};
use crate::plan::{ImageVerdict, Plan, Unfinished};
use crate::text::{printable, quoted, time_text};
use crate::ui::{Bar, Ui};

/// The lock that a run holds, and the journal that it writes.
pub(super) struct Keeping {
    held: Option<Held>,
    journal: Option<Journal>,
}

impl Keeping {
    /// Nothing yet.
    pub(super) fn none() -> Self {
        Self { held: None, journal: None }
    }

    /// Keeps other runs away.
    ///
    /// # Errors
    /// Another run is changing this cluster.
    pub(super) async fn lock(
        &mut self,
        options: &Options,
        cluster: &Cluster,
        ui: &Ui,
    ) -> Result<Holder, Failure> {
        let holder = Holder::of_process(look::user(cluster).await);
        let place = place(cluster);
        let locks = Locks {
            cluster,
            namespace: &options.cache.place.namespace,
            place: place.as_ref(),
            holder: &holder,
            pace: Pace::default(),
        };
        let held = locks.take().await.map_err(journal::Busy::failure)?;
        if let Some(gap) = &held.gap {
            ui.message(&format!("Lock: {}", printable(gap)));
        }
        self.held = Some(held);
        Ok(holder)
    }

    /// Writes the plan down, and the Images that go.
    ///
    /// # Errors
    /// The Images cannot be read; a journal that was asked for by name cannot be written.
    pub(super) async fn begin(
        &mut self,
        options: &Options,
        cluster: &Cluster,
        look: &Look,
        agreed: &prune::Planned,
        holder: &Holder,
        ui: &Arc<Ui>,
    ) -> Result<(), Failure> {
        let Look { inventory, now, .. } = look;
        let plan = &agreed.plan;
        let started = Timestamp::now();
        let place = place(cluster);
        let path = match (&options.journal, &place) {
            (Some(path), _) => path.clone(),
            (None, Some(place)) => place.new_path(started),
            (None, None) => {
                without_journal(ui, "neither XDG_STATE_HOME nor HOME is set");
                return Ok(());
            }
        };
        let header = Header {
            version: FORMAT_VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            server: cluster.server().to_owned(),
            cluster: Place::cluster_id(cluster.server(), cluster.ca_pem().as_deref()),
            user: holder.user.clone(),
            host: holder.host.clone(),
            pid: holder.pid,
            started,
            selection: selection(&options.prune, *now),
        };
        let failed = |error: &io::Error| {
            Failure::nothing_changed(format!(
                "write the journal {}: {} - no changes made",
                printable(&path.to_string_lossy()),
                io_text(error)
            ))
            .hint("name a new file in a folder that you may write to: --journal=FILE")
        };
        let made = match &place {
            Some(place) if options.journal.is_none() => place.make().map(|()| place.tidy(started)),
            _ => Ok(()),
        };
        let journal = match made.and_then(|()| Journal::create(&path, &header)) {
            Ok(journal) => journal,
            Err(error) if options.journal.is_some() => return Err(failed(&error)),
            Err(error) => {
                let path = path.parent().unwrap_or(&path).to_string_lossy();
                without_journal(ui, &format!("{} cannot be written: {}", printable(&path), io_text(&error)));
                return Ok(());
            }
        };
        let _writing = Bar::endless(ui, "writing the journal");
        let mut planned = Planned::default();
        let written = tokio::task::block_in_place(|| {
            journal.plan(|each| {
                planned = journal::planned(inventory, plan, agreed.repositories(inventory), each)?;
                Ok(())
            })
        });
        let names: BTreeSet<String> = inventory
            .images
            .all()
            .iter()
            .zip(&plan.images)
            .filter(|(_, decision)| decision.verdict == ImageVerdict::Delete)
            .map(|(image, _)| inventory.names.text(image.name).into_owned())
            .collect();
        let all = inventory.images.all().len();
        let kept = match written {
            Ok(()) => whole_images(cluster, names, all, |image| journal.keep(&Object::Image(image))).await?,
            Err(error) => Err(error),
        };
        let Planned { streams, images, blobs } = planned;
        kept.and_then(|()| journal.complete(streams, images, blobs)).map_err(|error| failed(&error))?;
        self.journal = Some(journal);
        Ok(())
    }

    /// Goes on with a journal.
    ///
    /// # Errors
    /// It cannot be written, or another run is at it.
    pub(super) fn resume(&mut self, path: &Path, loaded: &Loaded, holder: &Holder) -> Result<(), Failure> {
        let Holder { user, host, pid } = holder.clone();
        let resumed = Resumed { user, host, pid, started: Timestamp::now() };
        let journal = Journal::resume(path, loaded.whole, resumed).map_err(|error| {
            let path = printable(&path.to_string_lossy()).into_owned();
            if error.kind() == io::ErrorKind::WouldBlock {
                return Failure::nothing_changed(format!(
                    "go on with the journal {path}: another run is at it"
                ))
                .hint("wait until that run is over");
            }
            Failure::nothing_changed(format!("go on with the journal {path}: {}", io_text(&error))).hint(
                "copy it and the file beside it, .objects, to a folder that you may write to: --journal=FILE",
            )
        })?;
        self.journal = Some(journal);
        Ok(())
    }

    /// The journal, if there is one.
    pub(super) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Becomes something when somebody else may have begun.
    pub(super) fn lost(&self) -> Option<tokio::sync::watch::Receiver<Option<String>>> {
        self.held.as_ref().map(Held::lost)
    }

    /// Gives the lock back, of a run that has changed nothing.
    pub(super) async fn release(&mut self, ui: &Ui) {
        self.journal = None;
        if let Some(held) = self.held.take()
            && let Err(why) = held.release().await
        {
            let lasts = time_text(Pace::default().lasts);
            ui.message(&format!(
                "Lock: the Lease could not be given back, and ends by itself in {lasts}: {}",
                printable(&why)
            ));
        }
    }

    /// Writes down that the run failed before it changed anything: the next run does the same again.
    pub(super) fn unchanged(&mut self) {
        if let Some(journal) = self.journal.take() {
            let end = End {
                at: Timestamp::now(),
                early: Some("failed".to_owned()),
                failures: 0,
                orphans: 0,
                cache_may_lie: false,
            };
            // Without it the next run takes it for one that was cut short, and finds nothing left.
            let _ = journal.end(end);
        }
    }

    /// Writes down how the run has ended, and gives the lock back.
    pub(super) async fn end(
        &mut self,
        plan: &Plan,
        names: &Inventory,
        outcome: &Outcome,
        cache: &CacheOutcome,
        ui: &Ui,
    ) {
        if let Some(journal) = self.journal.take() {
            let end = End {
                at: Timestamp::now(),
                early: outcome.interrupted.map(str::to_owned),
                failures: outcome.failures.len(),
                orphans: orphans(plan, names, outcome),
                cache_may_lie: cache.may_lie(),
            };
            let ended = journal.end(end).map_err(|error| io_text(&error));
            if let Some(why) = journal.trouble().map(str::to_owned).or(ended.err()) {
                let path = journal.path().to_string_lossy();
                ui.warning(&format!("the journal {} is not complete: {why}", printable(&path)));
            }
        }
        self.release(ui).await;
    }
}

/// What only the journal knows of when the run has ended: links that could not be deleted, and what another run had left
/// behind and this one did not come to.
fn orphans(plan: &Plan, inventory: &Inventory, outcome: &Outcome) -> usize {
    let link =
        |kind: LinkKind, repository: &str, digest: &str| (kind, repository.to_owned(), digest.to_owned());
    let mut open = BTreeSet::new();
    let mut blobs = BTreeSet::new();
    for (repository, links) in &plan.leftovers.links {
        for (kind, ids) in [(LinkKind::Manifest, &links.manifests), (LinkKind::Layer, &links.layers)] {
            open.extend(ids.iter().map(|id| link(kind, repository, &inventory.names.text(*id))));
        }
    }
    blobs.extend(plan.leftovers.blobs.iter().map(|id| inventory.names.text(*id).into_owned()));
    for change in &outcome.changes {
        match change {
            Change::ManifestLink { repository, digest } => {
                open.remove(&link(LinkKind::Manifest, repository, digest));
            }
            Change::LayerLink { repository, digest } => {
                open.remove(&link(LinkKind::Layer, repository, digest));
            }
            Change::Blob { digest, .. } => {
                blobs.remove(digest);
            }
            Change::Items { .. } | Change::Image { .. } => {}
        }
    }
    for spared in &outcome.spared {
        blobs.remove(&spared.object);
        open.retain(|(_, repository, digest)| spared.object != format!("{repository}@{digest}"));
    }
    for failed in outcome.failures.iter().filter(|failed| failed.failed.ends_with(" link")) {
        if let Some((repository, digest)) = failed.object.rsplit_once('@') {
            let kind = if failed.failed.contains("manifest") { LinkKind::Manifest } else { LinkKind::Layer };
            open.insert(link(kind, repository, digest));
        }
    }
    open.len() + blobs.len()
}

/// The folder of this cluster's journals.
pub(super) fn place(cluster: &Cluster) -> Option<Place> {
    Place::of(cluster.server(), cluster.ca_pem().as_deref())
}

fn without_journal(ui: &Ui, why: &str) {
    ui.warning(&format!(
        "no journal is kept: {why}; if this run is cut short, links that it no longer names are left behind for ever"
    ));
    ui.message("hint: name a file for it: --journal=FILE; in a container, on a volume that outlives it");
}

/// The flags that decide, as a journal has them.
fn selection(options: &PruneOptions, now: Timestamp) -> Selection {
    let PruneOptions { all, keep, ignore_invalid_refs, namespace, selector, referrers_from, prune_registry } =
        options;
    let (keep_tag_revisions, keep_younger_than) = match keep {
        Keep::Revisions { keep_tag_revisions, keep_younger_than } => {
            (Some(*keep_tag_revisions), Some(*keep_younger_than))
        }
        Keep::OverSizeLimit => (None, None),
    };
    Selection {
        now,
        keep_tag_revisions,
        keep_younger_than,
        all: *all,
        namespace: namespace.clone(),
        selector: selector.as_ref().map(ToString::to_string),
        referrers_from: referrers_from.iter().map(ToString::to_string).collect(),
        prune_registry: *prune_registry,
        ignore_invalid_refs: *ignore_invalid_refs,
    }
}

/// What a journal says of the flags that decided.
///
/// # Errors
/// It says what no flag could.
pub(super) fn prune_options(selection: &Selection) -> Result<PruneOptions, Failure> {
    let wrong = |what: &str| Failure::nothing_changed(format!("read the journal: {what} is none"));
    let keep = match (selection.keep_tag_revisions, selection.keep_younger_than) {
        (Some(keep_tag_revisions), Some(keep_younger_than)) if !keep_younger_than.is_negative() => {
            Keep::Revisions { keep_tag_revisions, keep_younger_than }
        }
        (None, None) => Keep::OverSizeLimit,
        _ => return Err(wrong("what it says of --keep-tag-revisions and --keep-younger-than")),
    };
    let selector = selection.selector.as_deref().map(Selector::parse).transpose();
    let referrers_from: Option<Vec<ResourceName>> =
        selection.referrers_from.iter().map(|name| ResourceName::parse(name)).collect();
    Ok(PruneOptions {
        all: selection.all,
        keep,
        ignore_invalid_refs: selection.ignore_invalid_refs,
        namespace: selection.namespace.clone(),
        selector: selector.map_err(|_| wrong("its selector"))?,
        referrers_from: referrers_from.ok_or_else(|| wrong("its --referrers-from"))?,
        prune_registry: selection.prune_registry,
    })
}

/// Reads a whole journal.
///
/// # Errors
/// It cannot be read, or is none.
pub(super) fn load(path: &Path) -> Result<Loaded, Failure> {
    let file = File::open(path).map_err(journal::Unreadable::from);
    tokio::task::block_in_place(|| file.and_then(|file| journal::read(BufReader::new(file)))).map_err(|error| {
        let failure = Failure::nothing_changed(format!(
            "read the journal {}: {}",
            printable(&path.to_string_lossy()),
            match &error {
                journal::Unreadable::Io(error) => io_text(error),
                error => printable(&error.to_string()).into_owned(),
            }
        ));
        match error {
            journal::Unreadable::Line { .. } => failure.hint(
                "the file was changed by something else: what is in front of that line still holds; cut it there, and try again",
            ),
            journal::Unreadable::TooNew(_) => failure.hint("use the program that wrote it, or a newer one"),
            _ => failure,
        }
    })
}

/// The journals of this cluster with something left that only they know of, the oldest first.
pub(super) fn unfinished(cluster: &Cluster) -> Vec<Found> {
    let journals = place(cluster).as_ref().map(Place::journals).unwrap_or_default();
    journals.into_iter().filter(|found| found.standing.needs_resume()).collect()
}

/// The links that runs which were cut short may have left behind, of the streams that this prune is about.
pub(super) fn left_behind(
    options: &PruneOptions,
    unfinished: &[Found],
    inventory: &mut Inventory,
    ui: &Ui,
) -> Unfinished {
    let mut left = Unfinished::default();
    // Which of them a selector would have meant is not known any more.
    if options.selector.is_some() || !options.prune_registry {
        return left;
    }
    for found in unfinished {
        let loaded = match load(&found.path) {
            Ok(loaded) => loaded,
            Err(failure) => {
                ui.warning(&failure.message);
                continue;
            }
        };
        for (repository, links) in journal::open_links(&loaded, inventory) {
            let namespace = repository.split('/').next();
            if options.namespace.is_none() || options.namespace.as_deref() == namespace {
                let known = left.links.entry(repository).or_default();
                known.manifests.extend(links.manifests);
                known.layers.extend(links.layers);
            }
        }
    }
    left
}

/// Says that runs were cut short, and how to finish them.
pub(super) fn tell_unfinished(options: &Options, unfinished: &[Found], ui: &Ui) {
    for found in unfinished {
        ui.warning(&printable(&unfinished_line(found)));
    }
    if !unfinished.is_empty() {
        ui.message(&format!("hint: finish it: {}", resume_command(options, None)));
    }
}

/// What became of a run, on one line.
pub(super) fn unfinished_line(found: &Found) -> String {
    let Header { user, host, pid, started, .. } = &found.header;
    let what = match &found.standing {
        Standing::Open(end) if end.orphans > 0 => format!(
            "could not delete {} object(s) of the registry that nothing else names any longer",
            end.orphans
        ),
        Standing::Open(_) => "left caches that may name what was deleted".to_owned(),
        _ => "was cut short: what it was about to delete may be left behind in the registry and its caches"
            .to_owned(),
    };
    format!("the prune of {} by {user}@{host}/{pid} {what}", started.strftime("%Y-%m-%d %H:%M:%SZ"))
}

/// The command that finishes a run, without a password.
pub(super) fn resume_command(options: &Options, journal: Option<&Path>) -> String {
    let Options { program, cache, connection, registry, .. } = options;
    let journal = journal.map(|path| format!(" --journal={}", quoted(&path.to_string_lossy())));
    format!(
        "{program} resume --confirm{}{}{}{}{}",
        journal.unwrap_or_default(),
        cache.redis.flags,
        cache.place.flags(),
        registry.flags(),
        connection.writing_flags()
    )
}
