//! An upstream that answers with what it received, as JSON.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

/// A running echo upstream; it ends with the process.
pub(super) struct Echo {
    port: u16,
}

/// Header lines and body bytes that it reads of one request.
const LINES_MAX: usize = 256;
const BODY_MAX: u64 = 2 << 20;

impl Echo {
    /// Listens on a free loopback port.
    pub(super) fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        thread::Builder::new().name("echo".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                // A connection that breaks is the gateway's to report.
                thread::spawn(move || serve(stream).is_ok());
            }
        })?;
        Ok(Self { port })
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }
}

fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for _ in 0..LINES_MAX {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let body = read_body(&mut reader, &headers)?;
        let mut words = request.split_whitespace();
        let answer = serde_json::json!({
            "method": words.next(),
            "target": words.next(),
            "headers": headers,
            "body_bytes": body,
        });
        let text = serde_json::to_string_pretty(&answer).unwrap_or_default();
        let length = text.len().saturating_add(1);
        write!(
            writer,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: echo\r\nContent-Length: {length}\r\n\r\n{text}\n"
        )?;
    }
}

fn read_body(reader: &mut BufReader<TcpStream>, headers: &BTreeMap<String, String>) -> std::io::Result<u64> {
    if headers.contains_key("transfer-encoding") {
        let mut total = 0u64;
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim(), 16).unwrap_or(0).min(BODY_MAX);
            let mut piece = Vec::new();
            reader.by_ref().take(size.saturating_add(2)).read_to_end(&mut piece)?;
            if size == 0 {
                return Ok(total);
            }
            total = total.saturating_add(size);
        }
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0u64).min(BODY_MAX);
    let mut body = Vec::new();
    reader.by_ref().take(length).read_to_end(&mut body)?;
    Ok(length)
}
