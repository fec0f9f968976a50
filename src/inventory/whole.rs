//! Whole Image objects, for those that are about to be deleted: everything else keeps of an Image only what decides.

use std::collections::BTreeSet;
use std::io;

use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::image_path;
use crate::cluster::{ApiError, ApiRequest, Cluster};
use crate::error::Failure;

/// How many are asked for by name at once.
const AT_ONCE: usize = 8;

/// Above this part of all images, the pages of the list are read again instead, which have the others in them, too.
const PART: usize = 4;

/// How many objects a page has: one of them has some 20 KB.
const PAGE: usize = 500;

const LIST: &str = "/apis/image.openshift.io/v1/images";

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(borrow, default)]
    items: Vec<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(rename = "continue", default)]
    next: String,
}

#[derive(Deserialize)]
struct Named {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

/// Reads the Images of these names, of `all` that there are, and hands each over as the server wrote it. One that is gone is
/// left out.
///
/// # Errors
/// One cannot be read. The inner error is what `each` answers.
pub async fn whole_images(
    cluster: &Cluster,
    mut names: BTreeSet<String>,
    all: usize,
    mut each: impl FnMut(&RawValue) -> io::Result<()>,
) -> Result<io::Result<()>, Failure> {
    let failed = |error: &ApiError| cluster.failure(error, "read the images that go");
    let mut next = (names.len().saturating_mul(PART) > all).then(String::new);
    while let Some(token) = next.take().filter(|_| !names.is_empty()) {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &PAGE.to_string());
        if !token.is_empty() {
            query.append_pair("continue", &token);
        }
        let body = match cluster.request(ApiRequest::get(format!("{LIST}?{}", query.finish()))).await {
            Ok(answer) => answer.body,
            // What is left is asked for by name.
            Err(ApiError::Gone { .. }) => break,
            Err(error) => return Err(failed(&error)),
        };
        let page: Page<'_> =
            serde_json::from_slice(&body).map_err(|error| failed(&ApiError::Malformed(error.to_string())))?;
        for item in page.items {
            let Ok(Named { metadata }) = serde_json::from_str(item.get()) else { continue };
            if names.remove(&metadata.name)
                && let Err(error) = each(item)
            {
                return Ok(Err(error));
            }
        }
        next = Some(page.metadata.next).filter(|token| !token.is_empty());
    }
    let answers = futures::stream::iter(names)
        .map(|name| async move { cluster.request(ApiRequest::get(image_path(&name))).await });
    let mut answers = answers.buffer_unordered(AT_ONCE);
    while let Some(answer) = answers.next().await {
        let body = match answer {
            Ok(answer) => answer.body,
            Err(ApiError::NotFound { .. }) => continue,
            Err(error) => return Err(failed(&error)),
        };
        let object: &RawValue =
            serde_json::from_slice(&body).map_err(|error| failed(&ApiError::Malformed(error.to_string())))?;
        if let Err(error) = each(object) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}
