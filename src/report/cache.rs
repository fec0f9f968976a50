//! The cache step for people: what was chosen, and how it ended.

use std::fmt::Write as _;

use crate::cache::{CacheOutcome, CachePlan, RedisOutcome, ReplicaStep, StaleCache, StepOption, Strategy};
use crate::error::{Exit, Failure};
use crate::text::printable;

/// What a step says of itself that nobody has asked for yet.
const AS_ASKED: &str = ", as --registry-cache=none asks";

/// How many stale blobs of a replica are named.
const SHOWN: usize = 3;

/// The line about what is going to be done.
#[must_use]
pub fn plan_line(plan: &CachePlan) -> String {
    format!("Cache step: {}", printable(&plan.message))
}

/// A step that could be taken, for the person who chooses: what it does, and who notices; or why it is not possible.
#[must_use]
pub fn option_line(option: &StepOption) -> String {
    let StepOption { strategy, step, effect } = option;
    let who = match strategy {
        Strategy::Auto | Strategy::Evict => "nobody notices",
        Strategy::Restart => "a push or pull that meets a replica as it ends has to be repeated",
        Strategy::Flush => {
            "pushes that re-use a deleted layer are broken until the replicas forget by themselves"
        }
        Strategy::Wait => "this command waits; pushes that re-use a deleted layer are broken until then",
        Strategy::Disable => {
            "the registry is rolled out now, and every pull asks its storage until cache enable"
        }
        Strategy::None => {
            "pushes that re-use a deleted layer are broken until the caches have expired, with a Redis for ever"
        }
    };
    match effect {
        Ok(message) => {
            let what =
                message.strip_prefix(*step).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(message);
            let what = what.strip_suffix(AS_ASKED).unwrap_or(what);
            format!("{step:8} {}; {who}", printable(what))
        }
        Err(why) => format!("{step:8} not possible: {}", printable(why)),
    }
}

/// How the step ended: lines that inform, then the failure, if a cache may still name what was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// Lines for stderr.
    pub lines: Vec<String>,
    /// Warnings, without `warning: ` in front.
    pub warnings: Vec<String>,
    /// Hints that belong to the warnings.
    pub hints: Vec<String>,
    /// The failure that decides the exit code.
    pub failure: Option<Failure>,
}

/// Says how the step ended. `repeat` is the command that finishes it, `restart` the one that restarts the registry.
#[must_use]
pub fn report(outcome: &CacheOutcome, repeat: &str, restart: &str) -> CacheReport {
    let mut report = CacheReport::default();
    if !outcome.needed {
        return report;
    }
    let CacheOutcome { plan, redis_eviction, stale_until, check, .. } = outcome;
    if let Some(RedisOutcome { address, keys, members, .. }) = redis_eviction {
        report
            .lines
            .push(format!("Cache step: {keys} key(s) and {members} set member(s) evicted from {address}"));
    }
    if let Some(check) = check {
        if check.blobs > 0 && check.not_allowed == check.replicas * check.blobs {
            report.lines.push(
                "Cache step: not checked: asking the replicas takes the right to get imagestreams/layers.image.openshift.io (oc adm policy add-cluster-role-to-user registry-viewer <user>)"
                    .to_owned(),
            );
        } else {
            report.lines.push(format!("Cache step: checked: {}", printable(&check.line())));
        }
        for answer in &check.unknown_answers {
            report.lines.push(format!("  {}", printable(answer)));
        }
    }
    if outcome.may_lie() {
        report.failure = Some(may_lie(outcome, repeat, restart));
        return report;
    }
    match (plan.step, plan.replicas) {
        ("none" | "flush", ReplicaStep::Leave) => {
            let until = stale_until.as_deref().map(|until| format!(", until {until}")).unwrap_or_default();
            let left = if plan.left.is_empty() {
                "the registry's caches may still name the deleted blobs".to_owned()
            } else {
                format!("the registry's caches may still name the deleted blobs: {}", plan.left.join("; "))
            };
            report.warnings.push(printable(&format!("{left}{until}")).into_owned());
            report.hints.push(format!(
                "pushes that re-use a deleted layer are broken until then; make Redis forget: {repeat}; then the replicas: {restart}"
            ));
        }
        ("none", _) => {
            report.warnings.push(
                "the registry's caches may still name the deleted blobs: for 10 minutes in each replica, and for ever in Redis if there is one"
                    .to_owned(),
            );
            report.hints.push(format!(
                "pushes that re-use a deleted layer are broken until then; make the replicas forget: {restart}"
            ));
            report.hints.push(
                "name the registry that was pruned: --registry-namespace=NAMESPACE --registry-deployment=NAME".to_owned(),
            );
        }
        _ => report.lines.push(format!("Cache step: done ({})", printable(&plan.message))),
    }
    report
}

fn may_lie(outcome: &CacheOutcome, repeat: &str, restart: &str) -> Failure {
    let CacheOutcome {
        plan,
        needed: _,
        redis_eviction,
        stale,
        stale_until,
        replaced: _,
        check,
        failure,
        hints,
        repeat: _,
    } = outcome;
    let mut message = "cache step: a cache may still name what was deleted".to_owned();
    let mut details = Vec::new();
    details.extend(failure.clone());
    for left in &plan.left {
        details.push(left.clone());
    }
    if let Some(redis) = redis_eviction {
        if let Some(why) = &redis.failure {
            details.push(format!("Redis {}: {why}", redis.address));
        }
        if !redis.unconfirmed.is_empty() {
            details.push(format!(
                "Redis {}: {} blob(s) whose eviction was not confirmed",
                redis.address,
                redis.unconfirmed.len()
            ));
        }
    }
    let stale_in_redis =
        check.as_ref().is_some_and(|check| check.stale.iter().any(|stale| stale.cache == StaleCache::Redis));
    if stale_in_redis {
        details.push(
            "replicas that forgot believe in deleted blobs again: they fill up from a Redis".to_owned(),
        );
    }
    for (replica, digests) in stale {
        let shown: Vec<&str> = digests.iter().take(SHOWN).map(String::as_str).collect();
        let more = if digests.len() > SHOWN { ", …" } else { "" };
        details.push(format!("replica {replica}: {} blob(s): {}{more}", digests.len(), shown.join(", ")));
    }
    for detail in details {
        let _ = write!(message, "\n  {}", printable(&detail));
    }
    if let Some(until) = stale_until {
        let _ = write!(message, "\n  replicas forget by themselves at {until}");
    }
    let mut told = Failure { exit: Exit::CacheMayLie, message, hints: hints.clone() };
    told = told.hint(format!("finish it: {repeat}"));
    if stale.is_empty() || !stale_in_redis {
        told = told.hint(format!("make the replicas forget, after Redis: {restart}"));
    }
    told = told.hint(
        "until then pushes that re-use a deleted layer are broken: push such an image again afterwards",
    );
    told
}
