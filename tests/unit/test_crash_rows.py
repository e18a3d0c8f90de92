"""The rows of the crash matrix, A1 to A14, and of the numeric faults, N01 to N08: which tests hold each.

Beside them what shows that they can fail: a control, in which the mechanism is left out or wrong, and that is
noticed. A test that is renamed or removed is missed here.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """A fault, the tests that inject it, and their controls, as `file::test` below `tests/`."""

    fault: str
    tests: tuple[str, ...]
    controls: tuple[str, ...]


def at(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{file}.py::test_{name}" for name in names)


CHECKPOINT, CRASHES, LOOP = (f"unit/training/test_{name}" for name in ("checkpoint", "crashes", "loop"))
SYSTEM_CALLS, RESUME = "reliability/test_system_calls", "unit/recipe/test_resume"
NUMERIC, GRADIENTS = "unit/training/test_numeric_faults", "unit/training/test_gradients"

ROWS = {
    "A1": Row(
        "killed at any moment",
        (
            *at("reliability/test_crash_matrix", "runs_that_are_broken_off_end_as_one_that_is_not"),
            *at("end_to_end/test_resume",
                "a_run_that_was_killed_and_one_that_was_stopped_end_as_one_that_was_not"),
            *at("unit/recipe/test_cut_off", "a_run_that_was_cut_off_ends_as_one_that_was_not"),
            *at("unit/recipe/test_soup", "a_run_that_was_killed_among_its_snapshots_ends_as_it_would_have"),
            *at(CHECKPOINT, "going_on_from_a_checkpoint_equals_never_having_stopped",
                "the_random_states_come_back"),
            *at("contract/test_callbacks", "going_on_after_a_restart_equals_never_having_stopped"),
        ),
        (
            *at(CHECKPOINT, "going_on_without_the_optimiser_s_state_would_differ"),
            *at("contract/test_callbacks", "a_callback_that_forgets_would_be_noticed"),
            *at("unit/recipe/test_cut_off", "the_line_between_phases_comes_back_as_it_was"),
        ),
    ),
    "A2": Row(
        "killed at every call of a save",
        (
            *at(SYSTEM_CALLS, "a_kill_at_any_call_leaves_a_checkpoint_that_loads"),
            *at(CRASHES, "a_kill_at_any_call_leaves_the_newest_or_the_one_before",
                "the_calls_come_in_the_order_that_makes_them_safe"),
            *at(RESUME, "what_a_killed_writer_left_is_gone_after_the_next_start"),
        ),
        at(SYSTEM_CALLS, "kills_would_find_out_a_careless_writer"),
    ),
    "A3": Row(
        "a disk that is full or fails, at every call of a save",
        (
            *at(SYSTEM_CALLS, "an_error_at_any_call_leaves_what_was_there"),
            *at("reliability/test_crash_matrix",
                "a_disk_that_fills_ends_the_run_whole_and_with_space_it_goes_on"),
            *at(CRASHES, "an_error_at_any_call_leaves_what_was_there_and_the_next_save_succeeds",
                "a_full_disk_costs_a_warning_and_training_goes_on",
                "the_third_miss_in_a_row_ends_training_and_leaves_what_was_there"),
            *at(RESUME, "the_history_makes_up_for_a_full_disk"),
        ),
        at(CRASHES, "a_writer_that_does_not_heed_an_error_would_be_noticed"),
    ),
    "A4": Row(
        "power lost",
        (
            *at(SYSTEM_CALLS, "a_loss_of_power_after_any_call_never_takes_what_was_saved"),
            *at(CRASHES, "a_loss_of_power_at_any_call_never_takes_what_was_saved"),
        ),
        (
            *at(SYSTEM_CALLS, "without_syncing_it_would"),
            *at(CRASHES, "without_syncing_a_loss_of_power_would_take_it"),
        ),
    ),
    "A5": Row(
        "the newest checkpoint damaged",
        (
            *at("reliability/test_damaged_checkpoints",
                "every_damage_is_noticed_and_the_one_before_is_taken",
                "files_of_another_run_and_of_another_step_are_noticed",
                "where_all_are_damaged_nothing_begins_from_scratch"),
            *at(CRASHES, "whatever_is_damaged_the_one_before_is_taken_and_both_are_named",
                "a_file_that_does_not_belong_there_and_another_run_s_checkpoint_are_found_out"),
            *at(CHECKPOINT, "an_altered_checkpoint_is_refused_and_the_previous_taken",
                "every_flipped_byte_is_noticed", "files_of_two_checkpoints_do_not_mix",
                "where_none_is_whole_nothing_starts_from_scratch_in_silence"),
            *at(RESUME, "no_checkpoint_that_is_whole_never_begins_again_in_silence"),
        ),
        at(CRASHES, "without_hashes_damage_to_the_weights_would_be_loaded"),
    ),
    "A6": Row(
        "SIGINT and SIGTERM, once and twice",
        (
            *at(LOOP, "an_interrupt_finishes_the_step_and_keeps_what_was_trained",
                "an_interrupt_in_the_last_step_is_not_swallowed", "a_second_interrupt_ends_at_once",
                "an_interrupt_while_waiting_for_a_batch_ends_the_wait",
                "an_interrupted_run_goes_on_to_the_same_bits"),
            *at("unit/training/test_signals",
                "a_signal_while_saving_ends_training_after_that_save",
                "two_signals_while_saving_leave_the_one_before",
                "a_signal_while_validating_loses_no_step",
                "a_signal_before_the_first_step_leaves_a_run_that_goes_on"),
            *at("unit/training/test_interrupts",
                "a_second_signal_ends_a_process_that_a_library_holds_up",
                "the_handlers_come_back_and_an_ignored_signal_stays_ignored"),
            *at("unit/data/test_children", "an_interrupted_audit_leaves_neither_threads_nor_children",
                "a_parent_that_dies_leaves_no_child_behind"),
            *at("unit/test_processes", "a_signal_to_one_rank_saves_the_run_and_one_process_goes_on_with_it"),
            *at("end_to_end/test_command_line", "ctrl_c_keeps_what_was_trained"),
            *at("end_to_end/test_resume",
                "a_run_that_was_killed_and_one_that_was_stopped_end_as_one_that_was_not"),
        ),
        at("unit/training/test_signals", "a_signal_that_nobody_holds_back_would_cost_the_step"),
    ),
    "A7": Row(
        "a decoding child or a rank killed, or stopped",
        (
            *at("unit/data/test_children",
                "a_decoder_that_fails_is_named_and_the_next_picture_is_fine",
                "a_crash_that_does_not_happen_again_is_forgiven",
                "a_child_that_somebody_else_ends_costs_no_picture",
                "a_child_that_somebody_stops_is_given_up_in_time_and_the_next_picture_is_fine",
                "an_audit_goes_on_when_decoders_crash_and_hang"),
            *at("unit/test_processes",
                "a_rank_that_is_killed_ends_the_other_within_seconds_which_names_it_and_saves"),
        ),
        at("unit/data/test_children", "without_a_limit_a_child_that_is_stopped_would_be_waited_for"),
    ),
    "A8": Row(
        "an error of somebody's transform, loss, metric or callback",
        (
            *at("unit/training/test_failures",
                "an_error_of_a_callback_at_any_moment_costs_nothing",
                "an_error_of_a_transform_a_loss_or_a_metric_costs_nothing",
                "weights_that_are_not_finite_are_not_saved",
                "a_step_that_the_optimiser_had_begun_is_not_saved",
                "a_disk_that_fails_as_well_does_not_hide_the_error",
                "one_that_fails_at_the_end_keeps_the_others_from_nothing"),
            *at("unit/test_learner_resume",
                "what_an_error_of_one_s_own_change_ended_goes_on_once_it_is_mended"),
            *at("unit/recipe/test_cut_off", "a_run_that_an_error_ended_goes_on_from_that_very_step"),
        ),
        at("unit/training/test_failures",
           "a_checkpoint_written_in_the_middle_of_a_moment_would_give_other_bits"),
    ),
    "A9": Row(
        "killed in export, search for a rate, evaluation, caches",
        (
            *at("reliability/test_crash_matrix", "runs_that_are_broken_off_end_as_one_that_is_not"),
            *at("unit/training/test_finder", "no_trace_is_left_when_a_step_is_broken_off",
                "the_finder_leaves_no_trace_when_it_fails"),
            *at("unit/test_storage", "a_write_that_fails_leaves_the_old_file",
                "a_folder_whose_filling_fails_leaves_nothing",
                "a_replacement_that_fails_at_the_last_moment_puts_the_old_folder_back"),
            *at("unit/deploy/test_bundle", "a_full_disk_leaves_nothing"),
            *at("unit/models/test_featurecache", "half_a_mapped_table_is_never_left"),
            *at("unit/data/test_pixelstore",
                "of_a_torn_file_whole_entries_are_found_and_the_rest_is_not",
                "pixels_that_never_reached_the_disk_are_not_used"),
        ),
        at("unit/training/test_finder", "a_trace_would_be_seen"),
    ),
    "A10": Row(
        "two processes in one run folder, stale locks, a folder that cannot be written",
        (
            *at(RESUME, "a_second_process_is_refused_and_the_first_is_named",
                "a_number_that_is_in_use_again_does_not_hold_the_folder",
                "two_locks_of_one_process_exclude_each_other",
                "a_folder_that_may_not_be_written_to_is_said_before_anything_is_done"),
            *at("end_to_end/test_resume", "a_second_process_exits_and_names_the_first"),
        ),
        at(RESUME, "where_a_file_system_has_no_locks_number_and_start_of_the_process_decide"),
    ),
    "A11": Row(
        "going on with something changed",
        (
            *at(RESUME, "pictures_that_have_changed_are_named_and_nothing_is_done",
                "other_settings_are_named", "versions_that_differ_are_named",
                "going_on_needs_the_same_body"),
            *at(CHECKPOINT, "another_model_is_refused_with_the_differences",
                "a_difference_that_changes_bits_is_said",
                "missing_callbacks_and_a_missing_optimiser_are_refused"),
            *at("unit/test_learner_resume", "it_goes_on_to_the_same_bits_with_other_threads",
                "what_does_not_fit_is_refused"),
        ),
        at(RESUME, "a_long_list_of_changes_is_cut"),
    ),
    "A12": Row(
        "nothing to go on with, a run that is complete, checkpoints of earlier releases",
        (
            *at("end_to_end/test_resume", "there_is_nothing_to_resume",
                "a_run_that_was_killed_and_one_that_was_stopped_end_as_one_that_was_not"),
            *at(RESUME, "a_run_goes_on_where_it_was_and_is_then_complete",
                "where_no_run_was_begun_there_is_nothing_to_resume"),
            *at(CHECKPOINT, "one_checkpoint_can_be_named"),
            *at("unit/training/test_old_checkpoints", "this_release_has_one",
                "it_is_whole_and_training_goes_on_from_it"),
        ),
        at("unit/training/test_old_checkpoints", "one_of_a_version_to_come_is_refused"),
    ),
    "A13": Row(
        "clocks that jump, another zone, files of one time",
        at("unit/training/test_clocks", "neither_training_nor_the_recipe_ask_for_the_time_of_day",
           "a_clock_that_jumps_and_another_zone_change_nothing",
           "the_newest_is_the_one_with_most_steps_whatever_the_times_of_files_say"),
        at("unit/training/test_clocks", "one_that_did_would_be_found",
           "a_writer_that_believed_such_a_clock_would_be_noticed"),
    ),
    "A14": Row(
        "one, two, one processes",
        (
            *at("unit/test_processes", "two_processes_equal_one",
                "two_processes_go_on_with_what_one_began",
                "a_signal_to_one_rank_saves_the_run_and_one_process_goes_on_with_it",
                "no_sample_comes_twice_or_never"),
            *at("end_to_end/test_processes",
                "two_processes_make_the_run_of_one_and_one_goes_on_where_two_were_cut_short"),
        ),
        at("unit/test_processes", "without_the_weight_of_each_share_they_would_not"),
    ),
    "N01": Row(
        "a loss that is not finite",
        (
            *at(NUMERIC, "n01_a_loss_that_is_not_finite_is_noticed_at_once_and_saved_nowhere",
                "n01_the_first_layer_that_is_not_finite_is_named"),
            *at(LOOP, "what_is_not_finite_never_reaches_the_weights",
                "a_rate_that_is_far_too_high_ends_with_finite_weights"),
            *at("unit/training/test_rollback", "it_goes_back_to_the_epoch_s_start_at_a_third_of_the_rate"),
            *at(CRASHES, "a_loss_that_is_not_a_number_never_is_the_best"),
        ),
        at(LOOP, "without_the_guard_the_weights_would_be_lost"),
    ),
    "N02": Row(
        "a gradient that is not finite",
        (
            *at(NUMERIC, "n02_a_gradient_that_is_not_finite_is_never_applied"),
            *at("unit/training/test_guard", "a_step_that_would_overflow_is_refused_before_it_is_taken"),
        ),
        at(LOOP, "without_the_guard_the_weights_would_be_lost"),
    ),
    "N03": Row(
        "float16 overflows",
        (
            *at(GRADIENTS, "a_float16_overflow_lowers_the_scale_and_loses_no_batch",
                "the_scale_grows_again_after_steps_that_went_well"),
            *at("unit/training/test_precision", "float16_is_refused_where_its_losses_could_not_be_trusted"),
        ),
        at(GRADIENTS, "gradients_that_never_fit_in_float16_stop_with_advice"),
    ),
    "N04": Row(
        "inputs and settings at the edge of sense",
        at(NUMERIC, "n04_constant_pictures_train_to_finite_weights",
           "n04_label_smoothing_is_finite_also_with_one_class",
           "n04_samples_of_no_weight_count_for_nothing_and_all_of_none_is_refused"),
        at(NUMERIC, "n04_inputs_that_are_not_finite_are_named"),
    ),
    "N05": Row(
        "metrics of odd tables",
        at("contract/test_metrics", "is_defined_for_one_class_or_says_that_it_is_not",
           "ignores_a_class_that_no_row_belongs_to", "of_no_rows_is_undefined",
           "of_logits_that_are_not_finite_is_undefined_and_never_best"),
        at("contract/test_metrics", "a_wrong_metric_would_be_noticed"),
    ),
    "N06": Row(
        "a device without memory",
        (
            *at(GRADIENTS, "in_epoch_two_the_same_batch_is_tried_again",
                "the_size_that_fits_survives_a_restart",
                "one_row_too_many_ends_training_with_whole_weights"),
            *at("unit/test_faults", "parts_are_halved_until_they_fit_and_the_size_is_kept",
                "one_sample_that_does_not_fit_ends_with_its_size_and_what_to_do"),
            *at("unit/test_learner_memory", "a_short_memory_is_found_out_once_and_changes_no_step"),
        ),
        at(GRADIENTS, "a_retry_without_putting_things_back_would_differ"),
    ),
    "N07": Row(
        "a host without memory",
        (
            *at(NUMERIC, "n07_memory_of_the_host_that_runs_out_names_what_to_make_smaller",
                "n07_an_optimiser_without_memory_says_so"),
            *at("end_to_end/test_poor_shell", "too_little_memory_to_train_is_one_line_that_says_so"),
        ),
        at("unit/test_faults", "other_errors_are_not_taken_for_it"),
    ),
    "N08": Row(
        "a device that is lost",
        at(NUMERIC, "n08_a_lost_device_ends_the_run_at_once_with_its_checkpoint_whole"),
        at(NUMERIC, "n08_another_error_of_a_network_stays_what_it_is"),
    ),
}  # fmt: skip


@functools.cache
def names_in(file: str) -> frozenset[str]:
    path = TESTS / file
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text("utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def missing(places: tuple[str, ...]) -> list[str]:
    """Return the tests that are not there."""
    return [place for place in places if place.partition("::")[2] not in names_in(place.partition("::")[0])]


def test_every_row_has_tests_and_a_control_that_are_there() -> None:
    assert list(ROWS) == [f"A{n}" for n in range(1, 15)] + [f"N{n:02}" for n in range(1, 9)]
    for name, row in ROWS.items():
        assert row.tests, name
        assert row.controls, name
        assert not missing(row.tests + row.controls), name


def test_a_test_that_vanished_would_be_missed() -> None:
    gone = at("unit/test_crash_rows", "that_vanished") + at("unit/test_no_such_file", "x")
    assert missing(gone) == list(gone)
