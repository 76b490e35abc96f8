//! What the API server holds: objects by resource and name, and the history that watches read.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Objects, and how they came to be so.
#[derive(Default)]
pub(super) struct Objects {
    by_name: BTreeMap<(String, String), Value>,
    version: u64,
    history: Vec<Change>,
    /// The history holds what came after this version.
    history_begins: u64,
}

/// One event of a watch.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) resource: String,
    pub(super) kind: &'static str,
    pub(super) object: Value,
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().expect("each object has a name").to_owned()
}

impl Objects {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, resource: &str, name: &str) -> Option<&Value> {
        self.by_name.get(&(resource.to_owned(), name.to_owned()))
    }

    pub(super) fn list(&self, resource: &str) -> impl Iterator<Item = &Value> {
        self.by_name.iter().filter(move |((of, _), _)| of == resource).map(|(_, object)| object)
    }

    pub(super) fn put(&mut self, resource: &str, mut object: Value) -> Value {
        let key = (resource.to_owned(), name(&object));
        let before = self.by_name.get(&key);
        self.version += 1;
        let version = self.version;
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null() {
            metadata["uid"] = match before {
                Some(before) => before["metadata"]["uid"].clone(),
                None => json!(format!("uid-{version}")),
            };
        }
        if metadata["namespace"].is_null() {
            metadata["namespace"] = json!("ns");
        }
        metadata["resourceVersion"] = json!(version.to_string());
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.by_name.insert(key, object.clone());
        self.tell(resource, kind, object.clone());
        object
    }

    pub(super) fn remove(&mut self, resource: &str, name: &str) {
        if let Some(object) = self.by_name.remove(&(resource.to_owned(), name.to_owned())) {
            self.version += 1;
            self.tell(resource, "DELETED", object);
        }
    }

    pub(super) fn replay(&mut self, resource: &str, object: Value) {
        self.version += 1;
        self.tell(resource, "MODIFIED", object);
    }

    pub(super) fn expire(&mut self) {
        self.version += 1;
        self.history.clear();
        self.history_begins = self.version;
    }

    /// What came after `version`; `None` if that is forgotten.
    pub(super) fn since(&self, version: u64) -> Option<Vec<Change>> {
        (version >= self.history_begins)
            .then(|| self.history.iter().filter(|change| change.version > version).cloned().collect())
    }

    fn tell(&mut self, resource: &str, kind: &'static str, object: Value) {
        self.history.push(Change { version: self.version, resource: resource.to_owned(), kind, object });
    }
}

/// RFC 7386.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().expect("made one above").remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}
