//! Traffic that tests make: from inside a namespace, with known totals.

use std::io::{self, Read, Write, copy};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::{scope, spawn};

use anyhow::{Result, anyhow, ensure};

use crate::netns::Netns;
use crate::network::Family;
use crate::poll::PATIENCE;

/// The discard port, where nobody listens.
pub const CLOSED_PORT: u16 = 9;

/// A body that does not fit into the buffers between two sockets.
const LARGE: usize = 200_000;

/// Sends `count` datagrams of one byte as fast as one sender can.
///
/// # Errors
/// The namespace cannot be entered, or a datagram cannot be sent.
pub fn flood(from: &Netns, to: SocketAddr, count: usize) -> Result<()> {
    from.inside(|| {
        let socket = UdpSocket::bind((unspecified(to.ip()), 0))?;
        for _ in 0..count {
            socket.send_to(b"x", to)?;
        }
        Ok(())
    })
}

fn unspecified(to: IpAddr) -> IpAddr {
    if to.is_ipv4() { Family::V4.any() } else { Family::V6.any() }
}

/// Where a server answers.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Sends back every stream.
    pub tcp: SocketAddr,
    /// Sends back every datagram.
    pub udp: SocketAddr,
}

/// Serves on an address of a namespace, at ports that are free, until the process ends.
///
/// # Errors
/// The namespace does not have the address.
pub fn serve(netns: &Netns, address: IpAddr) -> Result<Server> {
    let bind = || Ok((TcpListener::bind((address, 0))?, UdpSocket::bind((address, 0))?));
    let (listener, socket) = netns.inside(bind)?;
    let server = Server { tcp: listener.local_addr()?, udp: socket.local_addr()? };
    spawn(move || listener.incoming().flatten().for_each(|stream| echo(&stream)));
    spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = uninterrupted(|| socket.recv_from(&mut buffer)) {
            // An answer that cannot be sent is missed by the one who waits for it.
            let _ = socket.send_to(&buffer[..length], peer);
        }
    });
    Ok(server)
}

/// Sends back a stream to its end. A failure is seen at the other end.
fn echo(stream: &TcpStream) {
    let _ = copy(&mut &*stream, &mut &*stream);
}

/// Opens `connections` one after the other, makes ten requests over each and closes it; the last request of every fiftieth
/// is a large one. A datagram is sent and answered with each connection too.
///
/// # Errors
/// Something is not answered as it should be.
pub fn requests(from: &Netns, server: Server, connections: usize) -> Result<()> {
    from.inside(|| {
        let socket = UdpSocket::bind((unspecified(server.udp.ip()), 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        for number in 0..connections {
            connection(server.tcp, number)?;
            socket.send_to(b"ping", server.udp)?;
            ensure!(uninterrupted(|| socket.recv(&mut [0; 16]))? == 4, "another answer");
        }
        Ok(())
    })
}

/// Again after EINTR: the kernel interrupts system calls without any signal too, to get work done by the task.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Requests over one connection.
pub const REQUESTS: usize = 10;

fn connection(server: SocketAddr, number: usize) -> Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    for _ in 1..REQUESTS {
        request(&mut stream, 100)?;
    }
    request(&mut stream, if number.is_multiple_of(50) { LARGE } else { 100 })?;
    stream.shutdown(Shutdown::Write)?;
    ensure!(uninterrupted(|| stream.read(&mut [0]))? == 0, "more than was asked for");
    Ok(())
}

fn request(stream: &mut TcpStream, length: usize) -> Result<()> {
    let body = vec![7; length];
    let mut writer = stream.try_clone()?;
    let mut answer = vec![0; length];
    if length < LARGE {
        writer.write_all(&body)?;
        stream.read_exact(&mut answer)?;
        return Ok(());
    }
    let written = scope(|scope| {
        let writing = scope.spawn(|| writer.write_all(&body));
        let read = stream.read_exact(&mut answer);
        writing.join().map(|written| written.and(read))
    });
    Ok(written.map_err(|_| anyhow!("the writer panicked"))??)
}
