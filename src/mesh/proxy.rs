//! The PROXY protocol's header, version 2, of a TCP connection (HAProxy, "The PROXY protocol", §2.2): who the client is, and
//! which address it has asked, in bytes before its own.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, for somebody else.
const PROXY: u8 = 0x21;
/// Streams over IPv4, over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The header of a connection.
pub(super) fn header(client: SocketAddr, asked: SocketAddr) -> Vec<u8> {
    let addresses: Vec<u8> = match (client.ip(), asked.ip()) {
        (IpAddr::V4(client), IpAddr::V4(asked)) => [client.octets(), asked.octets()].concat(),
        (client, asked) => [v6(client), v6(asked)].concat(),
    };
    let family = if addresses.len() == 8 { TCP4 } else { TCP6 };
    let len = u16::try_from(addresses.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([PROXY, family]);
    bytes.extend(len.to_be_bytes());
    bytes.extend(addresses);
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(asked.port().to_be_bytes());
    bytes
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_the_specification_has_it() {
        let client = "192.0.2.1:4096".parse().unwrap();
        let bytes = header(client, "198.51.100.2:80".parse().unwrap());
        let head = [0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21, 0x11, 0, 12];
        assert_eq!(bytes[..16], head);
        assert_eq!(bytes[16..], [192, 0, 2, 1, 198, 51, 100, 2, 0x10, 0, 0, 80]);
        let bytes = header("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
        assert_eq!((bytes[13], &bytes[14..16], bytes.len()), (0x21, &[0, 36][..], 52));
        assert_eq!((bytes[31], bytes[47], &bytes[48..]), (1, 2, &[0, 1, 0, 2][..]));
    }
}
