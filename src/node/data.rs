//! The data plane of this node: started with its first endpoint, told what gossip says, and its keys agreed on over
//! links.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{info, warn};

use super::cluster::Cluster;
use super::links::{Answer, Confirm, Conversation, LinkError, Request};
use super::records::{EndpointRecord, NetworkRecord, Presence, gossip_id};
use super::services::in_networks;
use crate::crypto::envelope::SessionId;
use crate::crypto::exporter::Agreed;
use crate::crypto::identity::NodeId;
use crate::overlay::sessions::{self, Agree, AgreeError, Agreeing, Agreement, AnswerError};
use crate::overlay::{
    FILE, NetworkId, NetworkView, NodeView, Overlay, OverlayConfig, OverlayEvent, PlaneError, RemoteEndpoint,
    View,
};
use crate::state::{StateDir, StateError};
use crate::switch::tunnel::Protection;
use crate::switch::wire::{MacAddr, Vni};

/// How often a data plane that can't be started or moved is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Removes what is kept of endpoints.
pub(super) fn forget(state: &StateDir) -> Result<(), StateError> {
    state.remove(FILE)
}

impl Cluster {
    /// The data plane, if it runs.
    pub(super) fn overlay(&self) -> Option<Arc<Overlay>> {
        self.overlay.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The data plane, which is started if it does not run yet.
    pub(super) async fn start_overlay(self: &Arc<Self>) -> Result<Arc<Overlay>, PlaneError> {
        let _starting = self.starting.lock().await;
        if let Some(overlay) = self.overlay() {
            return Ok(overlay);
        }
        let name = self.member().as_ref().map(|member| member.settings.name.clone()).unwrap_or_default();
        let local = self.data_address();
        let mut config = OverlayConfig::new(self.id, name, local);
        config.shares_address =
            self.nodes().iter().any(|(node, record)| *node != self.id && record.data.ip() == local.ip());
        config.dns.clone_from(&self.host.dns);
        (config.sockets, config.entrances) = self.mesh.shared_parts();
        let agree = Arc::new(OverLinks(Arc::downgrade(self)));
        let (overlay, events) = Overlay::start(config, agree, Arc::clone(&self.state))?;
        let overlay = Arc::new(overlay);
        overlay.update(self.view());
        self.watch_task(tokio::spawn(tell(Arc::downgrade(self), events)).abort_handle());
        *self.overlay.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Arc::clone(&overlay));
        info!("data plane at {}", overlay.local());
        Ok(overlay)
    }

    /// What the data plane follows from.
    fn view(&self) -> View {
        let nodes = self.nodes();
        let presences = self.gossip.list::<Presence>();
        let present = |id: NodeId| {
            let own = presences.iter().filter(|(owner, ..)| *owner == Some(gossip_id(id)));
            let pair = |(_, key, presence): &(_, String, Presence)| {
                Some((NetworkId(key.clone()), Vni::new(presence.vni)?))
            };
            own.filter_map(pair).collect()
        };
        let endpoints = self.endpoint_records();
        // One that does not know our endpoints yet would drop what they send, and TCP's first packet is sent again late.
        let live = self.peers().into_iter().filter(|(_, peer)| peer.alive && peer.knows_us);
        let node = |(id, peer): (NodeId, crate::gossip::PeerStatus)| {
            let (_, record) = nodes.iter().find(|(node, _)| *node == id)?;
            let (name, data) = (record.name.clone(), record.data);
            let endpoints = endpoints.iter().filter(|(node, ..)| *node == id);
            let endpoints = endpoints.map(|(_, id, record)| remote(id, record)).collect();
            Some(NodeView { node: id, name, life: peer.life, data, present: present(id), endpoints })
        };
        let data_port = self.settings().data_path_port;
        let network = |(id, record): (String, NetworkRecord)| {
            let protection = if record.options.encrypted { Protection::Sealed } else { Protection::Plain };
            let (id, name, created_ms) = (NetworkId(id), record.name, record.created_ms);
            let (vni, underlay_mtu, internal) =
                (Vni::new(record.vni)?, record.options.mtu, record.options.internal);
            let subnets = record.subnets;
            let foreign = record.options.foreign.iter().map(|&at| SocketAddr::new(at, data_port)).collect();
            Some(NetworkView {
                id,
                name,
                vni,
                protection,
                underlay_mtu,
                subnets,
                internal,
                foreign,
                created_ms,
            })
        };
        View {
            nodes: live.filter_map(node).collect(),
            networks: self.networks().into_iter().filter_map(network).collect(),
            services: in_networks(self.services()),
        }
    }

    /// Tells the others which networks we have endpoints in.
    pub(super) fn say_presence(&self, overlay: &Overlay) {
        let wanted =
            overlay.presence().into_iter().map(|(id, vni)| (id.0, Presence { vni: vni.id() })).collect();
        self.say(&wanted, "which networks this node has endpoints in");
    }

    /// Where data is to go in and out.
    pub(super) fn data_address(&self) -> SocketAddr {
        let port = self.settings().data_path_port;
        let member = self.member();
        let settings = member.as_ref().map(|member| &member.settings);
        let address = settings.map(|settings| settings.data_address.unwrap_or(settings.advertise));
        let port = settings.and_then(|settings| settings.data_port).unwrap_or(port);
        SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port)
    }

    /// Answers a member that wants data keys.
    pub(super) async fn answer_session(
        &self,
        conversation: &mut Conversation,
        number: u32,
    ) -> Result<(), LinkError> {
        let send = SessionId::new(number).ok_or(LinkError::Nonsense)?;
        let peer = conversation.peer().node;
        let overlay = self.overlay();
        let answering = overlay
            .as_ref()
            .ok_or(AnswerError::NotShared)
            .and_then(|overlay| overlay.sessions().answer(peer, send));
        let answering = match answering {
            Ok(answering) => answering,
            Err(error) => return conversation.send(&refusal(error)).await,
        };
        let receive = answering.receive();
        let keys = conversation.session_keys(Agreed { send, receive, renewal: 0 })?;
        match answering.install(keys) {
            Ok(answered) => {
                conversation.send(&Answer::Session(receive.id())).await?;
                conversation.receive::<Confirm>().await?;
                answered.confirmed();
                Ok(())
            }
            Err(error) => conversation.send(&refusal(error)).await,
        }
    }
}

fn remote(id: &str, record: &EndpointRecord) -> RemoteEndpoint {
    let EndpointRecord { network, name, addresses, mac, aliases, backend } = record.clone();
    let (id, network, mac) = (id.into(), NetworkId(network), MacAddr(mac));
    RemoteEndpoint { id, name, aliases, network, mac, addresses, backend }
}

fn refusal(error: AnswerError) -> Answer {
    match error {
        AnswerError::NotNow => Answer::Busy,
        other => Answer::Refused(other.to_string()),
    }
}

/// Tells the data plane what gossip says, until the cluster ends.
pub(super) async fn keep(cluster: Arc<Cluster>) {
    let mut epoch = cluster.keys.ring().epoch();
    match restore(&cluster).await {
        Ok(()) => cluster.restored.store(true, Ordering::Release),
        // Their addresses stay theirs.
        Err(error) => warn!("endpoints of before: {error}"),
    }
    loop {
        let mut pause = None;
        if let Some(overlay) = cluster.overlay() {
            match overlay.move_to(cluster.data_address()) {
                // The others send to where it was until they hear of it.
                Ok(_) => cluster.say_who(),
                Err(error) => {
                    warn!("can't move the data plane to {}: {error}", cluster.data_address());
                    pause = Some(RETRY);
                }
            }
            overlay.update(cluster.view());
            cluster.say_presence(&overlay);
            cluster.say_endpoints(&overlay);
            let now = cluster.keys.ring().epoch();
            // New shared keys are a sign that somebody wants all keys to be new.
            if std::mem::replace(&mut epoch, now) != now {
                overlay.rotate_now();
            }
        }
        cluster.release_addresses();
        tokio::select! {
            () = cluster.data_changed.notified() => {}
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

/// Why endpoints of an earlier life are not there.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the data plane: {0}")]
    Plane(#[from] PlaneError),
}

/// Endpoints outlive the daemon.
async fn restore(cluster: &Arc<Cluster>) -> Result<(), RestoreError> {
    if cluster.state.read(FILE)?.is_none() {
        return Ok(());
    }
    for (spec, error) in cluster.start_overlay().await?.restore()? {
        warn!("endpoint {} of network {} is not there any more: {error}", spec.name, spec.network);
    }
    Ok(())
}

async fn tell(cluster: Weak<Cluster>, mut events: UnboundedReceiver<OverlayEvent>) {
    while let Some(event) = events.recv().await {
        if let (OverlayEvent::EndpointGone { .. }, Some(cluster)) = (&event, cluster.upgrade()) {
            cluster.data_changed.notify_one();
        }
        match event {
            OverlayEvent::PathOk { .. }
            | OverlayEvent::PathMtu { .. }
            | OverlayEvent::EndpointMtu { .. }
            | OverlayEvent::Published { .. }
            | OverlayEvent::NetworkCarried(_)
            | OverlayEvent::SegmentationRefused
            | OverlayEvent::Moved(_) => info!("{event}"),
            _ => warn!("{event}"),
        }
    }
}

/// Agrees on keys over links.
struct OverLinks(Weak<Cluster>);

impl Agree for OverLinks {
    fn ask(&self, peer: NodeId, receive: SessionId) -> Agreeing<Agreement> {
        let cluster = self.0.upgrade();
        Box::pin(async move {
            let connection = |error: LinkError| AgreeError::Connection(error.to_string());
            let cluster = cluster.ok_or_else(|| connection(LinkError::NoMember))?;
            let place =
                cluster.peers().into_iter().find(|(node, _)| *node == peer).map(|(_, peer)| peer.addr);
            let place = place.ok_or_else(|| AgreeError::Connection("nobody knows where it is".into()))?;
            let mut conversation = cluster.links.call(Some(peer), place).await.map_err(connection)?;
            conversation.send(&Request::Session(receive.id())).await.map_err(connection)?;
            let send = match conversation.receive().await.map_err(connection)? {
                Answer::Session(number) => SessionId::new(number),
                Answer::Busy => return Err(AgreeError::Refused("not now".into())),
                Answer::Refused(reason) => return Err(AgreeError::Refused(reason.lines().collect())),
                _ => None,
            };
            let send = send.ok_or_else(|| connection(LinkError::Nonsense))?;
            let keys = conversation.session_keys(Agreed { send, receive, renewal: 0 });
            let keys = keys.map_err(|error| AgreeError::Keys(error.to_string()))?;
            Ok(Agreement { send, keys, confirm: Box::new(Rest(conversation)) })
        })
    }
}

/// A conversation in which only the confirmation is missing.
struct Rest(Conversation);

impl sessions::Confirm for Rest {
    fn confirm(self: Box<Self>) -> Agreeing<()> {
        Box::pin(async move {
            let Self(mut conversation) = *self;
            let connection = |error: LinkError| AgreeError::Connection(error.to_string());
            conversation.send(&Confirm).await.map_err(connection)?;
            conversation.close().await.map_err(connection)
        })
    }
}
