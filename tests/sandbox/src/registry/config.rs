//! How a registry is set up, and what it makes of its environment and its `config.yml`.
//!
//! The registry reads `config.yml` first and lays each variable `REGISTRY_A_B` over `a.b` of it, in the order of their
//! names; values are YAML. Several settings that look harmless stop it there, before it serves anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::Backend;

/// How a registry is set up.
#[expect(clippy::struct_excessive_bools, reason = "these are the switches of a config.yml")]
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// How long an entry of a digest cache lives, from when it is first put in; zero turns the cache off
    /// (`openshift.cache.blobrepositoryttl`).
    pub ttl: Duration,
    /// No digest cache (`openshift.cache.disabled`).
    pub cache_disabled: bool,
    /// The descriptor cache that all replicas share (`storage.cache.blobdescriptor: redis`). Without it the digest
    /// cache takes its place (`inmemory`).
    pub redis: Option<RedisCache>,
    /// Neither the one nor the other (no `storage.cache`, or an empty `blobdescriptor`): the digest cache still
    /// answers which repository has a blob, and the storage where its data are.
    pub no_descriptor_cache: bool,
    /// The authorities, in PEM, that a registry trusts when it is told to speak TLS with its Redis; without them, the
    /// system's. [`configured`] puts them into [`RedisCache::tls_ca`].
    pub ca_bundle: Option<String>,
    /// Refuses every change except `/admin/blobs/` (`storage.maintenance.readonly`).
    pub readonly: bool,
    /// Whether links may be deleted (`storage.delete.enabled`).
    pub delete_enabled: bool,
    /// The URL of a storage host to which GET and HEAD of blobs are redirected, as with S3 and its like.
    pub redirect: Option<String>,
    /// The host in the pull specs of the images that are pushed.
    pub server_address: String,
    /// What moves the bytes.
    pub backend: Backend,
}

/// A Redis as descriptor cache.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisCache {
    /// `host:port`.
    pub address: String,
    /// The password of the default user.
    pub password: Option<String>,
    /// The database.
    pub database: i64,
    /// Speaks TLS and trusts these authorities, in PEM; the system's if the text is empty.
    pub tls_ca: Option<String>,
}

impl std::fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisCache")
            .field("address", &self.address)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("database", &self.database)
            .field("tls", &self.tls_ca.is_some())
            .finish()
    }
}

impl RedisCache {
    /// A Redis without password and TLS, database 0.
    #[must_use]
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), password: None, database: 0, tls_ca: None }
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(600),
            cache_disabled: false,
            redis: None,
            no_descriptor_cache: false,
            ca_bundle: None,
            readonly: false,
            delete_enabled: true,
            redirect: None,
            server_address: "image-registry.openshift-image-registry.svc:5000".to_owned(),
            backend: Backend::InProcess,
        }
    }
}

/// The name under which the integrated registry knows its digest cache as a descriptor cache.
const DIGEST_CACHE: &str = "openshift";
const LEGACY_TTL: &str = "REGISTRY_MIDDLEWARE_REPOSITORY_OPENSHIFT_BLOBREPOSITORYCACHETTL";
const DEFAULT_TTL: Duration = Duration::from_secs(600);

/// What the registry makes of its environment (names and values as the container has them) and of the text of its
/// `config.yml`; without one it is the image's own, for which `base` stands. From `base` also comes what neither says:
/// the host in pull specs, the backend, the storage host and the trusted authorities.
///
/// An error is the message with which the registry ends at its start: its pod would crash again and again.
pub fn configured(
    base: &RegistryConfig,
    environment: &BTreeMap<String, String>,
    file: Option<&str>,
) -> Result<RegistryConfig, String> {
    let mut settings = match file {
        Some(text) => File::read(text)?,
        None => File::of(base),
    };
    let mut made = BTreeSet::new();
    for (variable, value) in environment {
        settings.overwrite(variable, value, &mut made).map_err(|cause| {
            format!("error parsing configuration file: parsing environment variable {variable}: {cause}")
        })?;
    }
    settings.check_drivers()?;
    let mut config = base.clone();
    (config.cache_disabled, config.ttl) = settings.digest_cache(environment)?;
    config.readonly = settings.readonly(&made)?;
    config.delete_enabled =
        settings.storage("delete").and_then(|delete| delete.get("enabled")) == Some(&json!(true));
    if settings.redirect_disabled()? {
        config.redirect = None;
    }
    config.redis = None;
    config.no_descriptor_cache = false;
    match settings.descriptor_cache()? {
        DescriptorCache::None => config.no_descriptor_cache = true,
        DescriptorCache::Digest => {}
        DescriptorCache::Redis => config.redis = Some(settings.redis_cache(base)),
    }
    Ok(config)
}

enum DescriptorCache {
    None,
    Digest,
    Redis,
}

/// The parts of a `config.yml` that are of interest.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    version: String,
    storage: Value,
    redis: Redis,
    openshift: OpenShift,
    middleware: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Redis {
    addr: String,
    password: String,
    db: i64,
    tls: RedisTls,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RedisTls {
    enabled: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OpenShift {
    version: Option<String>,
    cache: Option<Cache>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cache {
    disabled: bool,
    blobrepositoryttl: Value,
}

impl File {
    fn read(text: &str) -> Result<Self, String> {
        let failed = |cause: String| format!("error parsing configuration file: {cause}");
        let file: Self = yaml(text).map_err(failed)?;
        if file.version != "0.1" {
            return Err(failed(format!("unsupported version: {:?}", file.version)));
        }
        if file.openshift.version.as_deref().is_some_and(|version| version != "1.0") {
            return Err(failed("Unsupported openshift configuration version".to_owned()));
        }
        Ok(file.with_storage_as_map())
    }

    /// What the image's own file says, as far as `base` tells.
    fn of(base: &RegistryConfig) -> Self {
        let kind = if base.redis.is_some() { "redis" } else { "inmemory" };
        let mut storage = json!({
            "filesystem": {"rootdirectory": "/registry"},
            "cache": {"blobdescriptor": kind},
            "delete": {"enabled": base.delete_enabled},
        });
        if base.no_descriptor_cache {
            storage["cache"]["blobdescriptor"] = "".into();
        }
        if base.readonly {
            storage["maintenance"] = json!({"readonly": {"enabled": true}});
        }
        let redis = base.redis.as_ref().map_or_else(Redis::default, |redis| Redis {
            addr: redis.address.clone(),
            password: redis.password.clone().unwrap_or_default(),
            db: redis.database,
            tls: RedisTls { enabled: redis.tls_ca.is_some() },
        });
        let nanoseconds = u64::try_from(base.ttl.as_nanos()).unwrap_or(u64::MAX);
        let cache = Cache { disabled: base.cache_disabled, blobrepositoryttl: nanoseconds.into() };
        Self {
            version: "0.1".to_owned(),
            storage,
            redis,
            openshift: OpenShift { version: None, cache: Some(cache) },
            middleware: Value::Null,
        }
    }

    /// `storage: filesystem` is short for `storage: {filesystem: {}}`.
    fn with_storage_as_map(mut self) -> Self {
        self.storage = match self.storage {
            Value::String(driver) => json!({driver: {}}),
            Value::Object(sections) => Value::Object(sections),
            _ => json!({}),
        };
        self
    }

    fn storage(&self, section: &str) -> Option<&Map<String, Value>> {
        self.storage.get(section)?.as_object()
    }

    /// Lays one variable over the file. `made` are the maps below a section of the storage that variables have made:
    /// the registry does not take them for the maps of a file.
    fn overwrite(
        &mut self,
        variable: &str,
        value: &str,
        made: &mut BTreeSet<(String, String)>,
    ) -> Result<(), String> {
        let Some(path) = variable.strip_prefix("REGISTRY_") else { return Ok(()) };
        match path.split('_').collect::<Vec<_>>().as_slice() {
            ["STORAGE"] => {
                self.storage = yaml(value)?;
                let file = std::mem::take(self);
                *self = file.with_storage_as_map();
                made.clear();
            }
            ["STORAGE", section] => {
                let content: Option<Map<String, Value>> = yaml(value)?;
                self.storage[section.to_lowercase()] = Value::Object(content.unwrap_or_default());
            }
            ["STORAGE", section, key, below @ ..] => {
                let (section, key) = (section.to_lowercase(), key.to_lowercase());
                if !self.storage[&section].is_object() {
                    self.storage[&section] = json!({});
                }
                let entry = &mut self.storage[&section][&key];
                if below.is_empty() {
                    *entry = yaml(value)?;
                } else if entry.is_null() {
                    *entry = json!({});
                    made.insert((section, key));
                }
                // What a map of the file holds is out of reach: its keys might be anything.
            }
            ["REDIS"] => self.redis = yaml(value)?,
            ["REDIS", "ADDR"] => self.redis.addr = scalar(value)?,
            ["REDIS", "PASSWORD"] => self.redis.password = scalar(value)?,
            ["REDIS", "DB"] => self.redis.db = yaml::<Option<_>>(value)?.unwrap_or_default(),
            ["REDIS", "TLS"] => self.redis.tls = yaml::<Option<_>>(value)?.unwrap_or_default(),
            ["REDIS", "TLS", "ENABLED"] => self.redis.tls.enabled = boolean(value)?,
            ["OPENSHIFT"] => self.openshift = yaml(value)?,
            ["OPENSHIFT", "CACHE"] => self.openshift.cache = yaml(value)?,
            ["OPENSHIFT", "CACHE", key] => {
                // One variable makes the whole section, and what it does not name is zero then.
                let cache = self.openshift.cache.get_or_insert_default();
                match *key {
                    "DISABLED" => cache.disabled = boolean(value)?,
                    "BLOBREPOSITORYTTL" => {
                        cache.blobrepositoryttl = yaml(value)?;
                        duration_of(&cache.blobrepositoryttl)?;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// There is one storage driver.
    fn check_drivers(&self) -> Result<(), String> {
        let others = ["maintenance", "cache", "delete", "redirect"];
        let sections = self.storage.as_object().into_iter().flat_map(Map::keys).map(String::as_str);
        let drivers: BTreeSet<&str> = sections.filter(|section| !others.contains(section)).collect();
        match drivers.len() {
            0 => Err("error parsing configuration file: no storage configuration provided".to_owned()),
            1 => Ok(()),
            _ => Err(format!(
                "multiple storage drivers specified in configuration or environment: {}",
                drivers.into_iter().collect::<Vec<_>>().join(", ")
            )),
        }
    }

    /// Whether the digest cache is disabled, and how long its entries live.
    fn digest_cache(&self, environment: &BTreeMap<String, String>) -> Result<(bool, Duration), String> {
        let failed =
            |cause: String| format!("configuration error in openshift.cache.blobrepositoryttl: {cause}");
        let mut ttl = match &self.openshift.cache {
            Some(cache) => duration_of(&cache.blobrepositoryttl)
                .map_err(|cause| format!("error parsing configuration file: {cause}"))?,
            None => match self.legacy_options().and_then(|options| options.get("blobrepositorycachettl")) {
                Some(value) => value
                    .as_str()
                    .ok_or_else(|| format!("expected string, not {}", go_type(value)))
                    .and_then(|text| duration(text).map_err(|cause| format!("parse duration error: {cause}")))
                    .map_err(|cause| {
                        failed(format!("config option \"blobrepositorycachettl\": invalid value: {cause}"))
                    })?,
                None => DEFAULT_TTL,
            },
        };
        if let Some(value) = environment.get(LEGACY_TTL).filter(|value| !value.is_empty()) {
            ttl = duration(value).map_err(|cause| {
                failed(format!(
                    "invalid value of environment variable {LEGACY_TTL}: parse duration error: {cause}"
                ))
            })?;
        }
        Ok((self.openshift.cache.as_ref().is_some_and(|cache| cache.disabled), ttl))
    }

    /// The options of the repository middleware, where old files have what is now below `openshift`.
    fn legacy_options(&self) -> Option<&Value> {
        let middleware = self.middleware["repository"].as_array()?;
        middleware.iter().find(|entry| entry["name"] == DIGEST_CACHE)?.get("options")
    }

    fn readonly(&self, made: &BTreeSet<(String, String)>) -> Result<bool, String> {
        let Some(value) = self.storage("maintenance").and_then(|section| section.get("readonly")) else {
            return Ok(false);
        };
        let from_file = !made.contains(&("maintenance".to_owned(), "readonly".to_owned()));
        let Some(section) = value.as_object().filter(|_| from_file) else {
            return Err("readonly config key must contain additional keys".to_owned());
        };
        match section.get("enabled") {
            None => Ok(false),
            Some(Value::Bool(enabled)) => Ok(*enabled),
            Some(_) => Err("readonly's enabled config key must have a boolean value".to_owned()),
        }
    }

    fn redirect_disabled(&self) -> Result<bool, String> {
        match self.storage.get("redirect") {
            None => Ok(false),
            Some(section) => section["disable"]
                .as_bool()
                .ok_or_else(|| format!("invalid type for redirect config: {section}")),
        }
    }

    fn descriptor_cache(&self) -> Result<DescriptorCache, String> {
        let Some(section) = self.storage.get("cache") else { return Ok(DescriptorCache::None) };
        let value =
            section.get("blobdescriptor").or_else(|| section.get("layerinfo")).unwrap_or(&Value::Null);
        match value.as_str() {
            Some("") => Ok(DescriptorCache::None),
            Some("inmemory" | DIGEST_CACHE) => Ok(DescriptorCache::Digest),
            Some("redis") if self.redis.addr.is_empty() => {
                Err("redis configuration required to use for layerinfo cache".to_owned())
            }
            Some("redis") => Ok(DescriptorCache::Redis),
            Some(name) => Err(format!(
                "unable to initialize cache provider: no cache Provider registered with name: {name}"
            )),
            None => Err(format!("unexpected type of value {} (string expected)", go_type(value))),
        }
    }

    fn redis_cache(&self, base: &RegistryConfig) -> RedisCache {
        let Redis { addr, password, db, tls } = &self.redis;
        RedisCache {
            address: addr.clone(),
            password: (!password.is_empty()).then(|| password.clone()),
            database: *db,
            tls_ca: tls.enabled.then(|| {
                let known = base.redis.as_ref().and_then(|redis| redis.tls_ca.clone());
                base.ca_bundle.clone().or(known).unwrap_or_default()
            }),
        }
    }
}

fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| {
        // The rest of the message shows the place, and with it what may be a password.
        let message = error.to_string();
        let first = message.lines().next().unwrap_or_default();
        format!("yaml: {}", first.trim_start_matches("error: "))
    })
}

/// A string as YAML: numbers and the like stay as they are written, null is empty.
fn scalar(text: &str) -> Result<String, String> {
    Ok(yaml::<Option<String>>(text)?.unwrap_or_default())
}

/// A boolean as YAML 1.1 has it; null is false.
fn boolean(text: &str) -> Result<bool, String> {
    match yaml(text)? {
        Value::Null => Ok(false),
        Value::Bool(value) => Ok(value),
        value => Err(unmarshal(&value, "bool")),
    }
}

fn unmarshal(value: &Value, wanted: &str) -> String {
    let tag = match value {
        Value::Number(_) => "!!int",
        Value::Array(_) => "!!seq",
        Value::Object(_) => "!!map",
        _ => "!!str",
    };
    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("yaml: unmarshal errors:\n  line 1: cannot unmarshal {tag} `{shown}` into {wanted}")
}

/// A duration as the registry reads it: a text with units, or a whole number of nanoseconds. What is less than nothing
/// turns a cache off as nothing does.
fn duration_of(value: &Value) -> Result<Duration, String> {
    match value {
        Value::Null => Ok(Duration::ZERO),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            Ok(Duration::from_nanos(number.as_u64().unwrap_or_default()))
        }
        Value::String(text) => duration(text).map_err(|_| unmarshal(value, "time.Duration")),
        _ => Err(unmarshal(value, "time.Duration")),
    }
}

/// Go's durations: `1h30m`, `1.5s`, `0`, `-1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        let number: f64 = number.parse().map_err(|_| invalid())?;
        sum += Duration::try_from_secs_f64(number * seconds).map_err(|_| invalid())?;
        rest = after;
    }
    Ok(if negative { Duration::ZERO } else { sum })
}

/// The name of a value's type in the registry's messages.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[interface {}]interface {}",
    }
}
