//! Handing out what this node holds: next-fit, so that a freed address rests for as long as there are others.

use std::net::IpAddr;

use super::donation::Need;
use super::pool::Pool;
use super::range::Range;
use super::refusal::Refusal;

/// Most leases of a pool: each costs about a hundred bytes. A node has far fewer endpoints.
pub const LEASES_MAX: usize = 65_536;
/// Most bytes of an endpoint's id.
pub const HOLDER_MAX: usize = 128;

/// What comes of asking a pool for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is the endpoint's.
    Leased(IpAddr),
    /// This node does not hold such an address: others have to be asked.
    Ask(Need),
    /// There is none to be had, here or elsewhere.
    Refused(Refusal),
}

impl Pool {
    /// An address for the endpoint `holder`: `wanted`, or the next free one. Who has one already gets the same.
    pub fn lease(&mut self, holder: &str, wanted: Option<IpAddr>) -> Outcome {
        if let Some(&number) = self.leases.get(holder) {
            let has = self.space.address(number);
            return match wanted {
                Some(address) if address != has => {
                    Outcome::Refused(Refusal::Has { holder: holder.into(), address: has })
                }
                _ => Outcome::Leased(has),
            };
        }
        if self.is_set_back() {
            return Outcome::Refused(Refusal::SetBack);
        }
        if self.leases.len() >= LEASES_MAX || holder.len() > HOLDER_MAX {
            return Outcome::Refused(Refusal::Limit);
        }
        let number = match wanted {
            Some(address) => match self.requested(address) {
                Ok(number) => number,
                Err(outcome) => return outcome,
            },
            None => match self.next_free() {
                Some(number) => number,
                None => return Outcome::Ask(Need::Any),
            },
        };
        self.free.remove(Range::one(number));
        self.leases.insert(holder.into(), number);
        self.holders.insert(number, holder.into());
        if wanted.is_none() {
            self.cursor = number;
        }
        Outcome::Leased(self.space.address(number))
    }

    /// The first free one behind that handed out last.
    fn next_free(&self) -> Option<u128> {
        let dynamic = self.space.dynamic();
        let rest = self.cursor.checked_add(1).and_then(|next| Range::new(next, dynamic.last()).ok());
        let ahead = rest.and_then(|rest| self.free.within(rest).next());
        ahead.or_else(|| self.free.within(dynamic).next()).map(Range::first)
    }

    fn requested(&self, address: IpAddr) -> Result<u128, Outcome> {
        let refused = |refusal| Err(Outcome::Refused(refusal));
        let Some(number) = self.space.number(address) else {
            return refused(Refusal::Outside { address, subnet: self.space.to_string() });
        };
        if let Some(what) = self.space.reserved(number) {
            return refused(Refusal::Reserved { address, what: what.into() });
        }
        if let Some(holder) = self.holders.get(&number) {
            return refused(Refusal::Taken { address, holder: holder.clone(), node: self.me });
        }
        if self.free.contains(number) { Ok(number) } else { Err(Outcome::Ask(Need::Exactly(address))) }
    }

    /// Takes an endpoint's address back, and tells which it was.
    pub fn release(&mut self, holder: &str) -> Option<IpAddr> {
        let number = self.leases.remove(holder)?;
        self.holders.remove(&number);
        if self.space.reserved(number).is_none() {
            self.free.insert(Range::one(number));
        }
        Some(self.space.address(number))
    }

    /// Takes back what belongs to none of the endpoints that there are: after a crash between a lease and its use.
    pub fn retain(&mut self, mut is_there: impl FnMut(&str) -> bool) -> Vec<(String, IpAddr)> {
        let lost: Vec<String> = self.leases.keys().filter(|holder| !is_there(holder)).cloned().collect();
        lost.into_iter().filter_map(|holder| self.release(&holder).map(|address| (holder, address))).collect()
    }

    /// The endpoints here and their addresses.
    pub fn leases(&self) -> impl Iterator<Item = (&str, IpAddr)> + '_ {
        self.leases.iter().map(|(holder, &number)| (holder.as_str(), self.space.address(number)))
    }
}
