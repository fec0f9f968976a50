//! The JSON Schemas in `docs/schema` are those of the types.

#![expect(clippy::unwrap_used, reason = "a schema that cannot be read or written fails the test")]

use std::path::Path;

use oc_prune_images::cache::commands::check::CacheCheck;
use oc_prune_images::cache::commands::status::CacheStatus;
use oc_prune_images::report::document::{PrunePlan, PruneResult};
use oc_prune_images::report::explain::Explanation;
use oc_prune_images::report::hard_prune::HardPruneResult;
use oc_prune_images::report::journal::JournalReport;
use oc_prune_images::report::usage::Usage;
use oc_prune_images::report::what_if::WhatIf;
use oc_prune_images::run::ImageVerification;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

fn check(name: &str, schema: &Schema) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema").join(name);
    let text = format!("{}\n", serde_json::to_string_pretty(schema).unwrap());
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "{} is not current: run UPDATE_SCHEMAS=1 cargo test --test schema",
        path.display()
    );
}

/// The schema of what is written: fields that may be left out are not required.
fn schema_of<T: JsonSchema>() -> Schema {
    SchemaSettings::default().for_serialize().into_generator().into_root_schema_for::<T>()
}

#[test]
fn the_schema_of_the_plan_is_current() {
    check("prune-plan.json", &schema_of::<PrunePlan>());
}

#[test]
fn the_schema_of_the_result_is_current() {
    check("prune-result.json", &schema_of::<PruneResult>());
}

#[test]
fn the_schema_of_the_cache_check_is_current() {
    check("cache-check.json", &schema_of::<CacheCheck>());
}

#[test]
fn the_schema_of_the_cache_status_is_current() {
    check("cache-status.json", &schema_of::<CacheStatus>());
}

#[test]
fn the_schema_of_the_verification_is_current() {
    check("image-verification.json", &schema_of::<ImageVerification>());
}

#[test]
fn the_schema_of_the_journal_is_current() {
    check("journal.json", &schema_of::<JournalReport>());
}

#[test]
fn the_schema_of_the_explanation_is_current() {
    check("explanation.json", &schema_of::<Explanation>());
}

#[test]
fn the_schema_of_the_usage_is_current() {
    check("usage.json", &schema_of::<Usage>());
}

#[test]
fn the_schema_of_the_what_if_is_current() {
    check("what-if.json", &schema_of::<WhatIf>());
}

#[test]
fn the_schema_of_the_hard_prune_is_current() {
    check("hard-prune-result.json", &schema_of::<HardPruneResult>());
}
