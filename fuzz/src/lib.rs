//! What must hold whatever the bytes are. `cargo fuzz` looks for bytes for which it does not; `tests/fuzz.rs` tries those
//! of the corpora, and random ones, on each run of CI.

use oc_prune_images::cache::detect::{
    ConfigFile, Environment, KeyOf, Origin, Source, Value, Variable, cache_of,
};
use oc_prune_images::cli::duration;
use oc_prune_images::inventory::read_lists;
use oc_prune_images::journal;
use oc_prune_images::model::{Quantity, pull_spec};
use oc_prune_images::plan::{Keep, Rules, decide};

/// The lists that are read, by the name of their resource.
pub const LISTS: [&str; 16] = [
    "images",
    "imagestreams",
    "pods",
    "replicationcontrollers",
    "daemonsets",
    "deployments",
    "replicasets",
    "statefulsets",
    "controllerrevisions",
    "jobs",
    "cronjobs",
    "deploymentconfigs",
    "builds",
    "buildconfigs",
    "limitranges",
    "namespaces",
];

/// Lists in JSON: the first byte says which one, the rest is the answer. What is read can be decided about.
pub fn json_lists(data: &[u8]) {
    list(data, |page| page.to_vec());
}

/// Lists in protobuf, likewise; the envelope's mark is set.
pub fn protobuf_lists(data: &[u8]) {
    list(data, |page| {
        let body = page.strip_prefix(b"k8s\0").unwrap_or(page);
        [b"k8s\0", body].concat()
    });
}

fn list(data: &[u8], page: impl Fn(&[u8]) -> Vec<u8>) {
    let Some((which, rest)) = data.split_first() else { return };
    let page = page(rest);
    let name = LISTS[usize::from(*which) % LISTS.len()];
    let Ok(read) = read_lists([(name, page.as_slice())]) else { return };
    let keep = Keep::Recent { tag_revisions: 1, cutoff: i128::from(i64::MAX) * 1_000_000_000 };
    let rules = Rules { keep, all: true, namespace: None, prune_registry: true };
    let plan = decide(&read.inventory, &rules);
    assert_eq!(plan.images.len(), read.inventory.images.all().len());
    assert_eq!(plan.streams.len(), read.inventory.streams.len());
    // What is referred to by digest stays.
    for (image, decision) in read.inventory.images.all().iter().zip(&plan.images) {
        let goes = decision.verdict == oc_prune_images::plan::ImageVerdict::Delete;
        assert!(!goes || plan.references.of_digest(image.name).is_empty());
    }
}

/// A pull spec is accepted exactly if the published grammar has it, and its parts make it up again.
pub fn pull_spec(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = pull_spec::parse(text);
    assert_eq!(parsed.is_ok(), is_pull_spec(text), "{text:?}: {parsed:?}");
    if let Ok(spec) = parsed {
        let mut again = [spec.host, spec.namespace, spec.name]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("/");
        for (mark, part) in [(':', spec.tag), ('@', spec.digest)] {
            if !part.is_empty() {
                again.push(mark);
                again.push_str(part);
            }
        }
        assert_eq!(again, text);
    }
    let _ = pull_spec::parse_image_stream_tag(text);
    let _ = pull_spec::parse_image_stream_image(text);
}

/// The grammar of openshift/library-go `pkg/image/internal/reference`, written out as a search over all ways to split
/// the text: slow, and nothing like the expression that the program uses.
fn is_pull_spec(text: &str) -> bool {
    let splits = |text: &str, mark: char| -> Vec<usize> {
        text.char_indices().filter(|(_, c)| *c == mark).map(|(at, _)| at).collect()
    };
    let with_tag = |text: &str| {
        is_name(text)
            || splits(text, ':').into_iter().any(|at| is_name(&text[..at]) && is_tag(&text[at + 1..]))
    };
    with_tag(text)
        || splits(text, '@').into_iter().any(|at| with_tag(&text[..at]) && is_digest(&text[at + 1..]))
}

fn is_tag(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128
        && text.starts_with(is_word)
        && text.chars().all(|c| is_word(c) || matches!(c, '.' | '-'))
}

fn is_digest(text: &str) -> bool {
    // Of the grammar's algorithms only three are known.
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.chars().all(|c| c.is_ascii_hexdigit())
}

fn is_name(text: &str) -> bool {
    let is_path = |text: &str| text.split('/').all(is_component);
    let has_host = text.split_once('/').is_some_and(|(host, path)| is_host(host) && is_path(path));
    text.len() <= 255 && (is_path(text) || has_host)
}

fn is_component(text: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_alphanumeric)
        && text.ends_with(is_alphanumeric)
        && text.split(is_alphanumeric).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.chars().all(|c| c == '-')
        })
}

fn is_host(text: &str) -> bool {
    let (names, port) = text.split_once(':').map_or((text, None), |(names, port)| (names, Some(port)));
    let is_label = |label: &str| {
        label.starts_with(|c: char| c.is_ascii_alphanumeric())
            && label.ends_with(|c: char| c.is_ascii_alphanumeric())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    names.split('.').all(is_label)
        && port.is_none_or(|port| !port.is_empty() && port.chars().all(|c| c.is_ascii_digit()))
}

/// A quantity is compared with bytes in order: what is greater than one number is greater than each smaller one.
pub fn quantity(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(quantity) = Quantity::parse(text) else { return };
    let numbers = [i64::MIN, -1, 0, 1, 1000, 1024, 1 << 40, i64::MAX];
    let compared = numbers.map(|number| quantity.cmp_bytes(number));
    assert!(compared.is_sorted_by(|left, right| left >= right), "{text:?}: {compared:?}");
}

/// A duration that is read is written so that it reads the same.
pub fn duration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(read) = duration::parse(text) else { return };
    assert_eq!(duration::parse(&duration::format(read)).ok(), Some(read), "{text:?}");
}

/// A journal: what is read counts no more bytes as whole than there are, and reads the same without the torn end.
pub fn journal(data: &[u8]) {
    let Ok(loaded) = journal::read(data) else { return };
    let whole = usize::try_from(loaded.whole).unwrap_or(usize::MAX);
    assert!(whole <= data.len());
    let again = journal::read(&data[..whole]);
    assert!(again.is_ok_and(|again| (again.steps, again.whole) == (loaded.steps, loaded.whole)));
}

/// The registry's configuration: lines `NAME=VALUE` are variables up to an empty line, the rest is the file. No value of
/// a variable called a password is ever shown.
pub fn registry_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (variables, file) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut environment = Environment::default();
    for line in variables.lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        let value = Value::Plain(value.to_owned().into());
        environment.variables.insert(name.to_owned(), Variable { value, from: None });
    }
    let secret = "fuzz-password-7c1e";
    let password = Value::Plain(secret.to_owned().into());
    let name = "REGISTRY_REDIS_PASSWORD".to_owned();
    environment.variables.insert(name, Variable { value: password, from: None });
    if !file.is_empty() {
        let source = Source {
            origin: Origin::ConfigMap,
            namespace: "openshift-image-registry".to_owned(),
            name: "config".to_owned(),
        };
        let from = KeyOf { source, key: "config.yml".to_owned() };
        environment.file = ConfigFile::Is { from, text: file.to_owned().into() };
    }
    let found = cache_of(&environment);
    let shown = format!("{found:?}");
    assert!(!shown.contains(secret), "{shown}");
}
