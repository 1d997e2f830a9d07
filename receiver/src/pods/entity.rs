//! Whom signals are about: entities, and the OTLP Resource of each.

use std::time::Instant;

pub use jitterscope_semconv::value::EntityKind;
use jitterscope_semconv::{Attribute, AttributeRef, SCHEMA_URL, attribute, entity};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, EntityRef, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::names::PodName;
use super::origin::Netns;

/// Whom signals are about.
#[derive(Clone, PartialEq, Debug)]
pub struct Entity {
    /// What it is.
    pub kind: EntityKind,
    /// Stays the same while the entity lives, even when names are learnt later, and is never used for another one.
    pub key: u64,
    /// Key of the pod that this entity is or belongs to.
    pub pod: Option<u64>,
    /// For people: `host`, `shop/cart-7d9f`, `shop/cart-7d9f/app`, `pod/<uid>`, `container/3f2a1b…`, `netns/blue`,
    /// `netns/4026532281`.
    pub name: String,
    /// Attributes and entity references.
    pub resource: Resource,
    /// Until then the runtime may still tell the entity's names. Cumulative points can wait for that without loss, so
    /// that a series does not begin under another resource than it goes on with.
    pub pending_until: Option<Instant>,
}

/// How many digits of a container id people see, as in `docker ps`.
const SHORT_ID: usize = 12;

/// A container as the resource of a pod or by itself shows it.
pub(super) struct ContainerFacts<'a> {
    pub(super) id: &'a str,
    pub(super) name: Option<&'a str>,
    pub(super) runtime: Option<&'a str>,
}

impl ContainerFacts<'_> {
    fn short_id(&self) -> &str {
        self.id.get(..SHORT_ID).unwrap_or(self.id)
    }
}

/// Resource under construction.
#[derive(Default)]
pub(super) struct Builder(Resource);

impl Builder {
    pub(super) fn text(&mut self, attribute: &Attribute, value: Option<&str>) -> &mut Self {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.value(attribute, Value::StringValue(value.to_owned()));
        }
        self
    }

    /// A label of the pod, be its value empty.
    fn label(&mut self, name: &str, value: &str) {
        let key = format!("{}.{name}", attribute::K8S_POD_LABEL.key);
        self.keyed(key, Value::StringValue(value.to_owned()));
    }

    fn int(&mut self, attribute: &Attribute, value: i64) -> &mut Self {
        self.value(attribute, Value::IntValue(value));
        self
    }

    fn value(&mut self, attribute: &Attribute, value: Value) {
        self.keyed(attribute.key.to_owned(), value);
    }

    fn keyed(&mut self, key: String, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.attributes.push(KeyValue { key, value, ..KeyValue::default() });
    }

    /// References an entity by those of its attributes that the resource has; without all identifying ones there is none.
    pub(super) fn entity(&mut self, entity: &jitterscope_semconv::Entity) -> &mut Self {
        let (id_keys, description_keys) =
            (self.present(entity.identifying), self.present(entity.descriptive));
        if id_keys.len() == entity.identifying.len() {
            let (schema_url, r#type) = (SCHEMA_URL.to_owned(), entity.name.to_owned());
            self.0.entity_refs.push(EntityRef { schema_url, r#type, id_keys, description_keys });
        }
        self
    }

    fn present(&self, attributes: &[AttributeRef]) -> Vec<String> {
        let keys = |reference: &AttributeRef| {
            let attribute = reference.attribute;
            self.0.attributes.iter().map(|one| &one.key).filter(|key| attribute.is_key(key)).cloned()
        };
        attributes.iter().flat_map(keys).collect()
    }

    pub(super) fn build(&mut self) -> Resource {
        std::mem::take(&mut self.0)
    }
}

/// Resource of a pod, or of one container of it, and its name for people.
pub(super) fn pod(
    uid: &str,
    names: Option<&PodName>,
    container: Option<&ContainerFacts<'_>>,
    node: Option<&str>,
) -> (Resource, String) {
    let mut builder = Builder::default();
    builder
        .text(&attribute::K8S_POD_UID, Some(uid))
        .text(&attribute::K8S_POD_NAME, names.map(|names| names.name.as_str()))
        .text(&attribute::K8S_NAMESPACE_NAME, names.map(|names| names.namespace.as_str()))
        .text(&attribute::K8S_NODE_NAME, node);
    for (label, value) in names.iter().flat_map(|names| &names.labels) {
        builder.label(label, value);
    }
    builder.entity(&entity::K8S_POD).entity(&entity::K8S_NAMESPACE);
    let mut name = match names {
        Some(names) => format!("{}/{}", names.namespace, names.name),
        None => format!("pod/{uid}"),
    };
    if let Some(container) = container {
        describe_container(&mut builder, container);
        name = format!("{name}/{}", container.name.unwrap_or(container.short_id()));
    }
    (builder.build(), name)
}

/// Resource of a container outside Kubernetes, and its name for people.
pub(super) fn container(facts: &ContainerFacts<'_>) -> (Resource, String) {
    let mut builder = Builder::default();
    describe_container(&mut builder, facts);
    (builder.build(), format!("container/{}", facts.short_id()))
}

fn describe_container(builder: &mut Builder, facts: &ContainerFacts<'_>) {
    builder
        .text(&attribute::K8S_CONTAINER_NAME, facts.name)
        .text(&attribute::CONTAINER_ID, Some(facts.id))
        .text(&attribute::CONTAINER_RUNTIME_NAME, facts.runtime)
        .entity(&entity::K8S_CONTAINER)
        .entity(&entity::CONTAINER);
}

/// Resource of a namespace outside Kubernetes and containers, and its name for people.
pub(super) fn netns(id: Netns, name: Option<&str>) -> (Resource, String) {
    let resource = Builder::default()
        .int(&attribute::NETNS_INODE, i64::from(id.inode))
        .text(&attribute::NETNS_NAME, name)
        .entity(&entity::NETNS)
        .build();
    let shown = name.map_or_else(|| format!("netns/{}", id.inode), |name| format!("netns/{name}"));
    (resource, shown)
}

/// Keys with this bit belong to entities that were never seen, made for one origin.
const UNSEEN: u64 = 1 << 63;

/// An entity for a namespace of which nothing but its numbers is known. The key depends on these only.
pub(super) fn unseen_netns(id: Netns) -> Entity {
    let (resource, name) = netns(id, None);
    let number = if id.cookie != 0 { id.cookie << 1 | 1 } else { u64::from(id.inode) << 1 };
    Entity { kind: EntityKind::Netns, key: UNSEEN | number, pod: None, name, resource, pending_until: None }
}
