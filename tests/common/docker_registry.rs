//! A real `docker-registry` (Debian package) whose descriptor cache is a Redis.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: whatever is wrong here fails the test"
)]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use sandbox::registry::client::{Client, Credentials};
use sandbox::registry::{Storage, docker_registry_binary};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The process, and a storage of its own that outlives it. Both end with the test.
#[derive(Debug)]
pub(crate) struct DockerRegistry {
    process: Option<Child>,
    directory: TempDir,
    url: String,
}

impl DockerRegistry {
    /// Starts the program with this `redis` section, and waits until it listens.
    pub(crate) fn start(redis: &Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // JSON is YAML, and needs no quoting rules of ours.
        let config = json!({
            "version": "0.1",
            "log": {"level": "info", "formatter": "text", "accesslog": {"disabled": true}},
            "storage": {
                "filesystem": {"rootdirectory": directory.path().join("storage")},
                "cache": {"blobdescriptor": "redis"},
                "delete": {"enabled": true},
                "maintenance": {"uploadpurging": {"enabled": false}},
            },
            "redis": redis,
            "http": {"addr": "127.0.0.1:0", "secret": "any value does"},
        });
        std::fs::write(directory.path().join("config.yml"), config.to_string()).unwrap();
        let mut registry = Self { process: None, directory, url: String::new() };
        registry.start_again();
        registry
    }

    /// Starts a registry that was stopped, with the same storage and on another port.
    pub(crate) fn start_again(&mut self) {
        self.stop();
        let mut child = Command::new(docker_registry_binary().unwrap())
            .arg("serve")
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        self.process = Some(child);
        let mut told = String::new();
        let address = loop {
            let begin = told.len();
            assert!(log.read_line(&mut told).unwrap() > 0, "docker-registry ended:\n{told}");
            if let Some((_, address)) = told[begin..].split_once("listening on ") {
                break address.split('"').next().unwrap().to_owned();
            }
        };
        self.url = format!("http://{address}");
        // Nobody reads the rest; a full pipe would stop the registry.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may be gone already, which is what is wanted.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("config.yml")
    }

    /// Collects garbage as its administrators do, in a process of its own; returns the digests that it says are gone.
    pub(crate) fn collect_garbage(&self) -> Vec<String> {
        let collection = Command::new(docker_registry_binary().unwrap())
            .args(["garbage-collect", "--delete-untagged"])
            .arg(self.config())
            .output()
            .unwrap();
        let text = String::from_utf8(collection.stdout).unwrap();
        assert!(collection.status.success(), "{text}{}", String::from_utf8_lossy(&collection.stderr));
        let gone = text.lines().filter_map(|line| line.strip_prefix("blob eligible for deletion: "));
        gone.map(str::to_owned).collect()
    }

    pub(crate) fn storage(&self) -> Storage {
        Storage::new(self.directory.path().join("storage"))
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url, Credentials::None, None)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}
