//! What members who ask about addresses are answered.

use tracing::{info, warn};

use super::super::cluster::Cluster;
use super::super::links::Answer;
use super::super::records::gossip_id;
use super::message::{AddressAnswer, AddressAsk, AddressRequest, SUBNETS_AT_ONCE};
use super::pools::{Network, Place, PoolError};
use crate::api::Subnet;
use crate::crypto::identity::NodeId;

impl Cluster {
    /// Answers a member; whatever it is given is on disk as given before.
    pub(in crate::node) fn answer_addresses(&self, from: NodeId, requests: &[AddressRequest]) -> Answer {
        if requests.len() > SUBNETS_AT_ONCE {
            return Answer::Refused(format!("at most {SUBNETS_AT_ONCE} subnets at a time"));
        }
        let networks = self.networks();
        let answers = requests.iter().map(|request| self.answer_one(from, request, &networks)).collect();
        self.say_shares();
        Answer::Addresses(answers)
    }

    fn answer_one(&self, from: NodeId, request: &AddressRequest, networks: &[Network]) -> AddressAnswer {
        let place = Place { network: request.network.clone(), subnet: request.subnet };
        let network = networks.iter().find(|(id, _)| *id == place.network);
        let subnet = network.and_then(|(_, record)| record.subnets.get(usize::from(place.subnet)));
        let Some(subnet) = subnet else { return AddressAnswer::Unknown };
        self.answer_about(from, &place, subnet, &request.ask).unwrap_or_else(|error| {
            warn!("can't answer {from}, which asks for addresses of {}: {error}", subnet.subnet);
            AddressAnswer::Unknown
        })
    }

    fn answer_about(
        &self,
        from: NodeId,
        place: &Place,
        subnet: &Subnet,
        ask: &AddressAsk,
    ) -> Result<AddressAnswer, PoolError> {
        let removed = self.removed_nodes();
        self.addresses.change(place, subnet, |pool| {
            pool.follow_removals(&removed);
            match ask {
                AddressAsk::Want(want) => {
                    let reply = pool.handle_want(gossip_id(from), want);
                    if let Ok(gift) = &reply.gift {
                        info!("gave {from} {} addresses of {}", gift.range.count(), subnet.subnet);
                    }
                    AddressAnswer::Reply(reply)
                }
                AddressAsk::Question(question) => {
                    AddressAnswer::Holds(pool.handle_question(gossip_id(from), question))
                }
            }
        })
    }
}
