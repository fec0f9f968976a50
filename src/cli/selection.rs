//! The flags that say what is pruned and what stays; every command that decides has them.

use clap::{ArgAction, Args};
use jiff::SignedDuration;

use super::{
    duration,
    options::{Keep, PruneOptions},
    validate::{
        NO_NAMESPACE, bad_duration, boolean, integer, invalid, is_label, is_subdomain, nonempty,
        not_negative, switch,
    },
};
use crate::{error::Failure, inventory::ResourceName, model::Selector};

const KEEP_TAG_REVISIONS: u32 = 3;
const KEEP_YOUNGER_THAN: SignedDuration = SignedDuration::from_mins(60);

/// What is pruned and what stays, as typed.
#[derive(Args)]
pub(super) struct SelectionArgs {
    #[command(flatten)]
    keep: KeepArgs,

    #[command(flatten)]
    scope: ScopeArgs,
}

/// What stays although nothing uses it, as typed.
#[derive(Args)]
struct KeepArgs {
    /// How many revisions of each tag stay
    ///
    /// The newest ones stay, whatever their age. Default: 3.
    #[arg(long, value_name = "N")]
    keep_tag_revisions: Option<String>,

    /// Keep whatever is younger than this
    ///
    /// A duration with units: 90m, 96h, 1h30m, 0. There are no days: 1 day is 24h. Also protects what recent pods
    /// used, and image streams that are younger. Default: 60m.
    #[arg(long, value_name = "DURATION")]
    keep_younger_than: Option<String>,

    /// Select by size: images over the limits of their namespace
    ///
    /// Compares with the largest image that the LimitRanges of the namespace allow (type openshift.io/Image).
    /// Excludes --keep-tag-revisions and --keep-younger-than.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    prune_over_size_limit: Option<String>,
}

/// What is looked at, as typed: all of the selection but for what is kept by number, age or size.
#[derive(Args)]
pub(super) struct ScopeArgs {
    /// Also images that were not pushed to the integrated registry
    ///
    /// With --all=false only images with the annotation openshift.io/image.managed are deleted. Default: true.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    all: Option<String>,

    /// Also remove data from the registry
    ///
    /// With --prune-registry=false only API objects are pruned, and no registry is contacted. Default: true.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    prune_registry: Option<String>,

    /// Go on although references to images do not parse
    ///
    /// A reference that does not parse protects no image. Without this flag such a reference stops the run.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ignore_invalid_refs: Option<String>,

    /// Only the image streams of this namespace
    ///
    /// What uses them is looked for in all namespaces, and no image objects are deleted. The namespace of the
    /// kubeconfig's context does not count.
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,

    /// Only the image streams with these labels
    ///
    /// kubectl's grammar: app=web,tier in (a,b),!old. All streams are read, and no image objects are deleted. With
    /// --namespace, both must fit.
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,

    /// Resources whose objects use images, too (can be repeated)
    ///
    /// RESOURCE, RESOURCE.GROUP or RESOURCE.VERSION.GROUP, several with commas between them: rollouts.argoproj.io. An
    /// image that any string in their spec, status or data names, as HOST/NAMESPACE/NAME[:TAG|@DIGEST], stays.
    /// Without a version the one that the server prefers is read.
    #[arg(long, value_name = "RESOURCES", action = ArgAction::Append)]
    referrers_from: Vec<String>,
}

impl SelectionArgs {
    /// Checks every value and fills in the defaults.
    pub(super) fn options(&self) -> Result<PruneOptions, Failure> {
        self.scope.options(keep(&self.keep)?)
    }
}

impl ScopeArgs {
    /// Checks every value and fills in the defaults, with this as what stays.
    pub(super) fn options(&self, keep: Keep) -> Result<PruneOptions, Failure> {
        Ok(PruneOptions {
            all: boolean("--all", self.all.as_deref())?.unwrap_or(true),
            keep,
            ignore_invalid_refs: switch("--ignore-invalid-refs", self.ignore_invalid_refs.as_deref())?,
            namespace: namespace(self.namespace.clone())?,
            selector: selector(self.selector.as_deref())?,
            referrers_from: referrers_from(&self.referrers_from)?,
            prune_registry: boolean("--prune-registry", self.prune_registry.as_deref())?.unwrap_or(true),
        })
    }
}

/// Values of `--keep-tag-revisions` with commas between them; sorted, each once.
pub(super) fn list_of_revisions(words: &str) -> Result<Vec<u32>, Failure> {
    let mut numbers = words.split(',').map(keep_tag_revisions).collect::<Result<Vec<u32>, Failure>>()?;
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

/// Values of `--keep-younger-than` with commas between them; sorted, each once.
pub(super) fn list_of_ages(words: &str) -> Result<Vec<SignedDuration>, Failure> {
    let mut ages =
        words.split(',').map(keep_younger_than).collect::<Result<Vec<SignedDuration>, Failure>>()?;
    ages.sort_unstable();
    ages.dedup();
    Ok(ages)
}

fn keep(args: &KeepArgs) -> Result<Keep, Failure> {
    let over_size = boolean("--prune-over-size-limit", args.prune_over_size_limit.as_deref())?;
    let revisions = args.keep_tag_revisions.as_deref().map(revisions).transpose()?;
    let younger = args.keep_younger_than.as_deref().map(younger).transpose()?;
    if over_size.is_some() && (revisions.is_some() || younger.is_some()) {
        return Err(Failure::usage(
            "--prune-over-size-limit cannot be specified with --keep-tag-revisions nor --keep-younger-than",
        ));
    }
    match over_size {
        Some(true) => return Ok(Keep::OverSizeLimit),
        // The reference accepts it and then keeps nearly everything (`docs/decision.md`, last line).
        Some(false) => {
            return Err(invalid("--prune-over-size-limit", "false", "it can only be switched on")
                .hint("leave --prune-over-size-limit out to keep by revisions and age"));
        }
        None => {}
    }
    if younger.is_some_and(|age| age.is_negative()) {
        return Err(not_negative("--keep-younger-than"));
    }
    let keep_tag_revisions = revisions.map(not_below_zero).transpose()?.unwrap_or(KEEP_TAG_REVISIONS);
    Ok(Keep::Revisions { keep_tag_revisions, keep_younger_than: younger.unwrap_or(KEEP_YOUNGER_THAN) })
}

fn revisions(word: &str) -> Result<i64, Failure> {
    integer("--keep-tag-revisions", word)
}

fn not_below_zero(revisions: i64) -> Result<u32, Failure> {
    if revisions < 0 {
        return Err(not_negative("--keep-tag-revisions"));
    }
    // No tag has that many revisions: the largest number that fits means the same.
    Ok(u32::try_from(revisions).unwrap_or(u32::MAX))
}

fn younger(word: &str) -> Result<SignedDuration, Failure> {
    duration::parse(word).map_err(|error| bad_duration("--keep-younger-than", word, &error))
}

/// A value of `--keep-tag-revisions`.
///
/// # Errors
/// As on the command line.
pub fn keep_tag_revisions(word: &str) -> Result<u32, Failure> {
    revisions(word).and_then(not_below_zero)
}

/// A value of `--keep-younger-than`.
///
/// # Errors
/// As on the command line.
pub fn keep_younger_than(word: &str) -> Result<SignedDuration, Failure> {
    let age = younger(word)?;
    if age.is_negative() { Err(not_negative("--keep-younger-than")) } else { Ok(age) }
}

pub(super) fn namespace(name: Option<String>) -> Result<Option<String>, Failure> {
    let Some(name) = nonempty(name) else { return Ok(None) };
    if is_label(&name) {
        return Ok(Some(name));
    }
    Err(invalid("-n, --namespace", &name, NO_NAMESPACE))
}

/// Nothing but white space selects everything, as in kubectl.
fn selector(word: Option<&str>) -> Result<Option<Selector>, Failure> {
    let Some(word) = word.filter(|word| !word.trim().is_empty()) else { return Ok(None) };
    Selector::parse(word).map(Some).map_err(|error| {
        invalid("-l, --selector", word, format!("unable to parse requirement: {error}"))
            .hint("the grammar is kubectl's: --selector='app=web,tier in (a,b),!old'")
    })
}

fn referrers_from(lists: &[String]) -> Result<Vec<ResourceName>, Failure> {
    let mut names = Vec::new();
    for word in lists.iter().filter(|list| !list.is_empty()).flat_map(|list| list.split(',')) {
        let name = resource_name(word).ok_or_else(|| {
            invalid("--referrers-from", word, "not a resource, in lower case and by its plural name")
                .hint("the form is --referrers-from=RESOURCE[.GROUP|.VERSION.GROUP], as in rollouts.argoproj.io")
                .hint("see what there is: oc api-resources")
        })?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn resource_name(word: &str) -> Option<ResourceName> {
    ResourceName::parse(word).filter(|_| is_subdomain(word))
}
