//! A proxy between the ledger and PostgreSQL that cuts or stalls connections
//! after a given number of bytes, in a given direction, or is a black hole for
//! a while.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None: bytes flow.
    None,
    /// All connections are closed.
    Cut,
    /// Nothing flows any more, and nobody is told.
    Stall,
}

/// The direction whose bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

struct Shared {
    socket: PathBuf,
    /// Bytes left until the fault strikes, per direction.
    left: [AtomicI64; 2],
    armed: watch::Sender<Fault>,
    active: watch::Sender<Fault>,
    hole: watch::Sender<bool>,
    /// Ends the connections that there are.
    cut: watch::Sender<()>,
}

/// A running proxy; it stops when it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port, and forwards to the Unix socket.
    pub async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let left = [AtomicI64::new(i64::MAX), AtomicI64::new(i64::MAX)];
        let shared = Arc::new(Shared {
            socket,
            left,
            armed: watch::Sender::new(Fault::None),
            active: watch::Sender::new(Fault::None),
            hole: watch::Sender::new(false),
            cut: watch::Sender::new(()),
        });
        let accept = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { port, shared, accept }
    }

    /// The way through it to the database of a URL, which is the server's that it
    /// forwards to.
    pub fn url(&self, url: &str) -> String {
        let (_, database) = place(url);
        format!("postgres://steelyard@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Strikes after `bytes` more bytes in `direction`.
    pub fn arm(&self, fault: Fault, direction: Direction, bytes: u32) {
        self.shared.armed.send_replace(fault);
        self.shared.left[direction as usize].store(i64::from(bytes), Ordering::SeqCst);
    }

    /// Waits until the fault has struck.
    pub async fn struck(&self) {
        _ = self.shared.active.subscribe().wait_for(|fault| *fault != Fault::None).await;
    }

    /// Lets nothing through any more, neither bytes nor ends of connections,
    /// and tells nobody, as a broken network does. It accepts new connections,
    /// where a network would not answer at all: either way nobody comes through.
    pub fn swallow(&self) {
        self.shared.hole.send_replace(true);
    }

    /// The network is whole again: what was sent meanwhile arrives. Or it has
    /// lost its connections too.
    pub fn give_back(&self, cut: bool) {
        if cut {
            self.shared.cut.send_replace(());
        }
        self.shared.hole.send_replace(false);
    }

    /// Lets new connections through again; stalled ones are closed.
    pub fn heal(&self) {
        for left in &self.shared.left {
            left.store(i64::MAX, Ordering::SeqCst);
        }
        self.shared.armed.send_replace(Fault::None);
        self.shared.active.send_replace(Fault::None);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

/// The socket and the database of a URL.
pub fn place(url: &str) -> (PathBuf, String) {
    let url = url::Url::parse(url).expect("a URL");
    let host = url.query_pairs().find(|(name, _)| name == "host").expect("a socket directory").1.into_owned();
    (PathBuf::from(host).join(".s.PGSQL.5432"), url.path().trim_start_matches('/').to_owned())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(forward(client, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(client: TcpStream, shared: Arc<Shared>) {
    let mut active = shared.active.subscribe();
    let mut cut = shared.cut.subscribe();
    if *active.borrow_and_update() == Fault::Cut {
        return;
    }
    let Ok(server) = UnixStream::connect(&shared.socket).await else { return };
    _ = client.set_nodelay(true);
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let to_server = pump(client_read, server_write, Arc::clone(&shared), Direction::ToServer);
    let to_client = pump(server_read, client_write, Arc::clone(&shared), Direction::ToClient);
    let struck = async {
        // A cut ends the connection at once, a stall when it is healed.
        _ = active.wait_for(|fault| *fault != Fault::None).await;
        if *active.borrow() == Fault::Stall {
            _ = active.wait_for(|fault| *fault == Fault::None).await;
        }
    };
    tokio::select! {
        biased;
        _ = cut.changed() => {}
        () = to_server => {}
        () = to_client => {}
        () = struck => {}
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    shared: Arc<Shared>,
    direction: Direction,
) {
    let mut buffer = vec![0; 4096];
    let mut active = shared.active.subscribe();
    let mut hole = shared.hole.subscribe();
    loop {
        let read = from.read(&mut buffer).await;
        _ = hole.wait_for(|hole| !hole).await;
        let Ok(count @ 1..) = read else { return };
        if *active.borrow_and_update() == Fault::Stall {
            _ = active.wait_for(|fault| *fault == Fault::None).await;
            return;
        }
        let left = shared.left[direction as usize].fetch_sub(count as i64, Ordering::SeqCst);
        if left <= count as i64 {
            // The last bytes before the fault still go through.
            let pass = usize::try_from(left.max(0)).unwrap_or(0).min(count);
            _ = to.write_all(&buffer[..pass]).await;
            let fault = *shared.armed.borrow();
            if fault != Fault::None {
                shared.active.send_replace(fault);
                _ = active.wait_for(|fault| *fault == Fault::None).await;
                return;
            }
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
