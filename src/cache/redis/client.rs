//! Speaks with the Redis of a registry's cache: finds the master, evicts in pipelined batches, scans.
//!
//! Every eviction may be done twice, so whatever the connection does meanwhile, a batch is repeated until each of its
//! commands has an answer, or until nothing has moved for as long as the user has patience.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use redis::{Cmd, Value};

use super::address::{Access, Topology};
use super::connector::{Connection, Connector, Node, Purpose};
use super::dial::Dialer;
use super::keys::{Doomed, Eviction, Layout};
use super::problem::{Problem, RedisFailure};

/// How many commands are under way at once. They are sent without waiting for each other's answers.
const BATCH: usize = 512;

/// How many keys a server looks at for one answer of a scan.
const SCAN: usize = 1000;

/// The pauses between attempts, doubled from the first to the last.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// How often a scan begins anew because the masters have changed meanwhile.
const SCANS: usize = 3;

/// What was removed, or in a dry run would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Whole keys.
    pub keys: u64,
    /// Members of sets that hold others.
    pub members: u64,
    /// How many keys a scan has looked at.
    pub scanned: u64,
}

impl std::ops::AddAssign for Evicted {
    fn add_assign(&mut self, other: Self) {
        self.keys += other.keys;
        self.members += other.members;
        self.scanned += other.scanned;
    }
}

/// Which of the keys that a scan finds are evicted.
#[derive(Debug, Clone, Copy)]
pub enum Selection<'a> {
    /// Every key of the cache.
    All,
    /// What any repository has of these blobs.
    RepositoriesOf(&'a Doomed),
}

/// What happens on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A server is a replica: what it names is used instead.
    Followed {
        /// The replica.
        replica: String,
        /// Its master.
        master: String,
    },
    /// A scan goes on; so much is done.
    Scanned(Evicted),
}

/// Tells what happens on the way.
pub type Tell = Arc<dyn Fn(&Event) + Send + Sync>;

/// A connection to the Redis of a cache.
pub struct Redis {
    connector: Connector,
    connection: Connection,
    /// The master, where there is one.
    node: Option<Node>,
    has_unlink: bool,
    dry_run: bool,
}

impl Redis {
    /// Connects, logs in and finds the master.
    ///
    /// # Errors
    /// Each kind of mistake has a [`Problem`] of its own. Only a server that is still loading is waited for.
    pub async fn connect(
        access: Access,
        dialer: Dialer,
        dry_run: bool,
        tell: Tell,
    ) -> Result<Self, RedisFailure> {
        let mut retry = Retry::new(access.patience);
        let connector = Connector { access, dialer, tell, known: std::sync::Mutex::default() };
        let (connection, node) = loop {
            match connector.establish().await {
                Ok(connected) => break connected,
                Err(failure) if failure.problem.passes() => retry.pause(failure).await?,
                Err(failure) => return Err(failure),
            }
        };
        Ok(Self { connector, connection, node, has_unlink: true, dry_run })
    }

    /// Evicts, in bounded batches; in a dry run, counts what is there.
    ///
    /// # Errors
    /// Nothing moved for as long as there is patience, or something is not allowed. What was evicted stays evicted.
    pub async fn evict(&mut self, evictions: &[Eviction], done: &mut Evicted) -> Result<(), RedisFailure> {
        let mut retry = self.patience();
        self.evict_with(evictions, &mut retry, done, &mut |_| ()).await
    }

    /// [`Redis::evict`] with a patience of the caller's, which is told each key that was there, or may have been: the
    /// answer was lost with the connection.
    pub(super) async fn evict_with(
        &mut self,
        evictions: &[Eviction],
        retry: &mut Retry<'_>,
        done: &mut Evicted,
        was_there: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), RedisFailure> {
        let mut commands = Vec::with_capacity(BATCH.min(evictions.len()));
        for eviction in evictions {
            match eviction {
                Eviction::Key(key) => commands.push(Command::Remove(key)),
                Eviction::Members { set, digests } if self.dry_run => {
                    commands.extend(digests.iter().map(|digest| Command::IsMember(set, digest)));
                }
                Eviction::Members { set, digests } => commands.push(Command::RemoveMembers(set, digests)),
            }
        }
        for batch in commands.chunks(BATCH) {
            retry.restart();
            self.batch(batch, retry, done, was_there).await?;
        }
        Ok(())
    }

    /// The user's patience.
    pub(super) fn patience(&self) -> Retry<'static> {
        Retry::new(self.connector.access.patience)
    }

    /// Repeats a batch until each of its commands has an answer.
    async fn batch(
        &mut self,
        commands: &[Command<'_>],
        retry: &mut Retry<'_>,
        done: &mut Evicted,
        was_there: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), RedisFailure> {
        let step = if self.dry_run { "look at keys" } else { "evict keys" };
        // With each, whether an earlier attempt may have carried it out.
        let mut pending: Vec<_> = commands.iter().map(|command| (*command, false)).collect();
        loop {
            let encoded: Vec<_> =
                pending.iter().map(|(command, _)| command.encode(self.dry_run, self.has_unlink)).collect();
            let connection = &self.connection;
            let answers = join_all(encoded.iter().map(|command| connection.send(command))).await;
            let before = pending.len();
            let mut left = Vec::new();
            let mut failure: Option<RedisFailure> = None;
            for ((command, is_unsure), answer) in pending.into_iter().zip(answers) {
                match answer {
                    Ok(answer) => {
                        let number = command.count(&answer, done);
                        if let Command::Remove(key) = command
                            && (number > 0 || is_unsure)
                        {
                            was_there(key);
                        }
                    }
                    Err(error) => {
                        let why = connection.failure(step, &error);
                        left.push((command, is_unsure || why.problem.is_lost_connection()));
                        failure.get_or_insert(why);
                    }
                }
            }
            let Some(failure) = failure else { return Ok(()) };
            if left.len() < before {
                retry.restart();
            }
            pending = left;
            let unlink_is_refused =
                matches!(failure.problem, Problem::UnknownCommand | Problem::NotAllowed) && !self.dry_run;
            if unlink_is_refused && self.has_unlink && pending.iter().any(|(command, _)| command.is_removal())
            {
                self.has_unlink = false;
                continue;
            }
            self.recover(failure, retry).await?;
        }
    }

    /// Asks one question, again where a new connection or some patience helps.
    async fn ask(&mut self, step: &str, command: &Cmd) -> Result<Value, RedisFailure> {
        let mut retry = self.patience();
        loop {
            match self.connection.send(command).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let failure = self.connection.failure(step, &error);
                    self.recover(failure, &mut retry).await?;
                }
            }
        }
    }

    /// Waits, connects anew or finds the master; gives the failure back if none of it helps.
    async fn recover(&mut self, failure: RedisFailure, retry: &mut Retry<'_>) -> Result<(), RedisFailure> {
        let problem = failure.problem;
        if !problem.passes() && !problem.is_lost_connection() && problem != Problem::ReadOnly {
            return Err(failure);
        }
        retry.pause(failure).await?;
        if problem.passes() {
            return Ok(());
        }
        loop {
            match self.connector.establish().await {
                Ok((connection, node)) => {
                    self.connection = connection;
                    self.node = node;
                    return Ok(());
                }
                Err(failure) if failure.problem.passes() || failure.problem.is_lost_connection() => {
                    retry.pause(failure).await?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Evicts what a scan of every master finds; other keys are not touched.
    ///
    /// # Errors
    /// As [`Redis::evict`].
    pub async fn scan(
        &mut self,
        layout: &Layout,
        selection: Selection<'_>,
        done: &mut Evicted,
    ) -> Result<(), RedisFailure> {
        for _ in 0..SCANS {
            let masters = self.masters().await?;
            match &masters {
                Some(nodes) => {
                    for node in nodes {
                        self.scan_node(Some(node), layout, selection, done).await?;
                    }
                }
                None => self.scan_node(None, layout, selection, done).await?,
            }
            // Keys that were on their way from one node to another, and those of a master that took over, may have
            // been overlooked.
            if self.dry_run || self.masters().await? == masters {
                return Ok(());
            }
        }
        Err(RedisFailure::new(Problem::Down, "scan for keys", "the cluster's masters change all the time"))
    }

    async fn scan_node(
        &mut self,
        node: Option<&Node>,
        layout: &Layout,
        selection: Selection<'_>,
        done: &mut Evicted,
    ) -> Result<(), RedisFailure> {
        const STEP: &str = "scan for keys";
        let pattern = layout.pattern();
        // A master of a cluster is asked for its own keys; evictions find their way through the cluster's connection.
        let mut scanner = match node {
            Some(node) => {
                let connection = self.connector.login(node, Purpose::Data).await?;
                Some((node, connection, self.patience()))
            }
            None => None,
        };
        let mut server = self.node.clone();
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN);
            let page = match &mut scanner {
                None => self.ask(STEP, &command).await?,
                Some((node, connection, retry)) => {
                    match Connection::Single(connection.clone()).send(&command).await {
                        Ok(page) => {
                            retry.restart();
                            page
                        }
                        Err(error) => {
                            let failure = RedisFailure::of(format!("{STEP} of {node}"), &error);
                            if !failure.problem.passes() && !failure.problem.is_lost_connection() {
                                return Err(failure);
                            }
                            retry.pause(failure).await?;
                            if let Ok(anew) = self.connector.login(node, Purpose::Data).await {
                                *connection = anew;
                            }
                            continue;
                        }
                    }
                }
            };
            let (next, keys) = redis::from_redis_value::<(String, Vec<Vec<u8>>)>(page).map_err(|error| {
                RedisFailure::new(Problem::NotRedis, STEP, crate::text::brief(&error.to_string()))
            })?;
            done.scanned += keys.len() as u64;
            let mut evictions = Vec::new();
            for key in &keys {
                // Keys of the layout are ASCII: what is no text is foreign.
                let Ok(key) = std::str::from_utf8(key) else { continue };
                let Some(entry) = layout.entry(key) else { continue };
                match selection {
                    Selection::All => evictions.push(Eviction::Key(key.to_owned())),
                    Selection::RepositoriesOf(doomed) => {
                        evictions.extend(layout.evictions_of_found(entry, doomed));
                    }
                }
            }
            self.evict(&evictions, done).await?;
            (self.connector.tell)(&Event::Scanned(*done));
            if node.is_none() && self.node != server {
                // Another master: its cursors are others, too.
                server.clone_from(&self.node);
                "0".clone_into(&mut cursor);
                continue;
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// The masters of a cluster, sorted; `None` where there is only one.
    async fn masters(&mut self) -> Result<Option<Vec<Node>>, RedisFailure> {
        let Topology::Cluster(seeds) = &self.connector.access.address.topology else { return Ok(None) };
        self.connector.cluster_masters(seeds).await.map(Some)
    }
}

/// One command of a batch.
#[derive(Debug, Clone, Copy)]
enum Command<'a> {
    Remove(&'a str),
    RemoveMembers(&'a str, &'a [String]),
    IsMember(&'a str, &'a str),
}

impl Command<'_> {
    fn encode(self, dry_run: bool, has_unlink: bool) -> Cmd {
        let mut command;
        match self {
            Self::Remove(key) => {
                command = redis::cmd(match (dry_run, has_unlink) {
                    (true, _) => "EXISTS",
                    (false, true) => "UNLINK",
                    (false, false) => "DEL",
                });
                command.arg(key);
            }
            Self::RemoveMembers(set, digests) => {
                command = redis::cmd("SREM");
                command.arg(set).arg(digests);
            }
            Self::IsMember(set, digest) => {
                command = redis::cmd("SISMEMBER");
                command.arg(set).arg(digest);
            }
        }
        command
    }

    fn is_removal(self) -> bool {
        matches!(self, Self::Remove(_))
    }

    /// Counts what an answer says, and gives it back.
    fn count(self, answer: &Value, done: &mut Evicted) -> u64 {
        let number = match answer {
            Value::Int(number) => u64::try_from(*number).unwrap_or_default(),
            Value::Boolean(true) => 1,
            _ => 0,
        };
        match self {
            Self::Remove(_) => done.keys += number,
            Self::RemoveMembers(..) | Self::IsMember(..) => done.members += number,
        }
        number
    }
}

/// The pauses between attempts, and when to give up.
pub(super) struct Retry<'a> {
    /// How long nothing may move; for ever without it.
    patience: Option<Duration>,
    since: Instant,
    next: Duration,
    /// Is told what goes wrong.
    watch: Option<&'a (dyn Fn(&RedisFailure) + Sync)>,
}

impl<'a> Retry<'a> {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience: Some(patience), since: Instant::now(), next: PAUSES[0], watch: None }
    }

    /// Never gives up what may pass.
    pub(super) fn endless(watch: &'a (dyn Fn(&RedisFailure) + Sync)) -> Self {
        Self { patience: None, since: Instant::now(), next: PAUSES[0], watch: Some(watch) }
    }

    /// Begins anew: something moved.
    fn restart(&mut self) {
        self.since = Instant::now();
        self.next = PAUSES[0];
    }

    /// Waits before the next attempt; gives the failure back once the patience is over.
    async fn pause(&mut self, failure: RedisFailure) -> Result<(), RedisFailure> {
        if let Some(watch) = self.watch {
            watch(&failure);
        }
        if self.patience.is_some_and(|patience| self.since.elapsed() + self.next >= patience) {
            return Err(failure);
        }
        tracing::info!("{failure}; trying again");
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(PAUSES[1]);
        Ok(())
    }
}
