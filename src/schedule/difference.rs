//! What applying an object would change, as a unified diff of YAML. Pure.

use serde_json::Value;
use similar::TextDiff;

/// What the server counts and notes by itself.
const NOTES: [&str; 5] = ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"];

/// The difference between an object as it is, if it is there, and as it would be; none if there is none. What stands in
/// the cluster is shown as it is: it is for [`crate::text::printable`] to make it harmless, line by line.
#[must_use]
pub fn difference(title: &str, live: Option<&Value>, applied: &Value) -> Option<String> {
    let (before, after) = (live.map(text).unwrap_or_default(), text(applied));
    if before == after {
        return None;
    }
    let (old, new) = match live {
        Some(_) => (format!("{title} (live)"), format!("{title} (applied)")),
        None => ("(none)".to_owned(), format!("{title} (created)")),
    };
    let difference = TextDiff::from_lines(&before, &after);
    Some(difference.unified_diff().header(&old, &new).to_string())
}

fn text(object: &Value) -> String {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for note in NOTES {
            metadata.shift_remove(note);
        }
    }
    if let Some(fields) = object.as_object_mut() {
        fields.shift_remove("status");
    }
    // Values of JSON can be written as YAML.
    serde_saphyr::to_string(&sorted(object)).unwrap_or_default()
}

/// With the fields of objects in order: servers write them in one of their own.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> = fields.into_iter().collect();
            fields.sort_by(|(left, _), (right, _)| left.cmp(right));
            fields.into_iter().map(|(field, value)| (field, sorted(value))).collect()
        }
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_counts_is_a_difference() {
        let live = json!({
            "kind": "CronJob",
            "metadata": { "name": "a", "uid": "1", "resourceVersion": "5", "managedFields": [1] },
            "spec": { "suspend": true, "schedule": "0 1 * * *" },
            "status": {},
        });
        let same = json!({
            "kind": "CronJob",
            "metadata": { "name": "a", "uid": "1", "resourceVersion": "6" },
            "spec": { "schedule": "0 1 * * *", "suspend": true },
        });
        assert_eq!(difference("cronjob/a", Some(&live), &same), None);
        let mut other = same;
        other["spec"]["suspend"] = false.into();
        let text = difference("cronjob/a", Some(&live), &other).unwrap();
        assert!(text.starts_with("--- cronjob/a (live)\n+++ cronjob/a (applied)\n"), "{text}");
        assert!(text.contains("-  suspend: true\n+  suspend: false\n"), "{text}");
        let new = difference("cronjob/a", None, &other).unwrap();
        assert!(new.starts_with("--- (none)\n+++ cronjob/a (created)\n"), "{new}");
        assert!(new.lines().skip(3).all(|line| line.starts_with('+')), "{new}");
    }
}
