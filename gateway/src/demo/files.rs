//! What the demo needs on disk: a CA and a certificate, an issuer's key set, API keys, secrets, a configuration.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, ensure};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_api::{Clock, Environment, Role, Scope, Secret, TenantId, hex};
use portcullis_plugins::authentication::{self, IssueRequest, Peppers};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair as CertificateKey};
use serde_json::json;

use crate::{cli::keys, clock::SystemClock};

/// The demo's host.
pub(super) const HOST: &str = "api.demo.test";
const ISSUER: &str = "https://id.demo.test";

/// What was written.
pub(super) struct Demo {
    pub(super) config: PathBuf,
    pub(super) ca: PathBuf,
    pub(super) token: String,
    pub(super) keys: Keys,
}

/// Two API keys of tenant acme.
pub(super) struct Keys {
    pub(super) first: String,
    pub(super) second: String,
}

/// Writes the folder anew, if it is empty or a demo's: nobody's files are written over.
pub(super) fn write(dir: &Path, port: u16, admin_port: u16, upstream_port: u16) -> anyhow::Result<Demo> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let dir = dir.canonicalize()?;
    let is_empty = fs::read_dir(&dir)?.next().is_none();
    let is_ours = fs::read_to_string(dir.join("portcullis.toml")).is_ok_and(|text| text.contains(HOST));
    ensure!(is_empty || is_ours, "{} holds files that no demo wrote: name another folder with --dir", dir.display());
    let ca = certificates(&dir)?;
    let token = issuer(&dir)?;
    let keys = api_keys(&dir)?;
    secret_file(&dir.join("admin.token"), random_hex()?.as_bytes())?;
    let config = dir.join("portcullis.toml");
    let text = include_str!("portcullis.toml")
        .replace("@PORT@", &port.to_string())
        .replace("@ADMIN@", &admin_port.to_string())
        .replace("@UPSTREAM@", &upstream_port.to_string());
    fs::write(&config, text)?;
    Ok(Demo { config, ca, token, keys })
}

fn certificates(dir: &Path) -> anyhow::Result<PathBuf> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "Portcullis demo CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, CertificateKey::generate()?)?;
    let key = CertificateKey::generate()?;
    let mut leaf = CertificateParams::new(vec![HOST.to_owned()])?;
    leaf.distinguished_name.push(DnType::CommonName, HOST);
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &ca)?;
    let path = dir.join("ca.pem");
    fs::write(&path, ca.pem())?;
    fs::write(dir.join("chain.pem"), leaf.pem())?;
    secret_file(&dir.join("key.pem"), key.serialize_pem().as_bytes())?;
    Ok(path)
}

/// Writes the issuer's public keys and signs a token of one hour for a developer of acme.
fn issuer(dir: &Path) -> anyhow::Result<String> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| anyhow!("no key could be made"))?;
    let point = key.public_key().as_ref();
    let (x, y) = point.get(1..33).zip(point.get(33..65)).ok_or_else(|| anyhow!("no uncompressed point"))?;
    let jwks = json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "demo-1",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    }]});
    fs::write(dir.join("jwks.json"), jwks.to_string())?;
    let now = SystemClock::start().unix();
    let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": "demo-1" });
    let claims = json!({
        "iss": ISSUER, "aud": "orders", "sub": "ada", "iat": now, "exp": now.saturating_add(3600),
        "jti": random_hex()?, "tenant_id": "acme", "roles": ["developer"], "scope": "orders messages",
    });
    let input =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key.sign(&random, input.as_bytes()).map_err(|_| anyhow!("the token could not be signed"))?;
    Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn api_keys(dir: &Path) -> anyhow::Result<Keys> {
    let pepper = random_hex()?;
    secret_file(&dir.join("pepper"), pepper.as_bytes())?;
    let peppers = Peppers::new(&Secret::new(pepper.into_bytes()), &[])?;
    let mut text = String::new();
    let mut issue = |name: &str| -> anyhow::Result<String> {
        let request = IssueRequest {
            brand: Environment::parse("pck")?,
            environment: Environment::parse("live")?,
            tenant: TenantId::parse("acme")?,
            role: Some(Role::Developer),
            scopes: vec![Scope::parse("orders")?],
            name: Some(name.to_owned()),
            lifetime_s: None,
            cidrs: None,
            routes: None,
            created_by: None,
            kind: None,
            filters: None,
        };
        let issued = keys::issue(request, &peppers)?;
        text = authentication::add_record(&text, &issued.record)?;
        Ok(issued.key.to_string())
    };
    let keys = Keys { first: issue("demo one")?, second: issue("demo two")? };
    secret_file(&dir.join("keys.json"), text.as_bytes())?;
    Ok(keys)
}

fn random_hex() -> anyhow::Result<String> {
    let mut bytes = [0u8; 32];
    keys::random(&mut bytes)?;
    Ok(hex(&bytes))
}

fn secret_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    Ok(())
}
