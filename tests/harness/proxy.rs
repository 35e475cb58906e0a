//! A TCP proxy that can be cut and slowed: the line between the hub and a site.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::port::{self, Port};
use crate::request_log::{Reader, RequestLog};

const CHUNK: usize = 16 * 1024;
const CHUNKS_UNDER_WAY: usize = 256;
const BACKLOG: u32 = 256;

/// How a line is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Connections are reset and new ones refused, as when the server's host is up and the server is not.
    Refuse,
    /// Nothing is answered any more: connections stay open and silent, new ones are accepted and hear nothing, as when
    /// packets are lost. What was sent meanwhile arrives after [`Proxy::restore`].
    Silent,
}

/// What went through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Bytes passed on to the server.
    pub sent: u64,
    /// Bytes passed on from the server.
    pub received: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Whole,
    Cut(Cut),
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    line: Line,
    delay: Duration,
    /// Connections of an older epoch are reset.
    epoch: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// A proxy on a loopback port of its own, in front of one server.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    wanted: watch::Sender<Wanted>,
    target: watch::Sender<SocketAddr>,
    listening: watch::Receiver<bool>,
    counters: Arc<Counters>,
    task: AbortHandle,
    _port: Port,
}

impl Proxy {
    /// Starts a proxy in front of `target`.
    pub fn start(target: SocketAddr) -> Result<Self> {
        Self::start_with(target, None)
    }

    /// Starts a proxy that writes down the HTTP requests that pass.
    pub(crate) fn logging(target: SocketAddr, log: Arc<RequestLog>) -> Result<Self> {
        Self::start_with(target, Some(log))
    }

    fn start_with(target: SocketAddr, log: Option<Arc<RequestLog>>) -> Result<Self> {
        let port = Port::hold()?;
        let address = port.address();
        let (wanted, wanted_seen) = watch::channel(Wanted { line: Line::Whole, delay: Duration::ZERO, epoch: 0 });
        let (target, target_seen) = watch::channel(target);
        let (listening_set, listening) = watch::channel(true);
        let counters = Arc::new(Counters::default());
        let server = Server { wanted: wanted_seen, target: target_seen, counters: Arc::clone(&counters), log };
        let listener = listen(address)?;
        let task = tokio::spawn(server.run(address, listener, listening_set)).abort_handle();
        Ok(Self { address, wanted, target, listening, counters, task, _port: port })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the line. When this returns, the cut holds.
    pub async fn cut(&self, cut: Cut) {
        self.wanted.send_modify(|wanted| {
            wanted.line = Line::Cut(cut);
            if cut == Cut::Refuse {
                wanted.epoch += 1;
            }
        });
        if cut == Cut::Refuse {
            self.await_listening(false).await;
            self.await_closed().await;
        } else {
            self.await_listening(true).await;
        }
    }

    /// Makes the line whole. When this returns, connections are accepted. The delay stays.
    pub async fn restore(&self) {
        self.wanted.send_modify(|wanted| wanted.line = Line::Whole);
        self.await_listening(true).await;
    }

    /// Whether the line is cut.
    pub fn is_cut(&self) -> bool {
        matches!(self.wanted.borrow().line, Line::Cut(_))
    }

    /// Delays every byte by this much, in each direction; zero ends it.
    pub fn delay(&self, each_way: Duration) {
        self.wanted.send_modify(|wanted| wanted.delay = each_way);
    }

    /// Resets the connections that are open and lets new ones come.
    pub async fn reset_connections(&self) {
        self.wanted.send_modify(|wanted| wanted.epoch += 1);
    }

    /// Sends new connections to another server, as when a name is given to another cluster.
    pub fn point_at(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// What went through until now.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            accepted: self.counters.accepted.load(Ordering::SeqCst),
            open: self.counters.open.load(Ordering::SeqCst),
            sent: self.counters.sent.load(Ordering::SeqCst),
            received: self.counters.received.load(Ordering::SeqCst),
        }
    }

    async fn await_listening(&self, listening: bool) {
        // The sender lives as long as the task; when that is gone there is nothing left to wait for.
        let _ = self.listening.clone().wait_for(|seen| *seen == listening).await;
    }

    async fn await_closed(&self) {
        while self.counters.open.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    port::bind(address)?.listen(BACKLOG).map_err(Error::Port)
}

#[derive(Clone)]
struct Server {
    wanted: watch::Receiver<Wanted>,
    target: watch::Receiver<SocketAddr>,
    counters: Arc<Counters>,
    log: Option<Arc<RequestLog>>,
}

impl Server {
    async fn run(mut self, address: SocketAddr, first: TcpListener, listening: watch::Sender<bool>) {
        let mut listener = Some(first);
        // Aborted with this task.
        let mut connections = JoinSet::new();
        loop {
            let refuse = self.wanted.borrow_and_update().line == Line::Cut(Cut::Refuse);
            if refuse {
                listener = None;
            } else if listener.is_none() {
                listener = listen(address).ok();
            }
            listening.send_replace(listener.is_some());
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                Some(stream) = accept(listener.as_ref()) => {
                    self.counters.accepted.fetch_add(1, Ordering::SeqCst);
                    let open = Open::new(&self.counters);
                    let server = self.clone();
                    connections.spawn(async move {
                        server.serve(stream).await;
                        drop(open);
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn serve(self, mut client: TcpStream) {
        let epoch = self.wanted.borrow().epoch;
        let mut wanted = self.wanted.clone();
        tokio::select! {
            // Reset before anything else is passed on.
            biased;
            _ = wanted.wait_for(|wanted| wanted.epoch != epoch) => {
                let _ = client.set_zero_linger();
            }
            () = self.forward(&mut client) => {}
        }
    }

    async fn forward(&self, client: &mut TcpStream) {
        let mut wanted = self.wanted.clone();
        if wanted.wait_for(|wanted| wanted.line == Line::Whole).await.is_err() {
            return;
        }
        let target = *self.target.borrow();
        let Ok(mut server) = TcpStream::connect(target).await else {
            let _ = client.set_zero_linger();
            return;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        tokio::join!(
            pump(client_read, server_write, &self.wanted, &self.counters.sent, self.log.as_ref().map(|log| Reader::new(Arc::clone(log)))),
            pump(server_read, client_write, &self.wanted, &self.counters.received, None),
        );
    }
}

/// Passes one direction on. Reading goes on while bytes are on their way, so that a delay costs time and not throughput.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    wanted: &watch::Receiver<Wanted>,
    passed: &AtomicU64,
    mut reader: Option<Reader>,
) {
    let (queue, mut under_way) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_UNDER_WAY);
    let read = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            match from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    let arrival = Instant::now() + wanted.borrow().delay;
                    if queue.send((arrival, buffer.split().freeze())).await.is_err() {
                        break;
                    }
                }
            }
        }
        drop(queue);
    };
    let write = async {
        let mut line = wanted.clone();
        while let Some((arrival, bytes)) = under_way.recv().await {
            if arrival > Instant::now() {
                tokio::time::sleep_until(arrival).await;
            }
            if line.wait_for(|wanted| wanted.line == Line::Whole).await.is_err() {
                break;
            }
            // Before the server can answer it, so that who has an answer finds the request.
            if let Some(reader) = reader.as_mut() {
                reader.read(&bytes);
            }
            if to.write_all(&bytes).await.is_err() {
                break;
            }
            passed.fetch_add(u64::try_from(bytes.len()).unwrap_or_default(), Ordering::SeqCst);
        }
        let _ = to.shutdown().await;
        // Nobody takes what is still read: end the reading side too.
        drop(under_way);
    };
    tokio::join!(read, write);
}

/// Counts a connection for as long as it lives, also when its task is aborted.
struct Open(Arc<Counters>);

impl Open {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counters))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    loop {
        match listener {
            None => std::future::pending().await,
            Some(listener) => match listener.accept().await {
                Ok((stream, _)) => return Some(stream),
                // Out of descriptors, or the client left in between.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    }
}
