//! What RDMA devices hold: `RDMA_NLDEV_CMD_RES_GET` (`drivers/infiniband/core/nldev.c`, `fill_res_info`,
//! `include/uapi/rdma/rdma_netlink.h`).

use super::{
    Buffer, NetlinkError, Socket,
    message::{DUMP, Message, attribute, attributes, long, question, text},
};

/// `RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, RDMA_NLDEV_CMD_RES_GET)`.
const GET: u16 = 5 << 10 | 9;

/// `enum rdma_nldev_attr`.
const DEVICE_NAME: u16 = 2;
const SUMMARY: u16 = 15;
const ENTRY_NAME: u16 = 17;
const ENTRY_CURRENT: u16 = 18;

/// How many resources of one type a device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Name of the device.
    pub device: String,
    /// Type of the resource, as the kernel names it: `qp`, `cq`.
    pub kind: String,
    /// How many there are.
    pub count: u64,
}

/// Resources of all devices.
///
/// # Errors
/// The kernel does not tell; before 4.17 it knows no such question.
pub fn resources(socket: &Socket, buffer: &mut Buffer) -> Result<Vec<Resources>, NetlinkError> {
    socket.dump(buffer, &question(GET, DUMP, &[]), |found: &mut Vec<Resources>, message| read(found, message))
}

pub(super) fn read(found: &mut Vec<Resources>, message: &Message<'_>) {
    let device = attribute(message.body, DEVICE_NAME).and_then(text);
    let (Some(device), Some(summary)) = (device, attribute(message.body, SUMMARY)) else { return };
    found.extend(attributes(summary).filter_map(|(_, entry)| {
        Some(Resources {
            device: device.to_owned(),
            kind: text(attribute(entry, ENTRY_NAME)?)?.to_owned(),
            count: long(attribute(entry, ENTRY_CURRENT)?)?,
        })
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::tests::attribute_of;

    fn entry(name: &str, count: u64) -> Vec<u8> {
        let name = attribute_of(ENTRY_NAME, &[name.as_bytes(), b"\0"].concat());
        attribute_of(0x8010, &[name, attribute_of(ENTRY_CURRENT, &count.to_ne_bytes())].concat())
    }

    #[test]
    fn every_type_of_resource_of_a_device_is_read() {
        let summary = [entry("pd", 3), entry("cm_id", u64::MAX)].concat();
        let body = [attribute_of(DEVICE_NAME, b"rxe0\0"), attribute_of(0x800f, &summary)].concat();
        let mut found = Vec::new();
        read(&mut found, &Message { kind: GET, flags: 2, body: &body });
        let found: Vec<_> =
            found.iter().map(|one| (one.device.as_str(), one.kind.as_str(), one.count)).collect();
        assert_eq!(found, [("rxe0", "pd", 3), ("rxe0", "cm_id", u64::MAX)]);
    }

    #[test]
    fn a_message_that_is_not_whole_gives_the_entries_that_are() {
        let body = [attribute_of(DEVICE_NAME, b"rxe0\0"), attribute_of(0x800f, &entry("pd", 3))].concat();
        for length in 0..body.len() - 1 {
            let mut found = Vec::new();
            read(&mut found, &Message { kind: GET, flags: 2, body: &body[..length] });
            assert!(found.is_empty(), "{length}");
        }
    }
}
