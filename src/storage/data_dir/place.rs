//! Where in Kubernetes a data directory is at home: a copy of it elsewhere must not continue as the same member.
//!
//! Pods' addresses are given out again, so a copy in another namespace with the same ids would sooner or later be taken
//! for the original by the original's own peers.

use serde::{Deserialize, Serialize};

use super::super::{Elsewhere, StorageError};
use super::{DataDir, IDENTITY, Identity};

/// A namespace, and a StatefulSet in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The namespace.
    pub namespace: String,
    /// The StatefulSet that the pod belongs to.
    pub stateful_set: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StatefulSet {} of namespace {}", self.stateful_set, self.namespace)
    }
}

impl DataDir {
    /// Makes sure that the directory is at home in `present`. One that has no home yet, as it is new or from an earlier
    /// version, gets this one, durably.
    ///
    /// # Errors
    /// [`StorageError::Place`] if it is at home elsewhere; as any write.
    pub fn settle_in(&mut self, present: &Place) -> Result<(), StorageError> {
        match &self.identity.place {
            Some(home) if home == present => Ok(()),
            Some(home) => {
                let (path, home, present) = (self.data.clone(), home.clone(), present.clone());
                Err(StorageError::Place(Box::new(Elsewhere { path, home, present })))
            }
            None => {
                let identity = Identity { place: Some(present.clone()), ..self.identity.clone() };
                self.database.put(IDENTITY, &identity)?;
                self.database.flush()?;
                self.identity = identity;
                Ok(())
            }
        }
    }
}
