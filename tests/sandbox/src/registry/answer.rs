//! Answers, byte for byte as the integrated registry words them.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use super::digest::Digest;

/// A whole answer: everything is in memory, sandbox images are small.
pub(super) type Answer = Response<Bytes>;

pub(super) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(super) const SIGNATURES: HeaderName = HeaderName::from_static("x-registry-supports-signatures");
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(super) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// The error codes of the distribution API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameUnknown,
    PaginationNumberInvalid,
    RangeInvalid,
    Unauthorized,
    Unknown,
    Unsupported,
}

impl Code {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BlobUnknown => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry"),
            Self::BlobUploadInvalid => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_INVALID", "blob upload invalid"),
            Self::BlobUploadUnknown => {
                (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
            }
            Self::DigestInvalid => {
                let message = "provided digest did not match uploaded content";
                (StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
            }
            Self::ManifestBlobUnknown => {
                (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
            }
            Self::ManifestInvalid => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID", "manifest invalid"),
            Self::ManifestUnknown => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown"),
            Self::NameUnknown => {
                (StatusCode::NOT_FOUND, "NAME_UNKNOWN", "repository name not known to registry")
            }
            Self::PaginationNumberInvalid => {
                let message = "invalid number of results requested";
                (StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID", message)
            }
            Self::RangeInvalid => {
                (StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", "invalid content range")
            }
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required"),
            Self::Unknown => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "unknown error"),
            Self::Unsupported => {
                (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "The operation is unsupported.")
            }
        }
    }
}

/// One entry of an error answer.
#[derive(Debug)]
pub(super) struct Fault {
    code: Code,
    message: Option<&'static str>,
    detail: Option<Value>,
}

impl Fault {
    pub(super) fn new(code: Code) -> Self {
        Self { code, message: None, detail: None }
    }

    pub(super) fn with_detail(code: Code, detail: impl Into<Value>) -> Self {
        Self { code, message: None, detail: Some(detail.into()) }
    }

    pub(super) fn with_message(code: Code, message: &'static str) -> Self {
        Self { code, message: Some(message), detail: None }
    }

    /// What the file-system driver says about a file that should be there.
    pub(super) fn path_not_found(path: &str) -> Self {
        Self::with_detail(Code::Unknown, json!({"Path": path, "DriverName": "filesystem"}))
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::with_detail(Code::Unknown, error.to_string())
    }
}

impl From<Fault> for Answer {
    fn from(fault: Fault) -> Self {
        errors(&[fault])
    }
}

/// An error answer; its status is that of the first entry.
pub(super) fn errors(faults: &[Fault]) -> Answer {
    let status = faults.first().map_or(StatusCode::INTERNAL_SERVER_ERROR, |fault| fault.code.parts().0);
    let entries: Vec<Value> = faults
        .iter()
        .map(|fault| {
            let (_, name, message) = fault.code.parts();
            let mut entry = json!({"code": name, "message": fault.message.unwrap_or(message)});
            if let Some(detail) = &fault.detail {
                entry["detail"] = detail.clone();
            }
            entry
        })
        .collect();
    json_line(status, &json!({"errors": entries}))
}

/// JSON with the line feed that Go's encoder ends it with.
pub(super) fn json_line(status: StatusCode, body: &Value) -> Answer {
    let mut answer = with_body(status, format!("{body}\n"));
    set(&mut answer, CONTENT_TYPE, "application/json");
    answer
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Answer {
    with_body(status, Bytes::new())
}

/// An answer with a body.
pub(super) fn with_body(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Answer::new(body.into());
    *answer.status_mut() = status;
    answer
}

/// The answer to a ping.
pub(super) fn pong() -> Answer {
    let mut answer = empty(StatusCode::OK);
    set(&mut answer, CACHE_CONTROL, "no-cache");
    answer
}

/// The router's answer to a path that it does not know.
pub(super) fn page_not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// The answer to a method that the resource does not have, which in read-only mode are all that change something.
pub(super) fn method_not_allowed(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed\n");
    set(&mut answer, ALLOW, allowed);
    answer
}

/// The answer to `/v2`.
pub(super) fn moved_to_v2() -> Answer {
    let body = "<a href=\"/v2/\">Moved Permanently</a>.\n\n";
    let mut answer = with_body(StatusCode::MOVED_PERMANENTLY, body);
    set(&mut answer, CONTENT_TYPE, "text/html; charset=utf-8");
    set(&mut answer, LOCATION, "/v2/");
    answer
}

/// 401 with a challenge. `detail` is the wanted access, or null where none in particular was wanted.
pub(super) fn unauthorized(challenge: &str, detail: Value) -> Answer {
    let mut answer = Answer::from(Fault::with_detail(Code::Unauthorized, detail));
    set(&mut answer, WWW_AUTHENTICATE, challenge);
    answer
}

/// 201 for a blob or manifest that is in the repository now.
pub(super) fn created(location: &str, digest: &Digest) -> Answer {
    let mut answer = empty(StatusCode::CREATED);
    set(&mut answer, LOCATION, location);
    set(&mut answer, CONTENT_DIGEST, digest.as_str());
    answer
}

/// Sets a header. Values come from validated names and digests; one that is no header value is left out.
pub(super) fn set(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// Gives the answer its length and, for HEAD, takes the body away.
pub(super) fn finish(mut answer: Answer, method: &Method) -> Answer {
    if answer.status() != StatusCode::NO_CONTENT && !answer.headers().contains_key(CONTENT_LENGTH) {
        let length = answer.body().len();
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if method == Method::HEAD {
        *answer.body_mut() = Bytes::new();
    }
    answer
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    let mut answer = with_body(status, body);
    set(&mut answer, CONTENT_TYPE, "text/plain; charset=utf-8");
    set(&mut answer, HeaderName::from_static("x-content-type-options"), "nosniff");
    answer
}
