//! From what the user typed to what the program needs. No network: only files that flags name are read.

use std::{ffi::OsString, num::NonZeroUsize, path::PathBuf, time::Duration};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    args::PruneArgs,
    duration::{self, DurationError},
    options::{CaBundle, Options, OutputFormat, RegistryOptions},
    values::{self, quote},
};
use crate::{
    cause::io_text,
    cluster::ConnectionOptions,
    error::Failure,
    registry::{RegistryUrl, Scheme, Via},
    text::sanitize,
};

/// Checks every value and fills in the defaults.
pub(super) fn validate(args: PruneArgs, program: String) -> Result<Options, Failure> {
    no_words(&args.words)?;
    let confirm = switch("--confirm", args.confirm.as_deref())?;
    let dry_run = dry_run(args.dry_run.as_deref())?;
    if confirm && dry_run {
        return Err(Failure::usage("--confirm cannot be specified with --dry-run"));
    }
    let output = output(args.output.as_deref())?;
    let running = args.running.options(output)?;
    let options = Options {
        program,
        prune: args.selection.options()?,
        num_workers: num_workers(args.num_workers.as_deref())?,
        verify: running.verify.unwrap_or_default(),
        output,
        show_kept: running.show_kept,
        timeout: running.timeout,
        poll_interval: running.poll_interval,
        metrics_file: running.metrics_file,
        report: running.report,
        journal: nonempty_path(args.journal),
        verbosity: verbosity(args.verbosity.as_deref())?,
        confirm,
        may_ask: args.confirm.is_none() && !dry_run && nonempty(args.output).is_none(),
        cache: args.cache.options()?,
        connection: ConnectionOptions { field_manager: running.field_manager, ..args.connection.options()? },
        // Last, because it reads a file: a mistake on the command line comes first.
        registry: args.registry.options()?,
    };
    Ok(options)
}

/// `--dry-run` in kubectl's spellings, and as a boolean.
fn dry_run(word: Option<&str>) -> Result<bool, Failure> {
    match word {
        Some("client" | "server") => Ok(true),
        None | Some("none") => Ok(false),
        Some(word) => values::boolean(word)
            .map_err(|_| invalid("--dry-run", word, "it must be one of client, server, none, true, false")),
    }
}

/// No command takes words that are no flags.
pub(super) fn no_words(words: &[OsString]) -> Result<(), Failure> {
    if words.is_empty() { Ok(()) } else { Err(Failure::usage("no arguments are allowed to this command")) }
}

/// The answer to `--help` and `--version`, which are booleans for pflag too.
pub(super) fn asked_for(flag: &'static str, word: Option<&str>) -> Result<bool, Failure> {
    switch(flag, word)
}

pub(super) fn num_workers(word: Option<&str>) -> Result<Option<NonZeroUsize>, Failure> {
    let Some(word) = word else { return Ok(None) };
    let number = integer("--num-workers", word)?;
    if number < 0 {
        return Err(not_negative("--num-workers"));
    }
    Ok(usize::try_from(number).ok().and_then(NonZeroUsize::new))
}

pub(super) fn verbosity(word: Option<&str>) -> Result<u8, Failure> {
    let number = word.map_or(Ok(0), |word| integer("-v, --v", word))?;
    Ok(u8::try_from(number.clamp(0, 10)).unwrap_or_default())
}

fn output(word: Option<&str>) -> Result<OutputFormat, Failure> {
    output_of(word, &OutputFormat::BY_NAME)
}

/// One of these formats, by its word.
pub(super) fn output_of<T: Copy + Default>(word: Option<&str>, formats: &[(&str, T)]) -> Result<T, Failure> {
    let Some(word) = word.filter(|word| !word.is_empty()) else { return Ok(T::default()) };
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

/// The value of [`timeout`] that stands for no limit at all.
pub(super) const NO_LIMIT: Duration = Duration::MAX;

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

pub(super) fn registry(
    url: Option<&str>,
    via: Option<String>,
    ca: Option<PathBuf>,
    force_insecure: bool,
) -> Result<RegistryOptions, Failure> {
    let via = match nonempty(via) {
        None => None,
        via => Some(word("--registry-via", via, Via::BY_NAME)?),
    };
    let url = url.filter(|url| !url.is_empty()).map(RegistryUrl::parse).transpose()?;
    if ca.is_some() && force_insecure {
        return Err(Failure::usage("--certificate-authority cannot be specified with --force-insecure")
            .hint("leave one of the two out: a certificate is either verified or it is not"));
    }
    if ca.is_some() && url.as_ref().is_some_and(|url| url.scheme() == Some(Scheme::Http)) {
        return Err(Failure::usage("--certificate-authority cannot be specified for insecure http protocol")
            .hint("give an https:// URL in --registry-url, or leave --certificate-authority out"));
    }
    if url.is_some() && via == Some(Via::Route) {
        return Err(Failure::usage("--registry-url cannot be specified with --registry-via=route")
            .hint("the routes say their own hosts; for one of them alone: --registry-url=https://HOST"));
    }
    Ok(RegistryOptions { url, ca: ca.map(ca_bundle).transpose()?, force_insecure, via })
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

pub(super) fn boolean(flag: &'static str, word: Option<&str>) -> Result<Option<bool>, Failure> {
    word.map(|word| values::boolean(word).map_err(|error| invalid(flag, word, error))).transpose()
}

pub(super) fn switch(flag: &'static str, word: Option<&str>) -> Result<bool, Failure> {
    Ok(boolean(flag, word)?.unwrap_or_default())
}

pub(super) fn integer(flag: &'static str, word: &str) -> Result<i64, Failure> {
    values::integer(word).map_err(|error| invalid(flag, word, error))
}

pub(super) fn bad_duration(flag: &'static str, word: &str, error: &DurationError) -> Failure {
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

pub(super) fn not_negative(flag: &'static str) -> Failure {
    Failure::usage(format!("{flag} must be greater than or equal to 0"))
}

pub(super) fn nonempty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

pub(super) fn nonempty_path(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}
