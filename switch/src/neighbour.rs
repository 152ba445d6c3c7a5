//! ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861) for announced endpoints, answered without crossing the wire.
