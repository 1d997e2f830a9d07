//! Whom a destination is believed to be and how the receiver proves who it is: certificates from files, which are
//! read again when the files change, as kubelet and certificate managers change them.

mod unverified;

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use tokio_rustls::rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    client::WantsClientCert,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

use self::unverified::Anyone;
use crate::config::{Destination, Endpoint, Protocol, Tls};

/// Certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    /// A file cannot be read as PEM.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: pem::Error,
    },
    /// They do not fit together or to what TLS wants.
    #[error(transparent)]
    Unfit(#[from] tokio_rustls::rustls::Error),
    /// There is no authority to believe.
    #[error("no certificate authority was found in this system; name one in tls.ca_file")]
    NoAuthority,
}

/// What tells one content of a file from the next: a renewed file has another inode or another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version(u64, u64, i64, i64, u64);

/// The TLS configuration of one destination, and the files that it is made of.
pub(super) struct Trust {
    files: Tls,
    protocol: Protocol,
    config: Arc<ClientConfig>,
    versions: Vec<Option<Version>>,
}

impl Trust {
    /// By the settings of a destination; `None` where it is not reached by TLS.
    pub(super) fn of(settings: &Destination) -> Result<Option<Self>, TrustError> {
        if !matches!(settings.endpoint, Endpoint::Https(_)) {
            return Ok(None);
        }
        let (files, protocol) = (settings.tls.clone(), settings.protocol);
        if files.skip_verify {
            tracing::warn!(
                destination = %settings.endpoint,
                "tls.insecure_skip_verify: the server's certificate is not verified; whoever answers gets the telemetry and the headers"
            );
        }
        let versions = versions(&files);
        let config = Arc::new(load(&files, protocol)?);
        Ok(Some(Self { files, protocol, config, versions }))
    }

    /// The configuration of the moment.
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Reads files that have changed. Whether any has. Where one is half written or does not fit to the others yet, the
    /// former certificates stay and the next call tries again.
    pub(super) fn follow(&mut self) -> Result<bool, TrustError> {
        // Before the files are read: what changes meanwhile differs the next time.
        let versions = versions(&self.files);
        if versions == self.versions {
            return Ok(false);
        }
        self.config = Arc::new(load(&self.files, self.protocol)?);
        self.versions = versions;
        Ok(true)
    }
}

fn versions(files: &Tls) -> Vec<Option<Version>> {
    let client = files.client.iter().flat_map(|(certificate, key)| [certificate, key]);
    files.ca.iter().chain(client).map(|path| version(path).ok()).collect()
}

/// Through symbolic links, which is how kubelet renews the files of a volume.
fn version(path: &Path) -> io::Result<Version> {
    let file = fs::metadata(path)?;
    Ok(Version(file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.size()))
}

/// The configuration for whoever the system believes, without a name of our own: a proxy's.
pub(super) fn of_the_system() -> Result<ClientConfig, TrustError> {
    Ok(believing(authorities(None)?)?.with_no_client_auth())
}

fn believing(
    authorities: RootCertStore,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, tokio_rustls::rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(authorities))
}

fn believing_anyone() -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, tokio_rustls::rustls::Error> {
    let provider = Arc::new(default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))))
}

fn load(files: &Tls, protocol: Protocol) -> Result<ClientConfig, TrustError> {
    let config =
        if files.skip_verify { believing_anyone()? } else { believing(authorities(files.ca.as_deref())?)? };
    let mut config = match &files.client {
        Some((certificate, key)) => {
            config.with_client_auth_cert(certificates(certificate)?, private(key)?)?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![match protocol {
        Protocol::Grpc => b"h2".to_vec(),
        Protocol::HttpProtobuf => b"http/1.1".to_vec(),
    }];
    Ok(config)
}

fn authorities(own: Option<&Path>) -> Result<RootCertStore, TrustError> {
    let mut store = RootCertStore::empty();
    let found = match own {
        Some(path) => certificates(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    store.add_parsable_certificates(found);
    if store.is_empty() { Err(TrustError::NoAuthority) } else { Ok(store) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|source| TrustError::File { path: path.display().to_string(), source })
}

fn private(path: &Path) -> Result<PrivateKeyDer<'static>, TrustError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|source| TrustError::File { path: path.display().to_string(), source })
}
