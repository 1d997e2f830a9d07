//! Certificates of a test's own, written and renewed as kubelet does it: files behind a symbolic link to a directory,
//! which is replaced as a whole.
#![expect(clippy::unwrap_used, reason = "a part of tests, which end at the first surprise")]
#![expect(clippy::missing_panics_doc, reason = "what it panics at is a surprise")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::Protocol;

/// An authority and what it has signed.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key in PEM.
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// A new one.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    /// Its own certificate in PEM.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// Signs a certificate of a name, which may be the address of a server too.
    #[must_use]
    pub fn sign(&self, name: &str) -> Identity {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

/// A server's configuration with a certificate for `localhost` that `authority` has signed; clients must show one of
/// `clients`, if that is given.
#[must_use]
pub fn server(authority: &Authority, clients: Option<&Authority>, protocol: Protocol) -> Arc<ServerConfig> {
    let identity = authority.sign("localhost");
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            let certificate = CertificateDer::from_pem_slice(clients.certificate().as_bytes()).unwrap();
            roots.add(certificate).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![match protocol {
        Protocol::Grpc => b"h2".to_vec(),
        Protocol::Http => b"http/1.1".to_vec(),
    }];
    config.into()
}

/// A volume with `ca.pem`, `cert.pem` and `key.pem`, as kubelet mounts a secret.
#[derive(Debug)]
pub struct Volume {
    directory: tempfile::TempDir,
    generation: u32,
}

impl Volume {
    /// With its first content.
    #[must_use]
    pub fn new(authority: &str, identity: &Identity) -> Self {
        let mut volume = Self { directory: tempfile::tempdir().unwrap(), generation: 0 };
        volume.renew(authority, identity);
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            symlink(format!("..data/{file}"), volume.path(file)).unwrap();
        }
        volume
    }

    /// Replaces all files in one step; the former ones go.
    pub fn renew(&mut self, authority: &str, identity: &Identity) {
        self.generation += 1;
        let name = format!("..{}", self.generation);
        let content = self.path(&name);
        fs::create_dir(&content).unwrap();
        write(&content, "ca.pem", authority);
        write(&content, "cert.pem", &identity.certificate);
        write(&content, "key.pem", &identity.key);
        let next = self.path("..data_tmp");
        symlink(name, &next).unwrap();
        fs::rename(next, self.path("..data")).unwrap();
        if self.generation > 1 {
            fs::remove_dir_all(self.path(&format!("..{}", self.generation - 1))).unwrap();
        }
    }

    /// One of its files.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// The setting `tls` of a destination, with a certificate of its own if `mutual`.
    #[must_use]
    pub fn tls(&self, mutual: bool) -> String {
        let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|file| self.path(file));
        let own = format!(", cert_file: {}, key_file: {}", cert.display(), key.display());
        format!("tls: {{ca_file: {}{}}}", ca.display(), if mutual { own } else { String::new() })
    }
}

fn write(directory: &Path, file: &str, content: &str) {
    fs::write(directory.join(file), content).unwrap();
}
