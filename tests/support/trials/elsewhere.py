"""Where what verbs do that declare no writes is seen, if no arguments of the right types lead there."""

from __future__ import annotations

PROBED: dict[str, str] = {
    "VBD.assert_attachable": "test_storage_devices.py::test_a_disk_can_be_asked_for",
    "VDI.read_database_pool_uuid": "test_storage_repositories.py::test_another_pools_database_is_recognised",
    "VM.assert_can_be_recovered": "test_vm_queries.py::test_a_vm_can_be_recovered_where_its_storage_is",
    "VM.get_secureboot_readiness": "test_vm_queries.py::test_whether_a_guest_could_boot_securely",
    "VM_appliance.assert_can_be_recovered": (
        "test_small_classes.py::test_an_appliance_needs_its_storage_to_be_recovered"
    ),
    "event.inject": "test_events_served.py::test_an_injected_event_comes_after_its_token",
    "host.emergency_ha_disable": "test_host_ha.py::test_one_host_can_forget_it",
    "host.ha_disable_failover_decisions": "test_host_ha.py::test_a_host_without_decisions_does_not_become_master",
    "host.ha_disarm_fencing": "test_host_ha.py::test_a_disarmed_host_does_not_reset_itself",
    "host.ha_wait_for_shutdown_via_statefile": "test_host_ha.py::test_waiting_for_the_state_file_ends_with_it",
    "host.local_assert_healthy": "test_host_ha.py::test_a_toolstack_that_answers_is_well",
    "host.sm_dp_destroy": "test_host_diagnostics.py::test_storage_tells_which_disks_are_in_use",
    "message.get_by_uuid": "test_messages.py::test_a_message_is_about_an_object",
    "role.get_by_uuid": "test_roles.py::test_roles_are_the_same_everywhere",
    "session.local_logout": "test_sessions_served.py::test_a_local_session_is_known_to_its_host_alone",
    "session.logout_subject_identifier": (
        "test_session_others.py::test_logging_out_an_identifier_ends_the_sessions_of_the_user_or_the_group"
    ),
}
