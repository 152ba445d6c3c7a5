//! What templates of lists know of networks.

use super::{DRIVER, SCOPE, cell};
use crate::api::NetworkView;
use crate::cli::date::rfc3339;
use crate::cli::template::{Field, Listed, field};

impl Listed for NetworkView {
    const FIELDS: &'static [Field<Self>] = &[
        field(".ID", "NETWORK ID", cell::id),
        field(".Name", "NAME", |network, _| network.name.clone()),
        field(".Driver", "DRIVER", |_, _| DRIVER.into()),
        field(".Scope", "SCOPE", |_, _| SCOPE.into()),
        field(".CreatedAt", "CREATED AT", |network, _| rfc3339(network.created_ms)),
        field(".IPv4", "IPV4", |network, _| {
            network.subnets.iter().any(|subnet| subnet.subnet.is_ipv4()).to_string()
        }),
        field(".IPv6", "IPV6", |network, _| {
            network.subnets.iter().any(|subnet| !subnet.subnet.is_ipv4()).to_string()
        }),
        field(".Internal", "INTERNAL", |network, _| network.options.internal.to_string()),
        field(".Labels", "LABELS", |network, _| cell::labels(network)),
        field(".VNI", "VNI", |network, _| network.vni.to_string()),
        field(".Subnets", "SUBNETS", |network, _| cell::subnets(network)),
        field(".Encrypted", "ENCRYPTED", |network, _| network.options.encrypted.to_string()),
        field(".Attachable", "ATTACHABLE", |network, _| network.options.attachable.to_string()),
        field(".Ingress", "INGRESS", |network, _| network.options.ingress.to_string()),
        field(".Nodes", "NODES", |network, _| network.nodes.to_string()),
        field(".Conflicts", "CONFLICTS", |network, _| cell::conflicts(network)),
    ];

    fn label(&self, key: &str) -> Option<&str> {
        self.options.labels.get(key).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::network;
    use super::*;
    use crate::cli::template::ListFormat;

    fn rendered(template: &str) -> String {
        let mut front = network("front", &[("10.0.0.0/24", "10.0.0.1"), ("fd00::/64", "fd00::1")]);
        front.options.labels = [("a".into(), "b\u{1b}".into()), ("stage".into(), String::new())].into();
        let back = network("b", &[("10.0.1.0/24", "10.0.1.1")]);
        match template.parse::<ListFormat<NetworkView>>().unwrap() {
            ListFormat::Template(template) => template.render(&[front, back], true),
            other => panic!("{other:?} is no template"),
        }
    }

    #[test]
    fn fields_are_put_in() {
        assert_eq!(
            rendered("{{.ID}}: {{ .Name }} {{.Driver}}"),
            "0123456789ab: front overlay\n0123456789ab: b overlay\n"
        );
        assert_eq!(
            rendered("{{.Subnets}} {{.IPv6}}{{.IPv4}}"),
            "10.0.0.0/24,fd00::/64 truetrue\n10.0.1.0/24 falsetrue\n"
        );
        assert_eq!(rendered("{{.Labels}}|{{.Label \"a\"}}\\t."), "a=b\\u{1b},stage=|b\\u{1b}\t.\n|\t.\n");
        assert_eq!(rendered("{{.VNI}}x"), "4096x\n4096x\n");
        for field in NetworkView::FIELDS {
            assert!(!rendered(&format!("{{{{{field:?}}}}}.")).is_empty());
        }
    }

    #[test]
    fn tables_have_a_head() {
        assert_eq!(
            rendered("table {{.Name}}\\t{{.Subnets}}\\t{{.Label \"stage\"}}"),
            "NAME   SUBNETS                stage\nfront  10.0.0.0/24,fd00::/64\nb      10.0.1.0/24\n"
        );
    }

    #[test]
    fn what_is_no_template_is_refused() {
        assert_eq!("json".parse(), Ok(ListFormat::<NetworkView>::Json));
        assert_eq!(
            ["text", "table"].map(str::parse::<ListFormat<NetworkView>>),
            [Ok(ListFormat::Text), Ok(ListFormat::Text)]
        );
        for (text, expected) in [
            ("yaml", "want text, json"),
            ("{{.Name", "without its }}"),
            ("{{.Colour}}", "{{.Colour}}: no such field; there are .ID .Name"),
            ("{{.Label a}}", "want {{.Label"),
        ] {
            let refused = text.parse::<ListFormat<NetworkView>>().unwrap_err();
            assert!(refused.contains(expected), "{text}: {refused}");
        }
    }
}
