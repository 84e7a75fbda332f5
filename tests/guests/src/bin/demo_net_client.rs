//! For a domU with a network interface, beside one that runs the SDK's `net-server`: pings it, sends it a pattern over TCP
//! and datagrams over UDP, and compares what comes back.
//!
//! The command line tells both addresses: `ip=10.0.2.16/24 server=10.0.2.15`.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec;
use core::time::Duration;

use pv_guest_kernel::netfront::{Interface, Stack};
use pv_guest_kernel::smoltcp::iface::SocketHandle;
use pv_guest_kernel::smoltcp::phy::ChecksumCapabilities;
use pv_guest_kernel::smoltcp::socket::{icmp, tcp, udp};
use pv_guest_kernel::smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress, Ipv4Address};
use pv_guest_kernel::xenstore::Client;
use pv_guest_kernel::{Context, println, task, time};
use test_guests::{Claim, Trouble, ensure};

test_guests::claim!(guests_reach_each_other);

const ECHO: u16 = 7;
/// What goes through a connection, each way.
const TCP_BYTES: usize = 1 << 20;
const BUFFER: usize = 64 * 1024;
const DATAGRAMS: u8 = 20;
const PINGS: u16 = 5;
const IDENT: u16 = 0x2b2b;
const PATIENCE: Duration = Duration::from_secs(60);

fn guests_reach_each_other(context: &'static Context) -> Claim {
    task::block_on(async {
        let work = run(context);
        time::timeout(PATIENCE, work).await.unwrap_or(Err(Trouble::Failure("the network is silent".into())))
    })
}

async fn run(context: &'static Context) -> Claim {
    let store = Client::connect(context)?;
    let paths = Interface::list(&store).await?;
    let path = paths.first().ok_or(Trouble::error("there is no interface"))?;
    let device = Interface::open(&store, path).await?;
    let address = context.option("ip").ok_or(Trouble::error("no ip="))?;
    let server: Ipv4Address = context
        .option("server")
        .and_then(|server| server.parse().ok())
        .ok_or(Trouble::error("no server="))?;
    let mut stack = Stack::new(device, address, None)?;
    ping(&mut stack, server).await?;
    stream(&mut stack, server).await?;
    datagrams(&mut stack, server).await?;
    stack.into_device().close().await?;
    Ok(())
}

async fn ping(stack: &mut Stack, server: Ipv4Address) -> Claim {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 2048]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(IDENT)).map_err(|_| Trouble::error("binding"))?;
    let handle = stack.sockets.add(socket);
    for number in 0..PINGS {
        let socket = stack.sockets.get_mut::<icmp::Socket>(handle);
        let echo = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: number, data: &[0x5a; 56] };
        let room = socket.send(echo.buffer_len(), IpAddress::Ipv4(server));
        let room = room.map_err(|_| Trouble::error("no room for a ping"))?;
        echo.emit(&mut Icmpv4Packet::new_unchecked(room), &ChecksumCapabilities::default());
        let begin = time::now_ns();
        while !stack.sockets.get_mut::<icmp::Socket>(handle).can_recv() {
            stack.turn(None).await?;
        }
        let us = (time::now_ns() - begin) / 1000;
        let socket = stack.sockets.get_mut::<icmp::Socket>(handle);
        let (bytes, from) = socket.recv().map_err(|_| Trouble::error("no answer"))?;
        ensure!(from == IpAddress::Ipv4(server), "an answer from {from}");
        ensure!(bytes.get(8..) == Some(&[0x5a; 56]), "ping {number} came back changed");
        println!("ping {number}: {us} us");
    }
    Ok(())
}

/// Byte `at` of the pattern.
fn pattern(at: usize) -> u8 {
    u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap_or(0)
}

async fn connected(stack: &mut Stack, server: Ipv4Address) -> Claim<SocketHandle> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let handle = stack.sockets.add(tcp::Socket::new(buffer(), buffer()));
    let (sockets, context) = stack.parts();
    let socket = sockets.get_mut::<tcp::Socket>(handle);
    socket.connect(context, (server, ECHO), 49152).map_err(|_| Trouble::error("connecting"))?;
    while !stack.sockets.get_mut::<tcp::Socket>(handle).may_send() {
        stack.turn(None).await?;
    }
    Ok(handle)
}

async fn stream(stack: &mut Stack, server: Ipv4Address) -> Claim {
    let handle = connected(stack, server).await?;
    let begin = time::now_ns();
    let (mut sent, mut received) = (0, 0);
    loop {
        let socket = stack.sockets.get_mut::<tcp::Socket>(handle);
        while sent < TCP_BYTES && socket.can_send() {
            let fill = |room: &mut [u8]| {
                let count = room.len().min(TCP_BYTES - sent);
                for (at, byte) in room.iter_mut().take(count).enumerate() {
                    *byte = pattern(sent + at);
                }
                (count, count)
            };
            sent += socket.send(fill).map_err(|_| Trouble::Failure("the connection broke".into()))?;
        }
        while socket.can_recv() {
            let start = received;
            let take = |bytes: &mut [u8]| {
                let good = bytes.iter().enumerate().all(|(at, byte)| *byte == pattern(start + at));
                (bytes.len(), (bytes.len(), good))
            };
            let (count, good) =
                socket.recv(take).map_err(|_| Trouble::Failure("the connection broke".into()))?;
            ensure!(good, "the stream came back changed near byte {start}");
            received += count;
        }
        if received >= TCP_BYTES {
            // Once everything is here nothing more need come, for which a turn would wait.
            break;
        }
        ensure!(socket.may_recv(), "the connection was closed after {received} bytes");
        stack.turn(None).await?;
    }
    let us = ((time::now_ns() - begin) / 1000).max(1);
    println!("{} KiB each way in {us} us", TCP_BYTES / 1024);
    stack.sockets.get_mut::<tcp::Socket>(handle).close();
    while stack.sockets.get_mut::<tcp::Socket>(handle).may_recv() {
        stack.turn(None).await?;
    }
    Ok(())
}

async fn datagrams(stack: &mut Stack, server: Ipv4Address) -> Claim {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 16 * 1024]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(40_000).map_err(|_| Trouble::error("binding"))?;
    let handle = stack.sockets.add(socket);
    for number in 0..DATAGRAMS {
        let bytes = vec![number; usize::from(number) * 70 + 1];
        let socket = stack.sockets.get_mut::<udp::Socket>(handle);
        socket.send_slice(&bytes, (server, ECHO)).map_err(|_| Trouble::error("sending"))?;
        while !stack.sockets.get_mut::<udp::Socket>(handle).can_recv() {
            stack.turn(None).await?;
        }
        let socket = stack.sockets.get_mut::<udp::Socket>(handle);
        let (back, _) = socket.recv().map_err(|_| Trouble::error("receiving"))?;
        ensure!(back == bytes.as_slice(), "datagram {number} came back changed");
    }
    println!("{DATAGRAMS} datagrams came back");
    Ok(())
}
