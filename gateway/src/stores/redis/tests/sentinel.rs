//! A real Sentinel as a child process, and one that says whatever a test wants.

use std::{
    net::{Ipv4Addr, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::server::{free_port, until, write};

/// A Sentinel that watches one master as `main`.
pub(super) struct Sentinel {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Sentinel {
    /// `more` is of its configuration; where it has a TLS port, `{port}` is that.
    pub(super) async fn of(master: u16, more: &str) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let plain = if more.contains("tls-port") { 0 } else { port };
        let text = format!(
            "port {plain}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master} 1\n{}\n",
            more.replace("{port}", &port.to_string())
        );
        let file = folder.path().join("sentinel.conf");
        write(&file, &text);
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed by `make test`");
        let sentinel = Self { child, port, _folder: folder };
        until("the Sentinel accepts", async || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()).await;
        sentinel
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Answers every question for a master with this port, until it is told another one.
pub(super) struct Liar {
    pub(super) port: u16,
    pub(super) says: Arc<Mutex<u16>>,
}

impl Liar {
    pub(super) async fn saying(master: u16) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let says = Arc::new(Mutex::new(master));
        let said = says.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let said = said.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4_096];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        let mut answer = String::new();
                        for command in String::from_utf8_lossy(&buffer[..count]).split('*').skip(1) {
                            let port = said.lock().to_string();
                            answer += &match command.contains("SENTINEL") {
                                true => format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len()),
                                false => "-ERR unknown\r\n".to_owned(),
                            };
                        }
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, says }
    }
}
