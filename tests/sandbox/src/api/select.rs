//! Label and field selectors.

use serde_json::Value;

use super::status::Failure;

#[derive(Debug, PartialEq, Eq)]
enum Condition {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// What a list or watch is narrowed to.
#[derive(Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<(String, Condition)>,
    fields: Vec<(String, Condition)>,
}

impl Selector {
    pub(crate) fn parse(labels: &str, fields: &str) -> Result<Self, Failure> {
        let parse = |text: &str| split(text).into_iter().map(condition).collect::<Option<Vec<_>>>();
        Ok(Self {
            labels: parse(labels).ok_or_else(|| {
                Failure::bad_request(format!("unable to parse requirement: {labels:?} is no label selector"))
            })?,
            fields: parse(fields).ok_or_else(|| {
                Failure::bad_request(format!("invalid selector: {fields:?}; can't understand {fields:?}"))
            })?,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|(key, condition)| condition.holds(labels.get(key).and_then(Value::as_str)))
            && self.fields.iter().all(|(path, condition)| {
                let value = object.pointer(&format!("/{}", path.replace('.', "/")));
                condition.holds(Some(value.and_then(Value::as_str).unwrap_or_default()))
            })
    }
}

impl Condition {
    fn holds(&self, value: Option<&str>) -> bool {
        let among = |values: &[String]| value.is_some_and(|value| values.iter().any(|known| known == value));
        match self {
            Self::In(values) => among(values),
            Self::NotIn(values) => !among(values),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

/// Splits at the commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = text.split(|character| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn condition(text: &str) -> Option<(String, Condition)> {
    let one = |key: &str, value: &str| (key.trim().to_owned(), vec![value.trim().to_owned()]);
    let set = |list: &str| -> Option<Vec<String>> {
        let list = list.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(list.split(',').map(|value| value.trim().to_owned()).collect())
    };
    if let Some((key, list)) = text.split_once(" notin ") {
        return Some((key.trim().to_owned(), Condition::NotIn(set(list)?)));
    }
    if let Some((key, list)) = text.split_once(" in ") {
        return Some((key.trim().to_owned(), Condition::In(set(list)?)));
    }
    if let Some((key, value)) = text.split_once("!=") {
        let (key, values) = one(key, value);
        return Some((key, Condition::NotIn(values)));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        let (key, values) = one(key, value);
        return Some((key, Condition::In(values)));
    }
    match text.strip_prefix('!') {
        Some(key) => Some((key.trim().to_owned(), Condition::Absent)),
        None if text.contains([' ', '(', ')']) => None,
        None => Some((text.to_owned(), Condition::Exists)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selects() {
        let object = json!({ "metadata": { "name": "web", "labels": { "app": "web", "tier": "front" } } });
        for (labels, fields, selected) in [
            ("app=web,tier!=back", "", true),
            ("app in (api,web),tier", "", true),
            ("app notin (web)", "", false),
            ("!app", "", false),
            ("!other", "metadata.name=web", true),
            ("", "metadata.name!=web", false),
            ("", "metadata.namespace=shop", false),
        ] {
            let selector = Selector::parse(labels, fields).unwrap();
            assert_eq!(selector.matches(&object), selected, "{labels} {fields}");
        }
        assert!(Selector::parse("app in web", "").is_err());
    }
}
