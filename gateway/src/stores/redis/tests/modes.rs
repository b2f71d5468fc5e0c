//! Sentinels and clusters: which server is asked, and what is said when there is none.

use portcullis_plugins::{
    bans::{SharedBans, Strike, Struck},
    rate_limit::{Answer, SharedCounters},
};

use super::{
    sentinel::{Liar, Sentinel},
    server::{Server, bucket, connected, free_port, healthy, options, start, take, until, why},
};
use crate::stores::redis::{Health, Options, RedisCounters};

const ALL: &[&str] = &["0", "16383"];

/// A limit, an operator's look at it, and a block.
async fn everything_works(counters: &RedisCounters) {
    let one = bucket("r", 1, 1);
    for expected in [Answer::Charged, Answer::Short] {
        assert_eq!(take(counters, &[one]).await.unwrap()[0].answer, expected);
    }
    assert_eq!(counters.peek(&one).await.unwrap().remaining, 0);
    counters.clear(&one).await.unwrap();
    let bans = counters.bans();
    let client = "0123456789abcdef0123456789abcdef".parse().unwrap();
    let strike = Strike { client, code: "waf.urls", max: 1, window: 60_000_000, block: 60_000_000 };
    assert!(matches!(bans.strike(strike).await, Ok(Struck::Began(_))));
    assert_eq!(bans.changes(None).await.unwrap().clients.len(), 1);
    assert_eq!(bans.lift(client, 1_000_000).await, Ok(true));
}

/// The words of a shipped ACL file after `user`, with the password `secret` and the tests' prefix.
fn acl(file: &str) -> String {
    file.trim().strip_prefix("user ").unwrap().replace(">CHANGE-ME", ">secret").replace("portcullis:", "test:")
}

#[tokio::test]
async fn the_rights_of_the_shipped_users_are_enough_for_sentinels_and_for_a_cluster() {
    let (redis_acl, sentinel_acl) =
        (acl(include_str!("../../../../../deploy/redis.acl")), acl(include_str!("../../../../../deploy/sentinel.acl")));
    let redis_acl: Vec<&str> = redis_acl.split_whitespace().collect();
    let set_user = [&["ACL", "SETUSER"], &redis_acl[..]].concat();
    let login = "portcullis:secret";

    let folder = tempfile::tempdir().unwrap();
    let node = Server::node(folder.path(), ALL).await;
    let () = node.run(&set_user).await;
    let url = format!("redis-cluster://{login}@127.0.0.1:{},127.0.0.1:{}", free_port(), node.port());
    everything_works(&connected(Options { fingerprint: Some(1), ..options(url) }).await).await;

    let master = Server::start();
    let () = master.run(&set_user).await;
    let sentinel = Sentinel::of(master.port(), &format!("user {sentinel_acl}\nuser default off")).await;
    let url = format!("redis-sentinel://{login}@127.0.0.1:{}/main", sentinel.port());
    everything_works(&connected(options(format!("{url}?sentinel_auth=same"))).await).await;
    let without = start(options(url));
    until("the reason is told", async || why(&without) == "a Sentinel: NOAUTH").await;
}

#[tokio::test]
async fn a_database_behind_sentinels_is_selected() {
    let master = Server::start();
    let sentinel = Sentinel::of(master.port(), "").await;
    let counters = connected(options(format!("redis-sentinel://127.0.0.1:{}/main?db=7", sentinel.port()))).await;
    take(&counters, &[bucket("r", 1, 1)]).await.unwrap();
    let keyspace: String = master.run(&["INFO", "keyspace"]).await;
    assert!(keyspace.contains("db7:") && !keyspace.contains("db0:"), "{keyspace}");
}

#[tokio::test]
async fn what_is_wrong_with_a_store_is_told_by_its_mode() {
    let redis = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let empty = Server::node(folder.path(), &[]).await;
    let sentinel = Sentinel::of(redis.port(), "").await;
    let (dead, redis, empty, sentinel) = (free_port(), redis.port(), empty.port(), sentinel.port());
    for (url, mode, expected) in [
        (format!("redis://127.0.0.1:{empty}"), "single", "CLUSTERDOWN"),
        (format!("redis-cluster://127.0.0.1:{dead}"), "cluster", "a node: connection refused"),
        (format!("redis-cluster://127.0.0.1:{redis}"), "cluster", "what should be a node of a cluster is none"),
        (format!("redis-cluster://127.0.0.1:{empty}"), "cluster", "nobody in the cluster has our slot"),
        (format!("redis-sentinel://127.0.0.1:{dead}/main"), "sentinel", "a Sentinel: connection refused"),
        (format!("redis-sentinel://127.0.0.1:{redis}/main"), "sentinel", "what should be a Sentinel is none"),
        (format!("redis-sentinel://127.0.0.1:{sentinel}/other"), "sentinel", "a Sentinel knows no master of this name"),
    ] {
        let counters = start(options(url.clone()));
        assert_eq!(counters.mode(), mode, "{url}");
        until(&format!("{url}: {expected}"), async || why(&counters) == expected).await;
        assert!(take(&counters, &[bucket("r", 1, 1)]).await.is_err());
    }
}

#[tokio::test]
async fn a_sentinel_that_names_a_replica_is_not_believed_and_another_one_is_asked() {
    let (master, replica) = (Server::start(), Server::start());
    let () = replica.run(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await;
    let (old, current) = (Liar::saying(replica.port()).await, Liar::saying(master.port()).await);
    let fooled = start(options(format!("redis-sentinel://127.0.0.1:{}/main", old.port)));
    until("the reason is told", async || why(&fooled) == "the master that a Sentinel names is none").await;
    let url = format!("redis-sentinel://127.0.0.1:{},127.0.0.1:{}/main", old.port, current.port);
    let counters = connected(options(url)).await;
    assert_eq!(take(&counters, &[bucket("r", 1, 9)]).await.unwrap()[0].answer, Answer::Charged);
}

#[tokio::test]
async fn a_sentinel_that_is_cut_off_from_the_others_is_outvoted() {
    let (old, new) = (Server::start(), Server::start());
    let stale = Liar::saying(old.port()).await;
    let current = [Liar::saying(new.port()).await, Liar::saying(new.port()).await];
    let url = format!(
        "redis-sentinel://127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}/main",
        stale.port, current[0].port, current[1].port
    );
    let counters = connected(options(url)).await;
    assert_eq!(take(&counters, &[bucket("r", 1, 9)]).await.unwrap()[0].answer, Answer::Charged);
    assert_eq!(new.run::<i64>(&["EXISTS", "test:{test}:r:00000000000000000000000000000001"]).await, 1);
    assert!(old.run::<Vec<String>>(&["KEYS", "*"]).await.is_empty());
}

#[tokio::test]
async fn a_master_that_the_sentinels_mean_no_more_is_left_though_it_answers() {
    let (old, new) = (Server::start(), Server::start());
    let sentinel = Liar::saying(old.port()).await;
    let counters = connected(options(format!("redis-sentinel://127.0.0.1:{}/main", sentinel.port))).await;
    take(&counters, &[bucket("r", 1, 9)]).await.unwrap();
    *sentinel.says.lock() = new.port();
    until("the new one is asked", async || {
        new.run::<Vec<String>>(&["KEYS", "*:_probe:*"]).await.len() == 1 && counters.health() == Health::Healthy
    })
    .await;
    let key = "test:{test}:r:00000000000000000000000000000001";
    let before: String = old.run(&["GET", key]).await;
    healthy(&counters).await;
    assert_eq!(take(&counters, &[bucket("r", 1, 9)]).await.unwrap()[0].answer, Answer::Charged);
    assert_eq!(old.run::<String>(&["GET", key]).await, before, "nothing is written to the old one");
    assert_eq!(new.run::<i64>(&["EXISTS", key]).await, 1);
}
