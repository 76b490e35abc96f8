//! Failures of handshakes in sentences that say what to do.

use std::error::Error;
use std::io;

use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

/// What the innermost cause of a failed connection between members says and what to do about it; `None` if it is not of
/// TLS.
#[must_use]
pub fn explain(cause: &(dyn Error + 'static)) -> Option<String> {
    let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let error = match inner {
        Some(inner) => inner.downcast_ref::<rustls::Error>()?,
        None => cause.downcast_ref::<rustls::Error>()?,
    };
    Some(sentence(error))
}

fn sentence(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => certificate(error),
        rustls::Error::AlertReceived(alert) => refused(*alert),
        rustls::Error::InvalidMessage(_) => {
            "it does not answer in TLS: it has no --peer-tls-cert, or this is its client port".to_owned()
        }
        other => format!("the TLS handshake failed: {other}"),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            if presented.is_empty() {
                format!("its certificate is for no name, not for {expected}: sign one with {expected} as subject alternative name")
            } else {
                format!(
                    "its certificate is for {}, not {expected}: correct the address in the list, or sign a certificate with \
                     {expected} as subject alternative name",
                    presented.join(", ")
                )
            }
        }
        CertificateError::NotValidForName => {
            "its certificate is for another name: sign one with the member's host as subject alternative name".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is of an authority that this node does not trust: give all members the same \
             --peer-secret-file, or certificates of one authority (--peer-tls-ca)"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it, or set the clocks".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: set the clocks".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate may not be used by a server: sign one with the extended key usages serverAuth and clientAuth"
                .to_owned()
        }
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "its certificate is that of an authority: give the member a certificate that the authority signed".to_owned()
        }
        other => format!("its certificate cannot be verified: {other}"),
    }
}

fn refused(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => {
            "it refuses this node's certificate: its --peer-tls-ca does not hold the authority".to_owned()
        }
        AlertDescription::CertificateRequired => {
            "it asks for a certificate, and this node shows none: give this node --peer-tls-cert".to_owned()
        }
        AlertDescription::CertificateExpired => {
            "it refuses this node's certificate, which has expired: renew it, or set the clocks".to_owned()
        }
        AlertDescription::NoApplicationProtocol => {
            "it speaks TLS, but not as a member: it may be a client port; give the peer port".to_owned()
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => {
            format!("it refuses this node's certificate ({alert:?}): its log says why")
        }
        other => format!("it ended the TLS handshake: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_found_inside_of_an_error_of_input() {
        let inner = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let error = io::Error::new(io::ErrorKind::InvalidData, inner);
        assert!(explain(&error).unwrap().contains("--peer-tls-ca"));
        assert_eq!(explain(&io::Error::other("else")), None);
    }
}
