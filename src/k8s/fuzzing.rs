//! Objects of the API server, or of a server that answers in its place.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{addresses, workload};
use crate::fuzzing::Input;

/// Objects that parse are understood without a panic, whatever numbers and names they hold.
pub(crate) fn objects(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(3) {
        0 => {
            if let Ok(set) = serde_json::from_slice::<StatefulSet>(input.rest()) {
                let wishes = workload::wishes(&set);
                let first = wishes.pod(wishes.first_ordinal);
                assert!(!wishes.wants(&first) || wishes.ordinal(&first) == Some(wishes.first_ordinal));
                let few = wishes.at_most(9);
                let pods = few.pods();
                assert!(pods.len() <= 9 && pods.iter().all(|pod| few.wants(pod)), "{few:?}");
                let _ = (few.claims(&pods), wishes.is_scaled_below("kv-3", "uid"));
            }
        }
        1 => {
            if let Ok(pod) = serde_json::from_slice::<Pod>(input.rest()) {
                let view = workload::view(&pod);
                assert!(!(view.is_ready && view.is_terminating));
            }
        }
        _ => {
            if let Ok(slice) = serde_json::from_slice::<EndpointSlice>(input.rest()) {
                assert!(addresses::pods(&slice).values().all(|addresses| !addresses.is_empty()));
            }
        }
    }
}

/// Inputs to begin with.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let set = r#"{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"kv","uid":"u","generation":3},"spec":{"replicas":3,"serviceName":"kv","selector":{},"template":{},"ordinals":{"start":2},"volumeClaimTemplates":[{"metadata":{"name":"data"}}]},"status":{"observedGeneration":3,"replicas":3,"updateRevision":"new"}}"#;
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"kv-0","uid":"p","labels":{"controller-revision-hash":"new"},"deletionTimestamp":"2026-01-01T00:00:00Z"},"spec":{"containers":[],"nodeName":"n"},"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    let slice = r#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"kv-1"},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1","::1","x"],"targetRef":{"kind":"Pod","name":"kv-0"}}]}"#;
    let sample = |kind: u8, text: &str| [&[kind][..], text.as_bytes()].concat();
    vec![sample(0, set), sample(1, pod), sample(2, slice)]
}
