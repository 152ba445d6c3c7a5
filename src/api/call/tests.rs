use super::super::{
    EndpointDevice, LogMark, NetworkOptions, SecretText, SubnetRequest, TaskNetwork, TaskProgram,
};
use super::*;
use crate::api::Publish;
use crate::service::{
    Constraint, Mode, Port, PortMode, ServiceNetwork, SpecParts, UpdateOrder, UpdatePolicy,
};

fn name_of(text: &str) -> Name {
    text.parse().unwrap()
}

fn membership() -> Vec<Call> {
    let update = ClusterUpdate {
        data_path_port: Some(4790),
        default_addr_pools: vec!["10.20.0.0/16".parse().unwrap()],
        default_addr_pool_mask_length: Some(26),
    };
    let join = JoinRequest {
        token: SecretText(Zeroizing::new("VSWTKN-1-a-b".into())),
        managers: vec!["192.0.2.1".into()],
        advertise_addr: Some("eth0".into()),
        listen_addr: Some("[::]:2377".parse().unwrap()),
        name: None,
        data_path_addr: Some("eth1".into()),
        gossip_port: Some(7947),
        data_path_port: Some(4790),
    };
    let init = InitRequest {
        name: Some("one".into()),
        settings: update.clone(),
        gossip_port: Some(7947),
        ..InitRequest::default()
    };
    let mut calls = vec![
        Call::Status,
        Call::Init(init),
        Call::Join(join),
        Call::Leave(LeaveRequest { force: true }),
        Call::Cluster,
        Call::UpdateCluster(update),
        Call::RotateKeys,
        Call::Peers,
    ];
    calls.extend(Role::ALL.into_iter().flat_map(|role| [Call::Token(role), Call::RotateToken(role)]));
    calls
}

fn create() -> NetworkCreate {
    let subnet = SubnetRequest {
        subnet: "10.0.9.0/24".parse().unwrap(),
        gateway: Some("10.0.9.99".parse().unwrap()),
        ip_range: Some("10.0.9.128/25".parse().unwrap()),
        reserved: [(name_of("printer"), "10.0.9.7".parse().unwrap())].into(),
    };
    let labels = [("stage".into(), "test".into())].into();
    NetworkCreate {
        name: name_of("front"),
        subnets: vec![subnet],
        ipv6: true,
        vni: Some(42),
        options: NetworkOptions {
            encrypted: true,
            mtu: Some(1_200),
            labels,
            foreign: [[192, 0, 2, 9].into()].into(),
            ..NetworkOptions::default()
        },
    }
}

fn calls() -> Vec<Call> {
    let terms = ["role=worker", "status=down", "name=a", "id=0a"].map(|term| term.parse().unwrap());
    let node = || name_of("node-1");
    let prune = NetworkFilter(vec!["label=stage=test".parse().unwrap()]);
    let attach = AttachRequest {
        network: name_of("front"),
        name: name_of("web"),
        device: EndpointDevice::tap("tap0", Some("/run/netns/web".into())),
        ip: vec!["10.0.9.7".parse().unwrap(), "fd00:9::7".parse().unwrap()],
        mac: Some("02:42:0a:00:09:07".parse().unwrap()),
        aliases: vec![name_of("www")],
        published: "[::1]:8080-8081:80-81/udp".parse::<Publish>().unwrap().0,
        service: Some(name_of("shop")),
    };
    let machine = |device| AttachRequest { device, mac: None, ..attach.clone() };
    let dgram = |qemu_remote: Option<&str>| {
        machine(EndpointDevice::QemuDgram {
            qemu_dgram: "/run/d".into(),
            qemu_remote: qemu_remote.map(Into::into),
        })
    };
    let mut calls = membership();
    calls.extend([
        Call::Nodes(NodeFilter::default()),
        Call::Nodes(NodeFilter(terms.into())),
        Call::Node(name_of("self")),
        Call::RemoveNode { node: node(), force: false },
        Call::RemoveNode { node: node(), force: true },
        Call::Promote(node()),
        Call::Demote(node()),
        Call::UpdateNode(
            node(),
            NodeUpdate { label_rm: vec!["disk".into()], label_add: vec![("zone".into(), "a=b".into())] },
        ),
        Call::Networks,
        Call::CreateNetwork(create()),
        Call::PruneNetworks(NetworkFilter::default()),
        Call::PruneNetworks(prune),
        Call::Network(name_of("front")),
        Call::RemoveNetwork(name_of("front")),
        Call::Connect(
            name_of("back"),
            ConnectRequest {
                endpoint: name_of("web"),
                ip: vec!["10.0.8.7".parse().unwrap()],
                aliases: vec![name_of("www")],
            },
        ),
        Call::Disconnect(name_of("back"), DisconnectRequest { endpoint: name_of("web"), force: true }),
        Call::Expose(name_of("back"), ExposeRequest::default()),
        Call::Expose(
            name_of("back"),
            ExposeRequest {
                name: Some(name_of("host")),
                ip: vec!["fd00:8::7".parse().unwrap()],
                interface: Some("tap0".into()),
            },
        ),
        Call::Unexpose(name_of("back")),
        Call::Attach(machine(EndpointDevice::QemuStream { qemu_stream: "/run/s".into() })),
        Call::Attach(dgram(None)),
        Call::Attach(dgram(Some("/run/e"))),
        Call::Attach(attach),
        Call::Detach(name_of("web")),
    ]);
    calls.extend(services());
    calls.extend(tasks());
    calls
}

fn services() -> [Call; 7] {
    let service = || name_of("web");
    let network = || ServiceNetwork { network: name_of("front"), aliases: vec![name_of("www")] };
    let ports = || Port::parse("[::1]:8080-8081:80-81/udp", PortMode::Host).unwrap();
    let constraint = || "node.labels.zone==a".parse::<Constraint>().unwrap();
    let parts = SpecParts {
        mode: Mode::Replicated(3),
        command: vec!["sh".into(), "-c".into(), "echo \u{e9}\n".into()],
        env: vec!["A=b=c".into()],
        networks: vec![network()],
        ports: ports(),
        constraints: vec![constraint()],
        labels: [("stage".into(), "test".into())].into(),
        ..SpecParts::new(service())
    };
    let update = ServiceUpdate {
        replicas: Some(5),
        command: Some(Vec::new()),
        network_add: vec![network()],
        publish_rm: vec!["8080:80".parse().unwrap()],
        publish_add: ports(),
        constraint_rm: vec![constraint()],
        label_add: vec![("stage".into(), String::new())],
        update: Some(UpdatePolicy { parallelism: 2, delay_ms: 1_000, order: UpdateOrder::StartFirst }),
        force: true,
        ..ServiceUpdate::default()
    };
    [
        Call::Services,
        Call::CreateService(Box::new(ServiceSpec::new(parts).unwrap())),
        Call::Service(service()),
        Call::ServiceTasks(service()),
        Call::ServiceLogs(
            service(),
            LogsRequest { tail: Some(3), marks: [("0a".into(), LogMark { file: 7, offset: 9 })].into() },
        ),
        Call::UpdateService(service(), Box::new(update)),
        Call::RemoveService(service()),
    ]
}

fn tasks() -> [Call; 8] {
    let task = || name_of("amber-wren");
    let program = TaskProgram {
        command: vec!["sh".into(), "-c".into(), "echo \u{e9}\n".into()],
        workdir: Some("/tmp".into()),
        env: vec!["A=b=c".into()],
        user: Some("ann:users".into()),
        hostname: Some(name_of("wren")),
        tty: true,
        stdin: true,
    };
    let networks = vec![TaskNetwork {
        network: name_of("front"),
        ip: vec!["10.0.9.7".parse().unwrap()],
        mac: Some("02:42:0a:00:09:07".parse().unwrap()),
        aliases: vec![name_of("www")],
    }];
    let published = "8080:80".parse::<Publish>().unwrap().0;
    [
        Call::Tasks,
        Call::CreateTask(TaskCreate {
            name: Some(task()),
            program,
            networks,
            published,
            remove: true,
            service: Some("web".parse().unwrap()),
        }),
        Call::Task(task()),
        Call::StartTask(task()),
        Call::StopTask(task(), StopRequest { signal: Some(2), patience_s: 3 }),
        Call::KillTask(task(), KillRequest { signal: 10 }),
        Call::RemoveTask { task: task(), force: false },
        Call::RemoveTask { task: task(), force: true },
    ]
}

fn refused(method: &str, path: &str, body: &[u8]) -> Code {
    Call::parse(method, path, body).unwrap_err().code
}

#[test]
fn calls_come_as_they_went() {
    for call in calls() {
        assert_eq!(Call::parse(call.method(), &call.path(), &call.body()), Ok(call));
    }
}

#[test]
fn paths_are_those_of_the_documentation() {
    let shown: Vec<_> = calls().iter().map(|call| format!("{} {}", call.method(), call.path())).collect();
    for documented in [
        "GET /v1/nodes?role=worker&status=down&name=a&id=0a",
        "DELETE /v1/nodes/node-1?force",
        "POST /v1/nodes/node-1/promote",
        "PATCH /v1/cluster",
        "DELETE /v1/networks/front",
        "POST /v1/networks/prune",
        "POST /v1/networks/back/connect",
        "POST /v1/networks/back/disconnect",
        "POST /v1/networks/back/expose",
        "DELETE /v1/networks/back/expose",
        "PATCH /v1/nodes/node-1",
        "POST /v1/services",
        "PATCH /v1/services/web",
        "GET /v1/services/web/tasks",
        "DELETE /v1/services/web",
        "POST /v1/endpoints",
        "POST /v1/keys/rotate",
        "POST /v1/tasks",
        "DELETE /v1/tasks/amber-wren?force",
        "POST /v1/tasks/amber-wren/stop",
    ] {
        assert!(shown.iter().any(|shown| shown == documented), "{documented}");
    }
}

#[test]
fn other_paths_are_refused() {
    for path in
        ["", "/", "/v1", "/v1/", "/v2/status", "//v1/status", "/v1/status/", "/v1/../v1/status", "\u{0}"]
    {
        assert_eq!(refused("GET", path, b""), Code::NotFound, "{path:?}");
    }
    for path in ["/v1/nodes/a/kick", "/v1/keys", "/v1/networks/a/b", "/v1/endpoints/a/b"] {
        assert_eq!(refused("POST", path, b""), Code::NotFound, "{path:?}");
    }
    for path in ["/v1/nodes/", "/v1/nodes/a%20b", "/v1/nodes/a\u{1b}", "/v1/networks/a+b"] {
        assert_eq!(refused("GET", path, b""), Code::BadRequest, "{path:?}");
    }
    assert_eq!(refused("GET", "/v1/token/king", b""), Code::NotFound);
}

#[test]
fn other_methods_bodies_and_parameters_are_refused() {
    for call in calls() {
        assert_eq!(refused("PUT", &call.path(), &call.body()), Code::MethodNotAllowed, "{call:?}");
        let mut other = call.body().to_vec();
        if other.pop().is_none() {
            other.extend(b"{}");
        }
        assert_eq!(refused(call.method(), &call.path(), &other), Code::BadRequest, "{call:?}");
        let path = call.path();
        let path = format!("{path}{}x=1", if path.contains('?') { '&' } else { '?' });
        assert_eq!(refused(call.method(), &path, &call.body()), Code::BadRequest, "{call:?}");
    }
    assert_eq!(refused("POST", "/v1/init", br#"{"advertise-addr":"x"}"#), Code::BadRequest);
    assert_eq!(
        refused("PATCH", "/v1/cluster", br#"{"default_addr_pools":["10.0.0.1/8"]}"#),
        Code::BadRequest
    );
    for body in [r#"{"name":"a b"}"#, r#"{"name":"a","subnets":[{"subnet":"10.0.9.1/24"}]}"#] {
        assert_eq!(refused("POST", "/v1/networks", body.as_bytes()), Code::BadRequest, "{body}");
    }
    for body in [r#"{"name":"a.b","mode":"global"}"#, r#"{"name":"a","mode":"global","colour":"red"}"#] {
        assert_eq!(refused("POST", "/v1/services", body.as_bytes()), Code::BadRequest, "{body}");
    }
    assert_eq!(refused("DELETE", "/v1/nodes/a?force=no", b""), Code::BadRequest);
}

#[test]
fn secrets_are_not_printed() {
    let shown = format!("{:?}", calls());
    assert!(!shown.contains("VSWTKN") && shown.contains("redacted"), "{shown}");
}
