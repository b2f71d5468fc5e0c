//! A cluster of three masters, of which the first may have a replica. Slots are moved as `redis-cli` moves them.

use super::Redis;
use crate::{free_address, wait_for};

/// Slots of each master.
const RANGES: [(&str, &str); 3] = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];

/// A cluster.
pub struct Cluster {
    /// The master of the slot that the test is about, then the others, then the replica of the first.
    pub nodes: Vec<Redis>,
    /// That slot.
    pub slot: u16,
}

impl Cluster {
    /// Three masters; the first has the slot of keys with this hash tag.
    pub fn start(tag: &str) -> Self {
        // Longer than a test: nothing may fail over because the machine is busy.
        Self::of(tag, 3, "60000")
    }

    /// Three masters and a replica of the first.
    pub fn with_replica(tag: &str) -> Self {
        let cluster = Self::of(tag, 4, "2000");
        let (first, replica) = (&cluster.nodes[0], &cluster.nodes[3]);
        let id: String = first.run(&["CLUSTER", "MYID"]);
        wait_for("the replica to know its master", || replica.try_run::<String>(&["CLUSTER", "REPLICATE", &id]).ok());
        wait_for("the replica to have its master", || {
            (replica.info("master_link_status")? == "up" && first.info("slave0")?.contains("state=online"))
                .then_some(())
        });
        for node in &cluster.nodes {
            wait_for("all to know the replica", || {
                let nodes: String = node.run(&["CLUSTER", "NODES"]);
                nodes.lines().any(|line| line.contains("slave")).then_some(())
            });
        }
        cluster
    }

    fn of(tag: &str, count: usize, node_timeout_ms: &str) -> Self {
        let nodes: Vec<Redis> = (0..count).map(|_| node(node_timeout_ms)).collect();
        let slot: u16 = nodes[0].run(&["CLUSTER", "KEYSLOT", &format!("{{{tag}}}")]);
        let within = |range: &(&str, &str)| (range.0.parse().unwrap()..=range.1.parse().unwrap()).contains(&slot);
        let ours = RANGES.iter().position(within).expect("every slot is in a range");
        for (n, node) in nodes.iter().enumerate() {
            if n < RANGES.len() {
                let (first, last) = RANGES[(ours + n) % RANGES.len()];
                let () = node.run(&["CLUSTER", "ADDSLOTSRANGE", first, last]);
            }
            let () = node.run(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
        }
        // Each meets each: what they would tell each other of the rest takes seconds.
        for (n, other) in nodes.iter().enumerate() {
            let (port, bus) = (other.address().port().to_string(), bus_port(other));
            for node in &nodes[..n] {
                let () = node.run(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        for node in &nodes {
            wait_for("the cluster to be whole", || {
                let info: String = node.run(&["CLUSTER", "INFO"]);
                let known = format!("cluster_known_nodes:{count}\r");
                (info.contains("cluster_state:ok") && info.contains(&known)).then_some(())
            });
        }
        Self { nodes, slot }
    }

    /// The URL of one node.
    pub fn url(&self, node: usize) -> String {
        format!("redis-cluster://{}", self.nodes[node].address())
    }

    /// Begins to move a slot: what is not at the one node any more is asked of the other.
    pub fn begin_move(&self, slot: u16, [from, to]: [usize; 2]) {
        let slot = slot.to_string();
        let () = self.nodes[to].run(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)]);
        let () = self.nodes[from].run(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)]);
    }

    /// Moves the keys of a slot, until none is left.
    pub fn move_keys(&self, slot: u16, [from, to]: [usize; 2]) {
        let port = self.nodes[to].address().port().to_string();
        loop {
            let keys: Vec<String> = self.nodes[from].run(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "100"]);
            if keys.is_empty() {
                return;
            }
            let words = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"].into_iter();
            let words: Vec<&str> = words.chain(keys.iter().map(String::as_str)).collect();
            let _moved: String = self.nodes[from].run(&words);
        }
    }

    /// Ends a move: the slot is the other node's.
    pub fn end_move(&self, slot: u16, [from, to]: [usize; 2]) {
        let id = self.id(to);
        for node in [to, from] {
            let () = self.nodes[node].run(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]);
        }
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].run(&["CLUSTER", "MYID"])
    }
}

fn node(node_timeout_ms: &str) -> Redis {
    let bus = free_address().port().to_string();
    Redis::with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--cluster-node-timeout",
        node_timeout_ms,
        // The replica is promoted however long it has not heard of its master, and stays with it.
        "--cluster-replica-validity-factor",
        "0",
        "--cluster-allow-replica-migration",
        "no",
    ])
}

fn bus_port(node: &Redis) -> String {
    let (_, port): (String, String) = node.run(&["CONFIG", "GET", "cluster-port"]);
    port
}
