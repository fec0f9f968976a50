//! What the registry makes of its environment and its `config.yml`, and what that does to stale answers.

use std::collections::BTreeMap;
use std::time::Duration;

use sandbox::registry::{RedisCache, RegistryConfig, configured};

/// The file of the image, in short.
const OWN: &str = "version: 0.1
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /registry
  delete:
    enabled: true
openshift:
  version: 1.0
  cache:
    blobrepositoryttl: 10m
";

/// A file that says nothing of caches.
const BARE: &str = "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /registry\n";

fn read(environment: &str, file: Option<&str>) -> Result<RegistryConfig, String> {
    let variables: BTreeMap<String, String> = environment
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    configured(&RegistryConfig::default(), &variables, file)
}

/// The digest cache's TTL, zero if it is off, and the descriptor cache.
fn caches(environment: &str, file: Option<&str>) -> Result<(Duration, &'static str), String> {
    let config = read(environment, file)?;
    let ttl = if config.cache_disabled { Duration::ZERO } else { config.ttl };
    let kind = match (config.redis, config.no_descriptor_cache) {
        (Some(_), _) => "redis",
        (None, true) => "none",
        (None, false) => "digest",
    };
    Ok((ttl, kind))
}

const ON: Duration = Duration::from_secs(600);
const OFF: Duration = Duration::ZERO;

#[test]
fn what_turns_the_caches_off() {
    let redis = "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=redis\nREGISTRY_REDIS_ADDR=redis:6379";
    let legacy = "REGISTRY_MIDDLEWARE_REPOSITORY_OPENSHIFT_BLOBREPOSITORYCACHETTL=3m";
    let disabled = format!("{redis}\nREGISTRY_OPENSHIFT_CACHE_DISABLED=true");
    let of_operator = "REGISTRY_STORAGE=filesystem
        REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=inmemory
        REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=/registry";
    let section = |text: &str| format!("{BARE}{text}");
    for (environment, file, expected) in [
        ("", OWN.to_owned(), (ON, "digest")),
        ("REGISTRY_OPENSHIFT_CACHE_DISABLED=true", OWN.to_owned(), (OFF, "digest")),
        ("REGISTRY_OPENSHIFT_CACHE_DISABLED=yes", OWN.to_owned(), (OFF, "digest")),
        ("REGISTRY_OPENSHIFT_CACHE_DISABLED=", OWN.to_owned(), (ON, "digest")),
        ("REGISTRY_OPENSHIFT_CACHE_DISABLED=false", OWN.to_owned(), (ON, "digest")),
        ("REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL=0s", OWN.to_owned(), (OFF, "digest")),
        ("REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL=1h0.5m", OWN.to_owned(), (ON * 6 + ON / 20, "digest")),
        // A number is nanoseconds.
        ("REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL=600", OWN.to_owned(), (ON / 1_000_000_000, "digest")),
        // Without a section the TTL has its default, with one that does not name it there is none.
        ("", BARE.to_owned(), (ON, "none")),
        ("REGISTRY_OPENSHIFT_CACHE_DISABLED=false", BARE.to_owned(), (OFF, "none")),
        ("REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL=5m", BARE.to_owned(), (ON / 2, "none")),
        ("", section("openshift:\n  cache:\n    disabled: true\n"), (OFF, "none")),
        (
            "REGISTRY_OPENSHIFT_CACHE_DISABLED=no",
            section("openshift:\n  cache:\n    disabled: true\n    blobrepositoryttl: 10m\n"),
            (ON, "none"),
        ),
        (legacy, BARE.to_owned(), (ON * 3 / 10, "none")),
        (legacy, OWN.to_owned(), (ON * 3 / 10, "digest")),
        ("", OWN.replace("inmemory", "''"), (ON, "none")),
        ("", OWN.replace("blobdescriptor", "layerinfo"), (ON, "digest")),
        ("", OWN.replace("inmemory", "openshift"), (ON, "digest")),
        (redis, OWN.to_owned(), (ON, "redis")),
        (disabled.as_str(), OWN.to_owned(), (OFF, "redis")),
        (
            "REGISTRY_STORAGE_CACHE_LAYERINFO=redis\nREGISTRY_REDIS_ADDR=redis:6379",
            BARE.to_owned(),
            (ON, "redis"),
        ),
        // The newer name wins, wherever it is.
        ("REGISTRY_STORAGE_CACHE_LAYERINFO=redis", OWN.to_owned(), (ON, "digest")),
        // What the operator sets takes the place of the whole section of the file.
        (of_operator, OWN.replace("inmemory", "redis"), (ON, "digest")),
        ("REGISTRY_STORAGE=filesystem", OWN.to_owned(), (ON, "none")),
    ] {
        assert_eq!(caches(environment, Some(&file)), Ok(expected), "{environment}\n{file}");
    }
}

#[test]
fn what_keeps_the_registry_from_starting() {
    let cache = |value: &str| format!("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR={value}");
    let (empty, none, redis, typo) = (cache(""), cache("none"), cache("redis"), cache("in-memory"));
    for (environment, file, message) in [
        (empty.as_str(), OWN, "unexpected type of value <nil> (string expected)"),
        (&none, OWN, "no cache Provider registered with name: none"),
        (&typo, OWN, "no cache Provider registered with name: in-memory"),
        (&redis, OWN, "redis configuration required to use for layerinfo cache"),
        ("REGISTRY_STORAGE_CACHE={}", OWN, "unexpected type of value <nil>"),
        ("REGISTRY_OPENSHIFT_CACHE_DISABLED=maybe", OWN, "cannot unmarshal !!str `maybe` into bool"),
        ("REGISTRY_OPENSHIFT_CACHE_DISABLED=1", OWN, "cannot unmarshal !!int `1` into bool"),
        ("REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL=soon", OWN, "into time.Duration"),
        ("REGISTRY_REDIS_DB=first", OWN, "parsing environment variable REGISTRY_REDIS_DB"),
        ("REGISTRY_STORAGE_S3_BUCKET=b", OWN, "multiple storage drivers specified"),
        (
            "REGISTRY_STORAGE_MAINTENANCE_READONLY=true",
            OWN,
            "readonly config key must contain additional keys",
        ),
        ("REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED=true", OWN, "readonly config key must contain"),
        ("REGISTRY_STORAGE_MAINTENANCE_READONLY={enabled: 1}", OWN, "must have a boolean value"),
        ("REGISTRY_STORAGE_REDIRECT_DISABLE=2", OWN, "invalid type for redirect config"),
        ("", "version: 0.1\nstorage: {delete: {enabled: true}}\n", "no storage configuration provided"),
        ("", "storage: filesystem\n", "unsupported version: \"\""),
        ("", "version: [\n", "error parsing configuration file: yaml: "),
    ] {
        let error = read(environment, Some(file)).unwrap_err();
        assert!(error.contains(message), "{environment}\n{file}: {error}");
    }
}

#[test]
fn redis_is_read_as_yaml() {
    let redis = |environment: &str| {
        let all = format!(
            "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=redis\nREGISTRY_REDIS_ADDR=redis:6379\n{environment}"
        );
        read(&all, None).unwrap().redis.unwrap()
    };
    assert_eq!(redis(""), RedisCache::at("redis:6379"));
    let all = redis("REGISTRY_REDIS_PASSWORD=0123\nREGISTRY_REDIS_DB=2\nREGISTRY_REDIS_TLS_ENABLED=true");
    assert_eq!((all.password.as_deref(), all.database, all.tls_ca.as_deref()), (Some("0123"), 2, Some("")));
    assert!(!format!("{all:?}").contains("0123"));
    // A comment is no password, and quotes are no part of one.
    assert_eq!(redis("REGISTRY_REDIS_PASSWORD=#secret").password, None);
    assert_eq!(redis("REGISTRY_REDIS_PASSWORD=\"s3\"").password.as_deref(), Some("s3"));

    let file =
        format!("{}redis:\n  addr: redis:6380\n  password: s3\n  db: 1\n", OWN.replace("inmemory", "redis"));
    let trusted = RegistryConfig { ca_bundle: Some("an authority".to_owned()), ..RegistryConfig::default() };
    let variables = BTreeMap::from([
        ("REGISTRY_REDIS_PASSWORD".to_owned(), "other".to_owned()),
        ("REGISTRY_REDIS_TLS_ENABLED".to_owned(), "on".to_owned()),
    ]);
    let redis = configured(&trusted, &variables, Some(&file)).unwrap().redis.unwrap();
    let expected = RedisCache {
        address: "redis:6380".to_owned(),
        password: Some("other".to_owned()),
        database: 1,
        tls_ca: Some("an authority".to_owned()),
    };
    assert_eq!(redis, expected);
}

#[test]
fn without_a_file_the_base_stands_for_the_one_of_the_image() {
    let base = RegistryConfig {
        ttl: Duration::from_secs(2),
        redis: Some(RedisCache::at("redis:6379")),
        redirect: Some("https://storage".to_owned()),
        readonly: true,
        delete_enabled: false,
        ..RegistryConfig::default()
    };
    let read = |environment: &[(&str, &str)]| {
        let variables = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        configured(&base, &variables.collect(), None).unwrap()
    };
    let same = read(&[]);
    assert_eq!(format!("{same:?}"), format!("{base:?}"));
    let other = read(&[
        ("REGISTRY_STORAGE_DELETE_ENABLED", "true"),
        ("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: false}"),
        ("REGISTRY_STORAGE_REDIRECT_DISABLE", "true"),
        ("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR", "inmemory"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(
        (other.delete_enabled, other.readonly, other.redirect, other.redis),
        (true, false, None, None)
    );
    assert_eq!(other.ttl, base.ttl);
    // What a file has below `readonly` no variable reaches.
    assert!(read(&[("REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED", "false")]).readonly);
}
