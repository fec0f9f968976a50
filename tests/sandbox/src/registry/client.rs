//! A client that pushes and pulls like a container engine, for the tests and the demo.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use super::manifest::{Content, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Manifest, OCI_INDEX, OCI_MANIFEST};

/// How a client shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Not at all.
    None,
    /// A token as the password of basic auth, as `podman login` leads to.
    Basic(String),
    /// A token as such.
    Bearer(String),
}

/// The media types of what is pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Docker's schema 2 and manifest lists.
    #[default]
    Docker,
    /// OCI manifests and indexes.
    Oci,
}

impl Format {
    fn manifest(self) -> &'static str {
        if self == Self::Docker { DOCKER_MANIFEST } else { OCI_MANIFEST }
    }

    fn index(self) -> &'static str {
        if self == Self::Docker { DOCKER_LIST } else { OCI_INDEX }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.container.image.v1+json",
            Self::Oci => "application/vnd.oci.image.config.v1+json",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Self::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
        }
    }
}

/// A manifest or index that was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// Its media type.
    pub media_type: &'static str,
}

/// What a complete pull fetched and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The digest of the manifest or index asked for.
    pub digest: Digest,
    /// That one and, for an index, all below it.
    pub manifests: BTreeSet<Digest>,
    /// Layers and configs.
    pub blobs: BTreeSet<Digest>,
}

/// Why a push or a pull failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The registry did not answer as it should have.
    Refused {
        /// What was asked, as method and path.
        request: String,
        /// What it answered.
        status: StatusCode,
        /// How it explained that.
        body: String,
    },
    /// The connection failed or broke off.
    Connection {
        /// What was asked, as method and path.
        request: String,
        /// What happened.
        cause: String,
    },
    /// Content has another digest or another size than its descriptor says.
    Content {
        /// The digest that was expected.
        expected: String,
        /// What arrived: its digest and size.
        found: String,
    },
    /// A manifest that cannot be read.
    Manifest(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { request, status, body } => write!(f, "{request}: {status}: {}", body.trim_end()),
            Self::Connection { request, cause } => write!(f, "{request}: {cause}"),
            Self::Content { expected, found } => write!(f, "expected {expected}, got {found}"),
            Self::Manifest(reference) => write!(f, "{reference} is no manifest"),
        }
    }
}

impl std::error::Error for Broken {}

/// A client of one registry.
#[derive(Clone, Debug)]
pub struct Client {
    base_url: String,
    credentials: Credentials,
    http: reqwest::Client,
}

/// An answer with its whole body.
pub type Answer = http::Response<Bytes>;

impl Client {
    /// A client of the registry at `base_url` (`https://host:port`), whose certificate `ca`, in PEM, has signed.
    ///
    /// # Panics
    /// If `ca` is no certificate.
    #[must_use]
    pub fn new(base_url: &str, credentials: Credentials, ca: Option<&str>) -> Self {
        let http = http_client(ca).expect("a client for the certificate authority");
        Self { base_url: base_url.trim_end_matches('/').to_owned(), credentials, http }
    }

    /// Sends a request and returns whatever the registry answers. `target` is a path or a whole URL.
    pub async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Broken> {
        let failed = |error: reqwest::Error| connection(&method, target, &error);
        let response = self.request(&method, target, headers, body.into()).await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut answer = Answer::new(response.bytes().await.map_err(failed)?);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }

    /// Pushes an image: its layers and config, where the registry does not say that it has them, then its manifest,
    /// under `reference` or, without one, by its digest.
    pub async fn push_image(
        &self,
        repository: &str,
        reference: Option<&str>,
        format: Format,
        layers: &[Vec<u8>],
        config: &Value,
    ) -> Result<Pushed, Broken> {
        let config = config.to_string().into_bytes();
        for blob in layers.iter().chain([&config]) {
            self.push_blob(repository, blob).await?;
        }
        let descriptor = |media_type: &str, bytes: &[u8]| {
            let digest = Digest::of(bytes);
            json!({"mediaType": media_type, "size": bytes.len(), "digest": digest.as_str()})
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": format.manifest(),
            "config": descriptor(format.config(), &config),
            "layers": layers.iter().map(|layer| descriptor(format.layer(), layer)).collect::<Value>(),
        });
        self.push_manifest(repository, reference, format.manifest(), manifest.to_string().into()).await
    }

    /// Pushes an index of images that have been pushed by digest, each with its architecture.
    pub async fn push_index(
        &self,
        repository: &str,
        reference: Option<&str>,
        format: Format,
        images: &[(Pushed, &str)],
    ) -> Result<Pushed, Broken> {
        let manifests: Value = images
            .iter()
            .map(|(image, architecture)| {
                json!({
                    "mediaType": image.media_type,
                    "size": image.size,
                    "digest": image.digest.as_str(),
                    "platform": {"architecture": architecture, "os": "linux"},
                })
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": format.index(), "manifests": manifests});
        self.push_manifest(repository, reference, format.index(), index.to_string().into()).await
    }

    /// Pushes a manifest of this media type under `reference` or, without one, by its digest.
    pub async fn push_manifest(
        &self,
        repository: &str,
        reference: Option<&str>,
        media_type: &'static str,
        manifest: Bytes,
    ) -> Result<Pushed, Broken> {
        let digest = Digest::of(&manifest);
        let size = manifest.len() as u64;
        let path = format!("/v2/{repository}/manifests/{}", reference.unwrap_or(digest.as_str()));
        let headers = [(CONTENT_TYPE.as_str(), media_type)];
        self.expect(StatusCode::CREATED, Method::PUT, &path, &headers, manifest).await?;
        Ok(Pushed { digest, size, media_type })
    }

    /// Uploads a blob, in two pieces, unless the registry says that the repository has it.
    pub async fn push_blob(&self, repository: &str, bytes: &[u8]) -> Result<Digest, Broken> {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{repository}/blobs/{digest}");
        if self.send(Method::HEAD, &path, &[], Bytes::new()).await?.status() == StatusCode::OK {
            return Ok(digest);
        }
        let path = format!("/v2/{repository}/blobs/uploads/");
        let begun = self.expect(StatusCode::ACCEPTED, Method::POST, &path, &[], Bytes::new()).await?;
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        let headers = [(CONTENT_TYPE.as_str(), "application/octet-stream")];
        let first = Bytes::copy_from_slice(first);
        let path = location(&begun, &path)?;
        let begun = self.expect(StatusCode::ACCEPTED, Method::PATCH, &path, &headers, first).await?;
        let path = location(&begun, &path)?;
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}digest={digest}");
        self.expect(StatusCode::CREATED, Method::PUT, &path, &headers, Bytes::copy_from_slice(rest)).await?;
        Ok(digest)
    }

    /// Tries to mount a blob of another repository; the answer is 201 if it could be, else 202 and an upload.
    pub async fn mount_blob(
        &self,
        repository: &str,
        digest: &Digest,
        from: &str,
    ) -> Result<StatusCode, Broken> {
        let path = format!("/v2/{repository}/blobs/uploads/?mount={digest}&from={from}");
        Ok(self.send(Method::POST, &path, &[], Bytes::new()).await?.status())
    }

    /// Pulls all of an image, or of every image of an index, and verifies every digest and size.
    pub async fn pull_whole(&self, repository: &str, reference: &str) -> Result<Pulled, Broken> {
        let manifest = self.pull_manifest(repository, reference, None).await?;
        let mut pulled =
            Pulled { digest: manifest.digest.clone(), manifests: BTreeSet::new(), blobs: BTreeSet::new() };
        self.pull_below(repository, manifest, &mut pulled).await?;
        Ok(pulled)
    }

    fn pull_below<'a>(
        &'a self,
        repository: &'a str,
        manifest: Manifest,
        pulled: &'a mut Pulled,
    ) -> BoxFuture<'a, Result<(), Broken>> {
        async move {
            match &manifest.content {
                Content::Image { .. } => {
                    for descriptor in manifest.references() {
                        pulled.blobs.insert(self.pull_blob(repository, descriptor).await?);
                    }
                }
                Content::Index(manifests) => {
                    for descriptor in manifests {
                        let below =
                            self.pull_manifest(repository, &descriptor.digest, Some(descriptor)).await?;
                        self.pull_below(repository, below, pulled).await?;
                    }
                }
            }
            pulled.manifests.insert(manifest.digest);
            Ok(())
        }
        .boxed()
    }

    async fn pull_manifest(
        &self,
        repository: &str,
        reference: &str,
        descriptor: Option<&Descriptor>,
    ) -> Result<Manifest, Broken> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let accept = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX].join(", ");
        let headers = [(ACCEPT.as_str(), accept.as_str())];
        let answer = self.expect(StatusCode::OK, Method::GET, &path, &headers, Bytes::new()).await?;
        let declared = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let manifest = Manifest::parse(declared, answer.body().clone());
        let manifest = manifest.ok_or_else(|| Broken::Manifest(reference.to_owned()))?;
        let size = manifest.body.len() as u64;
        if let Some(descriptor) = descriptor {
            verify(descriptor, &manifest.digest, size)?;
        } else if Digest::parse(reference).is_some_and(|digest| digest != manifest.digest) {
            let found = format!("{} ({size} bytes)", manifest.digest);
            return Err(Broken::Content { expected: reference.to_owned(), found });
        }
        Ok(manifest)
    }

    async fn pull_blob(&self, repository: &str, descriptor: &Descriptor) -> Result<Digest, Broken> {
        let path = format!("/v2/{repository}/blobs/{}", descriptor.digest);
        let failed = |error: reqwest::Error| connection(&Method::GET, &path, &error);
        let mut response = self.request(&Method::GET, &path, &[], Bytes::new()).await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let body = response.text().await.unwrap_or_default();
            return Err(Broken::Refused { request: format!("GET {path}"), status, body });
        }
        let (mut sum, mut size) = (Sha256::new(), 0);
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            sum.update(&chunk);
            size += chunk.len() as u64;
        }
        let digest = Digest::from_sha256(&sum.finalize());
        verify(descriptor, &digest, size)?;
        Ok(digest)
    }

    async fn request(
        &self,
        method: &Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> reqwest::Result<reqwest::Response> {
        let url =
            if target.starts_with('/') { format!("{}{target}", self.base_url) } else { target.to_owned() };
        let mut request = self.http.request(method.clone(), url).body(body);
        request = match &self.credentials {
            Credentials::None => request,
            Credentials::Basic(token) => request.basic_auth("unused", Some(token)),
            Credentials::Bearer(token) => request.bearer_auth(token),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await
    }

    async fn expect(
        &self,
        wanted: StatusCode,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, Broken> {
        let request = format!("{method} {target}");
        let answer = self.send(method, target, headers, body).await?;
        if answer.status() == wanted {
            return Ok(answer);
        }
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        Err(Broken::Refused { request, status: answer.status(), body })
    }
}

fn verify(descriptor: &Descriptor, digest: &Digest, size: u64) -> Result<(), Broken> {
    if descriptor.digest == digest.as_str() && descriptor.size == size {
        return Ok(());
    }
    let expected = format!("{} ({} bytes)", descriptor.digest, descriptor.size);
    Err(Broken::Content { expected, found: format!("{digest} ({size} bytes)") })
}

fn location(answer: &Answer, asked: &str) -> Result<String, Broken> {
    let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    location.map(str::to_owned).ok_or_else(|| Broken::Refused {
        request: asked.to_owned(),
        status: answer.status(),
        body: "no Location".to_owned(),
    })
}

fn connection(method: &Method, target: &str, error: &reqwest::Error) -> Broken {
    let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    Broken::Connection { request: format!("{method} {target}"), cause }
}

/// A client that trusts the certificate in `ca`, in PEM, and no proxy.
pub(super) fn http_client(ca: Option<&str>) -> reqwest::Result<reqwest::Client> {
    // Fails if one is installed already, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let roots = ca.map(|pem| reqwest::Certificate::from_pem(pem.as_bytes())).transpose()?;
    builder = builder.tls_certs_only(roots);
    builder.build()
}
