//! The command line as users type it, and what comes of it.

use std::time::Duration;

use jiff::SignedDuration;
use secrecy::ExposeSecret as _;

use super::{Invocation, Keep, Options, OutputFormat, parse};
use crate::{
    cluster::RequestTimeout,
    error::{Exit, Failure},
    registry::Scheme,
};

fn run(line: &str) -> Result<Invocation, Failure> {
    run_words(&line.split_whitespace().collect::<Vec<_>>())
}

fn run_words(words: &[&str]) -> Result<Invocation, Failure> {
    parse(std::iter::once("/usr/bin/oc-prune_images").chain(words.iter().copied()).map(Into::into))
}

fn options(line: &str) -> Options {
    match run(line) {
        Ok(Invocation::Prune(options)) => *options,
        other => panic!("{line}: {other:?}"),
    }
}

fn failure(line: &str) -> Failure {
    match run(line) {
        Err(failure) => failure,
        Ok(other) => panic!("{line}: {other:?}"),
    }
}

fn printed(words: &[&str]) -> String {
    match run_words(words) {
        Ok(Invocation::Print(text)) => text,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[test]
fn the_defaults_are_those_of_the_reference() {
    let options = options("");
    assert!(options.prune.all && options.prune.prune_registry);
    assert!(!options.confirm && !options.prune.ignore_invalid_refs && !options.registry.force_insecure);
    let keep = Keep::Revisions { keep_tag_revisions: 3, keep_younger_than: SignedDuration::from_mins(60) };
    assert_eq!(options.prune.keep, keep);
    assert_eq!(options.num_workers, None);
    assert_eq!((options.output, options.verbosity), (OutputFormat::Text, 0));
    assert_eq!((options.prune.namespace, options.registry.url, options.registry.ca), (None, None, None));
    assert_eq!(options.connection.request_timeout, RequestTimeout::Progress);
    assert_eq!(options.program, "oc prune-images");
}

#[test]
fn booleans_have_both_spellings() {
    for (line, all, confirm) in [
        ("--all --confirm", true, true),
        ("--all=false --confirm=t", false, true),
        ("--all=0 --confirm=TRUE", false, true),
        ("--all=F --confirm=1", false, true),
        ("--confirm --confirm=false", true, false),
        ("--all=false --all", true, false),
    ] {
        let options = options(line);
        assert_eq!((options.prune.all, options.confirm), (all, confirm), "{line}");
    }
}

#[test]
fn a_dry_run_is_spelled_as_kubectl_does_and_excludes_a_confirmation() {
    for (line, may_ask) in [
        ("", true),
        ("--dry-run=none", true),
        ("--dry-run=false", true),
        ("--dry-run", false),
        ("--dry-run=client", false),
        ("--dry-run=server", false),
        ("--dry-run=true --confirm=false", false),
        ("--confirm=false", false),
        ("--confirm", false),
        ("-o text", false),
    ] {
        assert_eq!(options(line).may_ask, may_ask, "{line}");
    }
    assert!(options("--confirm --dry-run=none").confirm);
    for line in ["--confirm --dry-run", "--dry-run=server --confirm=true"] {
        assert_eq!(failure(line).message, "--confirm cannot be specified with --dry-run", "{line}");
    }
    assert_eq!(
        failure("--dry-run=maybe").message,
        "invalid argument \"maybe\" for \"--dry-run\" flag: it must be one of client, server, none, true, false"
    );
}

#[test]
fn a_boolean_never_takes_the_next_word() {
    assert_eq!(failure("--all false").message, "no arguments are allowed to this command");
    assert_eq!(failure("--confirm true").message, "no arguments are allowed to this command");
}

#[test]
fn values_come_with_or_without_an_equals_sign_and_the_last_one_wins() {
    let options = options(
        "--keep-tag-revisions 1 --keep-tag-revisions=0x10 -n a -nb -n=shop -ojson -o yaml -v=6 --v 4 --num-workers 0 \
         --keep-younger-than=1h30m",
    );
    let keep = Keep::Revisions { keep_tag_revisions: 16, keep_younger_than: SignedDuration::from_mins(90) };
    assert_eq!(options.prune.keep, keep);
    assert_eq!(options.prune.namespace.as_deref(), Some("shop"));
    assert_eq!((options.output, options.verbosity, options.num_workers), (OutputFormat::Yaml, 4, None));
}

#[test]
fn a_value_may_look_like_a_flag() {
    assert_eq!(
        failure("--keep-tag-revisions -1").message,
        "--keep-tag-revisions must be greater than or equal to 0"
    );
    assert!(
        failure("-n --confirm").message.starts_with("invalid argument \"--confirm\" for \"-n, --namespace\"")
    );
}

#[test]
fn connection_flags_are_taken_over() {
    let connection = options(
        "--kubeconfig=k --context c --cluster d --user u -s https://api:6443 --token=geheim --as=a --as-group=g \
         --as-group=h --as-uid=1 --request-timeout=30 --insecure-skip-tls-verify --tls-server-name=t \
         --client-certificate=crt --client-key=key",
    )
    .connection;
    assert_eq!(connection.kubeconfig.as_deref(), Some("k".as_ref()));
    assert_eq!(connection.context.as_deref(), Some("c"));
    assert_eq!(connection.cluster.as_deref(), Some("d"));
    assert_eq!(connection.user.as_deref(), Some("u"));
    assert_eq!(connection.server.as_deref(), Some("https://api:6443"));
    assert_eq!(connection.token.as_ref().unwrap().expose_secret(), "geheim");
    assert_eq!(connection.impersonate.as_deref(), Some("a"));
    assert_eq!(connection.impersonate_groups, ["g", "h"]);
    assert_eq!(connection.impersonate_uid.as_deref(), Some("1"));
    assert_eq!(connection.request_timeout, RequestTimeout::Whole(Duration::from_secs(30)));
    assert!(connection.insecure_skip_tls_verify);
    assert_eq!(connection.tls_server_name.as_deref(), Some("t"));
    assert!(!format!("{connection:?}").contains("geheim"), "a token must not be printable");
}

#[test]
fn request_timeouts_are_those_of_kubectl() {
    for (word, timeout) in [
        ("0", RequestTimeout::Unlimited),
        ("0s", RequestTimeout::Unlimited),
        ("45", RequestTimeout::Whole(Duration::from_secs(45))),
        ("1.5m", RequestTimeout::Whole(Duration::from_secs(90))),
    ] {
        assert_eq!(options(&format!("--request-timeout={word}")).connection.request_timeout, timeout);
    }
    for word in ["-1", "-1s", "x", "3d"] {
        assert_eq!(failure(&format!("--request-timeout={word}")).exit, Exit::Usage, "{word}");
    }
}

#[test]
fn registry_addresses_are_read_and_an_empty_one_is_none() {
    let url = options("--registry-url=https://Registry.example.com:5443/").registry.url.unwrap();
    assert_eq!((url.scheme(), url.authority().as_str()), (Some(Scheme::Https), "registry.example.com:5443"));
    assert_eq!(options("--registry-url=").registry.url, None);
}

#[test]
fn mistakes_are_named_in_the_words_of_the_reference() {
    for (line, message) in [
        ("extra", "no arguments are allowed to this command"),
        ("-- --confirm", "no arguments are allowed to this command"),
        ("--nope", "unknown flag: --nope"),
        ("--nope=geheim", "unknown flag: --nope"),
        ("--confirm -x", "unknown shorthand flag: 'x' in -x"),
        ("--cache-dir=/tmp", "unknown flag: --cache-dir"),
        ("--registry-url", "flag needs an argument: --registry-url"),
        ("-n", "flag needs an argument: 'n' in -n"),
        (
            "--confirm=maybe",
            r#"invalid argument "maybe" for "--confirm" flag: strconv.ParseBool: parsing "maybe": invalid syntax"#,
        ),
        (
            "--keep-tag-revisions=many",
            r#"invalid argument "many" for "--keep-tag-revisions" flag: strconv.ParseInt: parsing "many": invalid syntax"#,
        ),
        ("--all=", r#"invalid argument "" for "--all" flag: strconv.ParseBool: parsing "": invalid syntax"#),
        ("--keep-tag-revisions", "flag needs an argument: --keep-tag-revisions"),
        ("-v=x", r#"invalid argument "x" for "-v, --v" flag: strconv.ParseInt: parsing "x": invalid syntax"#),
        (
            "--keep-younger-than=ten",
            r#"invalid argument "ten" for "--keep-younger-than" flag: time: invalid duration "ten""#,
        ),
        (
            "--keep-younger-than=3",
            r#"invalid argument "3" for "--keep-younger-than" flag: time: missing unit in duration "3""#,
        ),
        ("--keep-tag-revisions=-1", "--keep-tag-revisions must be greater than or equal to 0"),
        ("--keep-younger-than=-1m", "--keep-younger-than must be greater than or equal to 0"),
        ("--num-workers=-1", "--num-workers must be greater than or equal to 0"),
        (
            "--prune-over-size-limit --keep-tag-revisions=3",
            "--prune-over-size-limit cannot be specified with --keep-tag-revisions nor --keep-younger-than",
        ),
        (
            "--prune-over-size-limit=false --keep-younger-than=60m",
            "--prune-over-size-limit cannot be specified with --keep-tag-revisions nor --keep-younger-than",
        ),
        (
            "--prune-over-size-limit=false",
            r#"invalid argument "false" for "--prune-over-size-limit" flag: it can only be switched on"#,
        ),
        (
            "--force-insecure --certificate-authority=no-such-ca.crt",
            "--certificate-authority cannot be specified with --force-insecure",
        ),
        (
            "--registry-url=http://r:5000 --certificate-authority=no-such-ca.crt",
            "--certificate-authority cannot be specified for insecure http protocol",
        ),
        (
            "--registry-url=https://r:5443/v2/",
            "invalid --registry-url flag: no path after <host>[:<port>] is allowed",
        ),
        ("--registry-url=ftp://r:5443", "invalid --registry-url flag: unsupported scheme: ftp"),
        ("--registry-url=https://", "invalid --registry-url flag: no host name specified"),
        (
            "-o xml",
            r#"unable to match a printer suitable for the output format "xml", allowed formats are: json,name,text,wide,yaml"#,
        ),
    ] {
        let failure = failure(line);
        assert_eq!(failure.message, message, "{line}");
        assert_eq!(failure.exit, Exit::Usage, "{line}");
        assert_eq!(failure.hints.last().unwrap(), "see 'oc prune-images --help' for usage", "{line}");
    }
}

#[test]
fn hints_say_what_to_type() {
    assert_eq!(
        failure("--keep-younger-than=7d").hints[0],
        "days are no unit, use hours: --keep-younger-than=168h"
    );
    assert_eq!(
        failure("--keep-younger-than=1d12h").hints[0],
        "days are no unit, use hours (1 day is 24h): --keep-younger-than=96h"
    );
    assert_eq!(failure("--confrim").hints[0], "did you mean --confirm?");
    let with_password = failure("--registry-url=https://me:geheim@registry.example.com");
    assert!(!with_password.to_string().contains("geheim"), "{with_password}");
    assert!(with_password.hints[0].contains("--token=TOKEN"), "{with_password}");
    let with_path = failure("--registry-url=registry.example.com/v2");
    assert_eq!(with_path.hints[0], "the form is --registry-url=[http://|https://]HOST[:PORT]");
}

#[test]
fn a_namespace_must_be_one() {
    for name in ["Shop", "a/b", "-a", "a-", "a_b", "ä", &"a".repeat(64)] {
        assert_eq!(failure(&format!("--namespace={name}")).exit, Exit::Usage, "{name}");
    }
    assert_eq!(options("--namespace=").prune.namespace, None);
    assert_eq!(
        options("-n openshift-image-registry").prune.namespace.as_deref(),
        Some("openshift-image-registry")
    );
}

#[test]
fn resources_with_references_are_read_as_kubectl_reads_them() {
    let read = |line: &str| -> Vec<String> {
        let names = options(line).prune.referrers_from.into_iter();
        names
            .map(|name| format!("{}|{}|{}", name.resource, name.version.unwrap_or_default(), name.group))
            .collect()
    };
    for (word, name) in [
        ("configmaps", "configmaps||"),
        ("configmaps.v1", "configmaps|v1|"),
        ("services.serving.knative.dev", "services||serving.knative.dev"),
        ("rollouts.v1alpha1.argoproj.io", "rollouts|v1alpha1|argoproj.io"),
        ("things.v12beta3.example.com", "things|v12beta3|example.com"),
        ("things.v1gamma1.example.com", "things||v1gamma1.example.com"),
        ("things.v0.example.com", "things||v0.example.com"),
        ("things.v1beta.example.com", "things||v1beta.example.com"),
        ("things.v1.v2.example.com", "things|v1|v2.example.com"),
    ] {
        assert_eq!(read(&format!("--referrers-from={word}")), [name]);
    }
    assert_eq!(
        read("--referrers-from=a.example.com,b --referrers-from c.v1.d --referrers-from=b --referrers-from="),
        ["a||example.com", "b||", "c|v1|d"]
    );
    for word in ["a,,b", ",", "Rollouts", "a/b", "../a", "a..b", ".a", "a.", "-a", "a_b", "a?b", "ä", " "] {
        let words = [format!("--referrers-from={word}")];
        let failure = run_words(&words.each_ref().map(String::as_str)).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{word}");
        assert!(failure.message.starts_with("invalid argument "), "{failure}");
        assert!(failure.hints[0].contains("--referrers-from=RESOURCE[.GROUP|.VERSION.GROUP]"), "{failure}");
    }
}

#[test]
fn an_unusable_ca_file_is_no_usage_error() {
    let missing = failure("--certificate-authority=no-such-ca.crt");
    assert_eq!(
        missing.message,
        "failed to read registry ca bundle: open no-such-ca.crt: no such file or directory"
    );
    assert_eq!(missing.exit, Exit::NothingChanged);

    let folder = tempfile::tempdir().unwrap();
    let directory = failure(&format!("--certificate-authority={}", folder.path().display()));
    assert_eq!(
        directory.message,
        format!("failed to read registry ca bundle: read {}: is a directory", folder.path().display())
    );
    for content in ["", "not a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        let path = folder.path().join("ca.crt");
        std::fs::write(&path, content).unwrap();
        let failure = failure(&format!("--certificate-authority={}", path.display()));
        assert_eq!(
            failure.message,
            "unable to load root certificates: no valid certificate authority data seen"
        );
        assert_eq!(failure.exit, Exit::NothingChanged);
    }
}

#[test]
fn a_ca_file_is_read_whole() {
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.crt");
    std::fs::write(&path, &ca).unwrap();
    let bundle = options(&format!("--certificate-authority={}", path.display())).registry.ca.unwrap();
    assert_eq!((bundle.pem, bundle.path), (ca.into_bytes(), path));
}

#[test]
fn the_program_is_called_what_the_user_typed() {
    for (argv0, shown) in [
        ("/home/me/.krew/bin/kubectl-prune_images", "kubectl prune-images"),
        ("kubectl-prune_images.exe", "kubectl prune-images"),
        ("oc-prune_images", "oc prune-images"),
        ("target/debug/oc-prune_images", "oc prune-images"),
        ("", "oc prune-images"),
    ] {
        let failure = parse([argv0, "--nope"].map(Into::into)).unwrap_err();
        assert_eq!(failure.hints.last().unwrap(), &format!("see '{shown} --help' for usage"));
    }
    assert!(parse(std::iter::empty()).is_ok(), "no arguments at all");
}

#[test]
fn help_and_version_are_printed() {
    assert!(printed(&["-h"]).contains("oc prune-images --confirm"));
    let help = printed(&["--confirm", "--help"]);
    for text in [
        "Usage: oc prune-images [flags]",
        "Default: 60m",
        "--as-group",
        "rollouts.v1alpha1.argoproj.io",
        "Exit codes:",
        "oc prune-images --confirm",
    ] {
        assert!(help.contains(text), "{text} is missing in\n{help}");
    }
    assert!(!help.contains("{program}") && !help.contains('\u{1b}'), "{help}");
    assert_eq!(printed(&["--version"]), format!("oc prune-images {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(failure("-h --nope").message, "unknown flag: --nope");
}

#[cfg(unix)]
#[test]
fn words_that_are_not_utf8_are_refused() {
    use std::os::unix::ffi::OsStringExt as _;
    let word = std::ffi::OsString::from_vec(b"--namespace=\xff".to_vec());
    let failure = parse(["oc-prune_images".into(), word]).unwrap_err();
    assert_eq!((failure.exit, failure.message.as_str()), (Exit::Usage, "an argument is not valid UTF-8"));
}
