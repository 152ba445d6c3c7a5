//! Names in a network: what the resolver at its gateway's address answers.
//!
//! Pure: a [`Zone`] (the tables) and a query give an [`Outcome`], a reply or the wish to ask elsewhere. Who hears queries
//! and asks elsewhere is in [`crate::gateway`]. Messages are those of RFC 1035, with EDNS (RFC 6891) and SRV (RFC 2782).
//!
//! - A name of the network resolves as `web` and as `web.front`, in any case, and answers are shuffled.
//! - A service's names stand for its virtual addresses, or if it has none for its tasks; `tasks.` before them always for
//!   its tasks. No host has a name that is a service's: it keeps its others, the beginning of its id among them.
//! - A known name that has nothing of the type asked for gives NODATA, not NXDOMAIN, which clients would take for "no
//!   such name at all", and would not ask for its other types (RFC 2308 §2.2).
//! - There is no SOA record with it, so nobody keeps a negative answer (RFC 2308 §5): the name may come in a moment.
//! - What is not known is forwarded, unless the network is internal: there it is NXDOMAIN at once.
//! - What others have said of other names is kept in a [`Cache`] for as long as they say.
//! - A reply that is too long for the way it is to go is cut to whole records, and marked so (RFC 2181 §9).

mod answer;
mod ask;
mod cache;
mod upstream;
mod zone;

pub use self::answer::{Outcome, Through, answer, fail, fit, is_error, is_reply_to};
pub use self::ask::{question, told};
pub use self::cache::{CACHED_MAX, Cache};
pub use self::upstream::{UPSTREAMS_MAX, upstreams};
pub use self::zone::{ADDRESSES_MAX, Host, NAMES_MAX, NamedPort, Protocol, Service, Zone, ZoneFull};
