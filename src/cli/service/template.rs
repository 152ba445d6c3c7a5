//! What templates of lists know of services.

use super::cell;
use crate::api::ServiceView;
use crate::cli::date::rfc3339;
use crate::cli::template::{Field, Listed, field};

impl Listed for ServiceView {
    const FIELDS: &'static [Field<Self>] = &[
        field(".ID", "ID", cell::id),
        field(".Name", "NAME", |service, _| service.spec.name.to_string()),
        field(".Mode", "MODE", |service, _| service.spec.mode.name().into()),
        field(".Replicas", "REPLICAS", |service, _| cell::replicas(service)),
        field(".Ports", "PORTS", |service, _| cell::ports(service)),
        field(".Command", "COMMAND", cell::command),
        field(".CreatedAt", "CREATED AT", |service, _| rfc3339(service.created_ms)),
        field(".UpdatedAt", "UPDATED AT", |service, _| rfc3339(service.updated_ms)),
        field(".EndpointMode", "ENDPOINT MODE", |service, _| service.spec.endpoint_mode.name().into()),
        field(".Networks", "NETWORKS", |service, _| cell::networks(service)),
        field(".VIPs", "VIPS", |service, _| cell::vips(service)),
        field(".Labels", "LABELS", |service, _| cell::labels(service)),
        field(".Generation", "GENERATION", |service, _| service.generation.to_string()),
        field(".NotListening", "NOT LISTENING", |service, _| cell::unbound(service)),
        field(".Conflicts", "CONFLICTS", |service, _| cell::conflicts(service)),
    ];

    fn label(&self, key: &str) -> Option<&str> {
        self.spec.labels.get(key).map(String::as_str)
    }
}
