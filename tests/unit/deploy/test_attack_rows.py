"""The rows M01 to M11 of hostile model files and archives: which tests hold each.

A test that is renamed or removed is missed here.
"""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]

BUNDLE, PACKING = "unit/deploy/test_bundle.py", "unit/deploy/test_packing.py"
ROWS = {
    "M01 pickles by any name": (
        f"{BUNDLE}::test_pickles_by_any_name_are_refused_and_nothing_runs",
        f"{BUNDLE}::test_the_canary_sings",
        f"{PACKING}::test_an_attack_by_one_file_is_refused_and_nothing_runs",
    ),
    "M02 pickles are not converted: the refusal says what to do": (
        f"{BUNDLE}::test_pickles_by_any_name_are_refused_and_nothing_runs",
        "unit/test_house_rules.py::test_the_sources_hold_nothing_forbidden",
    ),
    "M03 headers of weights": (f"{PACKING}::test_an_attack_by_the_header_of_the_weights_is_refused",),
    "M04 the right format, the wrong numbers": (
        f"{BUNDLE}::test_weights_that_do_not_fit_are_refused_and_named",
        f"{BUNDLE}::test_weights_that_are_not_finite_load_only_when_asked_to",
    ),
    "M05 forged manifests": (
        f"{BUNDLE}::test_a_forged_manifest_is_refused",
        f"{BUNDLE}::test_a_deep_or_a_huge_manifest_is_refused",
        f"{PACKING}::test_an_attack_by_one_file_is_refused_and_nothing_runs",
        "unit/deploy/test_schema.py::test_schema_and_reader_take_and_refuse_the_same",
    ),
    "M06 archives that lead outside or lie": (
        f"{PACKING}::test_an_attack_by_one_file_is_refused_and_nothing_runs",
        f"{PACKING}::test_what_a_forger_writes_well_loads",
        f"{PACKING}::test_each_flipped_byte_of_one_file_is_noticed",
    ),
    "M07 bombs": (f"{PACKING}::test_an_attack_by_one_file_is_refused_and_nothing_runs",),
    "M08 tar": (f"{PACKING}::test_a_tar_is_no_bundle",),
    "M09 graphs": (f"{PACKING}::test_an_attack_by_one_file_is_refused_and_nothing_runs",),
    "M10 downloads": (
        "unit/deploy/test_hub.py::test_what_is_no_whole_bundle_is_refused_and_nothing_is_left",
        "unit/deploy/test_hub.py::test_what_the_manifest_does_not_name_is_not_asked_for",
        "unit/deploy/test_fetching.py::test_mischief_has_a_code",
        "unit/deploy/test_fetching.py::test_our_own_machine_is_not_asked_unless_it_may_be",
    ),
    "M11 plans": (
        "unit/training/test_plan.py::test_a_yaml_that_unfolds_without_end_is_refused",
        "unit/training/test_plan.py::test_what_is_no_plan_is_refused_with_a_way_out",
    ),
}


def test_every_row_is_held_by_tests_that_are_there() -> None:
    assert [name.split()[0] for name in ROWS] == [f"M{number:02}" for number in range(1, 12)]
    for name, tests in ROWS.items():
        for test in tests:
            file, _, function = test.partition("::")
            assert (TESTS / file).is_file(), (name, test)
            tree = ast.parse((TESTS / file).read_text("utf-8"))
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert not function or function in names, (name, test)
