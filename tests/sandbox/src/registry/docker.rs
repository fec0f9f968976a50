//! A real `docker-registry` process behind the front.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, DATE, HeaderMap, TRANSFER_ENCODING};
use http::{HeaderName, Method};
use serde_json::json;

use super::answer::Answer;
use super::client::http_client;
use super::storage::Storage;
use crate::lock;

/// How long a process may take to answer its first request.
const READY_WITHIN: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);
/// Somebody else may take the free port between our asking for one and the process's listening on it.
const ATTEMPTS: usize = 3;

/// Where the `docker-registry` program is, if it is installed (Debian package `docker-registry`).
#[must_use]
pub fn docker_registry_binary() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join("docker-registry"))
        .find(|file| file.is_file())
}

/// A running process. Dropping it ends it.
#[derive(Debug)]
pub(super) struct DockerRegistry {
    process: Mutex<Child>,
    url: String,
    client: reqwest::Client,
    // Its configuration and its log; removed with it.
    directory: tempfile::TempDir,
}

impl DockerRegistry {
    /// Starts the program over a storage directory and waits until it answers.
    pub(super) async fn start(binary: &Path, storage: &Storage) -> io::Result<Self> {
        fs::create_dir_all(storage.directory())?;
        let client = http_client(None).map_err(io::Error::other)?;
        let mut result = Err(io::ErrorKind::AddrInUse.into());
        for _ in 0..ATTEMPTS {
            result = Self::spawn(binary, storage, client.clone())?.ready().await;
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn spawn(binary: &Path, storage: &Storage, client: reqwest::Client) -> io::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("config.yml");
        // No `storage.cache`: this process then asks the storage every time, so that the front's digest cache alone
        // decides what a replica still believes. JSON is YAML, and needs no quoting rules of ours.
        let settings = json!({
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {
                "filesystem": {"rootdirectory": storage.directory()},
                "delete": {"enabled": true},
                "maintenance": {"uploadpurging": {"enabled": false}},
            },
            "http": {"addr": address.to_string(), "secret": format!("{:032x}", fastrand::u128(..))},
        });
        fs::write(&config, settings.to_string())?;
        let process = Command::new(binary)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.path().join("log"))?)
            .spawn()?;
        Ok(Self { process: Mutex::new(process), url: format!("http://{address}"), client, directory })
    }

    async fn ready(mut self) -> io::Result<Self> {
        let waiting = async {
            loop {
                let answers = self.client.get(&self.url).send().await.is_ok();
                // Asked afterwards: what answers may be somebody else, on the port that this process did not get.
                let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
                if let Some(status) = process.try_wait()? {
                    let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                    return Err(io::Error::other(format!("docker-registry ended with {status}: {log}")));
                }
                if answers {
                    return Ok(());
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(READY_WITHIN, waiting)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "docker-registry does not answer"))??;
        Ok(self)
    }

    /// Passes a request on and returns the answer. `base` is the URL that the client used, so that the process can
    /// name it in `Location`.
    pub(super) async fn forward(
        &self,
        base: &str,
        method: &Method,
        target: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> io::Result<Answer> {
        let (scheme, host) = base.split_once("://").unwrap_or(("http", base));
        let mut request = self
            .client
            .request(method.clone(), format!("{}{target}", self.url))
            .header("x-forwarded-proto", scheme)
            .header("x-forwarded-host", host);
        for name in ["accept", "content-type", "content-range", "range"] {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let response = request.body(body).send().await.map_err(io::Error::other)?;
        let (status, mut headers) = (response.status(), response.headers().clone());
        // They speak of the connection between the front and the process.
        for name in [CONNECTION, DATE, TRANSFER_ENCODING, HeaderName::from_static("x-content-type-options")] {
            headers.remove(name);
        }
        let mut answer = Answer::new(response.bytes().await.map_err(io::Error::other)?);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}

impl DockerRegistry {
    /// Ends the process and waits for its end.
    pub(super) fn stop(&self) {
        let mut process = lock(&self.process);
        // It may be gone already, which is what is wanted.
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}
