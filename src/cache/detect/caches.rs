//! Which caches the registry has, by its configuration. Pure: as measured on the integrated registry.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::objects::{Environment, Source, Value};
use crate::cli::duration;
use crate::text::brief;

/// The life of an entry in the digest cache by the image's own `config.yml`.
const DEFAULT_TTL: Duration = Duration::from_secs(600);

/// The caches of the integrated registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// Each replica's own memory, in front of everything.
    pub digest_cache: DigestCache,
    /// What the replicas ask before the storage.
    pub descriptor_cache: DescriptorCache,
}

/// Each replica's own cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DigestCache {
    /// It is on: an entry lives this long from when it was put in.
    On {
        /// How long.
        ttl: Duration,
    },
    /// It is off.
    Off,
    /// The registry does not start with this setting: why. Pods of an earlier configuration may still have one.
    DoesNotStart(String),
    /// It may be on: what would have to be read.
    Unknown(Source),
}

/// The cache of blob descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DescriptorCache {
    /// None of its own: the digest cache takes its place.
    InMemory,
    /// A Redis that all replicas share.
    Redis(Redis),
    /// The registry does not start with this setting: why.
    DoesNotStart(String),
    /// There may be a Redis: what would have to be read.
    Unknown(Source),
}

/// How the registry reaches its Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// `host:port`.
    pub address: Setting<String>,
    /// The number of the database; 0 unless set.
    pub database: Setting<u32>,
    /// The password.
    pub password: Setting<Password>,
}

/// A value of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting<T> {
    /// It is not set.
    Unset,
    /// It is known.
    Is(T),
    /// It cannot be read with the present rights.
    Unreadable(Source),
    /// It is set to what means nothing.
    Invalid(String),
}

/// A password, which does not print.
#[derive(Debug, Clone)]
pub struct Password(pub SecretString);

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for Password {}

/// Decides which caches a registry with this environment has.
///
/// A mounted configuration file that cannot be read counts as one that may say anything; variables win over it, as in
/// the registry itself.
#[must_use]
pub fn cache_of(environment: &Environment) -> CacheConfig {
    CacheConfig { digest_cache: digest_cache(environment), descriptor_cache: descriptor_cache(environment) }
}

fn digest_cache(environment: &Environment) -> DigestCache {
    let ttl = match setting(environment, "REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL", |text| {
        let ttl = duration::parse(text).map_err(|error| error.to_string())?;
        Duration::try_from(ttl).map_err(|_| "it is negative".to_owned())
    }) {
        Setting::Is(ttl) => Some(Ok(ttl)),
        Setting::Unset => None,
        Setting::Unreadable(source) => Some(Err(source)),
        Setting::Invalid(why) => return DigestCache::DoesNotStart(why),
    };
    match setting(environment, "REGISTRY_OPENSHIFT_CACHE_DISABLED", boolean) {
        Setting::Is(true) => return DigestCache::Off,
        Setting::Invalid(why) => return DigestCache::DoesNotStart(why),
        Setting::Unreadable(source) if !matches!(ttl, Some(Ok(Duration::ZERO))) => {
            return DigestCache::Unknown(source);
        }
        // `false` without an `openshift.cache` section in the file makes the life 0; only the file shows that.
        Setting::Is(false) | Setting::Unset | Setting::Unreadable(_) => {}
    }
    match (ttl, &environment.file) {
        (Some(Ok(Duration::ZERO)), _) => DigestCache::Off,
        // The file may disable it, unless a variable has said that it does not.
        (Some(Ok(ttl)), None) => DigestCache::On { ttl },
        (Some(Err(source)), _) => DigestCache::Unknown(source),
        (None, None) => DigestCache::On { ttl: DEFAULT_TTL },
        (Some(Ok(_)) | None, Some(file)) => DigestCache::Unknown(file.clone()),
    }
}

fn descriptor_cache(environment: &Environment) -> DescriptorCache {
    let kind = |name| setting(environment, name, |text| Ok(text.to_owned()));
    let kind = match (kind("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR"), &environment.file) {
        // The image's own file says `inmemory`, and the older name counts only where the newer one is absent.
        (Setting::Unset, None) => return DescriptorCache::InMemory,
        (Setting::Unset, Some(file)) => return DescriptorCache::Unknown(file.clone()),
        (Setting::Unreadable(source), _) => return DescriptorCache::Unknown(source),
        (Setting::Is(kind) | Setting::Invalid(kind), _) => kind,
    };
    match kind.as_str() {
        "inmemory" | "openshift" => DescriptorCache::InMemory,
        "redis" => redis(environment),
        other => DescriptorCache::DoesNotStart(format!(
            "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR={} is no cache that the registry knows",
            brief(other)
        )),
    }
}

fn redis(environment: &Environment) -> DescriptorCache {
    let text = |text: &str| Ok(text.to_owned());
    let number = |text: &str| text.parse().map_err(|_| "it is no number".to_owned());
    // What no variable says may stand in the file.
    let redis = Redis {
        address: or_in_file(environment, setting(environment, "REGISTRY_REDIS_ADDR", text)),
        database: or_in_file(environment, setting(environment, "REGISTRY_REDIS_DB", number)),
        password: or_in_file(
            environment,
            setting(environment, "REGISTRY_REDIS_PASSWORD", |text| Ok(Password(text.to_owned().into()))),
        ),
    };
    if redis.address == Setting::Unset {
        let why = "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=redis without REGISTRY_REDIS_ADDR";
        return DescriptorCache::DoesNotStart(why.to_owned());
    }
    DescriptorCache::Redis(redis)
}

fn or_in_file<T>(environment: &Environment, setting: Setting<T>) -> Setting<T> {
    match (setting, &environment.file) {
        (Setting::Unset, Some(file)) => Setting::Unreadable(file.clone()),
        (setting, _) => setting,
    }
}

/// Reads a variable. The text of one that means nothing is not repeated where it may be a password: no password is
/// invalid.
fn setting<T>(
    environment: &Environment,
    name: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Setting<T> {
    match environment.get(name) {
        None => Setting::Unset,
        Some(Value::Elsewhere(source)) => Setting::Unreadable(source),
        Some(Value::Plain(text)) => match read(text.expose_secret()) {
            Ok(value) => Setting::Is(value),
            Err(why) => Setting::Invalid(format!("{name}={}: {}", brief(text.expose_secret()), brief(&why))),
        },
    }
}

/// A boolean of YAML 1.1, which is what the registry reads.
fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Ok(true),
        "false" | "no" | "off" | "n" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::objects::Origin;
    use super::*;

    const DISABLED: &str = "REGISTRY_OPENSHIFT_CACHE_DISABLED";
    const TTL: &str = "REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL";
    const DESCRIPTOR: &str = "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR";

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let plain = |&(name, value): &(&str, &str)| (name.to_owned(), Value::Plain(value.to_owned().into()));
        Environment { variables: variables.iter().map(plain).collect(), ..Environment::default() }
    }

    fn secret(name: &str) -> Source {
        Source { origin: Origin::Secret, namespace: "n".to_owned(), name: name.to_owned() }
    }

    fn digest(variables: &[(&str, &str)]) -> DigestCache {
        cache_of(&environment(variables)).digest_cache
    }

    fn descriptor(variables: &[(&str, &str)]) -> DescriptorCache {
        cache_of(&environment(variables)).descriptor_cache
    }

    #[test]
    fn the_digest_cache_is_on_unless_a_setting_really_turns_it_off() {
        let on = |seconds| DigestCache::On { ttl: Duration::from_secs(seconds) };
        assert_eq!(digest(&[]), on(600));
        assert_eq!(digest(&[(DESCRIPTOR, "inmemory")]), on(600));
        assert_eq!(digest(&[(DESCRIPTOR, "redis")]), on(600), "whatever the other cache is");
        assert_eq!(digest(&[(DISABLED, "true")]), DigestCache::Off);
        assert_eq!(digest(&[(DISABLED, "yes")]), DigestCache::Off);
        assert_eq!(digest(&[(TTL, "0s")]), DigestCache::Off);
        assert_eq!(digest(&[(TTL, "1m30s")]), on(90));
        assert_eq!(digest(&[(DISABLED, "false")]), on(600), "the image's own file has the section");
        assert!(matches!(digest(&[(DISABLED, "maybe")]), DigestCache::DoesNotStart(_)));
        for ttl in ["soon", "-1m", ""] {
            assert!(matches!(digest(&[(TTL, ttl)]), DigestCache::DoesNotStart(_)), "{ttl}");
        }
    }

    #[test]
    fn the_descriptor_cache_is_redis_only_if_it_says_so() {
        assert_eq!(descriptor(&[]), DescriptorCache::InMemory);
        assert_eq!(descriptor(&[(DESCRIPTOR, "inmemory")]), DescriptorCache::InMemory);
        assert_eq!(descriptor(&[(DESCRIPTOR, "openshift")]), DescriptorCache::InMemory);
        for name in ["", "none", "memcached"] {
            let found = descriptor(&[(DESCRIPTOR, name)]);
            assert!(matches!(found, DescriptorCache::DoesNotStart(_)), "{name}: the registry panics");
        }
        assert!(matches!(descriptor(&[(DESCRIPTOR, "redis")]), DescriptorCache::DoesNotStart(_)));
        let older = [("REGISTRY_STORAGE_CACHE_LAYERINFO", "redis"), ("REGISTRY_REDIS_ADDR", "r:6379")];
        assert_eq!(descriptor(&older), DescriptorCache::InMemory, "the file's newer name wins");
    }

    #[test]
    fn a_redis_is_found_with_what_can_be_read_of_it_and_does_not_print_its_password() {
        let found = descriptor(&[
            (DESCRIPTOR, "redis"),
            ("REGISTRY_REDIS_ADDR", "redis.infra.svc:6379"),
            ("REGISTRY_REDIS_DB", "3"),
            ("REGISTRY_REDIS_PASSWORD", "hunter2"),
            (DISABLED, "true"),
        ]);
        assert!(!format!("{found:?}").contains("hunter2"));
        let expected = Redis {
            address: Setting::Is("redis.infra.svc:6379".to_owned()),
            database: Setting::Is(3),
            password: Setting::Is(Password("hunter2".to_owned().into())),
        };
        assert_eq!(found, DescriptorCache::Redis(expected));

        let mut environment = environment(&[(DESCRIPTOR, "redis"), ("REGISTRY_REDIS_ADDR", "r:6379")]);
        let password = Value::Elsewhere(secret("redis"));
        environment.variables.insert("REGISTRY_REDIS_PASSWORD".to_owned(), password);
        let DescriptorCache::Redis(redis) = cache_of(&environment).descriptor_cache else { panic!() };
        assert_eq!(redis.password, Setting::Unreadable(secret("redis")));
        assert_eq!(redis.database, Setting::Unset);
    }

    #[test]
    fn what_cannot_be_read_may_be_there() {
        let file = Environment { file: Some(secret("config")), ..Environment::default() };
        let CacheConfig { digest_cache, descriptor_cache } = cache_of(&file);
        assert_eq!(digest_cache, DigestCache::Unknown(secret("config")));
        assert_eq!(descriptor_cache, DescriptorCache::Unknown(secret("config")));

        let variables = [(DISABLED, "true"), (DESCRIPTOR, "inmemory")];
        let overridden = Environment { file: Some(secret("config")), ..environment(&variables) };
        let CacheConfig { digest_cache, descriptor_cache } = cache_of(&overridden);
        assert_eq!((digest_cache, descriptor_cache), (DigestCache::Off, DescriptorCache::InMemory));

        let bulk = vec![("REGISTRY_".to_owned(), secret("all"))];
        let bulk = Environment { bulk, ..Environment::default() };
        assert_eq!(cache_of(&bulk).digest_cache, DigestCache::Unknown(secret("all")));
        assert_eq!(cache_of(&bulk).descriptor_cache, DescriptorCache::Unknown(secret("all")));
    }
}
