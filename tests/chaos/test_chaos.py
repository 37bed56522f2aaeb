"""The short form of each experiment; `make chaos` runs the long ones. A failure prints the seed and what was violated."""

from __future__ import annotations

import os
import sys

import pytest

from tests.chaos import (
    backlog,
    boundaries,
    cancels,
    clocks,
    drafts,
    drip,
    faults,
    links,
    restarts,
    rolling,
    signals,
    stopping,
    streams,
    twins,
    two_servers,
    zombies,
)
from tests.chaos.conftest import MakePlace
from tests.chaos.history import Report

SEED = int(os.environ.get("CHAOS_SEED", "20261121"))


def confirm(report: Report) -> None:
    """Show figures and seed, and fail with everything that was violated."""
    print(f"seed {SEED}: {report.figures}")
    assert report.violations == []


async def test_a_backlog_is_worked_off_while_executors_are_killed_all_the_time(make_place: MakePlace) -> None:
    async with make_place(pace=backlog.PACE) as place:
        confirm(await backlog.run(place, seed=SEED))


async def test_what_was_acknowledged_outlives_crashes_of_postgresql(make_own_place: MakePlace) -> None:
    async with make_own_place(pace=restarts.PACE) as place:
        confirm(await restarts.run(place, seed=SEED))


async def test_equal_calls_get_one_task_and_one_answer_though_a_server_is_killed(
    make_place: MakePlace,
) -> None:
    async with make_place() as place:
        confirm(await twins.run(place, seed=SEED))


async def test_a_server_whose_link_goes_bad_stops_in_time_and_comes_back(make_place: MakePlace) -> None:
    async with make_place(pace=links.PACE) as place:
        confirm(await links.run(place, seed=SEED))


async def test_nothing_is_there_twice_or_by_half_though_every_fifth_statement_fails(
    make_place: MakePlace,
) -> None:
    async with make_place(pace=faults.PACE) as place:
        confirm(await faults.run(place, seed=SEED))


async def test_every_task_ends_once_when_one_of_two_servers_is_killed(make_place: MakePlace) -> None:
    async with make_place() as place:
        confirm(await two_servers.run(place, seed=SEED))


async def test_executors_that_are_killed_or_sleep_past_their_lease_commit_nothing_stale(
    make_place: MakePlace,
) -> None:
    async with make_place(pace=drip.PACE) as place:
        confirm(await drip.run(place, seed=SEED))


async def test_an_executor_that_wakes_up_after_its_lease_changes_nothing(make_place: MakePlace) -> None:
    async with make_place(pace=zombies.PACE) as place:
        confirm(await zombies.run(place))


async def test_a_cancel_that_was_acknowledged_stands_and_stops_the_handler(make_place: MakePlace) -> None:
    async with make_place() as place:
        confirm(await cancels.run(place, seed=SEED))


async def test_signals_are_found_whenever_they_were_sent(make_place: MakePlace) -> None:
    async with make_place() as place:
        confirm(await signals.run(place, seed=SEED))


async def test_a_cancel_closes_the_connection_to_the_model(make_place: MakePlace) -> None:
    async with make_place(pace=streams.PACE) as place:
        confirm(await streams.run(place))


async def test_no_answer_is_bought_twice_when_the_server_is_killed_in_the_middle_of_one(
    make_place: MakePlace,
) -> None:
    async with make_place() as place:
        confirm(await drafts.run(place, seed=SEED))


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
async def test_nothing_is_left_after_a_kill_a_new_start_and_ctrl_c(make_place: MakePlace) -> None:
    async with make_place() as place:
        confirm(await stopping.run(place))


async def test_all_or_nothing_happens_whatever_strikes_between_two_statements(make_place: MakePlace) -> None:
    async with make_place() as place:
        confirm(await boundaries.run(place))


async def test_nothing_is_lost_or_waited_for_when_servers_are_stopped_in_turn(make_place: MakePlace) -> None:
    async with make_place(pace=rolling.PACE) as place:
        confirm(await rolling.run(place, seed=SEED))


@pytest.mark.skipif(clocks.find_library() is None, reason="needs libfaketime (the package faketime)")
async def test_servers_whose_clocks_are_wrong_change_nothing(make_place: MakePlace) -> None:
    async with make_place(pace=clocks.PACE) as place:
        confirm(await clocks.run(place, seed=SEED))
