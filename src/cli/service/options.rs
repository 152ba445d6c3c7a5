//! Options of services that need more than a parser.

use clap::ValueEnum;

use crate::api::Name;
use crate::service::spec::{REPLICAS_MAX, SERVICE_NAME_MAX};
use crate::service::{
    EndpointMode, Port, PortMode, RestartCondition, ServiceNetwork, ServiceSpec, SpecParts, UpdateOrder,
};

/// As flags spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Endpoint {
    /// A virtual address in each network, from which connections go to tasks
    Vip,
    /// The addresses of all tasks
    Dnsrr,
}

impl From<Endpoint> for EndpointMode {
    fn from(mode: Endpoint) -> Self {
        match mode {
            Endpoint::Vip => Self::Vip,
            Endpoint::Dnsrr => Self::Dnsrr,
        }
    }
}

/// As flags spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Condition {
    /// Never
    None,
    /// When it failed
    OnFailure,
    /// However it ended
    Any,
}

impl From<Condition> for RestartCondition {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::None => Self::None,
            Condition::OnFailure => Self::OnFailure,
            Condition::Any => Self::Any,
        }
    }
}

/// As flags spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Order {
    /// The old task is ended first
    StopFirst,
    /// The new task runs first
    StartFirst,
}

impl From<Order> for UpdateOrder {
    fn from(order: Order) -> Self {
        match order {
            Order::StopFirst => Self::StopFirst,
            Order::StartFirst => Self::StartFirst,
        }
    }
}

/// A name that a service may have: fewer characters than other names, and no dot.
pub(super) fn service_name(text: &str) -> Result<Name, String> {
    let name = text.parse().ok().filter(|name: &Name| ServiceSpec::new(SpecParts::new(name.clone())).is_ok());
    let rule =
        || format!("want 1 to {SERVICE_NAME_MAX} letters, digits, '-' and '_', a letter or digit first");
    name.ok_or_else(rule)
}

/// How many tasks a service is to have.
pub(super) fn replicas(text: &str) -> Result<u16, String> {
    let fits = |count: &u16| *count <= REPLICAS_MAX;
    text.parse().ok().filter(fits).ok_or_else(|| format!("want a number of tasks, 0 to {REPLICAS_MAX}"))
}

/// The ports of one `--publish`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports(Vec<Port>);

/// Published everywhere if nothing else is said.
pub(super) fn ports(text: &str) -> Result<Ports, String> {
    Port::parse(text, PortMode::Ingress).map(Ports).map_err(|error| error.to_string())
}

/// Those of all.
pub(super) fn all(ports: Vec<Ports>) -> Vec<Port> {
    ports.into_iter().flat_map(|Ports(ports)| ports).collect()
}

/// `NETWORK[,alias=NAME]`, or as Docker has it with `name=NETWORK`.
pub(super) fn network(text: &str) -> Result<ServiceNetwork, String> {
    let mut parts = text.split(',');
    let first = parts.next().unwrap_or_default();
    let name = first.strip_prefix("name=").unwrap_or(first);
    let network = name.parse().map_err(|error| format!("name={name}: {error}"))?;
    let alias = |part: &str| {
        let alias = part.strip_prefix("alias=").ok_or_else(|| format!("{part}: want alias="))?;
        alias.parse().map_err(|error| format!("{part}: {error}"))
    };
    Ok(ServiceNetwork { network, aliases: parts.map(alias).collect::<Result<_, String>>()? })
}

/// The words of a line, as a shell has them: parted by blanks; a quote or a backslash takes what is special from what
/// comes behind (POSIX.1-2024 §2.2). Nothing else is special.
pub(super) fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, ' ' | '\t' | '\n') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                let next = chars.next().ok_or("a backslash with nothing behind it")?;
                let word = word.get_or_insert_default();
                // Within quotes it is special before few.
                if quote.is_some() && !"$`\"\\".contains(next) {
                    word.push(c);
                }
                word.push(next);
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote that does not end".into());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_come_with_names() {
        let read = |text| {
            network(text).map(|network| {
                let aliases: Vec<String> = network.aliases.iter().map(ToString::to_string).collect();
                format!("{} {}", network.network, aliases.join("+"))
            })
        };
        assert_eq!(read("front"), Ok("front ".into()));
        assert_eq!(read("name=front,alias=www,alias=web"), Ok("front www+web".into()));
        for (text, expected) in
            [("", "name="), ("front,ip=10.0.0.2", "want alias="), ("front,alias=a b", "letters")]
        {
            assert!(read(text).unwrap_err().contains(expected), "{text}");
        }
    }

    #[test]
    fn names_of_services_have_one_rule() {
        let longest = "a".repeat(SERVICE_NAME_MAX);
        for text in ["web", "0_a-B", &longest] {
            assert_eq!(service_name(text).map(|name| name.to_string()), Ok(text.into()));
        }
        for text in ["", "a.b", "-a", "_a", "a b", "ü", &format!("{longest}a"), &"a".repeat(64)] {
            let refused = service_name(text).unwrap_err();
            assert_eq!(
                refused, "want 1 to 45 letters, digits, '-' and '_', a letter or digit first",
                "{text}"
            );
        }
    }

    #[test]
    fn there_may_be_none_or_a_thousand() {
        assert_eq!(["0", "7", "1000"].map(replicas), [Ok(0), Ok(7), Ok(1000)]);
        for text in ["", "-1", "1001", "65536", "1000000000", "many"] {
            assert_eq!(replicas(text), Err("want a number of tasks, 0 to 1000".into()), "{text}");
        }
    }

    #[test]
    fn words_are_a_shells() {
        let read = |line| words(line).map(|words| words.join("|"));
        for (line, expected) in [
            ("", ""),
            ("  httpd  -f\t-p 80 ", "httpd|-f|-p|80"),
            (r#"sh -c 'echo "a b" $x'"#, r#"sh|-c|echo "a b" $x"#),
            (r#"a"b c"'d e'f"#, "ab cd ef"),
            (r#"a\ b "c\"d\e" '' end"#, r#"a b|c"d\e||end"#),
        ] {
            assert_eq!(read(line), Ok(expected.into()), "{line}");
        }
        assert!(read("'a").is_err() && read("a\\").is_err());
    }
}
