//! Blocks of the cluster's address pools.

use std::net::IpAddr;

use crate::api::IpPrefix;

/// The first block of `length` bits in the first pool that has one which overlaps nothing of `taken`. What is not of
/// IPv4 is not looked at.
pub(super) fn free_block(pools: &[IpPrefix], length: u8, taken: &[IpPrefix]) -> Option<IpPrefix> {
    let size = 1_u64 << 32_u8.checked_sub(length)?;
    let mut spans: Vec<(u64, u64)> = taken.iter().filter_map(|&prefix| span(prefix)).collect();
    spans.sort_unstable();
    let block = |&pool: &IpPrefix| {
        let (first, last) = span(pool)?;
        let start = first_gap(first, size, &spans);
        let address = u32::try_from(start).ok().filter(|_| start + size - 1 <= last)?;
        IpPrefix::new(IpAddr::V4(address.into()), length)
    };
    pools.iter().find_map(block)
}

/// Where the first `size` free addresses are at or behind `start`, both multiples of `size`; `spans` are sorted.
fn first_gap(start: u64, size: u64, spans: &[(u64, u64)]) -> u64 {
    let mut start = start;
    for &(first, last) in spans {
        if first >= start + size {
            break;
        }
        if last >= start {
            start = (last / size + 1) * size;
        }
    }
    start
}

fn span(prefix: IpPrefix) -> Option<(u64, u64)> {
    match (prefix.first(), prefix.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Some((first.to_bits().into(), last.to_bits().into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<IpPrefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn block(pools: &[&str], length: u8, taken: &[&str]) -> String {
        let block = free_block(&prefixes(pools), length, &prefixes(taken));
        block.map_or_else(String::new, |block| block.to_string())
    }

    #[test]
    fn blocks_are_taken_in_order_and_freed_ones_again() {
        let pools = ["10.20.0.0/16"];
        assert_eq!(block(&pools, 26, &[]), "10.20.0.0/26");
        assert_eq!(block(&pools, 26, &["10.20.0.0/26", "10.20.0.64/26"]), "10.20.0.128/26");
        assert_eq!(block(&pools, 26, &["10.20.0.64/26"]), "10.20.0.0/26");
        assert_eq!(block(&pools, 24, &["10.20.0.64/26"]), "10.20.1.0/24", "smaller ones are in the way");
        assert_eq!(block(&pools, 24, &["10.20.0.0/17", "10.20.3.0/24", "fd00::/8"]), "10.20.128.0/24");
    }

    #[test]
    fn the_next_pool_follows_and_then_there_is_none() {
        let pools = ["10.20.0.0/24", "192.168.0.0/23"];
        assert_eq!(block(&pools, 24, &["10.0.0.0/8"]), "192.168.0.0/24");
        assert_eq!(block(&pools, 24, &["10.20.0.0/24", "192.168.0.0/24"]), "192.168.1.0/24");
        assert_eq!(block(&pools, 24, &["0.0.0.0/0"]), "");
        assert_eq!(block(&["255.255.255.0/24"], 25, &["255.255.255.0/25"]), "255.255.255.128/25");
        assert_eq!(block(&["255.255.255.0/24"], 25, &["255.255.255.0/24"]), "");
        assert_eq!(block(&[], 24, &[]), "");
        assert_eq!(block(&["10.20.0.0/24"], 16, &[]), "", "a block larger than its pool");
    }

    #[test]
    fn it_is_the_first_that_overlaps_nothing() {
        let mut rng = fastrand::Rng::with_seed(7);
        let pool: IpPrefix = "10.0.0.0/20".parse().unwrap();
        for round in 0..500 {
            let length = rng.u8(24..=29);
            let some = |rng: &mut fastrand::Rng| {
                let address = pool.nth(rng.u128(0..4096)).unwrap();
                IpPrefix::around(address, rng.u8(24..=32)).unwrap()
            };
            let taken: Vec<_> = (0..rng.usize(0..32)).map(|_| some(&mut rng)).collect();
            let mut blocks = (0..1_u128 << (length - 20))
                .map(|i| IpPrefix::new(pool.nth(i << (32 - length)).unwrap(), length).unwrap());
            let first = blocks.find(|block| taken.iter().all(|taken| !taken.overlaps(*block)));
            assert_eq!(
                free_block(&[pool], length, &taken),
                first,
                "round {round}: /{length} beside {taken:?}"
            );
        }
    }
}
