//! A TCP proxy between one gateway and the store: answers late, or cut off as a network that loses everything does.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// What becomes of what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Every answer so much later; questions pass at once.
    Late(Duration),
    /// Nothing passes until the way is open again; connections stay. As a sender would send it again, what was held
    /// passes then.
    Cut,
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Detour {
    pub(crate) address: SocketAddr,
    way: watch::Sender<Way>,
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Questions,
    Answers,
}

impl Detour {
    /// Starts one to this server.
    pub(crate) async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (way, watched) = watch::channel(Way::Open);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that fails shows at the gateway.
                let watched = watched.clone();
                tokio::spawn(async move { carry(stream, server, watched).await.is_ok() });
            }
        });
        Ok(Self { address, way })
    }

    /// From now on.
    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn carry(gateway: TcpStream, server: SocketAddr, way: watch::Receiver<Way>) -> anyhow::Result<()> {
    let server = TcpStream::connect(server).await?;
    gateway.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_gateway, to_gateway) = gateway.into_split();
    let (from_server, to_server) = server.into_split();
    // Where one side ends, the other is not kept waiting for it.
    tokio::select! {
        result = pump(from_gateway, to_server, way.clone(), Direction::Questions) => result,
        result = pump(from_server, to_gateway, way, Direction::Answers) => result,
    }
}

/// Reading goes on while what was read waits for its time, so that late answers come no slower.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut way: watch::Receiver<Way>,
    direction: Direction,
) -> anyhow::Result<()> {
    let (sender, mut waiting) = mpsc::unbounded_channel();
    let now = way.clone();
    let read = async move {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let length = from.read(&mut buffer).await?;
            let bytes = buffer.get(..length).unwrap_or_default().to_vec();
            // None, and not now: a timer of the runtime takes a millisecond even then.
            let at = match (*now.borrow(), direction) {
                (Way::Late(after), Direction::Answers) => Instant::now().checked_add(after),
                (Way::Late(_), Direction::Questions) | (Way::Open | Way::Cut, _) => None,
            };
            if length == 0 || sender.send((at, bytes)).is_err() {
                return anyhow::Ok(());
            }
        }
    };
    let write = async move {
        while let Some((at, bytes)) = waiting.recv().await {
            if let Some(at) = at {
                sleep_until(at).await;
            }
            way.wait_for(|way| *way != Way::Cut).await?;
            to.write_all(&bytes).await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection through a detour to a server that sends back what it gets.
    async fn through() -> (Detour, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let detour = Detour::start(listener.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut from, mut to) = stream.into_split();
            tokio::io::copy(&mut from, &mut to).await.unwrap();
        });
        let stream = TcpStream::connect(detour.address).await.unwrap();
        (detour, stream)
    }

    async fn echo(stream: &mut TcpStream) -> Duration {
        let start = Instant::now();
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        start.elapsed()
    }

    #[tokio::test]
    async fn answers_are_late_while_they_are_told_to_be() {
        let (detour, mut stream) = through().await;
        echo(&mut stream).await;
        detour.set(Way::Late(Duration::from_millis(40)));
        assert!(echo(&mut stream).await >= Duration::from_millis(40));
        detour.set(Way::Open);
        echo(&mut stream).await;
    }

    #[tokio::test]
    async fn what_is_cut_off_comes_when_the_way_is_open_again() {
        let (detour, mut stream) = through().await;
        detour.set(Way::Cut);
        stream.write_all(b"x").await.unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
        assert!(nothing.is_err(), "{nothing:?}");
        detour.set(Way::Open);
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }
}
