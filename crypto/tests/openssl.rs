//! Certificates, requests and token digests as OpenSSL's command line reads them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use vswitchd_crypto::ca::Ca;
use vswitchd_crypto::identity::{ClusterId, NodeId, PrivateKey, Role};
use vswitchd_crypto::token::{JoinSecrets, Token};

/// Some second of 2026.
const NOW: u64 = 1_795_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

#[expect(clippy::disallowed_methods, reason = "a test has to take randomness from somewhere")]
fn random() -> SystemRandom {
    SystemRandom::new()
}

fn openssl(arguments: &[&str]) -> Output {
    Command::new("openssl").args(arguments).output().expect("openssl was there before")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether OpenSSL is there. It has to be where everything must be tested.
fn available() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
    if !found {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "openssl is not installed");
        eprintln!("SKIPPED: openssl is not installed, so nothing was compared with it");
    }
    found
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).expect("the folder is writable");
    path
}

#[test]
fn openssl_reads_what_we_make() {
    if !available() {
        return;
    }
    let random = random();
    let cluster = ClusterId::random(&random).unwrap();
    let ca = Ca::make(cluster, now(), &random).unwrap();
    let (id, key) = (NodeId::random(&random).unwrap(), PrivateKey::generate(&random).unwrap());
    let request = key.request();
    let certificate = ca.issue(&request, id, Role::Manager, now(), &random).unwrap();

    let [root, node, request, key] = [
        file("ca.der", ca.root().certificate()),
        file("node.der", &certificate),
        file("node.csr", &request),
        file("node.key", key.to_pem().as_bytes()),
    ]
    .map(|path| path.to_str().unwrap().to_owned());
    let root_pem = format!("{root}.pem");
    assert!(openssl(&["x509", "-inform", "DER", "-in", &root, "-out", &root_pem]).status.success());

    let shown = text(&openssl(&["req", "-inform", "DER", "-in", &request, "-noout", "-verify"]));
    assert!(shown.contains("verify OK"), "{shown}");

    for purpose in ["sslserver", "sslclient"] {
        let verify = |at: u64| {
            let at = at.to_string();
            text(&openssl(&[
                "verify",
                "-x509_strict",
                "-CAfile",
                &root_pem,
                "-purpose",
                purpose,
                "-attime",
                &at,
                &node,
            ]))
        };
        let shown = verify(NOW);
        assert!(shown.contains("node.der: OK"), "{shown}");
        let shown = verify(NOW + 91 * 86_400);
        assert!(shown.contains("certificate has expired"), "{shown}");
        let shown = verify(NOW - 86_400);
        assert!(shown.contains("certificate is not yet valid"), "{shown}");
    }

    let names = ["-nameopt", "RFC2253", "-subject", "-ext", "subjectAltName,extendedKeyUsage"];
    let shown = text(&openssl(&[&["x509", "-inform", "DER", "-in", &node, "-noout"], &names[..]].concat()));
    for want in [
        format!("CN={id},OU=vswitchd-manager,O={cluster}"),
        format!("DNS:{id}.vswitchd"),
        "TLS Web Server Authentication, TLS Web Client Authentication".to_owned(),
    ] {
        assert!(shown.contains(&want), "{want} is not in {shown}");
    }

    let of_key = text(&openssl(&["pkey", "-in", &key, "-pubout"]));
    let of_certificate = text(&openssl(&["x509", "-inform", "DER", "-in", &node, "-noout", "-pubkey"]));
    assert!(of_key.contains("PUBLIC KEY") && of_key == of_certificate, "{of_key}{of_certificate}");

    let token = JoinSecrets::random(&random).unwrap().token(Role::Worker, ca.root().digest());
    let digest = Token::parse(&token.reveal()).unwrap().ca;
    let hex: String = digest.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = text(&openssl(&["dgst", "-sha256", "-r", &root]));
    assert!(shown.starts_with(&hex), "{hex} is not {shown}");
}
