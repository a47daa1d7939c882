//! Interfaces: names checked, found, listed, deleted.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo as Detail, LinkMessage};
use nix::errno::Errno;

use crate::Error;
use crate::batch::Batch;
use crate::conn::Conn;

/// What a pod's host end is called by at its start; nothing else bears it.
pub const LINK_PREFIX: &str = "ptl";
/// What the device is called by at its start that shapes what a pod sends; its end is the host end's.
pub const SHAPER_PREFIX: &str = "ptb";
/// Bytes of an interface name, the kernel's IFNAMSIZ less its NUL.
const NAME_BYTES: usize = 15;

/// One interface as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its name.
    pub name: String,
    /// Its index in its namespace.
    pub index: u32,
    /// Whether it is set up (IFF_UP).
    pub up: bool,
    /// Whether its other end is there, too (IFF_LOWER_UP).
    pub carrier: bool,
    /// Whether it is ready to send (IFF_RUNNING): the kernel has seen the carrier and acted on it.
    pub running: bool,
    /// Whether it is a loopback interface.
    pub loopback: bool,
    /// The other end's index and the number of its namespace, if it is in another.
    pub peer: Option<(u32, i32)>,
    /// The name that people give it, or nothing.
    pub alias: String,
    /// Link-layer address, if it is an Ethernet one.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes.
    pub mtu: u32,
    /// The kind, such as `veth`; empty for hardware.
    pub kind: String,
}

/// Deletes a pod's host end, and with it the pod's and what shapes it; `false` when it was not there.
///
/// # Errors
/// For a name that is not one of ours, or when the kernel refuses.
pub async fn delete_link(name: &str) -> Result<bool, Error> {
    check_ours(name)?;
    let mut conn = Conn::open()?;
    let name = name.to_owned();
    blocking(move || delete(&mut conn, &name)).await
}

/// Deletes a pod's host end by its index, so that one made since under the same name stays; `false` when it was gone.
///
/// # Errors
/// For a name that is not one of ours, or when the kernel refuses.
pub async fn delete_link_at(index: u32, name: &str) -> Result<bool, Error> {
    check_ours(name)?;
    let mut conn = Conn::open()?;
    let name = name.to_owned();
    blocking(move || {
        let mut request = LinkMessage::default();
        request.header.index = index;
        delete_by(&mut conn, request, &name)
    })
    .await
}

/// All host ends of pods in this namespace.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn pod_links() -> Result<Vec<LinkInfo>, Error> {
    let mut conn = Conn::open()?;
    let mut links = blocking(move || dump(&mut conn)).await?;
    // The VXLAN device, `ptl.vxlan`, is no pod's.
    links.retain(|link| link.name.starts_with(LINK_PREFIX) && link.kind == "veth");
    links.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(links)
}

/// Runs kernel work off the runtime's threads: a link's removal alone takes some 16 ms.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Error::Stopped))
}

/// All devices that shape what pods send.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn shapers() -> Result<Vec<LinkInfo>, Error> {
    let mut conn = Conn::open()?;
    let mut links = blocking(move || dump(&mut conn)).await?;
    links.retain(|link| link.name.starts_with(SHAPER_PREFIX) && link.kind == "ifb");
    Ok(links)
}

/// Deletes the devices that shape what pods send whose host ends are gone; returns their names.
///
/// A host end goes with its pod's namespace and takes nothing else along. One that is being made has its host end before its shaper.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn delete_lone_shapers() -> Result<Vec<String>, Error> {
    let mut conn = Conn::open()?;
    blocking(move || {
        let links = dump(&mut conn)?;
        let mut deleted = Vec::new();
        for shaper in links.iter().filter(|link| link.kind == "ifb") {
            let Some(hash) = shaper.name.strip_prefix(SHAPER_PREFIX) else {
                continue;
            };
            let host_end = format!("{LINK_PREFIX}{hash}");
            if links.iter().any(|link| link.name == host_end) {
                continue;
            }
            // By its index: by now the name may be that of a new one.
            let mut request = LinkMessage::default();
            request.header.index = shaper.index;
            if delete_by(&mut conn, request, &shaper.name)? {
                deleted.push(shaper.name.clone());
            }
        }
        Ok(deleted)
    })
    .await
}

/// Deletes a host end and what shapes it.
pub(crate) fn delete(conn: &mut Conn, name: &str) -> Result<bool, Error> {
    let was_there = delete_one(conn, name)?;
    if let Some(hash) = name.strip_prefix(LINK_PREFIX) {
        delete_one(conn, &format!("{SHAPER_PREFIX}{hash}"))?;
    }
    Ok(was_there)
}

pub(crate) fn delete_one(conn: &mut Conn, name: &str) -> Result<bool, Error> {
    delete_by(conn, named(name), name)
}

fn delete_by(conn: &mut Conn, link: LinkMessage, name: &str) -> Result<bool, Error> {
    let mut batch = Batch::default();
    batch.push(RouteNetlinkMessage::DelLink(link), 0);
    match conn.transact(&mut batch)?.remove(&0) {
        None => Ok(true),
        Some(refusal) if refusal.is(Errno::ENODEV) => Ok(false),
        Some(refusal) => Err(refusal.into_error(format!("deleting interface {name}"))),
    }
}

pub(crate) fn find(conn: &mut Conn, name: &str) -> Result<Option<LinkInfo>, Error> {
    let what = format!("looking for interface {name}");
    let answer = conn.ask(RouteNetlinkMessage::GetLink(named(name)), &what)?;
    Ok(match answer {
        Some(RouteNetlinkMessage::NewLink(link)) => Some(described(&link)),
        _ => None,
    })
}

pub(crate) fn dump(conn: &mut Conn) -> Result<Vec<LinkInfo>, Error> {
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    conn.dump(&all, "listing interfaces", |message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(described(&link)),
        _ => None,
    })
}

pub(crate) fn named(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link
}

pub(crate) fn described(link: &LinkMessage) -> LinkInfo {
    let mut info = LinkInfo {
        name: String::new(),
        index: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        carrier: link.header.flags.contains(LinkFlags::LowerUp),
        running: link.header.flags.contains(LinkFlags::Running),
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        peer: None,
        alias: String::new(),
        mac: None,
        mtu: 0,
        kind: String::new(),
    };
    let (mut peer, mut namespace) = (None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkNetNsId(number) => namespace = Some(*number),
            LinkAttribute::IfAlias(alias) => info.alias.clone_from(alias),
            LinkAttribute::IfName(name) => info.name.clone_from(name),
            LinkAttribute::Address(mac) => info.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => info.mtu = *mtu,
            LinkAttribute::LinkInfo(details) => {
                for detail in details {
                    if let Detail::Kind(kind) = detail {
                        info.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    info.peer = peer.zip(namespace);
    info
}

/// Checks an interface name against the kernel's grammar, narrowed to what is safe in a path.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let wrong = |why| {
        Err(Error::Name {
            name: name.to_owned(),
            why,
        })
    };
    if name.is_empty() || name.len() > NAME_BYTES {
        return wrong("a name has 1 to 15 bytes");
    }
    if name == "." || name == ".." || name == "all" || name == "default" {
        return wrong("that name is reserved");
    }
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@');
    if !name.bytes().all(fine) {
        return wrong("only letters, digits and .-_@ are allowed");
    }
    Ok(())
}

pub(crate) fn check_ours(name: &str) -> Result<(), Error> {
    check_name(name)?;
    if !name.starts_with(LINK_PREFIX) || name.contains('.') {
        let why = "not a pod's host end of ours: those start with ptl";
        return Err(Error::Name {
            name: name.to_owned(),
            why,
        });
    }
    Ok(())
}

/// Sets an interface up.
pub(crate) fn up(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_path_or_are_not_ours_are_refused() {
        for bad in [
            "",
            "..",
            ".",
            "a/b",
            "eth0\n",
            "ptl'x",
            "ptl0123456789abc",
            "all",
            "ptl x",
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name("eth0.100").is_ok());
        assert!(check_ours("ptl0123456789a").is_ok());
        for foreign in ["eth0", "ptl.vxlan", "docker0"] {
            assert!(check_ours(foreign).is_err(), "{foreign}");
        }
    }
}
