//! From what the user typed to what the program needs. No network: only files that flags name are read.

use std::{ffi::OsString, num::NonZeroUsize, path::PathBuf, time::Duration};

use jiff::SignedDuration;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    args::PruneArgs,
    duration::{self, DurationError},
    options::{CaBundle, Keep, Options, OutputFormat, PruneOptions, RegistryOptions},
    values::{self, quote},
};
use crate::{
    cache::{CacheOptions, Extent, Strategy},
    cause::io_text,
    error::Failure,
    inventory::ResourceName,
    registry::{RegistryUrl, Scheme},
    text::sanitize,
};

const KEEP_TAG_REVISIONS: u32 = 3;
const KEEP_YOUNGER_THAN: SignedDuration = SignedDuration::from_mins(60);
const CACHE_TIMEOUT: Duration = Duration::from_secs(600);
const NUM_WORKERS: NonZeroUsize = NonZeroUsize::new(5).unwrap();

/// Checks every value and fills in the defaults.
pub(super) fn validate(args: PruneArgs, program: String) -> Result<Options, Failure> {
    no_words(&args.words)?;
    let options = Options {
        program,
        prune: PruneOptions {
            all: boolean("--all", args.all.as_deref())?.unwrap_or(true),
            keep: keep(&args)?,
            ignore_invalid_refs: switch("--ignore-invalid-refs", args.ignore_invalid_refs.as_deref())?,
            namespace: namespace(args.namespace)?,
            referrers_from: referrers_from(&args.referrers_from)?,
            prune_registry: boolean("--prune-registry", args.prune_registry.as_deref())?.unwrap_or(true),
        },
        num_workers: num_workers(args.num_workers.as_deref())?,
        output: output(args.output.as_deref())?,
        verbosity: verbosity(args.verbosity.as_deref())?,
        confirm: switch("--confirm", args.confirm.as_deref())?,
        cache: CacheOptions {
            strategy: word("--registry-cache", args.registry_cache, Strategy::BY_NAME)?,
            check: word("--check", args.check, Extent::BY_NAME)?,
            timeout: timeout("--cache-timeout", args.cache_timeout.as_deref(), CACHE_TIMEOUT)?,
            place: args.place.place()?,
            redis: args.redis.options()?,
        },
        connection: args.connection.options()?,
        // Last, because it reads a file: a mistake on the command line comes first.
        registry: args.registry.options()?,
    };
    Ok(options)
}

/// No command takes words that are no flags.
pub(super) fn no_words(words: &[OsString]) -> Result<(), Failure> {
    if words.is_empty() { Ok(()) } else { Err(Failure::usage("no arguments are allowed to this command")) }
}

/// The answer to `--help` and `--version`, which are booleans for pflag too.
pub(super) fn asked_for(flag: &'static str, word: Option<&str>) -> Result<bool, Failure> {
    switch(flag, word)
}

fn keep(args: &PruneArgs) -> Result<Keep, Failure> {
    let over_size = boolean("--prune-over-size-limit", args.prune_over_size_limit.as_deref())?;
    let revisions =
        args.keep_tag_revisions.as_deref().map(|word| integer("--keep-tag-revisions", word)).transpose()?;
    let younger = args
        .keep_younger_than
        .as_deref()
        .map(|word| duration::parse(word).map_err(|error| bad_duration("--keep-younger-than", word, &error)))
        .transpose()?;
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
    let keep_tag_revisions = match revisions {
        Some(number) if number < 0 => return Err(not_negative("--keep-tag-revisions")),
        // No tag has that many revisions: the largest number that fits means the same.
        Some(number) => u32::try_from(number).unwrap_or(u32::MAX),
        None => KEEP_TAG_REVISIONS,
    };
    Ok(Keep::Revisions { keep_tag_revisions, keep_younger_than: younger.unwrap_or(KEEP_YOUNGER_THAN) })
}

fn num_workers(word: Option<&str>) -> Result<NonZeroUsize, Failure> {
    let Some(word) = word else { return Ok(NUM_WORKERS) };
    let number = integer("--num-workers", word)?;
    if number < 0 {
        return Err(not_negative("--num-workers"));
    }
    Ok(usize::try_from(number).ok().and_then(NonZeroUsize::new).unwrap_or(NUM_WORKERS))
}

pub(super) fn verbosity(word: Option<&str>) -> Result<u8, Failure> {
    let number = word.map_or(Ok(0), |word| integer("-v, --v", word))?;
    Ok(u8::try_from(number.clamp(0, 10)).unwrap_or_default())
}

fn output(word: Option<&str>) -> Result<OutputFormat, Failure> {
    output_of(word, &OutputFormat::BY_NAME)
}

/// One of these formats, by its word.
pub(super) fn output_of(
    word: Option<&str>,
    formats: &[(&str, OutputFormat)],
) -> Result<OutputFormat, Failure> {
    let Some(word) = word.filter(|word| !word.is_empty()) else { return Ok(OutputFormat::default()) };
    formats.iter().find(|(name, _)| *name == word).map(|(_, format)| *format).ok_or_else(|| {
        let names: Vec<&str> = formats.iter().map(|(name, _)| *name).collect();
        Failure::usage(format!(
            "unable to match a printer suitable for the output format {}, allowed formats are: {}",
            quote(word),
            names.join(",")
        ))
    })
}

/// One of a few words; the default without one.
pub(super) fn word<T: Default, const N: usize>(
    flag: &'static str,
    word: Option<String>,
    by_name: [(&'static str, T); N],
) -> Result<T, Failure> {
    let Some(word) = nonempty(word) else { return Ok(T::default()) };
    let names = by_name.each_ref().map(|(name, _)| *name).join(", ");
    let found = by_name.into_iter().find(|(name, _)| *name == word).map(|(_, value)| value);
    found.ok_or_else(|| invalid(flag, &word, format!("it must be one of {names}")))
}

/// A duration that is longer than nothing.
pub(super) fn timeout(
    flag: &'static str,
    word: Option<&str>,
    default: Duration,
) -> Result<Duration, Failure> {
    let Some(word) = word.filter(|word| !word.is_empty()) else { return Ok(default) };
    let parsed = duration::parse(word).map_err(|error| bad_duration(flag, word, &error))?;
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(invalid(flag, word, "it must be greater than 0")),
    }
}

fn namespace(name: Option<String>) -> Result<Option<String>, Failure> {
    let Some(name) = nonempty(name) else { return Ok(None) };
    if is_label(&name) {
        return Ok(Some(name));
    }
    Err(invalid("-n, --namespace", &name, NO_NAMESPACE))
}

pub(super) const NO_NAMESPACE: &str =
    "a namespace has at most 63 lower case letters, digits and '-', and neither begins nor ends with '-'";

/// Whether it is a DNS label as Kubernetes names use it.
pub(super) fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 63
        && name.bytes().all(|byte| inner(byte) || byte == b'-')
        && name.bytes().next().is_some_and(inner)
        && name.bytes().next_back().is_some_and(inner)
}

/// Whether it is a DNS subdomain as most Kubernetes names are.
pub(super) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
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

/// Reads a resource as kubectl does. A group's first part may look like a version, too: then the version is needed.
fn resource_name(word: &str) -> Option<ResourceName> {
    let is_name = is_subdomain(word);
    let (resource, rest) = word.split_once('.').unwrap_or((word, ""));
    let (second, group) = rest.split_once('.').unwrap_or((rest, ""));
    let (version, group) = if is_version(second) { (Some(second.to_owned()), group) } else { (None, rest) };
    is_name.then(|| ResourceName { resource: resource.to_owned(), version, group: group.to_owned() })
}

/// Whether it looks like an API version: `v1`, `v1beta2`, `v2alpha1`.
fn is_version(part: &str) -> bool {
    let is_number = |text: &str| text.starts_with(|c| matches!(c, '1'..='9')) && text.parse::<u32>().is_ok();
    let Some(rest) = part.strip_prefix('v') else { return false };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, stage) = rest.split_at(end);
    let is_stage = |name: &str| stage.strip_prefix(name).is_some_and(is_number);
    is_number(major) && (stage.is_empty() || is_stage("alpha") || is_stage("beta"))
}

pub(super) fn registry(
    url: Option<&str>,
    ca: Option<PathBuf>,
    force_insecure: bool,
) -> Result<RegistryOptions, Failure> {
    let url = url.filter(|url| !url.is_empty()).map(RegistryUrl::parse).transpose()?;
    if ca.is_some() && force_insecure {
        return Err(Failure::usage("--certificate-authority cannot be specified with --force-insecure")
            .hint("leave one of the two out: a certificate is either verified or it is not"));
    }
    if ca.is_some() && url.as_ref().is_some_and(|url| url.scheme() == Some(Scheme::Http)) {
        return Err(Failure::usage("--certificate-authority cannot be specified for insecure http protocol")
            .hint("give an https:// URL in --registry-url, or leave --certificate-authority out"));
    }
    Ok(RegistryOptions { url, ca: ca.map(ca_bundle).transpose()?, force_insecure })
}

/// Reads the registry's CA; these two failures exit with 1, as no flag is misspelled.
fn ca_bundle(path: PathBuf) -> Result<CaBundle, Failure> {
    let shown = sanitize(&path.to_string_lossy());
    let pem = std::fs::read(&path).map_err(|error| {
        let verb = if error.kind() == std::io::ErrorKind::IsADirectory { "read" } else { "open" };
        Failure::nothing_changed(format!(
            "failed to read registry ca bundle: {verb} {shown}: {}",
            io_text(&error)
        ))
        .hint("--certificate-authority=FILE names a PEM file with the CA of the registry's certificate")
    })?;
    // As Go's AppendCertsFromPEM: what does not parse is skipped, as long as one certificate is good.
    let mut roots = rustls::RootCertStore::empty();
    let (good, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if good == 0 {
        return Err(Failure::nothing_changed(
            "unable to load root certificates: no valid certificate authority data seen",
        )
        .hint(format!("{shown} must hold a block that begins with -----BEGIN CERTIFICATE-----")));
    }
    Ok(CaBundle { path, pem })
}

fn boolean(flag: &'static str, word: Option<&str>) -> Result<Option<bool>, Failure> {
    word.map(|word| values::boolean(word).map_err(|error| invalid(flag, word, error))).transpose()
}

pub(super) fn switch(flag: &'static str, word: Option<&str>) -> Result<bool, Failure> {
    Ok(boolean(flag, word)?.unwrap_or_default())
}

fn integer(flag: &'static str, word: &str) -> Result<i64, Failure> {
    values::integer(word).map_err(|error| invalid(flag, word, error))
}

fn bad_duration(flag: &'static str, word: &str, error: &DurationError) -> Failure {
    let failure = invalid(flag, word, error);
    match error {
        DurationError::UnknownUnit { unit, .. } if unit == "d" => {
            let hours = word
                .strip_suffix('d')
                .and_then(|days| days.parse::<u32>().ok())
                .and_then(|days| days.checked_mul(24));
            failure.hint(match hours {
                Some(hours) => format!("days are no unit, use hours: {flag}={hours}h"),
                None => format!("days are no unit, use hours (1 day is 24h): {flag}=96h"),
            })
        }
        DurationError::MissingUnit(_) => failure.hint(format!("say which unit: {flag}=60m, {flag}=96h")),
        _ => failure.hint(format!("a duration is numbers with units: {flag}=90m, {flag}=96h, {flag}=1h30m")),
    }
}

pub(super) fn invalid(flag: &'static str, word: &str, cause: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("invalid argument {} for \"{flag}\" flag: {cause}", quote(word)))
}

fn not_negative(flag: &'static str) -> Failure {
    Failure::usage(format!("{flag} must be greater than or equal to 0"))
}

pub(super) fn nonempty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

pub(super) fn nonempty_path(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}
