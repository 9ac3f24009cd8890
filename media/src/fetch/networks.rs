//! The networks that strangers must not reach: those of this machine and its neighbours, and those with a special
//! meaning (RFC 6890 and the registries that it began).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// The networks of special use that may be reached all the same. Empty for a worker on the Internet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrivateNetworks(Vec<IpNet>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a list of networks")]
pub struct BadNetworks;

/// Networks such as `10.0.0.0/8`, separated by commas. An address alone is a network, too.
impl FromStr for PrivateNetworks {
    type Err = BadNetworks;

    fn from_str(text: &str) -> Result<Self, BadNetworks> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let network = |part: &str| match part.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address)),
            Err(_) => part.parse::<IpNet>().map_err(|_| BadNetworks),
        };
        parts.map(network).collect::<Result<_, _>>().map(Self)
    }
}

impl From<Vec<IpNet>> for PrivateNetworks {
    fn from(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }
}

impl PrivateNetworks {
    /// True for an address of the Internet, and for one that is allowed by name. An IPv6 address that stands for
    /// an IPv4 address is judged as that one.
    pub fn may_reach(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_public = match address {
            IpAddr::V4(v4) => is_public_v4(v4),
            IpAddr::V6(v6) => is_public_v6(v6),
        };
        is_public || self.0.iter().any(|network| network.contains(&address))
    }
}

/// Address and length of each network.
const SPECIAL_V4: [([u8; 4], u32); 16] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10), // carriers' NAT
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16), // link-local, and the clouds' metadata
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 31, 196, 0], 24),
    ([192, 52, 193, 0], 24),
    ([192, 88, 99, 0], 24), // 6to4 relays
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 3), // multicast, reserved, broadcast
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let in_network = |(network, length): &([u8; 4], u32)| {
        let mask = u32::MAX << (32 - length);
        address.to_bits() & mask == u32::from_be_bytes(*network)
    };
    !SPECIAL_V4.iter().any(in_network)
}

/// The special networks inside of 2000::/3, the only one of the Internet: first 64 bits and length.
const SPECIAL_V6: [(u64, u32); 4] = [
    (0x2001_0000_0000_0000, 23), // Teredo, ORCHID, benchmarks
    (0x2001_0db8_0000_0000, 32), // documentation
    (0x2002_0000_0000_0000, 16), // 6to4, which holds an IPv4 address
    (0x3fff_0000_0000_0000, 20), // documentation
];

/// The IPv4-mapped ones are judged as IPv4. The compatible ones and those of NAT64 are outside of 2000::/3.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let first = (address.to_bits() >> 64) as u64;
    let in_network =
        |(network, length): &(u64, u32)| first & (u64::MAX << (64 - length)) == *network;
    in_network(&(0x2000_0000_0000_0000, 3)) && !SPECIAL_V6.iter().any(in_network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reaches(allowed: &str, address: &str) -> bool {
        let allowed: PrivateNetworks = allowed.parse().unwrap();
        allowed.may_reach(address.parse().unwrap())
    }

    #[test]
    fn the_internet_is_reached() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.255.255",
            "172.32.0.1",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "2600::1",
            "2001:4860:4860::8888",
        ] {
            assert!(reaches("", address), "{address}");
        }
    }

    #[test]
    fn private_and_special_networks_are_not() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!reaches("", address), "{address}");
        }
    }

    #[test]
    fn what_is_allowed_by_name_is_reached() {
        let allowed = "127.0.0.0/8, 10.0.0.7, fd00::/8";
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "10.0.0.7", "fd00::1"] {
            assert!(reaches(allowed, address), "{address}");
        }
        for address in ["10.0.0.8", "::1", "169.254.169.254"] {
            assert!(!reaches(allowed, address), "{address}");
        }
        for bad in ["localhost", "10.0.0.0/33", "10.0.0.0/8;127.0.0.1"] {
            assert_eq!(bad.parse::<PrivateNetworks>(), Err(BadNetworks), "{bad}");
        }
    }
}
