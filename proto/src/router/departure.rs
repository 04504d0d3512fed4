//! What happens to the requests, resources and subscriptions of a client that disconnects.

use super::Router;
use super::pacing::{Abandoned, Part, PendingKind};
use super::resources::{self, OpenResource};
use crate::id::ClientId;
use crate::json::edit::{write_string, write_text};
use crate::routes::Resource;

impl Router {
    /// Removes a client from all tables. Its turns continue; its approvals become unassigned if no other client can see
    /// them.
    pub(super) fn detach(&mut self, client: ClientId) {
        if self.sessions.get(client).is_none() {
            return;
        }
        self.delivery.forget_slow(client);
        self.attribution.client_gone(client);
        self.restoration.forget_client(client);
        let Abandoned { unsent, orphans } = self.pacing.abandon(client);
        for (id, pending) in unsent {
            // It changes nothing that has to be undone, but other requests may wait for it.
            self.attribution.done(id, &pending.kind);
            self.abandoned(&pending.kind);
            let unsubscribed = match &pending.kind {
                PendingKind::Unsubscribe { thread } => Some(thread),
                kind => kind.subscribes_to(),
            };
            if let Some(thread) = unsubscribed {
                self.release_if_loaded(thread);
            }
        }
        for kind in orphans {
            if let PendingKind::Resource { resource: Resource::Exec, id, part: Part::Opens } = kind {
                self.end_resource(client, Resource::Exec, &id);
            }
        }
        for OpenResource { resource, id } in self.resources.take(client) {
            self.end_resource(client, resource, &id);
        }
        for id in self.server_requests.client_gone(client) {
            self.fail_server_request(id, "the client that was asked has gone");
        }
        let policy = self.orphan_policy(client);
        for thread in &self.subscriptions.unsubscribe_all(client) {
            self.orphan_turn(thread, policy);
            self.release_thread(thread);
        }
    }

    /// Ends a resource whose client has disconnected.
    pub(super) fn end_resource(&mut self, client: ClientId, resource: Resource, id: &[u8]) {
        self.send_own(resource.close_method(), PendingKind::Plain, |out| {
            out.push(b'{');
            write_string(out, resource.id_param());
            out.push(b':');
            write_text(out, &[&resources::prefix(client), id].concat());
            out.push(b'}');
        });
    }
}
