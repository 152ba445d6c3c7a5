//! Clusters of daemons in namespaces: nodes die and come back, links are cut, strangers try.
//!
//! Most of the time these tests wait, so they run beside each other.

mod addresses;
mod balancing;
mod capture;
mod clients;
mod connect;
mod contradictions;
mod daemons;
mod data;
mod foreign;
mod gateway;
mod host;
mod islands;
mod lab;
mod liveness;
mod load;
mod machine;
mod member;
mod mesh;
mod mesh_network;
mod multicast;
mod names;
mod networks;
mod nginx;
mod overlay;
mod partition;
mod paths;
mod permitted;
mod process;
mod publish;
mod readiness;
mod rights;
mod seats;
mod servers;
mod services;
mod shown;
mod strangers;
mod tasks;
mod terminal;
mod waiting;
mod wire;

pub(crate) use load::{SERVE, serve};

use crate::Test;

/// Those that have no time to wait.
pub(crate) fn busy() -> Vec<Test> {
    vec![
        (
            "cluster::connections_to_a_service_outlive_all_but_their_own_tasks",
            load::through_a_virtual_address,
        ),
        ("cluster::connections_through_the_mesh_outlive_all_but_their_own_tasks", load::through_the_mesh),
    ]
}

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("cluster::nodes_that_are_killed_or_stopped_come_back", liveness::killed_and_stopped),
        ("cluster::a_cable_pulled_for_30_s_heals_by_itself", liveness::cable_pulled),
        ("cluster::a_node_with_a_new_address_is_followed", liveness::moved),
        ("cluster::a_partition_that_wrote_on_both_sides_merges", partition::merges),
        ("cluster::networks_are_made_with_addresses_and_refused_by_name", networks::made_and_refused),
        ("cluster::a_network_made_on_both_sides_of_a_partition_is_the_older_ones", networks::made_twice),
        ("cluster::services_are_made_changed_and_removed", services::made_changed_and_removed),
        ("cluster::a_service_made_on_both_sides_of_a_partition_is_the_older_ones", services::made_twice),
        ("cluster::both_sides_of_a_partition_serve_and_the_surplus_goes", islands::served),
        ("cluster::services_run_tasks_that_follow_their_nodes", services::tasks_run),
        ("cluster::a_port_of_a_host_is_one_services_at_a_time", seats::host_ports),
        ("cluster::services_share_addresses_and_names_and_show_who_answers", seats::addresses),
        ("cluster::tasks_count_once_they_take_connections", readiness::late),
        ("cluster::a_slot_has_a_task_while_it_is_replaced", readiness::replaced),
        ("cluster::nodes_run_what_their_operators_allow_by_the_user_they_name", permitted::operators),
        ("cluster::ports_of_hosts_are_open_where_tasks_run_and_missing_ones_are_told", permitted::ports),
        ("cluster::tasks_without_addresses_are_told_and_start_when_there_is_room", permitted::addresses),
        ("cluster::changes_of_services_are_waited_for", waiting::waited),
        ("cluster::ports_of_services_have_one_holder_who_is_named", contradictions::ports),
        ("cluster::tasks_follow_their_service_into_another_network", contradictions::networks),
        ("cluster::the_mesh_network_is_joined_and_replaced", mesh_network::joined_and_replaced),
        ("cluster::services_are_reached_by_name_and_address_from_every_node", balancing::reached),
        ("cluster::connections_end_with_their_tasks_and_come_with_new_ones", balancing::changed),
        ("cluster::endpoints_join_services_by_hand", balancing::joined),
        ("cluster::a_name_that_two_services_have_leads_to_the_older", balancing::made_twice),
        ("cluster::the_mesh_leads_to_tasks_that_see_their_clients", mesh::carried),
        ("cluster::ports_of_the_mesh_that_can_not_be_had_are_told_until_they_can", mesh::ports),
        ("cluster::clients_of_the_mesh_hear_of_tasks_and_nodes_that_die", mesh::cut_off),
        ("cluster::the_mesh_carries_datagrams_to_one_task_each", mesh::datagrams),
        ("cluster::tasks_hear_of_the_meshs_clients_by_the_proxy_protocol", mesh::proxied),
        ("cluster::addresses_are_given_once_and_the_last_is_told", addresses::leased),
        ("cluster::addresses_outlive_the_daemon_but_not_their_endpoints", addresses::kept),
        ("cluster::addresses_of_a_removed_node_are_used_again", addresses::reclaimed),
        ("cluster::endpoints_reach_each_other_by_addresses_that_nobody_set", addresses::reached),
        ("cluster::hosts_are_in_networks_and_taken_out", connect::exposed),
        ("cluster::namespaces_get_more_networks_and_lose_them", connect::connected),
        ("cluster::tasks_get_more_networks_and_lose_them", connect::tasks),
        ("cluster::interfaces_follow_what_the_paths_carry", paths::followed),
        ("cluster::a_lab_names_whom_it_does_not_lead_out", lab::cut_off),
        ("cluster::every_node_has_the_gateways_of_its_networks", gateway::answers),
        ("cluster::networks_that_are_not_internal_lead_out", gateway::leads_out),
        ("cluster::tasks_run_programs_in_rooms_of_their_own", tasks::programs),
        ("cluster::signals_to_run_are_the_programs", tasks::signals),
        ("cluster::tasks_outlive_daemons_but_not_keepers", tasks::recovery),
        ("cluster::stand_alone_programs_on_two_hosts", tasks::walkthrough),
        ("cluster::a_shell_in_a_task_has_a_terminal", terminal::shell),
        ("cluster::a_terminal_can_be_left_and_come_back_to", terminal::detached),
        ("cluster::published_ports_lead_to_tasks_that_see_their_clients", publish::streams),
        ("cluster::published_datagrams_are_answered_from_the_address_asked", publish::datagrams),
        ("cluster::clients_of_published_ports_are_seen_as_the_way_out_allows", publish::moved),
        ("cluster::ports_that_can_not_be_published_are_said_by_name", publish::not_to_be_had),
        ("cluster::published_ports_outlive_the_daemon_but_not_their_tasks", publish::kept),
        ("cluster::real_clients_in_tasks_reach_each_other_and_the_world", clients::real),
        ("cluster::real_servers_are_services_behind_names_and_ports", servers::real),
        ("cluster::names_resolve_on_every_node_and_go_with_their_endpoints", names::resolve),
        ("cluster::a_machine_gets_the_address_of_its_endpoint_by_dhcp", names::leased),
        ("cluster::a_removed_node_is_refused_by_all", rights::removal),
        ("cluster::a_node_removed_in_its_absence_is_told", rights::removal_of_the_absent),
        ("cluster::roles_change_by_promotion_and_demotion", rights::roles),
        ("cluster::a_token_rotated_at_one_manager_is_refused_at_the_other", rights::tokens),
        ("cluster::certificates_of_strangers_are_refused", strangers::certificates),
        ("cluster::who_has_a_wrong_clock_hears_why", strangers::clocks),
        ("cluster::gossip_on_the_wire_is_sealed", wire::sealed),
        ("cluster::replayed_and_changed_gossip_changes_nothing", wire::attacked),
        ("cluster::replays_to_a_node_that_has_just_started_change_nothing", wire::replayed_after_start),
        ("cluster::data_is_sealed_and_forgeries_are_refused", data::sealed),
        ("cluster::keys_rotate_under_load_without_loss", data::rotated),
        ("cluster::data_flows_again_after_a_kill", data::resumed),
        ("cluster::data_of_a_removed_node_is_refused", data::removed),
        ("cluster::a_blocked_data_path_is_told_by_name", data::blocked),
        ("cluster::multicast_reaches_all_nodes_and_is_limited", multicast::reaches_all_nodes),
        ("cluster::the_kernels_vxlan_is_a_member_where_it_is_named", foreign::member),
        ("cluster::virtual_machines_come_and_go_at_a_stream", machine::at_a_stream),
        ("cluster::a_virtual_machine_speaks_in_datagrams", machine::by_datagrams),
    ]
}
