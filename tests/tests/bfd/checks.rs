//! Which packets count: by TTL or Hop Limit, source and port (RFC 5881 §4, §5; RFC 5883).

use bgp_proto::bfd::Packet;

use super::*;

/// A Down packet of a stranger's making.
fn down_packet() -> [u8; Packet::LENGTH] {
    let mut octets = [0; Packet::LENGTH];
    octets[..4].copy_from_slice(&[0x20, 0x40, 3, 24]);
    octets[7] = 9;
    octets[13] = 0x10;
    octets[18] = 0x10;
    octets
}

#[test]
fn a_packet_counts_only_with_its_ttl_and_source_and_ours_have_theirs() {
    require_root!();
    let lab = Lab::new("bfdt");
    lab.tor.ip("addr add 10.0.0.9/24 dev veth0").unwrap();
    let listener = lab
        .tor
        .inside(|| UdpSocket::bind("10.0.0.1:3784"))
        .unwrap()
        .unwrap();
    listener.set_read_timeout(Some(DEADLINE)).unwrap();
    let ours = Ours::start(
        &lab.node,
        BfdSettings::default(),
        peer(TOR, timers(50, 50, 3)),
    );
    let mut buffer = [0; 64];
    let (length, from) = listener.recv_from(&mut buffer).unwrap();
    assert!(from.port() >= 49_152, "{from}");
    let packet = Packet::decode(&buffer[..length]).unwrap();
    assert_eq!(
        (packet.state, packet.control_plane_independent),
        (SessionState::Down, false)
    );

    let send = |from: &str, ttl: u32| {
        let socket = lab
            .tor
            .inside(|| UdpSocket::bind((from, 0)))
            .unwrap()
            .unwrap();
        socket.set_ttl(ttl).unwrap();
        socket.send_to(&down_packet(), (NODE, 3784)).unwrap();
    };
    send("10.0.0.1", 254);
    send("10.0.0.9", 255);
    discarded(&ours, 1);
    assert_eq!(ours.status().session.state, SessionState::Down);
    send("10.0.0.1", 255);
    eventually(DEADLINE, "the one that counts", || {
        let status = ours.status();
        ensure!(status.received == 1, "{status:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(
        ours.handle.status().unwrap().discarded,
        1,
        "the kernel drops the forwarded"
    );
}

fn discarded(ours: &Ours, count: u64) {
    eventually(DEADLINE, "packets to be discarded", || {
        let status = ours.handle.status()?;
        ensure!(status.discarded == count, "{status:?}");
        anyhow::Ok(())
    })
    .unwrap();
    assert_eq!(ours.status().received, 0);
}

#[test]
fn over_ipv6_a_forwarded_packet_does_not_count_either() {
    require_root!();
    let lab = Lab::new("bfd6");
    lab.tor.ip("addr add fd00::1/64 dev veth0 nodad").unwrap();
    lab.node.ip("addr add fd00::2/64 dev veth0 nodad").unwrap();
    let (tor, node): (IpAddr, IpAddr) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
    let ours = Ours::start(
        &lab.node,
        BfdSettings::default(),
        peer(tor, timers(50, 50, 3)),
    );
    let send = |hops: u32| {
        let socket = lab
            .tor
            .inside(|| UdpSocket::bind((tor, 0)))
            .unwrap()
            .unwrap();
        let socket = socket2::Socket::from(socket);
        socket.set_unicast_hops_v6(hops).unwrap();
        UdpSocket::from(socket)
            .send_to(&down_packet(), (node, 3784))
            .unwrap();
    };
    eventually(
        DEADLINE,
        "a packet with all its hops to count, alone",
        || {
            send(254);
            send(255);
            let status = ours.status();
            ensure!(status.received > 0, "{status:?}");
            Ok(())
        },
    )
    .unwrap();
    let before = ours.status().received;
    for _ in 0..5 {
        send(254);
    }
    send(255);
    eventually(DEADLINE, "the last one", || {
        let status = ours.status();
        ensure!(status.received > before, "{status:?}");
        Ok(())
    })
    .unwrap();
    assert!(
        ours.status().received <= before + 2,
        "one may have been under way"
    );
}

#[test]
fn over_more_than_one_hop_the_least_ttl_is_the_configured_one() {
    require_root!();
    let lab = Lab::new("bfdn");
    let multihop = BfdPeer {
        multihop: Some(250),
        ..peer(TOR, timers(50, 50, 3))
    };
    let ours = Ours::start(&lab.node, BfdSettings::default(), multihop);
    let send = |port: u16, ttl: u32| {
        let socket = lab
            .tor
            .inside(|| UdpSocket::bind((TOR, 0)))
            .unwrap()
            .unwrap();
        socket.set_ttl(ttl).unwrap();
        socket.send_to(&down_packet(), (NODE, port)).unwrap();
    };
    eventually(DEADLINE, "the port", || {
        send(4784, 249);
        ensure!(ours.handle.status()?.discarded > 0);
        anyhow::Ok(())
    })
    .unwrap();
    assert_eq!(ours.status().received, 0);
    send(3784, 255);
    send(4784, 250);
    eventually(DEADLINE, "the one that counts", || {
        let status = ours.status();
        ensure!(status.received == 1, "{status:?}");
        Ok(())
    })
    .unwrap();
}
