//! TLS on the two ports, and for those that connect to them: certificates from files, read again when they change, or made
//! of the secret that members share.
//!
//! Peers show each other certificates of one authority ([`PeerTls`]); the client port shows one and may ask for one
//! ([`Acceptor`]); the command line verifies it ([`Connector`]). One implementation (rustls) with one provider of
//! cryptography (ring) serves all.

mod accept;
mod certificates;
mod connect;
mod error;
mod explain;
mod moved;
mod peer;
mod port;
mod secret;
mod settings;
mod slots;
mod wire;

pub use accept::{Acceptor, HANDSHAKE_TIMEOUT};
pub use connect::{Connector, is_misunderstanding, refusal};
pub use error::TlsError;
pub use explain::explain;
pub use moved::{Moved, Observe, Watched};
pub use peer::{HostOf, PeerTls, Proof};
pub use port::{HeldSecret, Port, watch};
pub use secret::{
    AdministratorIdentity, Administrators, PeerSecrets, SECRET_BYTES_MIN, SECRET_TEXT_MIN, SecretError,
};
pub use settings::{
    ClientPortSettings, ConnectorSettings, IdentitySettings, PeerSettings, PeerSource, SecretSettings,
    SecretSource, Settings,
};
pub use slots::{Idle, Slot, Slots};
pub use wire::{PeerCertificate, Wire};

#[cfg(test)]
mod tests;
