//! `portcullis demo`: a gateway with embedded defaults, an echo upstream, and the `curl` lines that show it working.

mod files;
mod upstream;

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::say;

/// How the demo runs.
#[derive(Args)]
pub(crate) struct Demo {
    /// Run every line, fail unless each gives what it says, and stop.
    #[arg(long)]
    check: bool,
    /// The port of the gateway; a free one when not given and with --check.
    #[arg(long)]
    port: Option<u16>,
    /// The folder for its certificate, keys and configuration; made anew.
    #[arg(long, default_value = ".dev/demo")]
    dir: PathBuf,
}

/// One thing to see: what it shows, the line, and what must come of it.
struct Scene {
    shows: &'static str,
    line: String,
    /// Texts that the output has.
    has: Vec<String>,
    /// Texts that it has not.
    lacks: Vec<String>,
}

const DEFAULT_PORT: u16 = 8443;

impl Demo {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let port = match (self.port, self.check) {
            (Some(port), _) => port,
            (None, true) => free_port()?,
            (None, false) => DEFAULT_PORT,
        };
        let dir = if self.check { self.dir.with_extension("check") } else { self.dir.clone() };
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
            format!("port {port} is taken; end what listens there, or choose another: portcullis demo --port PORT")
        })?;
        let admin_port = free_port()?;
        let upstream = upstream::Echo::start()?;
        let demo = files::write(&dir, port, admin_port, upstream.port())?;
        let mut gateway = Running(start(&demo.config, self.check, &dir)?);
        wait_until_ready(&mut gateway, admin_port)?;
        let scenes = scenes(&demo, port)?;
        if self.check {
            return check(&scenes);
        }
        say(&format!("The gateway listens on https://{}:{port}; its folder is {}.\n", files::HOST, dir.display()))?;
        for scene in &scenes {
            say(&format!("# {}\n{}\n", scene.shows, scene.line))?;
        }
        say("# why was a request refused? take the request_id of an answer above")?;
        say(&format!("{} explain REQUEST_ID --config {}\n", program()?, demo.config.display()))?;
        say("Ctrl-C ends it. Access lines follow, one for each request.\n")?;
        match until_end(&mut gateway)? {
            Some(status) if !status.success() => bail!("the gateway ended with {status}"),
            Some(_) | None => Ok(()),
        }
    }
}

/// How the gateway ended; none where the demo itself is told to end, and the gateway is to end with it.
fn until_end(gateway: &mut Running) -> anyhow::Result<Option<ExitStatus>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let told = |kind| signal(kind).context("signals");
        let (mut interrupt, mut terminate, mut hangup) =
            (told(SignalKind::interrupt())?, told(SignalKind::terminate())?, told(SignalKind::hangup())?);
        let mut look = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                _ = look.tick() => if let Some(status) = gateway.0.try_wait()? { return Ok(Some(status)) },
                _ = interrupt.recv() => return Ok(None),
                _ = terminate.recv() => return Ok(None),
                _ = hangup.recv() => return Ok(None),
            }
        }
    })
}

/// A gateway that ends with the demo.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn program() -> anyhow::Result<String> {
    Ok(std::env::current_exe().context("the path of this program")?.display().to_string())
}

fn start(config: &Path, check: bool, dir: &Path) -> anyhow::Result<Child> {
    let log = std::fs::File::create(dir.join("system.jsonl"))?;
    let access = if check { Stdio::from(std::fs::File::create(dir.join("access.jsonl"))?) } else { Stdio::inherit() };
    Command::new(std::env::current_exe()?)
        .args(["run", "--threads", "2", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(access)
        .stderr(log)
        .spawn()
        .context("the gateway could not be started")
}

fn wait_until_ready(gateway: &mut Running, port: u16) -> anyhow::Result<()> {
    let until = Instant::now().checked_add(Duration::from_secs(30));
    loop {
        if std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(());
        }
        if let Some(status) = gateway.0.try_wait()? {
            bail!("the gateway ended with {status}; its log is system.jsonl in the demo's folder");
        }
        if until.is_none_or(|until| Instant::now() > until) {
            bail!("the gateway was not ready in 30 seconds");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn scenes(demo: &files::Demo, port: u16) -> anyhow::Result<Vec<Scene>> {
    let host = files::HOST;
    let curl = format!(
        "curl -sS --cacert {} --resolve {host}:{port}:127.0.0.1",
        demo.ca.to_str().ok_or_else(|| anyhow!("the folder's name is no text"))?
    );
    let url = format!("https://{host}:{port}");
    let bearer = format!("-H 'Authorization: Bearer {}'", demo.token);
    let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let links =
        "see http://a.example http://b.example http://c.example http://d.example http://e.example http://f.example";
    Ok(vec![
        Scene {
            shows: "200: a verified token; the upstream shows the identity that the gateway injected",
            line: format!("{curl} {bearer} {url}/v1/orders"),
            has: own(&[
                "\"x-portcullis-tenant\": \"acme\"",
                "\"x-portcullis-kind\": \"user\"",
                "\"x-portcullis-role\": \"developer\"",
            ]),
            lacks: own(&["\"authorization\""]),
        },
        Scene {
            shows: "200: an API key",
            line: format!("{curl} -H 'X-Api-Key: {}' {url}/v1/orders", demo.keys.first),
            has: own(&["\"x-portcullis-kind\": \"apikey\"", "\"x-portcullis-tenant\": \"acme\""]),
            lacks: own(&["\"x-api-key\""]),
        },
        Scene {
            shows: "401: no credential",
            line: format!("{curl} -i {url}/v1/orders"),
            has: own(&["401", "www-authenticate: Bearer", "authentication.required"]),
            lacks: own(&[]),
        },
        Scene {
            shows: "403: the route's address list has another network",
            line: format!("{curl} -i {bearer} {url}/v1/office"),
            has: own(&["403", "ip_allowlist.denied"]),
            lacks: own(&[]),
        },
        Scene {
            shows: "403: six URLs in one message, five are allowed",
            line: format!(
                "{curl} -i {bearer} -H 'Content-Type: application/json' -d '{{\"text\":\"{links}\"}}' {url}/v1/messages"
            ),
            has: own(&["403", "waf.urls"]),
            lacks: own(&[]),
        },
        Scene {
            shows: "a claimed identity does not arrive: the upstream sees acme, not globex",
            line: format!("{curl} {bearer} -H 'X-Portcullis-Tenant: globex' {url}/v1/orders"),
            has: own(&["\"x-portcullis-tenant\": \"acme\""]),
            lacks: own(&["globex"]),
        },
        Scene {
            shows: "429: more than ten requests a second with one API key",
            line: format!(
                "{curl} -o /dev/null -w '%{{http_code}} retry-after=%header{{retry-after}}\\n' -H 'X-Api-Key: {}' '{url}/v1/orders?n=[1-25]'",
                demo.keys.second
            ),
            has: own(&["200 retry-after=\n", "429 retry-after=1"]),
            lacks: own(&[]),
        },
    ])
}

fn check(scenes: &[Scene]) -> anyhow::Result<()> {
    let mut failed = 0u32;
    for scene in scenes {
        let output = Command::new("sh").arg("-c").arg(&scene.line).stdin(Stdio::null()).output().context("sh")?;
        let text = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
        let missing: Vec<&String> = scene.has.iter().filter(|has| !contains(&text, has)).collect();
        let present: Vec<&String> = scene.lacks.iter().filter(|lacks| contains(&text, lacks)).collect();
        if output.status.success() && missing.is_empty() && present.is_empty() {
            say(&format!("ok      {}", scene.shows))?;
        } else {
            failed = failed.saturating_add(1);
            let errors = String::from_utf8_lossy(&output.stderr);
            say(&format!(
                "FAILED  {}\n  {}\n  missing {missing:?}, unwanted {present:?}\n{text}{errors}",
                scene.shows, scene.line
            ))?;
        }
    }
    if failed > 0 {
        bail!("{failed} of {} lines did not give what they say", scenes.len())
    } else {
        say("every line gave what it says")
    }
}

/// Header names differ in case between the protocols.
fn contains(text: &str, part: &str) -> bool {
    text.contains(part) || text.to_ascii_lowercase().contains(&part.to_ascii_lowercase())
}
