//! Keeps a second run away from a cluster that one is pruning: a Lease in the registry's namespace where that is allowed,
//! and a locked file in the cluster's folder, which ends with the process that holds it.
//!
//! All times in the Lease are the API server's, so that machines with other clocks agree about them.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::file::{Place, private};
use crate::cause::io_text;
use crate::cluster::{ApiError, ApiRequest, ApiResponse, Cluster, Retry};
use crate::error::Failure;
use crate::text::printable;

/// The name of the Lease.
pub const LEASE: &str = "oc-prune-images";

const GROUP: &str = "/apis/coordination.k8s.io/v1";

/// How often a Lease that changes is looked at again.
const ATTEMPTS: usize = 5;

/// How long a request about the Lease may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a Lease lasts, and how often it is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Without a renewal: an API server that is away for a minute ends no run.
    pub lasts: Duration,
    /// Between two renewals.
    pub renew: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { lasts: Duration::from_secs(120), renew: Duration::from_secs(20) }
    }
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who the API server takes the run for.
    pub user: String,
    /// The machine or pod.
    pub host: String,
    /// The process there.
    pub pid: u32,
}

impl Holder {
    /// This process, as this user.
    #[must_use]
    pub fn of_process(user: String) -> Self {
        Self { user, host: host(), pid: std::process::id() }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}/{}", self.user, self.host, self.pid)
    }
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "unknown".to_owned())
}

/// Who took a lock, and when: what the file says, and, where there is one, the Lease likewise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    holder: String,
    since: String,
}

/// Where locks are.
#[derive(Debug, Clone)]
pub struct Locks<'a> {
    /// The API server.
    pub cluster: &'a Cluster,
    /// The namespace of the Lease: the registry's.
    pub namespace: &'a str,
    /// The folder of the file, if there is one.
    pub place: Option<&'a Place>,
    /// Who takes them.
    pub holder: &'a Holder,
    /// See there.
    pub pace: Pace,
}

/// Why a lock was not taken.
#[derive(Debug)]
pub enum Busy {
    /// Somebody else has it.
    Held {
        /// Who.
        holder: String,
        /// Since when.
        since: String,
        /// When a Lease ends that is not renewed; none for the file's.
        until: Option<Timestamp>,
    },
    /// The server could not be asked.
    Failed(Failure),
}

impl Busy {
    /// The failure of a run that has to stay away.
    #[must_use]
    pub fn failure(self) -> Failure {
        match self {
            Self::Held { holder, since, until } => {
                let failure = Failure::nothing_changed(format!(
                    "take the lock: {} has been changing this cluster since {} - no changes made",
                    printable(&holder),
                    printable(&since)
                ));
                match until {
                    Some(until) => failure.hint(format!(
                        "wait until that run is over; if it was cut short, its lock ends by itself at {until}: then repeat this command"
                    )),
                    None => failure.hint("wait until that run is over, then repeat this command"),
                }
            }
            Self::Failed(failure) => failure,
        }
    }
}

/// Locks that are held until this is released, or the process ends.
#[derive(Debug)]
pub struct Held {
    /// Locked as long as it is open.
    _file: Option<File>,
    lease: Option<Renewal>,
    /// How far the locks reach if there is no Lease, and the missing right or what else is in the way.
    pub gap: Option<String>,
    lost: watch::Receiver<Option<String>>,
}

#[derive(Debug)]
struct Renewal {
    task: JoinHandle<()>,
    lease: Arc<tokio::sync::Mutex<Lease>>,
}

impl Held {
    /// Becomes something, why, when somebody else may have begun: nothing new may be started from then on.
    #[must_use]
    pub fn lost(&self) -> watch::Receiver<Option<String>> {
        self.lost.clone()
    }

    /// Gives the locks back; why the Lease could not be, which ends by itself.
    ///
    /// # Errors
    /// What the server said.
    pub async fn release(self) -> Result<(), String> {
        let Some(Renewal { task, lease }) = self.lease else { return Ok(()) };
        task.abort();
        // However it ended, it holds nothing any more.
        let _ = task.await;
        let mut lease = lease.lock().await;
        lease.object["spec"]["holderIdentity"] = "".into();
        lease.object["spec"]["leaseDurationSeconds"] = 1.into();
        lease.put().await.map_err(|error| error.to_string())
    }
}

impl Locks<'_> {
    /// Takes the lock of the file, and then the Lease.
    ///
    /// # Errors
    /// Somebody else has one of them, or the server cannot be asked.
    pub async fn take(&self) -> Result<Held, Busy> {
        let (file, before) = match self.place.map(take_file) {
            Some(Ok((file, claim))) => (Some(file), claim),
            Some(Err(Refused::Busy(busy))) => return Err(busy),
            Some(Err(Refused::Not(why))) => {
                tracing::info!("the lock file cannot be used: {why}");
                (None, None)
            }
            None => (None, None),
        };
        let (sender, lost) = watch::channel(None);
        let (lease, gap) = match self.take_lease(file.as_ref(), before.as_ref()).await {
            Ok(lease) => (Some(renew(lease, self.pace, sender)), None),
            Err(Refused::Busy(busy)) => return Err(busy),
            Err(Refused::Not(why)) => {
                let claim = Claim { holder: self.holder.to_string(), since: micro(Timestamp::now()) };
                if let Some(file) = &file {
                    note(file, &claim);
                }
                let kept = if file.is_some() { "on this machine alone" } else { "none" };
                (None, Some(format!("{kept}: {why}")))
            }
        };
        Ok(Held { _file: file, lease, gap, lost })
    }

    async fn take_lease(&self, file: Option<&File>, before: Option<&Claim>) -> Result<Lease, Refused> {
        let path = format!("{GROUP}/namespaces/{}/leases", self.namespace);
        let holder = self.holder.to_string();
        for _ in 0..ATTEMPTS {
            let found = ask(self.cluster, ApiRequest::get(format!("{path}/{LEASE}"))).await;
            let (mut object, now, is_new) = match found {
                Ok(answer) => (object(&answer)?, server_time(&answer), false),
                Err(ApiError::NotFound { group_missing: false, .. }) => {
                    (self.new_object(), Timestamp::now(), true)
                }
                Err(error) => return Err(self.refused(&error, "get")),
            };
            if !is_new {
                let found = Spec::of(&object);
                if let Some(until) = found.until().filter(|until| *until > now)
                    && before.is_none_or(|before| !found.is(before))
                {
                    let Spec { holder, acquired, .. } = found;
                    return Err(Refused::Busy(Busy::Held { holder, since: acquired, until: Some(until) }));
                }
            }
            let claim = Claim { holder: holder.clone(), since: micro(now) };
            // Before the Lease says so, that a run which is cut short right then is known to be over.
            if let Some(file) = file {
                note(file, &claim);
            }
            let spec = &mut object["spec"];
            let transitions = spec["leaseTransitions"].as_i64().unwrap_or(-1);
            *spec = json!({
                "holderIdentity": claim.holder,
                "leaseDurationSeconds": self.pace.lasts.as_secs().max(1),
                "acquireTime": claim.since,
                "renewTime": claim.since,
                "leaseTransitions": transitions.saturating_add(1),
            });
            let (method, path) =
                if is_new { (Method::POST, path.clone()) } else { (Method::PUT, format!("{path}/{LEASE}")) };
            match ask(self.cluster, changing(method, path, &object)).await {
                Ok(answer) => {
                    let ahead = server_time(&answer).duration_since(Timestamp::now());
                    let object = self::object(&answer)?;
                    return Ok(Lease { cluster: self.cluster.clone(), object, claim, ahead });
                }
                Err(ApiError::Conflict { .. }) => {}
                Err(error) => return Err(self.refused(&error, if is_new { "create" } else { "update" })),
            }
        }
        let busy =
            Failure::nothing_changed("take the lock: the Lease changes again and again - no changes made");
        Err(Refused::Busy(Busy::Failed(busy.hint("repeat this command"))))
    }

    fn new_object(&self) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": LEASE, "namespace": self.namespace },
            "spec": {},
        })
    }

    fn refused(&self, error: &ApiError, verb: &'static str) -> Refused {
        match error {
            ApiError::Forbidden { .. } => Refused::Not(format!(
                "the right to {verb} leases.coordination.k8s.io in namespace {} is missing",
                self.namespace
            )),
            ApiError::NotFound { .. } => {
                Refused::Not(format!("there is no namespace {}, or no Leases", self.namespace))
            }
            error => Refused::Busy(Busy::Failed(
                self.cluster.failure(error, &format!("take the lock: {verb} the Lease")),
            )),
        }
    }
}

enum Refused {
    Busy(Busy),
    /// It cannot be used here: why.
    Not(String),
}

/// The Lease that this run holds.
#[derive(Debug)]
struct Lease {
    cluster: Cluster,
    /// As the server answered last.
    object: Value,
    claim: Claim,
    /// How far the server's clock is ahead of this machine's.
    ahead: SignedDuration,
}

impl Lease {
    fn path(&self) -> String {
        let namespace = self.object["metadata"]["namespace"].as_str().unwrap_or_default();
        format!("{GROUP}/namespaces/{namespace}/leases/{LEASE}")
    }

    async fn put(&mut self) -> Result<(), ApiError> {
        let now = Timestamp::now();
        self.object["spec"]["renewTime"] = micro(now.saturating_add(self.ahead).unwrap_or(now)).into();
        let answer = ask(&self.cluster, changing(Method::PUT, self.path(), &self.object)).await?;
        self.object =
            serde_json::from_slice(&answer.body).map_err(|error| ApiError::Malformed(error.to_string()))?;
        Ok(())
    }

    /// Renews it; `Err` with who has it if somebody else does.
    async fn renew(&mut self) -> Result<Result<(), ApiError>, String> {
        match self.put().await {
            Err(ApiError::Conflict { .. }) => {}
            done => return Ok(done),
        }
        let answer = match ask(&self.cluster, ApiRequest::get(self.path())).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error)),
        };
        let Ok(object) = serde_json::from_slice::<Value>(&answer.body) else {
            return Ok(Err(ApiError::Malformed("no Lease".to_owned())));
        };
        let found = Spec::of(&object);
        // An answer that was lost may have been about this very renewal.
        if !found.is(&self.claim) {
            return Err(found.holder);
        }
        self.object = object;
        Ok(self.put().await)
    }
}

/// Renews the Lease until it is aborted, or lost.
fn renew(lease: Lease, pace: Pace, lost: watch::Sender<Option<String>>) -> Renewal {
    let lease = Arc::new(tokio::sync::Mutex::new(lease));
    let own = Arc::clone(&lease);
    let task = tokio::spawn(async move {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(pace.renew).await;
            let begun = Instant::now();
            let why = match own.lock().await.renew().await {
                Ok(Ok(())) => {
                    renewed = begun;
                    continue;
                }
                Ok(Err(error)) if renewed.elapsed() < pace.lasts => {
                    tracing::info!("the Lease could not be renewed: {error}");
                    continue;
                }
                Ok(Err(error)) => format!("its Lease could not be renewed: {error}"),
                Err(holder) => format!("{} has taken its Lease", printable(&holder)),
            };
            // Nobody hears it any longer once the run is over.
            let _ = lost.send(Some(why));
            // Dropping the sender would be heard as an end of the renewals.
            std::future::pending::<()>().await;
        }
    });
    Renewal { task, lease }
}

/// What a Lease says.
#[derive(Debug, PartialEq, Eq)]
struct Spec {
    holder: String,
    acquired: String,
    renewed: Option<Timestamp>,
    seconds: i64,
}

impl Spec {
    fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
        Self {
            holder: text("holderIdentity"),
            acquired: text("acquireTime"),
            renewed: text("renewTime").parse().ok(),
            seconds: spec["leaseDurationSeconds"].as_i64().unwrap_or_default(),
        }
    }

    /// When it ends; none if nobody holds it.
    fn until(&self) -> Option<Timestamp> {
        let renewed = self.renewed.filter(|_| !self.holder.is_empty())?;
        renewed.checked_add(SignedDuration::from_secs(self.seconds)).ok()
    }

    fn is(&self, claim: &Claim) -> bool {
        self.holder == claim.holder && self.acquired == claim.since
    }
}

fn object(answer: &ApiResponse) -> Result<Value, Refused> {
    serde_json::from_slice(&answer.body).map_err(|error| {
        Refused::Not(format!("the Lease cannot be read: {}", crate::text::brief(&error.to_string())))
    })
}

fn changing(method: Method, path: String, object: &Value) -> ApiRequest {
    ApiRequest {
        body: Some(object.to_string().into()),
        retry: Retry::Unsent,
        ..ApiRequest::new(method, path)
    }
}

async fn ask(cluster: &Cluster, request: ApiRequest) -> Result<ApiResponse, ApiError> {
    let answer = tokio::time::timeout(PATIENCE, cluster.request(request)).await;
    answer.unwrap_or(Err(ApiError::Timeout("a request about the Lease")))
}

/// What the server's clock says.
fn server_time(answer: &ApiResponse) -> Timestamp {
    let date = answer.headers.get(http::header::DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    date.map_or_else(Timestamp::now, |date| date.timestamp())
}

/// A time as Kubernetes' `MicroTime` has it, which takes six digits and no others.
fn micro(time: Timestamp) -> String {
    format!("{}.{:06}Z", time.strftime("%Y-%m-%dT%H:%M:%S"), time.subsec_microsecond())
}

/// The file with its lock, and who had it before.
fn take_file(place: &Place) -> Result<(File, Option<Claim>), Refused> {
    let unusable = |error: io::Error| Refused::Not(io_text(&error));
    place.make().map_err(unusable)?;
    let path = place.folder().join("lock");
    let file = private().read(true).write(true).create(true).truncate(false).open(path).map_err(unusable)?;
    let locked = file.try_lock();
    let mut said = String::new();
    // What it says matters only where it can be read.
    let _ = (&file).take(1 << 16).read_to_string(&mut said);
    let claim = serde_json::from_str::<Claim>(&said).ok();
    match locked {
        Ok(()) => Ok((file, claim)),
        Err(TryLockError::WouldBlock) => {
            let unknown =
                || Claim { holder: "another process".to_owned(), since: "an unknown time".to_owned() };
            let Claim { holder, since } = claim.unwrap_or_else(unknown);
            Err(Refused::Busy(Busy::Held { holder, since, until: None }))
        }
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// Says in the file who has its lock.
fn note(file: &File, claim: &Claim) {
    let write = |mut file: &File| -> io::Result<()> {
        file.set_len(0)?;
        file.seek(io::SeekFrom::Start(0))?;
        file.write_all(serde_json::to_string(claim)?.as_bytes())
    };
    if let Err(error) = write(file) {
        tracing::info!("the lock file cannot be written: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_six_digits() {
        let micro = |second, nano| micro(Timestamp::new(second, nano).unwrap());
        assert_eq!(micro(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(micro(1_795_529_106, 120_000_999), "2026-11-24T14:05:06.120000Z");
        assert_eq!(
            micro(0, 120_000_000).parse::<Timestamp>().unwrap(),
            Timestamp::new(0, 120_000_000).unwrap()
        );
    }

    #[test]
    fn a_lease_ends_when_it_is_not_renewed() {
        let object = |holder: &str| {
            json!({ "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": 120,
                "acquireTime": "1970-01-01T00:00:01.000000Z",
                "renewTime": "1970-01-01T00:00:10.000000Z",
            } })
        };
        let spec = Spec::of(&object("a@b/1"));
        assert_eq!(spec.until(), Timestamp::from_second(130).ok());
        let claim = |holder: &str, since: &str| Claim { holder: holder.into(), since: since.into() };
        assert!(spec.is(&claim("a@b/1", "1970-01-01T00:00:01.000000Z")));
        assert!(!spec.is(&claim("a@b/1", "1970-01-01T00:00:02.000000Z")), "a process id comes again");
        assert_eq!(Spec::of(&object("")).until(), None);
        assert_eq!(Spec::of(&json!({})).until(), None);
    }
}
