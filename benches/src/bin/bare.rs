//! Bare Pingora: terminates TLS with Pingora's own listener, forwards, and does nothing else. What the gateway's price
//! is compared with.
//!
//! It is as cheap as Pingora gets: no compression module, one peer built at the start, the timeouts that our gateway
//! sets by default. It ends when its standard input does, so that it never outlives the load that started it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use clap::Parser;
use mimalloc::MiMalloc;
use pingora_core::{
    listeners::tls::TlsSettings,
    modules::http::HttpModules,
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
};
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

// The gateway's allocator: what is compared is the work.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A proxy without any control.
#[derive(Parser)]
struct Flags {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Where to forward to, plain HTTP/1.1.
    #[arg(long)]
    upstream: SocketAddr,
    /// PEM chain.
    #[arg(long)]
    chain: PathBuf,
    /// PEM key.
    #[arg(long)]
    key: PathBuf,
    /// Worker threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

struct Bare {
    peer: HttpPeer,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();
    fn new_ctx(&self) -> Self::CTX {}

    /// Without the compression module, which Pingora adds by default.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut Self::CTX) -> pingora_core::Result<Box<HttpPeer>> {
        Ok(Box::new(self.peer.clone()))
    }
}

fn main() -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider is installed already"))?;
    let flags = Flags::parse();
    std::thread::spawn(exit_with_standard_input);

    let conf = ServerConf { threads: flags.threads, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();

    let mut service = http_proxy_service(&server.configuration, Bare { peer: peer(flags.upstream) });
    let chain = flags.chain.to_str().context("the chain's path is not UTF-8")?;
    let key = flags.key.to_str().context("the key's path is not UTF-8")?;
    let mut tls = TlsSettings::intermediate(chain, key).map_err(|error| anyhow!("{error}"))?;
    tls.enable_h2();
    service.add_tls_with_settings(&flags.listen.to_string(), None, tls);
    server.add_service(service);
    server.run_forever()
}

fn peer(upstream: SocketAddr) -> HttpPeer {
    let mut peer = HttpPeer::new(upstream, false, String::new());
    peer.options.connection_timeout = Some(Duration::from_secs(3));
    peer.options.total_connection_timeout = Some(Duration::from_secs(3));
    peer.options.read_timeout = Some(Duration::from_secs(30));
    peer.options.write_timeout = Some(Duration::from_secs(10));
    peer.options.idle_timeout = Some(Duration::from_secs(60));
    peer
}

fn exit_with_standard_input() {
    // Whether it ends or fails, nobody is there any more.
    let _ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    std::process::exit(0);
}
