//! The gateway under test: the real binary, started, asked, told, stopped.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use serde_json::Value;

use crate::{
    Answer, Dial, H1, Protocol, Request, Setup,
    document::ADMIN_TOKEN,
    h2::H2,
    h2_raw::{self, Verdict},
    process::{Lines, Process},
    request::HOST,
    wait_for,
};

/// The binary under test: `PORTCULLIS_BIN`, else the newest that was built beside the tests.
pub fn binary() -> &'static PathBuf {
    static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
        if let Some(path) = env::var_os("PORTCULLIS_BIN") {
            return path.into();
        }
        // target/PROFILE/deps/TEST
        let test = env::current_exe().expect("a process has a path");
        let target = test.ancestors().nth(3).expect("tests run in a target directory").to_owned();
        ["debug", "release"]
            .iter()
            .map(|profile| target.join(profile).join("portcullis"))
            .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
            .max()
            .map(|(_, path)| path)
            .unwrap_or_else(|| {
                panic!("no gateway to test in {}: build it with `cargo build -p portcullis`", target.display())
            })
    });
    &BINARY
}

/// A running gateway. It is killed when dropped.
pub struct Gateway {
    // Before the setup: the process ends before its directory goes.
    process: Mutex<Process>,
    setup: Setup,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
}

impl Gateway {
    pub(crate) fn launch(setup: Setup) -> Self {
        let mut command = setup.command();
        let process =
            Process::start(command.args(["run", "--grace", "1", "--config"]).arg(setup.config()), setup.directory());
        let (stdout, stderr) = (process.stdout.clone(), process.stderr.clone());
        let gateway = Self { setup, process: Mutex::new(process), stdout, stderr };
        wait_for("the gateway to listen", || {
            gateway.assert_running();
            Dial::plain(gateway.setup.admin()).tcp().ok().and(Dial::plain(gateway.setup.listener()).tcp().ok())
        });
        gateway
    }

    pub(crate) fn wait_ready(&self) {
        wait_for("the gateway to be ready", || {
            self.assert_running();
            (self.admin("GET", "/readyz").status == 200).then_some(())
        });
    }

    fn assert_running(&self) {
        let ended = self.process.lock().unwrap_or_else(PoisonError::into_inner).ended();
        if let Some(status) = ended {
            panic!("the gateway ended with {status}:\n{}\n{}", self.stderr.all().join("\n"), self.setup.text());
        }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.setup.listener()
    }

    /// Its configuration.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// An API key that the setup issued.
    pub fn key(&self, name: &str) -> &str {
        self.setup.api_key(name)
    }

    /// A TLS 1.3 client of the default host.
    pub fn dial(&self) -> Dial {
        Dial::tls(self.address(), HOST)
    }

    /// A fresh HTTP/1.1 connection to the default host.
    pub fn h1(&self) -> H1 {
        H1::over(self.dial().connect().expect("the gateway accepts a connection"))
    }

    /// A fresh HTTP/2 connection to the default host.
    pub fn h2(&self) -> H2 {
        H2::connect(self.address(), HOST, None).expect("the gateway accepts a connection")
    }

    /// Sends one request on a fresh HTTP/1.1 connection, with the server name that its host asks for.
    pub fn send(&self, request: &Request) -> Answer {
        self.send_from(&self.dial_for(request), request)
    }

    /// Sends one request on a fresh HTTP/1.1 connection that is made in this way.
    pub fn send_from(&self, dial: &Dial, request: &Request) -> Answer {
        self.try_send(dial, request).unwrap_or_else(|| panic!("closed without an answer to {request:?}"))
    }

    /// As [`Self::send_from`]; `None` when the connection was closed without an answer.
    pub fn try_send(&self, dial: &Dial, request: &Request) -> Option<Answer> {
        let mut client = H1::over(dial.connect().expect("the gateway accepts a connection"));
        client.send(request.h1());
        client.answer_to(&request.method)
    }

    /// Sends one request on a fresh HTTP/2 connection.
    pub fn send_h2(&self, request: &Request) -> Answer {
        let name = sni_of(request);
        H2::connect(self.address(), &name, None)
            .expect("the gateway accepts a connection")
            .send(request)
            .unwrap_or_else(|e| panic!("{e} instead of an answer to {request:?}"))
    }

    /// Every byte of the answer to a request that asks for the connection to be closed after it.
    pub fn raw(&self, request: &Request) -> Vec<u8> {
        let mut wire = self.dial_for(request).connect().expect("the gateway accepts a connection");
        wire.write_all(&request.h1()).expect("the request is sent");
        let mut all = Vec::new();
        match wire.read_to_end(&mut all) {
            Ok(_) => all,
            // TLS without a closing alert is still the end.
            Err(error) if crate::dial::is_close(&error) => all,
            Err(error) => panic!("{error} after {} bytes of an answer", all.len()),
        }
    }

    /// Sends one request over either protocol.
    pub fn ask(&self, protocol: Protocol, request: &Request) -> Answer {
        match protocol {
            Protocol::H1 => self.send(request),
            Protocol::H2 => self.send_h2(request),
        }
    }

    /// Sends one request, byte for byte, over either protocol; `None` when the protocol layer refused it without an
    /// answer.
    pub fn status(&self, protocol: Protocol, request: &Request) -> Option<u16> {
        match protocol {
            Protocol::H1 => self.try_send(&self.dial_for(request), request).map(|answer| answer.status),
            Protocol::H2 => match self.h2_raw(request) {
                Verdict::Status(status) => Some(status),
                Verdict::Reset(_) | Verdict::GoAway(_) | Verdict::Closed => None,
            },
        }
    }

    /// Sends one request, byte for byte, over HTTP/2.
    pub fn h2_raw(&self, request: &Request) -> Verdict {
        let dial = self.dial_for(request).alpn(&["h2"]);
        h2_raw::send(dial.connect().expect("the gateway accepts a connection"), request)
    }

    fn dial_for(&self, request: &Request) -> Dial {
        self.dial().sni(&sni_of(request))
    }

    /// Asks the admin listener, with its token.
    pub fn admin(&self, method: &str, target: &str) -> Answer {
        self.admin_with(method, target, &format!("Authorization: Bearer {ADMIN_TOKEN}\r\n"))
    }

    /// Asks the admin listener, with these header lines.
    pub fn admin_with(&self, method: &str, target: &str, lines: &str) -> Answer {
        let mut client = H1::over(Dial::plain(self.setup.admin()).connect().expect("the admin listener accepts"));
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: admin\r\n{lines}Connection: close\r\n\r\n"));
        client.answer_to(method).expect("the admin listener answers")
    }

    /// Hands the admin listener a document, with its token.
    pub fn admin_post(&self, target: &str, body: &Value) -> Answer {
        let mut client = H1::over(Dial::plain(self.setup.admin()).connect().expect("the admin listener accepts"));
        let (body, token) = (body.to_string(), format!("Authorization: Bearer {ADMIN_TOKEN}\r\n"));
        let length = body.len();
        client.send(format!("POST {target} HTTP/1.1\r\nHost: admin\r\n{token}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"));
        client.answer_to("POST").expect("the admin listener answers")
    }

    /// Ends it at once, as a crash would, and starts it again with the same configuration.
    pub fn crash_and_start(self) -> Self {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).kill();
        let Self { setup, .. } = self;
        setup.start()
    }

    /// The sum of a metric over every series whose label set contains all of `labels`, each written `name="value"`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let text = self.admin("GET", "/metrics").text();
        let series: Vec<f64> = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        (!series.is_empty()).then(|| series.iter().sum())
    }

    /// The access line of a request.
    pub fn line(&self, request_id: &str) -> Value {
        self.line_where(|line| line["request_id"] == request_id)
            .unwrap_or_else(|| panic!("no access line of {request_id} in {:#?}", self.stdout.all()))
    }

    /// The first access line that the test means.
    pub fn line_where(&self, meant: impl Fn(&Value) -> bool) -> Option<Value> {
        self.stdout.wait(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in the access line {line:?}"));
            meant(&line).then_some(line)
        })
    }

    /// Every access line so far.
    pub fn access_log(&self) -> Vec<String> {
        self.stdout.all()
    }

    /// The first line of the system log that the test means.
    pub fn said(&self, meant: impl Fn(&str) -> bool) -> Option<String> {
        self.stderr.wait(|line| meant(line).then(|| line.to_owned()))
    }

    /// Everything it printed so far, on both streams.
    pub fn output(&self) -> String {
        [self.stdout.all(), self.stderr.all()].concat().join("\n")
    }

    /// Writes this configuration over its own and tells it to read it; returns when it has done so. `true` when it took
    /// the new one.
    pub fn reload(mut self, change: impl FnOnce(Setup) -> Setup) -> (Self, bool) {
        self.setup = change(self.setup);
        self.setup.write();
        let taken = self.hang_up();
        (self, taken)
    }

    /// Tells it to read its configuration again; `true` when it took it.
    pub fn hang_up(&self) -> bool {
        let reloads = || self.metric("portcullis_config_reloads_total", &[]).unwrap_or(0.0);
        let before = reloads();
        self.signal("HUP");
        wait_for("the reload to be counted", || (reloads() > before).then_some(()));
        self.metric("portcullis_config_last_reload_success", &[]) == Some(1.0)
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).signal(name);
    }

    /// Waits until it has ended by itself; the exit code.
    pub fn end(&self) -> Option<i32> {
        wait_for("the gateway to end", || self.process.lock().unwrap_or_else(PoisonError::into_inner).ended()).code()
    }

    /// Whether it is still there.
    pub fn is_running(&self) -> bool {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).ended().is_none()
    }

    /// Runs the binary with other arguments, in the configuration's directory, e.g. `bans list`; `--config` is added.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).arg("--config").arg(self.setup.config()).output().expect("the binary runs")
    }

    /// The binary in the configuration's directory.
    pub fn command(&self) -> Command {
        self.setup.command()
    }
}

/// The server name for a request's host: the host without port and trailing dot where that is a name of ours, else the
/// default one.
fn sni_of(request: &Request) -> String {
    let host =
        request.host.as_deref().map(|host| String::from_utf8_lossy(host).to_ascii_lowercase()).unwrap_or_default();
    let name = host.split(':').next().unwrap_or_default().trim_end_matches('.');
    if name.ends_with(".example.test")
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b".-".contains(&c))
        && rustls_pki_types::DnsName::try_from(name).is_ok()
    {
        name.to_owned()
    } else {
        HOST.to_owned()
    }
}
