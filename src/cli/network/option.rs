//! `--opt`: options of a network, as Docker's users write them, and one of our own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use crate::switch::wire::Vni;

/// Docker's long name of the option that sets the underlay's MTU.
pub(super) const MTU: &str = "com.docker.network.driver.mtu";
/// And of the one that sets VNIs.
pub(super) const VNIS: &str = "com.docker.network.driver.overlay.vxlanid_list";
/// Our own, which names VXLAN end points outside of the cluster.
pub(super) const FOREIGN: &str = "foreign";

/// An option of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opt {
    Encrypted(bool),
    Mtu(u16),
    Vni(u32),
    Foreign(BTreeSet<IpAddr>),
}

impl FromStr for Opt {
    type Err = String;

    /// `encrypted` alone is what Docker's users write.
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        match (key, value) {
            ("encrypted", "" | "true") => Ok(Self::Encrypted(true)),
            ("encrypted", "false") => Ok(Self::Encrypted(false)),
            ("encrypted", _) => Err("want encrypted, encrypted=true or encrypted=false".into()),
            ("mtu" | MTU, mtu) => {
                let most = u16::MAX;
                mtu.parse()
                    .map(Self::Mtu)
                    .map_err(|_| format!("want a number of bytes up to {most}, as in mtu=1500"))
            }
            ("vxlanid_list" | VNIS, list) if list.contains(',') => {
                Err("a network has one VNI here, however many subnets it has: give one".into())
            }
            ("vxlanid_list" | VNIS, vni) => {
                let vni = vni.parse().ok().and_then(Vni::new);
                vni.map(|vni| Self::Vni(vni.id())).ok_or_else(|| format!("want a VNI, 0 to {}", Vni::MAX))
            }
            (FOREIGN, list) => {
                let addresses = list.split(',').map(str::parse).collect::<Result<_, _>>();
                addresses
                    .map(Self::Foreign)
                    .map_err(|_| "want addresses, as in foreign=192.0.2.9,192.0.2.10".into())
            }
            _ => Err("no such option: want encrypted, mtu=, vxlanid_list= or foreign=".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_dockers() {
        for (text, option) in [
            ("encrypted", Opt::Encrypted(true)),
            ("encrypted=", Opt::Encrypted(true)),
            ("encrypted=false", Opt::Encrypted(false)),
            ("mtu=1200", Opt::Mtu(1200)),
            ("com.docker.network.driver.mtu=1200", Opt::Mtu(1200)),
            ("vxlanid_list=42", Opt::Vni(42)),
            ("com.docker.network.driver.overlay.vxlanid_list=16777215", Opt::Vni(Vni::MAX)),
            (
                "foreign=192.0.2.9,2001:db8::9",
                Opt::Foreign([[192, 0, 2, 9].into(), "2001:db8::9".parse().unwrap()].into()),
            ),
        ] {
            assert_eq!(text.parse(), Ok(option), "{text}");
        }
        for text in [
            "",
            "=",
            "encrypted=no",
            "encryption",
            "mtu",
            "mtu=-1",
            "mtu=65536",
            "vxlanid_list=16777216",
            "vxlanid_list=1,2",
            "foreign",
            "foreign=",
            "foreign=192.0.2.9,",
            "foreign=192.0.2.0/24",
        ] {
            assert!(text.parse::<Opt>().is_err(), "{text}");
        }
    }
}
