//! `--subnet`, `--gateway`, `--ip-range`, `--aux-address`: each belongs to the subnet that it is in, in whatever order
//! they are given, as in Docker.

use std::net::IpAddr;
use std::str::FromStr;

use crate::api::{IpPrefix, Name, SubnetRequest};

/// An address that endpoints don't get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reserved {
    name: Name,
    address: IpAddr,
}

impl FromStr for Reserved {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').ok_or("want NAME=ADDRESS")?;
        let name = name.parse().map_err(|error| format!("its name: {error}"))?;
        let address = address.parse().map_err(|_| format!("want an IP address, not {address:?}"))?;
        Ok(Self { name, address })
    }
}

/// As they are given.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Subnets {
    /// Its addresses, as in 10.0.9.0/24; several subnets if given several times or with commas [default: a block of the
    /// cluster's pools]
    #[arg(long = "subnet", value_name = "PREFIX", value_delimiter = ',')]
    subnets: Vec<IpPrefix>,

    /// The gateway's address in a subnet [default: the first that is not reserved]
    #[arg(long = "gateway", value_name = "ADDRESS", value_delimiter = ',')]
    gateways: Vec<IpAddr>,

    /// Part of a subnet that addresses are chosen from [default: all of it]
    #[arg(long = "ip-range", value_name = "PREFIX", value_delimiter = ',')]
    ranges: Vec<IpPrefix>,

    /// An address that nobody gets, with a name for people
    #[arg(long = "aux-address", value_name = "NAME=ADDRESS")]
    reserved: Vec<Reserved>,
}

impl Subnets {
    /// The subnets, each with what belongs to it.
    ///
    /// # Errors
    /// If something belongs to none, or a subnet has it already; in words.
    pub(super) fn requests(self) -> Result<Vec<SubnetRequest>, String> {
        let bare =
            |subnet| SubnetRequest { subnet, gateway: None, ip_range: None, reserved: Default::default() };
        let mut requests: Vec<SubnetRequest> = self.subnets.into_iter().map(bare).collect();
        for gateway in self.gateways {
            let request = find(&mut requests, "--gateway", gateway, gateway)?;
            if let Some(other) = request.gateway.replace(gateway) {
                return Err(format!("--gateway: subnet {} has two: {other} and {gateway}", request.subnet));
            }
        }
        for range in self.ranges {
            let request = find(&mut requests, "--ip-range", range.first(), range)?;
            if let Some(other) = request.ip_range.replace(range) {
                return Err(format!("--ip-range: subnet {} has two: {other} and {range}", request.subnet));
            }
        }
        for Reserved { name, address } in self.reserved {
            let request = find(&mut requests, "--aux-address", address, address)?;
            if let Some(other) = request.reserved.insert(name.clone(), address) {
                return Err(format!("--aux-address: {name} is two addresses: {other} and {address}"));
            }
        }
        Ok(requests)
    }
}

fn find<'a>(
    requests: &'a mut [SubnetRequest],
    flag: &str,
    address: IpAddr,
    given: impl std::fmt::Display,
) -> Result<&'a mut SubnetRequest, String> {
    let subnets = requests.iter().map(|request| request.subnet.to_string()).collect::<Vec<_>>().join(", ");
    let none = || match subnets.as_str() {
        "" => format!("{flag} {given}: give the --subnet that it is in"),
        subnets => format!("{flag} {given} is in none of the subnets ({subnets})"),
    };
    requests.iter_mut().find(|request| request.subnet.contains(address)).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        subnets: Subnets,
    }

    fn read(line: &str) -> Result<Vec<SubnetRequest>, String> {
        let arguments = ["test"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()));
        Line::try_parse_from(arguments).map_err(|error| error.to_string())?.subnets.requests()
    }

    #[test]
    fn each_flag_belongs_to_the_subnet_that_it_is_in() {
        let line = "--subnet 10.1.0.0/16 --gateway fd00::9 --ip-range 10.2.128.0/17 --aux-address a=10.1.0.7 --subnet \
                    10.2.0.0/16,fd00::/64 --gateway 10.2.0.9 --aux-address b=10.1.0.8";
        let requests = read(line).unwrap();
        let shown: Vec<_> = requests
            .iter()
            .map(|request| {
                let text = |part: Option<String>| part.unwrap_or_else(|| "-".into());
                let gateway = text(request.gateway.map(|gateway| gateway.to_string()));
                let range = text(request.ip_range.map(|range| range.to_string()));
                format!("{} {gateway} {range} {}", request.subnet, request.reserved.len())
            })
            .collect();
        assert_eq!(
            shown,
            ["10.1.0.0/16 - - 2", "10.2.0.0/16 10.2.0.9 10.2.128.0/17 0", "fd00::/64 fd00::9 - 0"]
        );
        assert_eq!(read(""), Ok(Vec::new()));
    }

    #[test]
    fn what_belongs_nowhere_is_refused() {
        for (line, expected) in [
            ("--gateway 10.1.0.1", "--gateway 10.1.0.1: give the --subnet that it is in"),
            (
                "--subnet 10.1.0.0/16 --gateway 10.2.0.1",
                "--gateway 10.2.0.1 is in none of the subnets (10.1.0.0/16)",
            ),
            ("--subnet 10.1.0.0/16 --ip-range fd00::/64", "--ip-range fd00::/64 is in none"),
            ("--subnet 10.1.0.0/16 --gateway 10.1.0.1 --gateway 10.1.0.2", "has two: 10.1.0.1 and 10.1.0.2"),
            (
                "--subnet 10.1.0.0/16 --ip-range 10.1.0.0/24,10.1.1.0/24",
                "has two: 10.1.0.0/24 and 10.1.1.0/24",
            ),
            ("--subnet 10.1.0.0/16 --aux-address a=10.1.0.1 --aux-address a=10.1.0.2", "a is two addresses"),
            ("--subnet 10.1.0.1/16", "do you mean 10.1.0.0/16?"),
            ("--subnet 10.1/16", "want an IP address and a length"),
            ("--aux-address 10.1.0.1", "want NAME=ADDRESS"),
            ("--aux-address a=b", "want an IP address"),
        ] {
            let refused = read(line).unwrap_err();
            assert!(refused.contains(expected), "{line}: {refused}");
        }
    }
}
