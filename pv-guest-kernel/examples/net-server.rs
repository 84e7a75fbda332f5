//! For domUs with a network interface: answers pings, sends back what comes in over TCP and UDP on port 7, takes whatever
//! comes in on port 9, and shows a page to web browsers on port 80.
//!
//! The command line tells the address: `ip=10.0.2.15/24 gw=10.0.2.2`.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use pv_guest_kernel::hypercall::{Errno, Result};
use pv_guest_kernel::netfront::{Interface, Stack};
use pv_guest_kernel::smoltcp::iface::SocketHandle;
use pv_guest_kernel::smoltcp::socket::{tcp, udp};
use pv_guest_kernel::xenstore::Client;
use pv_guest_kernel::{Context, println, task};

pv_guest_kernel::entry!(kernel);

const ECHO: u16 = 7;
const DISCARD: u16 = 9;
const HTTP: u16 = 80;
/// Bytes that wait in each direction of a connection.
const BUFFER: usize = 64 * 1024;
/// Connections to a port at a time.
const CONNECTIONS: usize = 4;

fn kernel(context: &'static Context) {
    if let Err(error) = task::block_on(serve(context)) {
        println!("net-server failed: {error}");
    }
}

fn listeners(stack: &mut Stack, port: u16) -> Vec<SocketHandle> {
    let socket = || {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        tcp::Socket::new(buffer(), buffer())
    };
    let handles: Vec<SocketHandle> = (0..CONNECTIONS).map(|_| stack.sockets.add(socket())).collect();
    for handle in &handles {
        // The socket is new and the port is none of nobody's.
        let _ = stack.sockets.get_mut::<tcp::Socket>(*handle).listen(port);
    }
    handles
}

fn datagrams(stack: &mut Stack) -> SocketHandle {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 32 * 1024]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    let _ = socket.bind(ECHO);
    stack.sockets.add(socket)
}

async fn serve(context: &'static Context) -> Result {
    let store = Client::connect(context)?;
    let path = Interface::list(&store).await?.into_iter().next().ok_or(Errno::NoDev)?;
    let device = Interface::open(&store, &path).await?;
    let address = context.option("ip").ok_or(Errno::Inval)?;
    println!("{path}: {:02x?} is {address}", device.mac());
    let mut stack = Stack::new(device, address, context.option("gw"))?;
    let (echo, discard) = (listeners(&mut stack, ECHO), listeners(&mut stack, DISCARD));
    let (http, datagrams) = (listeners(&mut stack, HTTP), datagrams(&mut stack));
    println!("serving");
    loop {
        stack.turn(None).await?;
        for handle in &echo {
            send_back(stack.sockets.get_mut(*handle));
        }
        for handle in &discard {
            throw_away(stack.sockets.get_mut(*handle));
        }
        for handle in &http {
            show_page(stack.sockets.get_mut(*handle));
        }
        send_datagrams_back(stack.sockets.get_mut(datagrams));
    }
}

/// Once the other side is done and everything is sent, the next connection may come.
fn finish(socket: &mut tcp::Socket<'_>, port: u16) {
    if socket.state() == tcp::State::CloseWait && socket.send_queue() == 0 {
        socket.close();
    }
    if !socket.is_open() {
        let _ = socket.listen(port);
    }
}

fn send_back(socket: &mut tcp::Socket<'_>) {
    while socket.can_recv() && socket.can_send() {
        let room = socket.send_capacity() - socket.send_queue();
        let Ok(bytes) = socket.recv(|bytes| {
            let part = bytes.get(..room.min(bytes.len())).unwrap_or_default().to_vec();
            (part.len(), part)
        }) else {
            break;
        };
        // There is room for all of it.
        let _ = socket.send_slice(&bytes);
    }
    finish(socket, ECHO);
}

fn throw_away(socket: &mut tcp::Socket<'_>) {
    while socket.can_recv() {
        let _ = socket.recv(|bytes| (bytes.len(), ()));
    }
    finish(socket, DISCARD);
}

fn show_page(socket: &mut tcp::Socket<'_>) {
    let asked = socket.can_recv()
        && socket
            .peek(usize::MAX)
            .is_ok_and(|bytes| bytes.windows(4).any(|end| end == b"\r\n\r\n") || bytes.len() > 4096);
    if asked {
        let _ = socket.recv(|bytes| (bytes.len(), ()));
        let page = String::from("<h1>A guest kernel of one's own</h1>\n");
        let head =
            format!("HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", page.len());
        let _ = socket.send_slice(head.as_bytes());
        let _ = socket.send_slice(page.as_bytes());
        socket.close();
    }
    finish(socket, HTTP);
}

fn send_datagrams_back(socket: &mut udp::Socket<'_>) {
    while socket.can_recv() && socket.can_send() {
        let Ok((bytes, from)) = socket.recv().map(|(bytes, from)| (bytes.to_vec(), from)) else { return };
        let _ = socket.send_slice(&bytes, from);
    }
}
