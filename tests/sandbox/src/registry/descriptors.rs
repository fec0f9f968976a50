//! The descriptor cache that all replicas share: distribution's keys in a Redis.
//!
//! Every command stands alone, as in the registry itself: other replicas, and whoever evicts, come in between.

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, cmd,
};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::Duration;

use super::config::RedisCache;
use super::digest::Digest;
use crate::lock;

/// The only media type that the registry writes.
const MEDIA_TYPE: &str = "application/octet-stream";

/// The registry waits for ever; a test should not.
const PATIENCE: Duration = Duration::from_secs(20);

/// The connection of one replica to the Redis of its registry.
#[derive(Debug)]
pub(super) struct RedisDescriptors {
    cache: RedisCache,
    connection: Mutex<Option<MultiplexedConnection>>,
}

fn blob(digest: &Digest) -> String {
    format!("blobs::{digest}")
}

fn members(repository: &str) -> String {
    format!("repository::{repository}::blobs")
}

fn member(repository: &str, digest: &Digest) -> String {
    format!("repository::{repository}::blobs::{digest}")
}

impl RedisDescriptors {
    pub(super) fn new(cache: RedisCache) -> Self {
        Self { cache, connection: Mutex::default() }
    }

    /// The size of a blob, if it is known.
    pub(super) async fn stat(&self, digest: &Digest) -> RedisResult<Option<u64>> {
        let mut command = cmd("HMGET");
        command.arg(blob(digest)).arg("digest").arg("size").arg("mediatype");
        let (digest, size, _): (Option<String>, Option<u64>, Option<String>) = self.ask(&command).await?;
        Ok(size.filter(|_| digest.is_some()))
    }

    /// The size of a blob that this repository is known to have.
    pub(super) async fn stat_in(&self, repository: &str, digest: &Digest) -> RedisResult<Option<u64>> {
        if !self.is_member(repository, digest).await? {
            return Ok(None);
        }
        let Some(size) = self.stat(digest).await? else { return Ok(None) };
        let mut command = cmd("HGET");
        command.arg(member(repository, digest)).arg("mediatype");
        let media_type: Option<String> = self.ask(&command).await?;
        Ok(media_type.map(|_| size))
    }

    /// Remembers a blob.
    pub(super) async fn set(&self, digest: &Digest, size: u64) -> RedisResult<()> {
        let mut command = cmd("HMSET");
        command.arg(blob(digest)).arg("digest").arg(digest.as_str()).arg("size").arg(size);
        self.ask::<()>(&command).await?;
        let mut command = cmd("HSETNX");
        command.arg(blob(digest)).arg("mediatype").arg(MEDIA_TYPE);
        self.ask(&command).await
    }

    /// Remembers a blob and that this repository has it.
    pub(super) async fn set_in(&self, repository: &str, digest: &Digest, size: u64) -> RedisResult<()> {
        let mut command = cmd("SADD");
        command.arg(members(repository)).arg(digest.as_str());
        self.ask::<()>(&command).await?;
        self.set(digest, size).await?;
        let mut command = cmd("HSET");
        command.arg(member(repository, digest)).arg("mediatype").arg(MEDIA_TYPE);
        self.ask(&command).await
    }

    /// Forgets a blob if this repository is known to have it, and says whether it is. What is known of the repository
    /// stays.
    pub(super) async fn clear_in(&self, repository: &str, digest: &Digest) -> RedisResult<bool> {
        let known = self.is_member(repository, digest).await?;
        if known {
            let mut command = cmd("HDEL");
            command.arg(blob(digest)).arg("digest").arg("size").arg("mediatype");
            self.ask::<()>(&command).await?;
        }
        Ok(known)
    }

    async fn is_member(&self, repository: &str, digest: &Digest) -> RedisResult<bool> {
        let mut command = cmd("SISMEMBER");
        command.arg(members(repository)).arg(digest.as_str());
        self.ask(&command).await
    }

    /// How the registry shows an error in the detail of an answer.
    pub(super) fn detail(&self, error: &RedisError) -> Value {
        if error.is_connection_refusal()
            && let Some((host, port)) = self.cache.address.rsplit_once(':')
        {
            return json!({
                "Op": "dial",
                "Net": "tcp",
                "Source": null,
                "Addr": {"IP": host, "Port": port.parse::<u16>().unwrap_or_default(), "Zone": ""},
                "Err": {"Syscall": "connect", "Err": 111},
            });
        }
        match (error.code(), error.detail()) {
            (Some(code), Some(detail)) => format!("{code} {detail}").into(),
            _ => json!({}),
        }
    }

    /// Sends a command; on a connection that turns out to be dead, once more on a new one.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let kept = lock(&self.connection).clone();
        if let Some(mut connection) = kept {
            match command.query_async(&mut connection).await {
                Err(error) if error.is_unrecoverable_error() || error.is_timeout() => {
                    *lock(&self.connection) = None;
                }
                answer => return answer,
            }
        }
        let mut connection = self.connect().await?;
        let answer = command.query_async(&mut connection).await;
        *lock(&self.connection) = Some(connection);
        answer
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let RedisCache { address, password, database, tls_ca } = &self.cache;
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "6379"));
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = port.parse().map_err(std::io::Error::other)?;
        let address = match tls_ca {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let mut settings = RedisConnectionInfo::default().set_db(*database);
        if let Some(password) = password {
            settings = settings.set_password(password);
        }
        let info = address.into_connection_info()?.set_redis_settings(settings);
        let client = match tls_ca {
            None => Client::open(info)?,
            Some(ca) => {
                // Fails if one is installed already, which is as good.
                rustls::crypto::ring::default_provider().install_default().ok();
                let root_cert = (!ca.is_empty()).then(|| ca.clone().into_bytes());
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })?
            }
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        client.get_multiplexed_async_connection_with_config(&config).await
    }
}
