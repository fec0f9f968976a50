//! Pages in Kubernetes' protobuf: the same objects as in JSON, by the field numbers of the published
//! `generated.proto` files (kubernetes/api and openshift/api; numbers never change).

use std::borrow::Cow;

use super::{
    AnyObject, BuildObject, BuildSource, BuildSpec, Container, ContainerStatus, Controller, CronJobObject,
    CronJobSpec, DecodeError, DockerMetadata, From, ImageObject, ImageVolume, ImportPolicy, ItemObject,
    JobTemplate, KEEP_MARK, Labels, LayerObject, LimitObject, LimitRangeObject, LimitRangeSpec,
    MANAGED_ANNOTATION, ManifestObject, Marked, MaxObject, Metadata, NamespaceObject, Object, OwnerReference,
    PageMetadata, PodObject, PodSpec, PodStatus, PodTemplate, QuantityText, Raw, RevisionObject, SpecTag,
    Strategy, StreamObject, StreamSpec, StreamStatus, TagCondition, TagObject, TemplateObject, TemplateSpec,
    Text, Time, Volume, WithFrom,
};
use crate::model::Kind;
use crate::wire::{Field, Fields, Message, Value, WireError, inner};

/// Reads a list, and hands every object to `take` as it comes.
pub(super) fn list<'a, T: Object<'a>>(
    list: &'a [u8],
    kind: Option<&Kind>,
    mut take: impl FnMut(T),
) -> Result<PageMetadata, DecodeError> {
    let mut metadata = PageMetadata::default();
    let mut is_list = false;
    let mut position = 0;
    // Every list of Kubernetes has its metadata in field 1 and its items in field 2.
    for of_list in Fields::new(list) {
        match of_list? {
            (1, value) => {
                is_list = true;
                metadata.put(value)?;
            }
            (2, value) => {
                let mut object = T::default();
                for of_object in Fields::new(value.bytes()?) {
                    let (number, value) = of_object?;
                    object.of_field(kind, number, value)?;
                }
                if object.is_nameless() {
                    return Err(DecodeError::NoName(position));
                }
                position += 1;
                take(object);
            }
            _ => {}
        }
    }
    // The metadata is always sent, even if it is empty: an answer without is no list, and not one without items.
    if is_list { Ok(metadata) } else { Err(DecodeError::NoItems) }
}

/// The metadata of a list of which only the beginning is there; `None` if it is not there yet.
pub(super) fn metadata(beginning: &[u8]) -> Option<PageMetadata> {
    match Fields::new(beginning).next()?.ok()? {
        (1, value) => {
            let mut metadata = PageMetadata::default();
            metadata.put(value).ok()?;
            Some(metadata)
        }
        _ => None,
    }
}

impl Field<'_> for PageMetadata {
    fn put(&mut self, value: Value<'_>) -> Result<(), WireError> {
        for field in Fields::new(value.bytes()?) {
            match field? {
                (2, version) => version.text()?.clone_into(&mut self.resource_version),
                (3, next) => next.text()?.clone_into(&mut self.next),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Says which field number becomes which field.
macro_rules! messages {
    ($($message:ident { $($number:literal => $($field:ident).+),* $(,)? })*) => {
        $(
            impl<'a> Message<'a> for $message<'a> {
                fn field(&mut self, number: u32, value: Value<'a>) -> Result<(), WireError> {
                    match number {
                        $($number => self.$($field).+.put(value),)*
                        _ => Ok(()),
                    }
                }
            }

            impl<'a> Field<'a> for $message<'a> {
                fn put(&mut self, value: Value<'a>) -> Result<(), WireError> {
                    self.merge(value.bytes()?)
                }
            }
        )*
    };
}

messages! {
    OwnerReference { 1 => kind, 3 => name, 6 => controller }
    ImageObject {
        1 => metadata, 2 => docker_image_reference, 3 => docker_image_metadata, 6 => docker_image_layers,
        9 => docker_image_manifest_media_type, 11 => docker_image_manifests,
    }
    LayerObject { 1 => name, 2 => size }
    ManifestObject { 1 => digest, 3 => manifest_size }
    StreamObject { 1 => metadata, 2 => spec, 3 => status }
    StreamSpec { 2 => tags }
    SpecTag { 1 => name, 3 => from, 4 => reference, 5 => generation, 6 => import_policy }
    StreamStatus { 1 => docker_image_repository, 2 => tags }
    TagObject { 1 => tag, 2 => items, 3 => conditions }
    ItemObject { 1 => created, 3 => image, 4 => generation }
    TagCondition { 1 => kind, 6 => generation }
    LimitRangeObject { 1 => metadata, 2 => spec }
    LimitRangeSpec { 1 => limits }
    LimitObject { 1 => kind, 2 => max }
    NamespaceObject { 1 => metadata }
    PodObject { 1 => metadata, 2 => spec, 3 => status }
    PodStatus {
        1 => phase, 8 => container_statuses, 10 => init_container_statuses, 13 => ephemeral_container_statuses,
    }
    ContainerStatus { 1 => name, 7 => image_id }
    PodTemplate { 2 => spec }
    Container { 1 => name, 2 => image }
    ImageVolume { 1 => reference }
    CronJobObject { 1 => metadata, 2 => spec }
    CronJobSpec { 5 => job_template }
    RevisionObject { 1 => metadata, 2 => data }
    Strategy { 2 => docker, 3 => source, 4 => custom }
    BuildSource { 5 => images }
    WithFrom { 1 => from }
    From { 1 => kind, 2 => namespace, 3 => name }
}

impl<'a, L: Default + Field<'a>> Field<'a> for Metadata<'a, L> {
    fn put(&mut self, value: Value<'a>) -> Result<(), WireError> {
        for field in Fields::new(value.bytes()?) {
            match field? {
                (1, value) => self.name.put(value),
                (3, value) => self.namespace.put(value),
                (5, value) => self.uid.put(value),
                (6, value) => self.resource_version.put(value),
                (8, value) => self.creation_timestamp.put(value),
                (11, value) => self.labels.put(value),
                (12, value) => self.annotations.put(value),
                (13, value) => self.owner_references.put(value),
                _ => Ok(()),
            }?;
        }
        Ok(())
    }
}

/// One of the owners.
impl<'a> Field<'a> for Controller<'a> {
    fn put(&mut self, value: Value<'a>) -> Result<(), WireError> {
        let mut owner = OwnerReference::default();
        owner.merge(value.bytes()?)?;
        if owner.controller {
            *self = owner.named();
        }
        Ok(())
    }
}

impl Field<'_> for ImportPolicy {
    fn put(&mut self, value: Value<'_>) -> Result<(), WireError> {
        inner(value, 2, |scheduled| self.scheduled.put(scheduled))
    }
}

impl<'a> Message<'a> for PodSpec<'a> {
    fn field(&mut self, number: u32, value: Value<'a>) -> Result<(), WireError> {
        match number {
            1 => self.volumes.put(value),
            2 => self.containers.put(value),
            20 => self.init_containers.put(value),
            // What containers of all kinds have stands in a message of its own here.
            34 => inner(value, 1, |common| self.ephemeral_containers.put(common)),
            _ => Ok(()),
        }
    }
}

impl<'a> Field<'a> for PodSpec<'a> {
    fn put(&mut self, value: Value<'a>) -> Result<(), WireError> {
        self.merge(value.bytes()?)
    }
}

impl<'a> Message<'a> for Volume<'a> {
    fn field(&mut self, number: u32, value: Value<'a>) -> Result<(), WireError> {
        match number {
            1 => self.name.put(value),
            2 => inner(value, 30, |image| self.image.put(image)),
            _ => Ok(()),
        }
    }
}

impl<'a> Field<'a> for JobTemplate<'a> {
    fn put(&mut self, value: Value<'a>) -> Result<(), WireError> {
        inner(value, 2, |spec| template(&mut self.spec, Some(&Kind::Job), spec))
    }
}

/// Takes the pod template out of the spec of an object of this kind.
fn template<'a>(spec: &mut TemplateSpec<'a>, kind: Option<&Kind>, value: Value<'a>) -> Result<(), WireError> {
    let number = match kind {
        Some(Kind::DaemonSet) => 2,
        Some(Kind::Job) => 6,
        Some(Kind::DeploymentConfig) => 8,
        // ReplicationController, Deployment, ReplicaSet and StatefulSet.
        _ => 3,
    };
    inner(value, number, |of_template| spec.template.put(of_template))
}

impl<'a> Object<'a> for TemplateObject<'a> {
    fn of_field(&mut self, kind: Option<&Kind>, number: u32, value: Value<'a>) -> Result<(), WireError> {
        match number {
            1 => self.metadata.put(value),
            2 => template(&mut self.spec, kind, value),
            _ => Ok(()),
        }
    }
}

impl<'a> Object<'a> for BuildObject<'a> {
    fn of_field(&mut self, kind: Option<&Kind>, number: u32, value: Value<'a>) -> Result<(), WireError> {
        let BuildSpec { strategy, source } = &mut self.spec;
        // What builds and their configs share stands in a message of its own here.
        let common = if kind == Some(&Kind::BuildConfig) { 3 } else { 1 };
        match number {
            1 => self.metadata.put(value),
            2 => inner(value, common, |common| {
                inner(common, 2, |found| source.put(found))?;
                inner(common, 4, |found| strategy.put(found))
            }),
            _ => Ok(()),
        }
    }
}

impl<'a> Object<'a> for AnyObject {
    fn of_field(&mut self, _: Option<&Kind>, _: u32, _: Value<'a>) -> Result<(), WireError> {
        Err(WireError("nobody knows the fields of these objects"))
    }
}

macro_rules! objects {
    ($($object:ident),*) => {
        $(impl<'a> Object<'a> for $object<'a> {
            fn of_field(&mut self, _: Option<&Kind>, number: u32, value: Value<'a>) -> Result<(), WireError> {
                self.field(number, value)
            }
        })*
    };
}

objects!(
    ImageObject,
    StreamObject,
    LimitRangeObject,
    NamespaceObject,
    PodObject,
    CronJobObject,
    RevisionObject
);

/// A map of strings: an entry has its key in field 1, its value in field 2.
fn entry(value: Value<'_>) -> Result<(&str, Option<Value<'_>>), WireError> {
    let (mut key, mut found) = ("", None);
    for field in Fields::new(value.bytes()?) {
        match field? {
            (1, name) => key = name.text()?,
            (2, value) => found = Some(value),
            _ => {}
        }
    }
    Ok((key, found))
}

impl<'a> Field<'a> for Labels<'a> {
    fn put(&mut self, value: Value<'a>) -> Result<(), WireError> {
        let (key, value) = entry(value)?;
        let value = value.map_or(Ok(""), Value::text)?;
        self.0.push((Text(Cow::Borrowed(key)), Text(Cow::Borrowed(value))));
        Ok(())
    }
}

impl Field<'_> for Marked {
    fn put(&mut self, value: Value<'_>) -> Result<(), WireError> {
        let (key, value) = entry(value)?;
        let is_true = || value.map_or(Ok(false), |value| Ok(value.text()? == "true"));
        match key {
            KEEP_MARK => self.keep = is_true()?,
            MANAGED_ANNOTATION => self.managed = is_true()?,
            _ => {}
        }
        Ok(())
    }
}

/// A map of quantities, each a message with its text in field 1.
impl<'a> Field<'a> for MaxObject<'a> {
    fn put(&mut self, value: Value<'a>) -> Result<(), WireError> {
        if let ("storage", Some(quantity)) = entry(value)? {
            inner(quantity, 1, |text| {
                self.storage = Some(QuantityText::Text(Cow::Borrowed(text.text()?)));
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// `runtime.RawExtension`: JSON in field 1; empty stands for `null`.
impl<'a> Field<'a> for Raw<'a> {
    fn put(&mut self, value: Value<'a>) -> Result<(), WireError> {
        inner(value, 1, |raw| {
            self.0 = Some(raw.text()?).filter(|text| !text.is_empty());
            Ok(())
        })
    }
}

/// Likewise.
impl<'a> Field<'a> for DockerMetadata<'a> {
    fn put(&mut self, value: Value<'a>) -> Result<(), WireError> {
        let mut raw = Raw::default();
        raw.put(value)?;
        if let Some(text) = raw.0 {
            *self = serde_json::from_str(text).unwrap_or_else(|error| Self(Err(error.to_string())));
        }
        Ok(())
    }
}

impl<'a> Field<'a> for Text<'a> {
    fn put(&mut self, value: Value<'a>) -> Result<(), WireError> {
        *self = Self(Cow::Borrowed(value.text()?));
        Ok(())
    }
}

/// `metav1.Time`: seconds in field 1; an empty message is Go's zero time. Kubernetes sends no fractions.
impl Field<'_> for Time {
    fn put(&mut self, value: Value<'_>) -> Result<(), WireError> {
        let mut nanos = 0;
        for field in Fields::new(value.bytes()?) {
            match field? {
                (1, seconds) => self.0 = seconds.number()?.cast_signed(),
                (2, fraction) => nanos = fraction.number()?,
                _ => {}
            }
        }
        if nanos > 0 {
            self.0 = self.0.saturating_add(1);
        }
        Ok(())
    }
}
