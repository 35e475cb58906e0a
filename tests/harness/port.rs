//! Loopback ports that nobody else can take.
//!
//! A port is held by a socket that is bound and never listens. Servers that bind with `SO_REUSEPORT` share it with us, so
//! there is no moment at which another process could get it, also not while the server is down.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use tokio::net::TcpSocket;

use crate::error::{Error, Result};

/// A port held for as long as this lives.
#[derive(Debug)]
pub(crate) struct Port {
    _held: TcpSocket,
    address: SocketAddr,
}

impl Port {
    pub(crate) fn hold() -> Result<Self> {
        let held = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = held.local_addr().map_err(Error::Port)?;
        Ok(Self { _held: held, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A socket bound so that it shares its port with others of this user.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4().map_err(Error::Port)?;
    socket.set_reuseport(true).map_err(Error::Port)?;
    socket.bind(address).map_err(Error::Port)?;
    Ok(socket)
}

/// A port for a server that can not share: below the range of outgoing connections, free now, handed out once a process.
/// Another process can still take it, so the caller tries again when its server finds it in use.
pub(crate) fn unshared() -> Result<SocketAddr> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut last = None;
    for attempt in 0..200u32 {
        let random = RandomState::new().hash_one(attempt) % 20_000;
        let number = 10_000 + u16::try_from(random).unwrap_or_default();
        match TcpListener::bind((Ipv4Addr::LOCALHOST, number)) {
            Ok(_) => {
                if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(number) {
                    return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, number)));
                }
            }
            Err(error) => last = Some(error),
        }
    }
    Err(Error::Port(last.unwrap_or_else(|| std::io::Error::other("200 random ports are in use"))))
}
