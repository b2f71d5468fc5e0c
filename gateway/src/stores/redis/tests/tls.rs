//! `rediss://`: verified, or not used.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::server::{Server, bucket, connected, options, start, take, until, why, write};
use crate::stores::redis::{Health, Options};

/// A new authority as PEM, and a certificate of it for 127.0.0.1 with its key.
fn authority() -> (String, String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    (issuer.pem(), leaf.pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_server_with_a_certificate_of_our_authority_is_used_and_another_is_not() {
    let folder = std::env::temp_dir().join(format!("portcullis-rediss-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (ca, chain, key) = authority();
    let (chain_file, key_file) = (folder.join("chain.pem"), folder.join("key.pem"));
    write(&chain_file, &chain);
    write(&key_file, &key);
    let port = super::server::free_port();
    let args = [
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", chain_file.display().to_string()),
        ("--tls-key-file", key_file.display().to_string()),
        ("--tls-ca-cert-file", chain_file.display().to_string()),
        ("--tls-auth-clients", "no".to_owned()),
    ];
    let args: Vec<&str> = args.iter().flat_map(|(name, value)| [*name, value]).collect();
    let _server = Server::on(port, &args);
    let url = format!("rediss://127.0.0.1:{port}/");
    let trusting = |roots: String| Options { roots: Some(roots.into_bytes()), ..options(url.clone()) };

    let counters = connected(trusting(ca)).await;
    assert!(take(&counters, &[bucket("r", 1, 1)]).await.is_ok());

    let (other_ca, ..) = authority();
    let distrusting = start(trusting(other_ca));
    until("refused", async || why(&distrusting) != "not connected yet").await;
    assert!(matches!(distrusting.health(), Health::Degraded { .. }));
    assert!(take(&distrusting, &[bucket("r", 1, 1)]).await.is_err());
    std::fs::remove_dir_all(&folder).unwrap();
}
