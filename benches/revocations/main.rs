//! How soon a revocation holds on every gateway, measured on the real binary.
//!
//! `cargo run --release -p portcullis-benches --bin revocations` (or `make bench-revocations`). Everything is on loopback:
//! three gateways with one worker thread each, one redis-server, one small upstream. Each token is let in by all three, then
//! revoked at one of them in turn; from the answer on all three are asked with it, each over a connection of its own, until
//! each has refused it once.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use portcullis_benches::{
    aim::{Aim, quantile, sorted},
    cpus::{Cpus, Pin},
    redis_server::{Server, store_key},
    subject::{Programs, Subject, free_port, is_ready},
    upstream,
};
use serde_json::json;

const GATEWAYS: usize = 3;
const HOST: &str = "api.gateway.test";
const ISSUER: &str = "https://id.gateway.test";
const ADMIN_TOKEN: &str = "bench-admin-token-0123456789abcdef0123456789";
const SECRET: &str = "k3f9Zq0vT7mWc2Xb8LpR5sYd1HnJ6gUe";
/// Whoever has not refused by then never does.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to measure.
#[derive(Debug, Parser)]
struct Flags {
    /// How many tokens are revoked.
    #[arg(long, default_value_t = 300)]
    revocations: u32,
    /// Do not build the gateway first.
    #[arg(long)]
    no_build: bool,
    /// Do not pin processes to CPUs.
    #[arg(long)]
    no_pin: bool,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let programs = Programs::beside_this()?;
    if !flags.no_build {
        programs.build(&[("portcullis", "portcullis")])?;
    }
    let gateway = programs.path("portcullis")?;
    let cpus = Cpus::split(1, if flags.no_pin { Pin::Nothing } else { Pin::Apart })?;
    let folder = tempfile::tempdir()?;
    let (redis, upstream) = (Server::start(folder.path())?, upstream::start()?);
    let mut gateways = Vec::new();
    for number in 0..GATEWAYS {
        gateways.push(Gateway::start(&cpus, &gateway, folder.path(), number, (redis.address, upstream))?);
    }
    let (mut everywhere, mut elsewhere) = (Vec::new(), Vec::new());
    for number in 0..flags.revocations {
        let Took { all, others } = revoke(&mut gateways, number)?;
        everywhere.push(all);
        elsewhere.extend(others);
    }
    let (everywhere, elsewhere) = (sorted(everywhere), sorted(elsewhere));
    let mut out = io::stdout().lock();
    writeln!(out, "{}\n", cpus.describe())?;
    writeln!(out, "| {} revocations, {GATEWAYS} gateways | p50 ms | p99 ms | max ms |", flags.revocations)?;
    writeln!(out, "| --- | --- | --- | --- |")?;
    for (name, times) in [("refused by a gateway that was not asked", &elsewhere), ("refused by all", &everywhere)] {
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| quantile(times, share));
        writeln!(out, "| {name} | {half:.0} | {most:.0} | {all:.0} |")?;
    }
    let aim = Aim::new("p99 until all refuse", quantile(&everywhere, 0.99), 1000.0, "ms");
    writeln!(out, "\n{aim}")?;
    ensure!(aim.is_met(), "the aim is missed");
    Ok(())
}

/// A gateway, and a connection to it.
struct Gateway {
    public: BufReader<TcpStream>,
    admin: SocketAddr,
    _process: Subject,
}

/// In milliseconds, from the answer of whoever revoked.
struct Took {
    all: f64,
    others: Vec<f64>,
}

fn revoke(gateways: &mut [Gateway], number: u32) -> anyhow::Result<Took> {
    let jti = format!("bench-{number}");
    let token = token(&jti)?;
    for gateway in gateways.iter_mut() {
        ensure!(gateway.ask(&token)? == 200, "a token that is good is not let in");
    }
    let at = usize::try_from(number)?.checked_rem(GATEWAYS).context("there are gateways")?;
    gateways.get(at).context("a gateway")?.revoke(&jti)?;
    let answered = Instant::now();
    let mut refused: Vec<Option<f64>> = gateways.iter().map(|_| None).collect();
    while refused.iter().any(Option::is_none) {
        for (gateway, refused) in gateways.iter_mut().zip(&mut refused).filter(|(_, refused)| refused.is_none()) {
            match gateway.ask(&token)? {
                401 => *refused = Some(answered.elapsed().as_secs_f64() * 1000.0),
                200 => {}
                other => bail!("a gateway answers {other}"),
            }
        }
        ensure!(answered.elapsed() < PATIENCE, "a gateway does not refuse {jti}");
    }
    let times: Vec<f64> = refused.into_iter().flatten().collect();
    let others = times.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, time)| *time).collect();
    Ok(Took { all: times.into_iter().fold(0.0, f64::max), others })
}

impl Gateway {
    fn start(
        cpus: &Cpus,
        program: &Path,
        folder: &Path,
        number: usize,
        (redis, upstream): (SocketAddr, SocketAddr),
    ) -> anyhow::Result<Self> {
        let (public, admin) = (free_port()?, free_port()?);
        let config = folder.join(format!("gateway-{number}.toml"));
        fs::write(&config, document(folder, (public, admin), (redis, upstream))?)?;
        let mut command = cpus.proxy_command(program);
        command.arg("run").arg("--config").arg(&config).args(["--threads", "1"]);
        let process = Subject::start(&format!("gateway-{number}"), command, folder, || is_ready(admin))?;
        let socket = TcpStream::connect(public)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { public: BufReader::new(socket), admin, _process: process })
    }

    /// The status of a request with this token.
    fn ask(&mut self, token: &str) -> anyhow::Result<u16> {
        let request = format!("GET /v1/orders HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n\r\n");
        self.public.get_mut().write_all(request.as_bytes())?;
        answer(&mut self.public)
    }

    fn revoke(&self, jti: &str) -> anyhow::Result<()> {
        let asked =
            json!({ "kind": "jti", "value": jti, "issuer": "main", "tenant": "acme", "reason": "a measurement" });
        let body = asked.to_string();
        let mut socket = TcpStream::connect(self.admin)?;
        write!(
            socket,
            "POST /admin/v1/revocations HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        let status = answer(&mut BufReader::new(socket))?;
        ensure!(status == 200, "revoking is answered with {status}");
        Ok(())
    }
}

/// Reads an answer with a length, and gives its status.
fn answer(from: &mut BufReader<TcpStream>) -> anyhow::Result<u16> {
    let (mut line, mut status, mut length) = (String::new(), None, 0_u64);
    loop {
        line.clear();
        ensure!(from.read_line(&mut line)? > 0, "a connection was closed");
        let text = line.trim_end();
        match (status, text.split_once(": ")) {
            (None, _) => status = Some(text.split(' ').nth(1).context("a status")?.parse()?),
            (Some(status), None) if text.is_empty() => {
                io::copy(&mut from.by_ref().take(length), &mut io::sink())?;
                return Ok(status);
            }
            (Some(_), Some((name, value))) if name.eq_ignore_ascii_case("content-length") => length = value.parse()?,
            (Some(_), _) => {}
        }
    }
}

fn token(jti: &str) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = json!({
        "iss": ISSUER, "aud": "bench", "sub": "user-1001", "jti": jti, "iat": now, "exp": now.saturating_add(600),
        "tenant_id": "acme",
    });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?)
}

fn document(
    folder: &Path,
    (public, admin): (SocketAddr, SocketAddr),
    (redis, upstream): (SocketAddr, SocketAddr),
) -> anyhow::Result<String> {
    for (name, secret) in [("issuer-secret", SECRET), ("admin-token", ADMIN_TOKEN)] {
        write_secret(&folder.join(name), secret)?;
    }
    let store_key = store_key(folder)?;
    Ok(format!(
        r#"version = 1

[listeners.public]
address = "{public}"
tls = "off"
client_ip = "direct"

[admin]
address = "{admin}"
token = "file:admin-token"

[log]
access = {{ file = "/dev/null" }}

[issuers.main]
issuer = "{ISSUER}"
audiences = ["bench"]
algorithms = ["HS256"]
keys = {{ secret = "file:issuer-secret" }}
claims = {{ tenant = "tenant_id" }}

[stores]
counters = "redis://{redis}/"
instances = {GATEWAYS}
deadline = "1s"
key = "file:{}"

[upstreams.app]
servers = ["{upstream}"]

[controls]
ip_allowlist = {{ allow = ["127.0.0.0/8"] }}
burst = "off"
waf = "off"

[hosts."{HOST}"]
tenant = "identity"

[hosts."{HOST}".routes.orders]
path = "/v1/orders"
methods = ["GET"]
auth = {{ accept = ["jwt:main"] }}
upstream = "app"
"#,
        store_key.display()
    ))
}

fn write_secret(path: &Path, secret: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(secret.as_bytes())?;
    Ok(())
}
