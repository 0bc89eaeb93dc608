//! A proxy between the ledger and PostgreSQL that cuts or stalls connections
//! after a given number of bytes, in a given direction.

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
}

/// A running proxy; it stops when it is dropped.
pub struct Proxy {
    pub port: u16,
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
        });
        let accept = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { port, shared, accept }
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

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(forward(client, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(client: TcpStream, shared: Arc<Shared>) {
    let mut active = shared.active.subscribe();
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
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
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
