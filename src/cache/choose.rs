//! Which cache step is taken, and why. Pure.
//!
//! Only one order works (measured on the integrated registry): the data gone, then the Redis keys, then every replica.
//! So each choice has two halves, what is done about Redis and what about the replicas' own digest caches; a choice is
//! complete if nothing can be stale after both.

use std::fmt::Write as _;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::text::time_text;

/// `--registry-cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The first that is possible and complete: evict, restart, wait.
    #[default]
    Auto,
    /// Redis keys and every replica, blob by blob.
    Evict,
    /// Redis keys, then a restart of all replicas.
    Restart,
    /// Redis keys only.
    Flush,
    /// Redis keys, then the time that an entry lives in a replica.
    Wait,
    /// The caches are switched off for good, before the first deletion.
    Disable,
    /// Nothing.
    None,
}

impl Strategy {
    /// The values of the flag.
    pub const BY_NAME: [(&'static str, Self); 7] = [
        ("auto", Self::Auto),
        ("evict", Self::Evict),
        ("restart", Self::Restart),
        ("flush", Self::Flush),
        ("wait", Self::Wait),
        ("disable", Self::Disable),
        ("none", Self::None),
    ];
}

/// The digest cache that each replica has in its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memory {
    /// It is off.
    Off,
    /// It is on.
    On {
        /// How long an entry lives.
        ttl: Duration,
    },
    /// It may be on.
    MayBeOn {
        /// How long an entry lives unless the configuration that cannot be read says otherwise.
        ttl: Duration,
        /// What cannot be read.
        why: String,
    },
}

/// The Redis that the replicas share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedRedis {
    /// There is none.
    Absent,
    /// It can be spoken to; its address, without a password.
    Reachable(String),
    /// There is one that cannot be spoken to.
    Unreachable {
        /// Its address, as far as it is known.
        address: String,
        /// Why not.
        why: String,
    },
    /// There may be one: what would have to be read.
    MayBeThere(String),
}

/// Which replicas can be spoken to one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// All of them.
    All {
        /// Reached at the addresses of their pods.
        direct: usize,
        /// Reached through the API server.
        forwarded: usize,
    },
    /// Not all of them: why not.
    NotAll(String),
}

/// What is known before the first change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// The replicas' own caches.
    pub memory: Memory,
    /// The shared cache.
    pub redis: SharedRedis,
    /// The replicas.
    pub reach: Reach,
    /// How the replicas could be restarted, in words, or why they cannot be.
    pub restart: Result<String, String>,
}

/// What is done about the replicas' own caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ReplicaStep {
    /// Nothing has to be done.
    Unneeded,
    /// Each replica is made to forget each blob right after its data is gone.
    Evict,
    /// All replicas are replaced after the last deletion.
    Restart,
    /// What the replicas remember is left to expire after the last deletion.
    Wait,
    /// Their caches are switched off before the first deletion.
    Disable,
    /// They are left as they are.
    Leave,
}

/// What is done, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    /// The word of `--registry-cache` for it; `unneeded` if nothing can go stale.
    pub(super) step: &'static str,
    /// Whether Redis keys are evicted.
    pub(super) redis: bool,
    /// What is done about the replicas.
    pub(super) replicas: ReplicaStep,
    /// What is tried next where replicas stay stale all the same.
    pub(super) next: Vec<ReplicaStep>,
    /// What is chosen and why, on one line.
    pub(super) message: String,
    /// What stays stale, or may, whatever is done.
    pub(super) left: Vec<String>,
}

/// Why what was asked for cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--registry-cache={step}: {why}")]
pub(super) struct Impossible {
    /// What was asked for.
    pub(super) step: &'static str,
    /// Why not.
    pub(super) why: String,
}

/// Chooses what is done.
///
/// # Errors
/// What was asked for by name is not possible; `auto` always is.
pub(super) fn choose(strategy: Strategy, situation: &Situation) -> Result<Choice, Impossible> {
    let Situation { memory, redis, reach, restart } = situation;
    let impossible = |step, why: &str| Err(Impossible { step, why: why.to_owned() });
    let fallback = || match restart {
        Ok(_) => vec![ReplicaStep::Restart, ReplicaStep::Wait],
        Err(_) => vec![ReplicaStep::Wait],
    };
    let chosen = |step, replicas, next, message: String| {
        let redis = matches!(redis, SharedRedis::Reachable(_)) && strategy != Strategy::None;
        Choice { step, redis, replicas, next, message, left: left(situation, redis, replicas) }
    };
    Ok(match strategy {
        Strategy::Auto if *memory == Memory::Off => match redis {
            SharedRedis::Absent => chosen(
                "unneeded",
                ReplicaStep::Unneeded,
                vec![],
                "none needed: the registry's caches are off".into(),
            ),
            SharedRedis::Reachable(_) => chosen(
                "flush",
                ReplicaStep::Unneeded,
                vec![],
                flush_text(redis, "the replicas' digest caches are off"),
            ),
            SharedRedis::Unreachable { .. } | SharedRedis::MayBeThere(_) => {
                chosen("none", ReplicaStep::Unneeded, vec![], format!("none: {}", redis_trouble(redis)))
            }
        },
        Strategy::Auto => match (reach, restart) {
            (Reach::All { .. }, _) => {
                chosen("evict", ReplicaStep::Evict, fallback(), evict_text(redis, reach))
            }
            (Reach::NotAll(why), Ok(how)) => {
                let mut message = restart_text(redis, how);
                let _ = write!(message, " (not evict: {why})");
                chosen("restart", ReplicaStep::Restart, vec![ReplicaStep::Wait], message)
            }
            (Reach::NotAll(why), Err(no_restart)) => {
                let mut message = wait_text(redis, memory);
                let _ = write!(message, " (not evict: {why}; not restart: {no_restart})");
                chosen("wait", ReplicaStep::Wait, vec![], message)
            }
        },
        Strategy::Evict => match reach {
            Reach::All { .. } => chosen("evict", ReplicaStep::Evict, vec![], evict_text(redis, reach)),
            Reach::NotAll(why) => return impossible("evict", why),
        },
        Strategy::Restart => match restart {
            Ok(how) => chosen("restart", ReplicaStep::Restart, vec![], restart_text(redis, how)),
            Err(why) => return impossible("restart", why),
        },
        Strategy::Flush => match redis {
            SharedRedis::Reachable(_) if *memory == Memory::Off => chosen(
                "flush",
                ReplicaStep::Unneeded,
                vec![],
                flush_text(redis, "the replicas' digest caches are off"),
            ),
            SharedRedis::Reachable(_) => chosen(
                "flush",
                ReplicaStep::Leave,
                vec![],
                flush_text(redis, "the replicas' own digest caches stay as they are"),
            ),
            SharedRedis::Absent => return impossible("flush", "the registry has no Redis"),
            SharedRedis::Unreachable { .. } | SharedRedis::MayBeThere(_) => {
                return impossible("flush", &redis_trouble(redis));
            }
        },
        Strategy::Wait => chosen("wait", ReplicaStep::Wait, vec![], wait_text(redis, memory)),
        // Whether it is allowed shows when it is done, which is before anything is deleted.
        Strategy::Disable => chosen(
            "disable",
            ReplicaStep::Disable,
            vec![],
            "disable: the registry's caches are switched off before the first deletion".into(),
        ),
        Strategy::None => chosen(
            "none",
            ReplicaStep::Leave,
            vec![],
            "none: the caches stay as they are, as --registry-cache=none asks".into(),
        ),
    })
}

fn evict_text(redis: &SharedRedis, reach: &Reach) -> String {
    let (count, how) = match reach {
        Reach::All { direct, forwarded: 0 } => (*direct, String::new()),
        Reach::All { direct: 0, forwarded } => (*forwarded, " by port-forward".to_owned()),
        Reach::All { direct, forwarded } => {
            (direct + forwarded, format!(" ({direct} directly, {forwarded} by port-forward)"))
        }
        Reach::NotAll(_) => (0, String::new()),
    };
    let replicas = format!("each of {count} registry replica(s)");
    match redis {
        SharedRedis::Reachable(address) => {
            format!("evict: {address} and {replicas}{how} forget each blob right after it is deleted")
        }
        SharedRedis::Absent => format!("evict: {replicas}{how} forgets each blob right after it is deleted"),
        SharedRedis::Unreachable { .. } | SharedRedis::MayBeThere(_) => {
            format!(
                "evict: {replicas}{how} forgets each blob right after it is deleted; {}",
                redis_trouble(redis)
            )
        }
    }
}

/// What comes first where replicas are restarted or left to expire.
fn redis_first(redis: &SharedRedis) -> String {
    match redis {
        SharedRedis::Reachable(address) => format!("{address} forgets each blob as it is deleted, then "),
        SharedRedis::Absent => String::new(),
        SharedRedis::Unreachable { .. } | SharedRedis::MayBeThere(_) => format!("{}; ", redis_trouble(redis)),
    }
}

fn restart_text(redis: &SharedRedis, how: &str) -> String {
    format!(
        "restart: {}all replicas of the registry are replaced after the last deletion ({how})",
        redis_first(redis)
    )
}

fn wait_text(redis: &SharedRedis, memory: &Memory) -> String {
    let redis = redis_first(redis);
    match memory {
        Memory::Off => format!("wait: {redis}nothing to wait for, the replicas' digest caches are off"),
        Memory::On { ttl } => {
            format!(
                "wait: {redis}{} after the last deletion, until the replicas' entries have expired",
                time_text(*ttl)
            )
        }
        Memory::MayBeOn { ttl, .. } => format!(
            "wait: {redis}{} after the last deletion, the registry's default, until the replicas' entries have expired",
            time_text(*ttl)
        ),
    }
}

fn flush_text(redis: &SharedRedis, replicas: &str) -> String {
    match redis {
        SharedRedis::Reachable(address) => {
            format!("flush: {address} forgets each blob as it is deleted; {replicas}")
        }
        _ => format!("flush: {replicas}"),
    }
}

fn redis_trouble(redis: &SharedRedis) -> String {
    match redis {
        SharedRedis::Absent => "there is no Redis".to_owned(),
        SharedRedis::Reachable(address) => format!("{address} can be reached"),
        SharedRedis::Unreachable { address, why } => {
            format!("the registry's Redis {address} cannot be spoken to: {why}")
        }
        SharedRedis::MayBeThere(why) => format!("the registry may have a Redis: {why}"),
    }
}

/// What a wait leaves open where the configuration cannot be read.
pub(super) fn unknown_ttl(why: &str) -> String {
    format!("how long a replica remembers is not known: {why}")
}

/// What stays stale after everything that is done.
fn left(situation: &Situation, redis_is_evicted: bool, replicas: ReplicaStep) -> Vec<String> {
    let Situation { memory, redis, .. } = situation;
    let mut left = Vec::new();
    match redis {
        SharedRedis::Absent => {}
        SharedRedis::Reachable(_) if redis_is_evicted => {}
        SharedRedis::Reachable(address) => {
            left.push(format!("{address} names the deleted blobs for ever"));
        }
        SharedRedis::Unreachable { .. } => {
            left.push(format!("{}; it names the deleted blobs for ever", redis_trouble(redis)));
        }
        SharedRedis::MayBeThere(_) => {
            left.push(format!("{}; one would name the deleted blobs for ever", redis_trouble(redis)));
        }
    }
    match (replicas, memory) {
        (ReplicaStep::Leave, Memory::On { ttl } | Memory::MayBeOn { ttl, .. }) => {
            left.push(format!("each replica names the deleted blobs for up to {}", time_text(*ttl)));
        }
        (ReplicaStep::Wait, Memory::MayBeOn { why, .. }) => {
            left.push(unknown_ttl(why));
        }
        _ => {}
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(600);

    fn situation() -> Situation {
        Situation {
            memory: Memory::On { ttl: TTL },
            redis: SharedRedis::Absent,
            reach: Reach::All { direct: 3, forwarded: 0 },
            restart: Ok("annotation".into()),
        }
    }

    fn step(strategy: Strategy, situation: &Situation) -> (&'static str, bool, ReplicaStep, usize) {
        let choice = choose(strategy, situation).unwrap();
        assert_eq!(choice.message.lines().count(), 1);
        (choice.step, choice.redis, choice.replicas, choice.left.len())
    }

    #[test]
    fn auto_takes_the_first_that_is_possible_and_complete() {
        let all = situation();
        assert_eq!(step(Strategy::Auto, &all), ("evict", false, ReplicaStep::Evict, 0));
        let redis = Situation { redis: SharedRedis::Reachable("redis://r:6379".into()), ..situation() };
        assert_eq!(step(Strategy::Auto, &redis), ("evict", true, ReplicaStep::Evict, 0));
        let outside = Situation { reach: Reach::NotAll("no route".into()), ..redis.clone() };
        assert_eq!(step(Strategy::Auto, &outside), ("restart", true, ReplicaStep::Restart, 0));
        let weak = Situation { restart: Err("forbidden".into()), ..outside };
        assert_eq!(step(Strategy::Auto, &weak), ("wait", true, ReplicaStep::Wait, 0));
        let message = choose(Strategy::Auto, &weak).unwrap().message;
        assert!(message.contains("no route") && message.contains("forbidden"), "{message}");
    }

    #[test]
    fn what_may_be_there_is_left_and_said() {
        for (redis, complete) in [
            (SharedRedis::MayBeThere("get secrets/config".into()), false),
            (SharedRedis::Unreachable { address: "r:6379".into(), why: "refused".into() }, false),
            (SharedRedis::Reachable("r".into()), true),
        ] {
            let situation = Situation { redis, ..situation() };
            let choice = choose(Strategy::Auto, &situation).unwrap();
            assert_eq!(choice.step, "evict");
            assert_eq!(choice.left.is_empty(), complete, "{choice:?}");
        }
        let unsure = Situation {
            memory: Memory::MayBeOn { ttl: TTL, why: "get configmaps/x".into() },
            reach: Reach::NotAll("x".into()),
            restart: Err("y".into()),
            ..situation()
        };
        assert_eq!(step(Strategy::Auto, &unsure), ("wait", false, ReplicaStep::Wait, 1));
    }

    #[test]
    fn caches_that_are_off_need_nothing() {
        let off = Situation { memory: Memory::Off, ..situation() };
        assert_eq!(step(Strategy::Auto, &off), ("unneeded", false, ReplicaStep::Unneeded, 0));
        let redis = Situation { redis: SharedRedis::Reachable("r".into()), ..off.clone() };
        assert_eq!(step(Strategy::Auto, &redis), ("flush", true, ReplicaStep::Unneeded, 0));
        let hidden = Situation { redis: SharedRedis::MayBeThere("x".into()), ..off };
        assert_eq!(step(Strategy::Auto, &hidden), ("none", false, ReplicaStep::Unneeded, 1));
    }

    #[test]
    fn what_is_asked_for_by_name_is_done_or_refused() {
        let outside = Situation {
            reach: Reach::NotAll("no route".into()),
            restart: Err("patch deployments is missing".into()),
            ..situation()
        };
        for (strategy, why) in [
            (Strategy::Evict, "--registry-cache=evict: no route"),
            (Strategy::Restart, "--registry-cache=restart: patch deployments is missing"),
            (Strategy::Flush, "--registry-cache=flush: the registry has no Redis"),
        ] {
            assert_eq!(choose(strategy, &outside).unwrap_err().to_string(), why);
        }
        let redis = Situation { redis: SharedRedis::Reachable("r".into()), ..situation() };
        assert_eq!(step(Strategy::Flush, &redis), ("flush", true, ReplicaStep::Leave, 1));
        assert_eq!(step(Strategy::Wait, &redis), ("wait", true, ReplicaStep::Wait, 0));
        assert_eq!(step(Strategy::Restart, &redis), ("restart", true, ReplicaStep::Restart, 0));
        assert_eq!(step(Strategy::Disable, &redis), ("disable", true, ReplicaStep::Disable, 0));
        assert_eq!(step(Strategy::None, &redis), ("none", false, ReplicaStep::Leave, 2));
    }
}
