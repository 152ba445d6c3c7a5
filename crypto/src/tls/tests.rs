//! Handshakes through buffers: both ends of each connection, accepted and refused.

use std::io::{Read, Write};

use rustls::{ClientConnection, Connection, ServerConnection};

use super::*;
use crate::ca::{CERTIFICATE_LIFE, Ca};
use crate::envelope::{HEADER_LEN, SessionId, TAG_LEN};
use crate::exporter::{Agreed, Exporter, SessionKeys};
use crate::fixture::{DAY, Node, ca, node, now};
use crate::open::Opener;
use crate::seal::Sealer;

/// A clock that stands still.
#[derive(Debug)]
struct At(SystemTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

fn at(time: SystemTime) -> Arc<dyn TimeProvider> {
    Arc::new(At(time))
}

fn credentials<'c>(root: &'c Root, node: &'c Node) -> Credentials<'c> {
    Credentials { root, certificate: &node.certificate, key: &node.key }
}

fn nobody() -> Revocations {
    Arc::new(ArcSwap::from_pointee(Revoked::default()))
}

/// How a handshake ended: at the client, at the server. What an end sends when it fails still arrives.
type Ends = (Result<(), Error>, Result<(), Error>);

fn handshake(client: &mut Connection, server: &mut Connection) -> Ends {
    let (mut at_client, mut at_server) = (Ok(()), Ok(()));
    for _ in 0..4 {
        transfer(client, server, &mut at_server);
        transfer(server, client, &mut at_client);
    }
    (at_client, at_server)
}

fn transfer(from: &mut Connection, to: &mut Connection, outcome: &mut Result<(), Error>) {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = wire.as_slice();
    while outcome.is_ok() && !wire.is_empty() {
        to.read_tls(&mut wire).unwrap();
        *outcome = to.process_new_packets().map(drop);
    }
}

fn connect(
    client: ClientConfig,
    server: ServerConfig,
    name: ServerName<'static>,
) -> (Connection, Connection) {
    let client = ClientConnection::new(Arc::new(client), name).unwrap();
    let server = ServerConnection::new(Arc::new(server)).unwrap();
    (client.into(), server.into())
}

fn refusals((client, server): &Ends) -> (Option<Refusal>, Option<Refusal>) {
    let of = |end: &Result<(), Error>| end.as_ref().err().and_then(refusal);
    (of(client), of(server))
}

/// Joining: a node with a token for `pinned` calls a node of `ca`, at this time by its own clock.
fn join(pinned: CaDigest, ca: &Ca, called: &Node, clock: SystemTime) -> (Ends, Option<Root>) {
    let server = join_server(&credentials(ca.root(), called), at(now())).unwrap();
    let (mut client, mut server) =
        connect(join_client(pinned, at(clock)).unwrap(), server, server_name(None));
    let ends = handshake(&mut client, &mut server);
    (ends, pinned_root(&client, pinned))
}

#[test]
fn a_node_with_a_token_joins_and_learns_the_ca() {
    let ca = ca();
    let manager = node(&ca, Role::Manager, now());
    let (ends, root) = join(ca.root().digest(), &ca, &manager, now());
    assert_eq!(ends, (Ok(()), Ok(())));
    assert_eq!(root.as_ref(), Some(ca.root()));
}

#[test]
fn joining_is_refused_for_the_reason_that_there_is() {
    let (ours, theirs) = (ca(), ca());
    let manager = node(&ours, Role::Manager, now());
    let worker = node(&ours, Role::Worker, now());
    let cases = [
        ("another cluster", theirs.root().digest(), &manager, now(), PeerError::WrongCa),
        ("not a manager", ours.root().digest(), &worker, now(), PeerError::WrongRole),
        ("a clock behind", ours.root().digest(), &manager, now() - DAY, PeerError::NotYetValid),
        ("a clock ahead", ours.root().digest(), &manager, now() + 365 * DAY, PeerError::Expired),
    ];
    for (what, pinned, called, clock, want) in cases {
        let (ends, root) = join(pinned, &ours, called, clock);
        let (client, server) = refusals(&ends);
        assert_eq!(client, Some(Refusal::Ours(want)), "{what}");
        assert!(server.is_some() && root.is_none(), "{what}: the server is told, by {server:?}");
    }
}

#[test]
fn a_ca_that_was_only_shown_is_not_believed() {
    // The right CA certificate, which is no secret, beside a certificate of another CA.
    let (ours, theirs) = (ca(), ca());
    let stranger = node(&theirs, Role::Manager, now());
    let (ends, root) = join(ours.root().digest(), &ours, &stranger, now());
    assert_eq!(refusals(&ends).0, Some(Refusal::Ours(PeerError::WrongCa)));
    assert_eq!(root, None);
}

/// Two members, and what each end believes.
struct Pair<'p> {
    client: (&'p Ca, &'p Node),
    server: (&'p Ca, &'p Node),
    client_revoked: Revocations,
    server_revoked: Revocations,
    client_clock: SystemTime,
    server_clock: SystemTime,
    name: ServerName<'static>,
}

impl<'p> Pair<'p> {
    fn new(ca: &'p Ca, client: &'p Node, server: &'p Node) -> Self {
        Self {
            client: (ca, client),
            server: (ca, server),
            client_revoked: nobody(),
            server_revoked: nobody(),
            client_clock: now(),
            server_clock: now(),
            name: server_name(Some(server.id)),
        }
    }

    fn connect(self) -> (Connection, Connection, Ends) {
        let own = |(ca, node): (&'p Ca, &'p Node)| credentials(ca.root(), node);
        let client = member_client(&own(self.client), self.client_revoked, at(self.client_clock)).unwrap();
        let server = member_server(&own(self.server), self.server_revoked, at(self.server_clock)).unwrap();
        let (mut client, mut server) = connect(client, server, self.name);
        let ends = handshake(&mut client, &mut server);
        (client, server, ends)
    }

    fn refusals(self) -> (Option<Refusal>, Option<Refusal>) {
        refusals(&self.connect().2)
    }
}

fn revoked(change: impl FnOnce(&mut Revoked)) -> Revocations {
    let mut revoked = Revoked::default();
    change(&mut revoked);
    Arc::new(ArcSwap::from_pointee(revoked))
}

#[test]
fn members_know_each_other() {
    let ca = ca();
    let (worker, manager) = (node(&ca, Role::Worker, now()), node(&ca, Role::Manager, now()));
    for name in [server_name(None), server_name(Some(manager.id))] {
        let (mut client, mut server, ends) = Pair { name, ..Pair::new(&ca, &worker, &manager) }.connect();
        assert_eq!(ends, (Ok(()), Ok(())));
        let seen = |connection: &Connection| peer(connection).map(|peer| (peer.node, peer.role));
        assert_eq!(seen(&client), Some((manager.id, Role::Manager)));
        assert_eq!(seen(&server), Some((worker.id, Role::Worker)));
        assert_eq!(client.alpn_protocol(), Some(ALPN_MEMBER));
        client.writer().write_all(b"hello").unwrap();
        let mut outcome = Ok(());
        transfer(&mut client, &mut server, &mut outcome);
        let mut text = [0; 5];
        server.reader().read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
    }
}

#[test]
fn nobody_is_known_before_the_handshake_is_done() {
    let ca = ca();
    let member = node(&ca, Role::Manager, now());
    let own = credentials(ca.root(), &member);
    let client = member_client(&own, nobody(), at(now())).unwrap();
    let server = member_server(&own, nobody(), at(now())).unwrap();
    let (client, server) = connect(client, server, server_name(None));
    assert_eq!((peer(&client), peer(&server), pinned_root(&client, ca.root().digest())), (None, None, None));
}

#[test]
fn another_cluster_is_refused_at_both_ends() {
    let (ours, theirs) = (ca(), ca());
    let (us, them) = (node(&ours, Role::Manager, now()), node(&theirs, Role::Manager, now()));
    let wrong = PeerError::WrongCa;
    let refused = Pair { server: (&theirs, &them), ..Pair::new(&ours, &us, &them) }.refusals();
    assert_eq!(refused, (Some(Refusal::Ours(wrong)), Some(Refusal::Theirs(wrong))));
    // A client that believes any server still has to show a certificate of the server's cluster.
    let stranger = Ca::new(ours.root().clone(), PrivateKey::from_der(&ours.key().to_der()).unwrap()).unwrap();
    let refused = Pair { client: (&stranger, &them), ..Pair::new(&ours, &them, &us) }.refusals();
    assert_eq!(refused, (Some(Refusal::Theirs(wrong)), Some(Refusal::Ours(wrong))));
}

#[test]
fn dates_are_those_of_the_clock_of_whoever_looks() {
    let ca = ca();
    let (client, server) = (node(&ca, Role::Worker, now()), node(&ca, Role::Worker, now()));
    let pair = || Pair::new(&ca, &client, &server);
    let late = now() + CERTIFICATE_LIFE + DAY;
    let cases = [
        (late, now(), (Some(Refusal::Ours(PeerError::Expired)), Some(Refusal::TheirsDates))),
        (now() - DAY, now(), (Some(Refusal::Ours(PeerError::NotYetValid)), Some(Refusal::TheirsDates))),
        (now(), late, (Some(Refusal::TheirsDates), Some(Refusal::Ours(PeerError::Expired)))),
        (now(), now() - DAY, (Some(Refusal::TheirsDates), Some(Refusal::Ours(PeerError::NotYetValid)))),
    ];
    for (client_clock, server_clock, want) in cases {
        assert_eq!(Pair { client_clock, server_clock, ..pair() }.refusals(), want);
    }
}

#[test]
fn the_removed_are_refused_at_both_ends_from_the_next_handshake_on() {
    let ca = ca();
    let (client, server) = (node(&ca, Role::Worker, now()), node(&ca, Role::Manager, now()));
    let pair = || Pair::new(&ca, &client, &server);
    let refused = (Some(Refusal::Theirs(PeerError::Revoked)), Some(Refusal::Ours(PeerError::Revoked)));
    let server_revoked = nobody();
    let kept = || Pair { server_revoked: server_revoked.clone(), ..pair() };
    assert_eq!(kept().refusals(), (None, None));
    let mut list = Revoked::default();
    list.remove_node(client.id, now()).unwrap();
    server_revoked.store(Arc::new(list));
    assert_eq!(kept().refusals(), refused);

    let held = ca.root().verify(&server.certificate, now(), &Revoked::default()).unwrap();
    let client_revoked = revoked(|list| list.remove_certificate(&held).unwrap());
    assert_eq!(Pair { client_revoked, ..pair() }.refusals(), (refused.1, refused.0));
}

#[test]
fn another_node_than_the_one_called_is_refused() {
    let ca = ca();
    let (client, server) = (node(&ca, Role::Worker, now()), node(&ca, Role::Worker, now()));
    let name = server_name(Some(client.id));
    let (at_client, at_server) = Pair { name, ..Pair::new(&ca, &client, &server) }.refusals();
    assert_eq!(at_client, Some(Refusal::Ours(PeerError::WrongNode)));
    assert!(at_server.is_some());
}

#[test]
fn a_client_without_certificate_or_of_the_other_protocol_is_refused() {
    let ca = ca();
    let member = node(&ca, Role::Manager, now());
    let own = credentials(ca.root(), &member);
    let server = || member_server(&own, nobody(), at(now())).unwrap();
    let strange = || {
        let believes = Members { root: ca.root().clone(), revoked: nobody(), signatures: signatures() };
        let mut client = ClientConfig::builder_with_details(provider(), at(now()))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(believes))
            .with_no_client_auth();
        harden_client(&mut client, ALPN_MEMBER);
        client
    };
    let refused = |client| {
        let (mut client, mut server) = connect(client, server(), server_name(None));
        refusals(&handshake(&mut client, &mut server))
    };
    assert_eq!(refused(strange()), (Some(Refusal::NoCertificate), Some(Refusal::NoCertificate)));
    let mut newer = strange();
    newer.alpn_protocols = vec![b"vswitchd-member/2".to_vec()];
    assert_eq!(refused(newer), (Some(Refusal::Version), Some(Refusal::Version)));
}

#[test]
fn a_certificate_with_another_key_makes_no_configuration() {
    let ca = ca();
    let (first, second) = (node(&ca, Role::Manager, now()), node(&ca, Role::Manager, now()));
    let mixed = Credentials { root: ca.root(), certificate: &first.certificate, key: &second.key };
    assert!(join_server(&mixed, at(now())).is_err());
    assert!(member_server(&mixed, nobody(), at(now())).is_err());
    assert!(member_client(&mixed, nobody(), at(now())).is_err());
}

#[test]
fn nothing_is_resumed() {
    let ca = ca();
    let (one, two) = (node(&ca, Role::Worker, now()), node(&ca, Role::Worker, now()));
    let client = Arc::new(member_client(&credentials(ca.root(), &one), nobody(), at(now())).unwrap());
    let server = Arc::new(member_server(&credentials(ca.root(), &two), nobody(), at(now())).unwrap());
    for _ in 0..3 {
        let mut from: Connection = ClientConnection::new(client.clone(), server_name(None)).unwrap().into();
        let mut to: Connection = ServerConnection::new(server.clone()).unwrap().into();
        assert_eq!(handshake(&mut from, &mut to), (Ok(()), Ok(())));
        assert_eq!(from.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

fn keys(exporter: &mut Exporter, agreed: Agreed, connection: &Connection) -> SessionKeys {
    let export = |output: &mut [u8], label: &[u8], context: &[u8]| {
        connection.export_keying_material(output, label, Some(context)).map(drop)
    };
    exporter.session_keys(agreed, export).unwrap()
}

/// Whether what is sealed with one key opens with the other.
fn opens(send: &crate::key::Key, receive: &crate::key::Key) -> bool {
    let session = SessionId::new(1).unwrap();
    let mut datagram = [&[0; HEADER_LEN][..], b"frame", &[0; TAG_LEN]].concat();
    Sealer::new(send, session).seal(&mut datagram).unwrap();
    Opener::new(receive, session).open(&mut datagram).is_ok()
}

#[test]
fn both_ends_draw_the_same_keys_and_each_direction_and_renewal_another() {
    let ca = ca();
    let (one, two) = (node(&ca, Role::Worker, now()), node(&ca, Role::Worker, now()));
    let (client, server, ends) = Pair::new(&ca, &one, &two).connect();
    assert_eq!(ends, (Ok(()), Ok(())));
    let mut at_client = Exporter::new(one.id, two.id);
    let mut at_server = Exporter::new(two.id, one.id);
    let session = |id| SessionId::new(id).unwrap();
    let mut all = Vec::new();
    for renewal in 0..3 {
        // The same numbers at both ends and each time: the keys differ still.
        let agreed = Agreed { send: session(5), receive: session(5), renewal };
        let (ours, theirs) = (keys(&mut at_client, agreed, &client), keys(&mut at_server, agreed, &server));
        assert!(opens(&ours.send, &theirs.receive) && opens(&theirs.send, &ours.receive));
        all.extend([ours.send, ours.receive]);
    }
    for (place, key) in all.iter().enumerate() {
        assert!(all[..place].iter().all(|other| !opens(key, other)), "key {place} came before");
    }
    // A connection of its own gives keys of its own.
    let (again, _, _) = Pair::new(&ca, &one, &two).connect();
    let agreed = Agreed { send: session(5), receive: session(5), renewal: 0 };
    let fresh = keys(&mut Exporter::new(one.id, two.id), agreed, &again);
    assert!(all.iter().all(|other| !opens(&fresh.send, other)));
}

#[test]
fn no_secret_is_printed() {
    let ca = ca();
    let member = node(&ca, Role::Manager, now());
    let own = credentials(ca.root(), &member);
    assert!(format!("{own:?}").contains("key: PrivateKey(redacted)"));
    let secret = format!("{:?}", &member.key.to_der()[16..24]);
    let inner = secret.trim_matches(['[', ']']);
    assert!(!format!("{:?}", join_server(&own, at(now())).unwrap()).contains(inner));
}
