//! TLS, to one Redis, to Sentinels and to a cluster: verified, or not used.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

use super::{
    sentinel::Sentinel,
    server::{Server, bucket, connected, free_port, options, parsed, start, take, until, why, write},
};
use crate::stores::redis::{Options, RedisCounters};

/// A new authority, whose PEM this is; what it signs is in `folder`, as `chain.pem`, `key.pem` and `ca.pem`.
fn authority(folder: &Path, name: &str, until_year: i32) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (leaf.not_before, leaf.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until_year, 1, 1));
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    for (name, text) in [("chain.pem", leaf.pem()), ("key.pem", key.serialize_pem()), ("ca.pem", issuer.pem())] {
        write(&folder.join(name), &text);
    }
    issuer.pem()
}

/// Options of a redis-server that speaks TLS with what is in `folder`.
fn files(folder: &Path) -> Vec<(&'static str, String)> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        ("tls-cert-file", file("chain.pem")),
        ("tls-key-file", file("key.pem")),
        ("tls-ca-cert-file", file("ca.pem")),
        ("tls-auth-clients", "no".to_owned()),
    ]
}

fn server(folder: &Path, more: &[(&'static str, String)]) -> Server {
    let port = free_port();
    let settings = [&files(folder)[..], &[("tls-port", port.to_string())], more].concat();
    let args: Vec<String> = settings.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect();
    Server::on(port, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn trusting(url: &str, roots: &str) -> Options {
    Options { roots: Some(roots.as_bytes().to_vec()), ..options(url.to_owned()) }
}

async fn is_refused(counters: &RedisCounters, expected: &str) {
    until(expected, async || why(counters) == expected).await;
    assert!(take(counters, &[bucket("r", 1, 1)]).await.is_err());
}

#[tokio::test]
async fn a_server_with_a_certificate_of_our_authority_is_used_and_another_is_not() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ca = authority(ours.path(), "127.0.0.1", 2120);
    let server = server(ours.path(), &[]);
    let url = format!("rediss://127.0.0.1:{}/", server.port());
    let counters = connected(trusting(&url, &ca)).await;
    assert!(take(&counters, &[bucket("r", 1, 1)]).await.is_ok());

    let other_ca = authority(theirs.path(), "127.0.0.1", 2120);
    is_refused(&start(trusting(&url, &other_ca)), "its certificate is signed by nobody whom we know").await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_or_is_for_another_name_is_refused() {
    for (name, until_year, expected) in [
        ("127.0.0.1", 2021, "its certificate has expired"),
        ("redis.example.test", 2120, "its certificate is for another name"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority(folder.path(), name, until_year);
        let server = server(folder.path(), &[]);
        is_refused(&start(trusting(&format!("rediss://127.0.0.1:{}/", server.port()), &ca)), expected).await;
    }
}

#[tokio::test]
async fn roots_that_are_none_are_refused() {
    let runtime = tokio::runtime::Handle::current();
    let roots = Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec());
    let options = Options { roots, ..Options::new(parsed("rediss://h"), "p".to_owned()) };
    assert!(RedisCounters::start(options, super::server::metrics(), &runtime).is_err());
}

#[tokio::test]
async fn sentinels_and_the_master_that_they_name_are_both_verified() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ca = authority(ours.path(), "127.0.0.1", 2120);
    let master = server(ours.path(), &[]);
    let of = |folder: &Path| {
        let lines: String = files(folder).into_iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        format!("tls-port {{port}}\ntls-replication yes\n{lines}")
    };
    let sentinel = Sentinel::of(master.port(), &of(ours.path())).await;
    let url = format!("rediss-sentinel://127.0.0.1:{}/main", sentinel.port());
    let counters = connected(trusting(&url, &ca)).await;
    assert!(take(&counters, &[bucket("r", 1, 1)]).await.is_ok());

    let other_ca = authority(theirs.path(), "127.0.0.1", 2120);
    let words = "its certificate is signed by nobody whom we know";
    is_refused(&start(trusting(&url, &other_ca)), &format!("a Sentinel: {words}")).await;
    let other = Sentinel::of(master.port(), &of(theirs.path())).await;
    let url = format!("rediss-sentinel://127.0.0.1:{}/main", other.port());
    is_refused(&start(trusting(&url, &other_ca)), &format!("the master: {words}")).await;
}

#[tokio::test]
async fn nodes_of_a_cluster_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), "127.0.0.1", 2120);
    let notes = folder.path().join("nodes.conf").display().to_string();
    let more = [
        ("cluster-enabled", "yes".to_owned()),
        ("tls-cluster", "yes".to_owned()),
        ("cluster-port", free_port().to_string()),
        ("cluster-config-file", notes),
    ];
    let node = server(folder.path(), &more);
    let url = format!("rediss-cluster://127.0.0.1:{}", node.port());
    let counters = start(trusting(&url, &ca));
    until("it says that it has no slots", async || why(&counters) == "nobody in the cluster has our slot").await;
    let tls = ::redis::TlsCertificates { client_tls: None, root_cert: Some(ca.into_bytes()) };
    let client = ::redis::Client::build_with_tls(url.replace("rediss-cluster", "rediss"), tls).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut give = ::redis::cmd("CLUSTER");
    give.arg("ADDSLOTSRANGE").arg(0).arg(16_383);
    let () = give.query_async(&mut connection).await.unwrap();
    until("counted", async || take(&counters, &[bucket("r", 1, 9)]).await.is_ok()).await;
}
