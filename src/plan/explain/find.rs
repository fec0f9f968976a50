//! From what an administrator types to the images that are meant.

use std::collections::BTreeSet;

use crate::model::{Id, Inventory};

/// What a target means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// These images, each once; of a stream or tag in the order of its items.
    Images(Vec<Id>, Option<Within>),
    /// The beginning of a digest that several images have.
    Ambiguous(Vec<Id>),
    /// Nothing.
    Unknown {
        /// What there is not.
        cause: String,
        /// Targets that could have been meant, the nearest first.
        nearest: Vec<String>,
    },
}

/// Where the images of a target stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Within {
    /// The position of the stream in the inventory.
    pub stream: usize,
    /// The position of the tag in the stream, if the target names one.
    pub tag: Option<usize>,
}

/// How many targets are proposed.
const NEAREST: usize = 5;

/// Looks a target up: a digest or the beginning of one, `namespace/stream`, `namespace/stream:tag`,
/// `namespace/stream@digest`, or a pull spec of any host. Without a namespace, the given one counts.
#[must_use]
pub fn find(inventory: &Inventory, target: &str, namespace: Option<&str>) -> Found {
    // As pods show it in `imageID`: `docker-pullable://host/namespace/name@digest`.
    let target = target.trim();
    let target = target.split_once("://").map_or(target, |(_runtime, rest)| rest);
    let (path, digest) = target.split_once('@').unwrap_or((target, ""));
    if path.is_empty() && !digest.is_empty() {
        return by_digest(inventory, digest);
    }
    if digest.is_empty() && !path.contains('/') && is_beginning_of_digest(path) {
        match by_digest(inventory, path) {
            // A stream may have a name that could be hex digits.
            Found::Unknown { .. } if namespace.is_some() && !path.contains(':') => {}
            found => return found,
        }
    }
    let limited_to = namespace;
    let (before, last) = path.rsplit_once('/').map_or((None, path), |(before, last)| (Some(before), last));
    let (name, tag) = last.split_once(':').map_or((last, None), |(name, tag)| (name, Some(tag)));
    let of_host = |text: &str| text.contains(['.', ':']) || text == "localhost";
    let namespace = match before.map(|before| before.split_once('/').unwrap_or(("", before))) {
        Some(("", first)) if of_host(first) => {
            return Found::Unknown {
                cause: "a pull spec of the integrated registry is HOST/NAMESPACE/STREAM[:TAG][@DIGEST]"
                    .into(),
                nearest: nearest_streams(inventory, "", name),
            };
        }
        Some(("", namespace)) => namespace,
        Some((host, namespace)) if of_host(host) && !namespace.contains('/') => namespace,
        Some(_) => {
            return Found::Unknown {
                cause: "an image stream is NAMESPACE/STREAM, with a registry's host in front or without"
                    .into(),
                nearest: nearest_streams(inventory, "", name),
            };
        }
        None => match namespace {
            Some(namespace) => namespace,
            None => {
                return Found::Unknown {
                    cause: "it is no digest, and names no namespace".into(),
                    nearest: nearest_streams(inventory, "", name),
                };
            }
        },
    };
    let stream =
        inventory.streams.iter().position(|stream| *stream.namespace == *namespace && *stream.name == *name);
    let Some(stream) = stream else {
        return Found::Unknown {
            // Of the other namespaces no stream is read then.
            cause: match limited_to.filter(|only| *only != namespace) {
                Some(only) => {
                    format!("namespace {namespace} is not {only}, which --namespace limits a prune to")
                }
                None => format!("there is no image stream {namespace}/{name}"),
            },
            nearest: nearest_streams(inventory, namespace, name),
        };
    };
    if digest.is_empty() { by_tag(inventory, stream, tag) } else { in_stream(inventory, stream, digest) }
}

/// Whether it can be nothing else: hex digits, with an algorithm in front or without.
fn is_beginning_of_digest(text: &str) -> bool {
    let (algorithm, value) = text.split_once(':').unwrap_or(("", text));
    let is_algorithm = |name: &str| name.starts_with("sha") || name.starts_with("tarsum") || name == "md5";
    (algorithm.is_empty() || is_algorithm(algorithm))
        && (!value.is_empty() || !algorithm.is_empty())
        && value.bytes().all(|c| c.is_ascii_hexdigit())
}

fn by_digest(inventory: &Inventory, prefix: &str) -> Found {
    let images = &inventory.images;
    let mut candidates: BTreeSet<Id> = images.all().iter().map(|image| image.name).collect();
    candidates.extend((0..images.all().len()).flat_map(|position| images.manifests(position)));
    candidates.extend(
        inventory
            .streams
            .iter()
            .flat_map(|stream| &stream.tags)
            .flat_map(|tag| &tag.items)
            .map(|item| item.image),
    );
    match matching(inventory, candidates, prefix).as_slice() {
        [] => of_blob(inventory, prefix),
        [image] => Found::Images(vec![*image], None),
        several => Found::Ambiguous(several.to_vec()),
    }
}

/// The names that begin so, or are exactly this one.
fn matching(inventory: &Inventory, candidates: BTreeSet<Id>, prefix: &str) -> Vec<Id> {
    let prefix = prefix.to_ascii_lowercase();
    let mut found = Vec::new();
    for id in candidates {
        let text = inventory.names.text(id);
        if *text == prefix {
            return vec![id];
        }
        let value =
            if prefix.contains(':') { &*text } else { text.split_once(':').map_or(&*text, |(_, hex)| hex) };
        if value.starts_with(&prefix) {
            found.push((text.into_owned(), id));
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(_, id)| id).collect()
}

/// A digest that is no image's may be a blob's: then the images that name it are what was meant.
fn of_blob(inventory: &Inventory, prefix: &str) -> Found {
    let images = &inventory.images;
    let layers = (0..images.all().len()).flat_map(|position| images.layers(position)).copied();
    let configs = images.all().iter().filter_map(|image| image.config);
    let blobs = matching(inventory, layers.chain(configs).collect(), prefix);
    let Some(blob) = blobs.first() else {
        return Found::Unknown { cause: "no image has a digest that begins so".into(), nearest: Vec::new() };
    };
    let of = |position: &usize| {
        images.layers(*position).contains(blob) || images.all()[*position].config == Some(*blob)
    };
    let positions: Vec<usize> = (0..images.all().len()).filter(of).collect();
    let name = |position: &usize| inventory.names.text(images.all()[*position].name).into_owned();
    Found::Unknown {
        cause: format!("it is no image but a layer or config of {} image(s)", positions.len()),
        nearest: positions.iter().take(NEAREST).map(name).collect(),
    }
}

fn by_tag(inventory: &Inventory, stream: usize, tag: Option<&str>) -> Found {
    let of_stream = &inventory.streams[stream];
    let Some(tag) = tag else {
        let items = of_stream.tags.iter().flat_map(|tag| &tag.items).map(|item| item.image);
        return Found::Images(each_once(items), Some(Within { stream, tag: None }));
    };
    if let Some(position) =
        of_stream.tags.iter().position(|candidate| inventory.names.words.text(candidate.name) == tag)
    {
        let items = of_stream.tags[position].items.iter().map(|item| item.image);
        return Found::Images(each_once(items), Some(Within { stream, tag: Some(position) }));
    }
    let repository = of_stream.repository();
    let tags = of_stream.tags.iter().map(|candidate| inventory.names.words.text(candidate.name));
    let near = nearest(tags.map(|candidate| (candidate, candidate)), tag);
    Found::Unknown {
        cause: format!("image stream {repository} has no tag {tag}"),
        nearest: near.into_iter().map(|tag| format!("{repository}:{tag}")).collect(),
    }
}

fn in_stream(inventory: &Inventory, stream: usize, prefix: &str) -> Found {
    let of_stream = &inventory.streams[stream];
    let items = of_stream.tags.iter().flat_map(|tag| &tag.items).map(|item| item.image);
    let held = inventory.images.with_submanifests(items);
    match matching(inventory, held, prefix).as_slice() {
        [image] => Found::Images(vec![*image], Some(Within { stream, tag: None })),
        [] => {
            let cause =
                format!("no item of image stream {} has a digest that begins so", of_stream.repository());
            match by_digest(inventory, prefix) {
                Found::Images(images, _) => Found::Unknown {
                    cause,
                    nearest: images.iter().map(|image| inventory.names.text(*image).into_owned()).collect(),
                },
                Found::Ambiguous(_) | Found::Unknown { .. } => Found::Unknown { cause, nearest: Vec::new() },
            }
        }
        several => Found::Ambiguous(several.to_vec()),
    }
}

fn each_once(images: impl Iterator<Item = Id>) -> Vec<Id> {
    let mut seen = BTreeSet::new();
    images.filter(|image| seen.insert(*image)).collect()
}

/// Streams whose names are near, those of the namespace first; without a namespace, by their name alone.
fn nearest_streams(inventory: &Inventory, namespace: &str, name: &str) -> Vec<String> {
    let streams: Vec<(String, &str)> =
        inventory.streams.iter().map(|stream| (stream.repository(), &*stream.name)).collect();
    let mut found = Vec::new();
    if !namespace.is_empty() {
        let wanted = format!("{namespace}/{name}");
        found = nearest(streams.iter().map(|(repository, _)| (&**repository, &**repository)), &wanted);
    }
    // The right name in another namespace, too.
    let same_name = if namespace.is_empty() {
        nearest(streams.iter().map(|(repository, name)| (&**repository, *name)), name)
    } else {
        streams.iter().filter(|(_, own)| *own == name).map(|(repository, _)| repository.clone()).collect()
    };
    for repository in same_name {
        if !found.contains(&repository) {
            found.push(repository);
        }
    }
    found.truncate(NEAREST);
    found
}

/// The values whose key is at most a third off, by edit distance, the nearest first.
fn nearest<'n>(candidates: impl Iterator<Item = (&'n str, &'n str)>, wanted: &str) -> Vec<String> {
    let limit = (wanted.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = candidates
        // Names of a quite different length are not near, and need no look at all their letters.
        .filter(|(_, key)| key.len().abs_diff(wanted.len()) <= limit * 4)
        .map(|(value, key)| (strsim::damerau_levenshtein(key, wanted), value))
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    near.sort_unstable();
    near.into_iter().take(NEAREST).map(|(_, value)| value.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Image, Import, Item, Stream, Tag, Word};

    fn digest(beginning: &str) -> String {
        format!("sha256:{beginning}{}", "0".repeat(64 - beginning.len()))
    }

    fn inventory() -> (Inventory, [Id; 3]) {
        let mut inventory = Inventory::default();
        let [one, two, lost] = ["abc1", "abc2", "ff"].map(|name| inventory.names.intern(&digest(name)));
        let layer = inventory.names.intern(&digest("1a"));
        for image in [one, two] {
            inventory.images.push(Image::named(image), &[layer], &[]);
        }
        let [latest, v1] = ["latest", "v1"].map(|tag| inventory.names.words.intern(tag));
        let tag = |name: Word, images: &[Id]| Tag {
            name,
            items: images.iter().map(|image| Item { created: 0, image: *image }).collect(),
            import: Import::Never,
        };
        let stream = |namespace: &str, name: &str, tags| Stream {
            namespace: namespace.into(),
            name: name.into(),
            resource_version: "1".into(),
            created: 0,
            protected: false,
            selected: true,
            tags,
        };
        inventory.streams = vec![
            stream("qa", "web", vec![tag(latest, &[two])]),
            stream("shop", "beef", vec![]),
            stream("shop", "web", vec![tag(latest, &[one, lost]), tag(v1, &[one])]),
        ];
        (inventory, [one, two, lost])
    }

    #[test]
    fn every_form_of_a_target_is_understood() {
        let (inventory, [one, two, lost]) = inventory();
        let full = digest("abc1");
        let web = |tag| Some(Within { stream: 2, tag });
        for (target, images, within) in [
            (full.as_str(), vec![one], None),
            ("sha256:abc1", vec![one], None),
            ("ABC2", vec![two], None),
            ("ff", vec![lost], None),
            ("@sha256:abc1", vec![one], None),
            ("shop/web", vec![one, lost], web(None)),
            ("shop/web:v1", vec![one], web(Some(1))),
            ("shop/web@sha256:ff", vec![lost], web(None)),
            ("shop/web:v1@ff", vec![lost], web(None)),
            ("registry.example.com/shop/web:latest", vec![one, lost], web(Some(0))),
            ("localhost:5000/shop/web", vec![one, lost], web(None)),
            ("docker-pullable://172.30.1.1:5000/shop/web@sha256:abc1", vec![one], web(None)),
            ("shop/beef", vec![], Some(Within { stream: 1, tag: None })),
        ] {
            assert_eq!(find(&inventory, target, None), Found::Images(images, within), "{target}");
        }
        assert_eq!(find(&inventory, "web:v1", Some("shop")), Found::Images(vec![one], web(Some(1))));
        assert_eq!(
            find(&inventory, "beef", Some("shop")),
            Found::Images(vec![], Some(Within { stream: 1, tag: None }))
        );
        assert_eq!(find(&inventory, "abc", None), Found::Ambiguous(vec![one, two]));
    }

    #[test]
    fn what_the_namespace_leaves_out_is_told() {
        let Found::Unknown { cause, .. } = find(&inventory().0, "dev/web", Some("shop")) else { panic!() };
        assert_eq!(cause, "namespace dev is not shop, which --namespace limits a prune to");
    }

    #[test]
    fn what_is_not_there_gets_its_nearest() {
        let (inventory, _) = inventory();
        let (one, two) = (digest("abc1"), digest("abc2"));
        for (target, cause, nearest) in [
            ("shop/wbe", "no image stream shop/wbe", vec!["shop/web"]),
            ("prod/web", "no image stream prod/web", vec!["qa/web", "shop/web"]),
            ("web", "names no namespace", vec!["qa/web", "shop/web"]),
            ("shop/web:lates", "has no tag lates", vec!["shop/web:latest"]),
            ("shop/web@abc2", "no item of image stream shop/web", vec![two.as_str()]),
            ("sha256:1a", "a layer or config of 2 image(s)", vec![one.as_str(), two.as_str()]),
            ("0123", "no image has a digest", vec![]),
            ("quay.io/web", "HOST/NAMESPACE/STREAM", vec!["qa/web", "shop/web"]),
            ("a/b/web", "NAMESPACE/STREAM", vec!["qa/web", "shop/web"]),
            ("", "names no namespace", vec![]),
            ("@", "names no namespace", vec![]),
            ("://", "names no namespace", vec![]),
            ("shop/", "no image stream shop/", vec![]),
        ] {
            let Found::Unknown { cause: told, nearest: near } = find(&inventory, target, None) else {
                panic!("{target}")
            };
            assert!(told.contains(cause), "{target}: {told}");
            assert_eq!(near, nearest, "{target}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_target(text in ".{0,20}", parts in "[a-c/:@.]{0,12}") {
            let (inventory, _) = inventory();
            let _ = find(&inventory, &text, None);
            let _ = find(&inventory, &parts, Some("shop"));
        }
    }
}
