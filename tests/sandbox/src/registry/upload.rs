//! Blob uploads: mounts, and blobs in pieces.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CONTENT_RANGE, LOCATION, RANGE};
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use super::access::Granted;
use super::answer::{Answer, Code, Fault, UPLOAD_UUID, created, empty, method_not_allowed, set};
use super::digest::Digest;
use super::docker::DockerRegistry;
use super::replica::{Call, Replica};
use super::storage::Link;

impl Replica {
    /// Answers a request to `…/blobs/uploads/` or to an upload that was begun there.
    pub(super) async fn upload(
        &self,
        repository: &str,
        id: Option<&str>,
        call: Call<'_>,
        granted: &Granted,
    ) -> Result<Answer, Fault> {
        let reads = matches!(*call.method, Method::GET | Method::HEAD);
        if self.config.readonly && !reads {
            return Ok(method_not_allowed("GET, HEAD"));
        }
        if id.is_none()
            && let Some(answer) = self.mount(repository, &call, granted)?
        {
            return Ok(answer);
        }
        if let Some(docker) = self.docker() {
            return self.upload_to(docker, repository, id, call).await;
        }
        match (id, call.method) {
            (None, &Method::POST) => self.begin(repository, &call),
            (Some(id), &Method::GET | &Method::HEAD) => self.progress(repository, id, &call),
            (Some(id), &Method::PATCH) => self.append(repository, id, &call),
            (Some(id), &Method::PUT) => self.complete(repository, id, &call),
            (Some(id), &Method::DELETE) => {
                self.resume(repository, id, &call)?;
                self.storage().cancel_upload(repository, id)?;
                let mut answer = empty(StatusCode::NO_CONTENT);
                set(&mut answer, UPLOAD_UUID, id);
                Ok(answer)
            }
            _ => Ok(method_not_allowed("DELETE, GET, HEAD, PATCH, POST, PUT")),
        }
    }

    /// Mounts a blob that the replica believes to be in the other repository; anything else begins an upload. A digest
    /// in the first request does not end it, as in distribution 2.8.
    fn mount(&self, repository: &str, call: &Call<'_>, granted: &Granted) -> Result<Option<Answer>, Fault> {
        if call.method != Method::POST {
            return Ok(None);
        }
        let mounted = call.parameter("mount").as_deref().and_then(Digest::parse);
        let Some((digest, from)) = mounted.zip(call.parameter("from")) else { return Ok(None) };
        if granted.unreadable.contains(&from) || self.stat(Link::Layer, &from, &digest).is_none() {
            return Ok(None);
        }
        // Only the link is written: nobody looks whether the data are there.
        self.storage().link(Link::Layer, repository, &digest)?;
        Ok(Some(created(&format!("{}/v2/{repository}/blobs/{digest}", call.base), &digest)))
    }

    /// Has `docker-registry` do it, and remembers the blob once it is complete.
    async fn upload_to(
        &self,
        docker: &DockerRegistry,
        repository: &str,
        id: Option<&str>,
        call: Call<'_>,
    ) -> Result<Answer, Fault> {
        // A mount that was refused here must not succeed there.
        let target = match id {
            None => format!("/v2/{repository}/blobs/uploads/"),
            Some(id) => format!("/v2/{repository}/blobs/uploads/{id}?{}", call.query),
        };
        let digest = call.parameter("digest").as_deref().and_then(Digest::parse);
        let answer = docker.forward(call.base, call.method, &target, call.headers, call.body).await?;
        if answer.status() == StatusCode::CREATED
            && let Some((digest, size)) =
                digest.and_then(|digest| self.storage().blob_size(&digest).map(|size| (digest, size)))
        {
            self.remember(repository, &digest, size);
        }
        Ok(answer)
    }

    fn begin(&self, repository: &str, call: &Call<'_>) -> Result<Answer, Fault> {
        let random = fastrand::u128(..);
        // Version and variant bits of a random UUID.
        let uuid = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{uuid:032x}");
        let id = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        self.storage().begin_upload(repository, &id, &jiff::Timestamp::now().to_string())?;
        let mut answer = session(StatusCode::ACCEPTED, repository, &id, 0, call.base);
        set(&mut answer, UPLOAD_UUID, &id);
        Ok(answer)
    }

    fn progress(&self, repository: &str, id: &str, call: &Call<'_>) -> Result<Answer, Fault> {
        let size = self.storage().upload_size(repository, id).ok_or_else(unknown)?;
        Ok(session(StatusCode::NO_CONTENT, repository, id, size, call.base))
    }

    /// The size of an upload that is to be continued, if the client continues where it left off.
    fn resume(&self, repository: &str, id: &str, call: &Call<'_>) -> Result<u64, Fault> {
        let state = call.parameter("_state").and_then(|state| URL_SAFE_NO_PAD.decode(state).ok());
        let state: Value = state.and_then(|state| serde_json::from_slice(&state).ok()).unwrap_or(Value::Null);
        if state["Name"] != repository || state["UUID"] != id {
            return Err(Fault::with_detail(Code::BlobUploadInvalid, json!({})));
        }
        let size = self.storage().upload_size(repository, id).ok_or_else(unknown)?;
        if state["Offset"] != size {
            return Err(Fault::with_detail(Code::RangeInvalid, Value::Null));
        }
        Ok(size)
    }

    fn append(&self, repository: &str, id: &str, call: &Call<'_>) -> Result<Answer, Fault> {
        let size = self.resume(repository, id, call)?;
        if range_start(call.headers).is_some_and(|start| start != size) {
            return Err(Fault::new(Code::RangeInvalid));
        }
        self.storage().append_upload(repository, id, &call.body)?;
        let size = size + call.body.len() as u64;
        let mut answer = session(StatusCode::ACCEPTED, repository, id, size, call.base);
        set(&mut answer, UPLOAD_UUID, id);
        Ok(answer)
    }

    fn complete(&self, repository: &str, id: &str, call: &Call<'_>) -> Result<Answer, Fault> {
        let size = self.resume(repository, id, call)?;
        let digest = parse_digest(call.parameter("digest").as_deref())?;
        self.storage().append_upload(repository, id, &call.body)?;
        if !self.storage().finish_upload(repository, id, &digest)? {
            return Err(wrong_content(&digest));
        }
        self.remember(repository, &digest, size + call.body.len() as u64);
        Ok(created(&format!("{}/v2/{repository}/blobs/{digest}", call.base), &digest))
    }
}

/// Tells the client where and how to go on. The state in the URL makes any replica able to.
fn session(status: StatusCode, repository: &str, id: &str, size: u64, base: &str) -> Answer {
    let state = json!({"Name": repository, "UUID": id, "Offset": size}).to_string();
    let state = URL_SAFE_NO_PAD.encode(state);
    let mut answer = empty(status);
    set(&mut answer, LOCATION, &format!("{base}/v2/{repository}/blobs/uploads/{id}?_state={state}"));
    set(&mut answer, RANGE, &format!("0-{}", size.saturating_sub(1)));
    answer
}

fn parse_digest(text: Option<&str>) -> Result<Digest, Fault> {
    let text = text.ok_or_else(|| Fault::with_detail(Code::DigestInvalid, "digest missing"))?;
    Digest::parse(text).ok_or_else(|| Fault::with_detail(Code::DigestInvalid, "digest parsing failed"))
}

fn wrong_content(digest: &Digest) -> Fault {
    Fault::with_detail(Code::DigestInvalid, json!({"Digest": digest.as_str(), "Reason": {}}))
}

fn unknown() -> Fault {
    Fault::with_detail(Code::BlobUploadUnknown, json!({}))
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.split_once('-')?.0.parse().ok()
}
