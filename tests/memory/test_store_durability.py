"""Several processes at one store, and processes that are killed: who gets a key, and what is still there."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import create_engine, text

from memory.store import open_store
from memory.testing import completed, new_campaign, new_experiment

ROOT = Path(__file__).parents[2]

RESERVE = """
import sys
from memory.store import open_store
url, campaign_id, experiment_id = sys.argv[1:]
store = open_store(url)
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    print(store.reserve(campaign_id, "L0", f"key{number}", experiment_id).granted, flush=True)
"""

WRITE = """
import itertools, sys
from memory.store import open_store
url, campaign_id, experiment_id = sys.argv[1:]
store = open_store(url)
for number in itertools.count():
    key = store.put_program(f"x = {number}\\n" + "# padding\\n" * 50)
    store.put_attempt(experiment_id, number, origin="proposal", program_sha256=key)
    store.put_event(campaign_id, "written", {"number": number}, experiment_id=experiment_id)
    print(number, flush=True)
"""

CREATE = """
import sys
from memory.store import open_store
print("ready", flush=True)
sys.stdin.readline()
store = open_store(sys.argv[1])
print(len(store.campaigns()), flush=True)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def together(processes: list[subprocess.Popen[str]]) -> list[list[str]]:
    """Let processes that said "ready" go at once; what each of them printed."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return outputs


def test_one_of_four_processes_gets_each_key(shared_url: str) -> None:
    store = open_store(shared_url)
    campaign = new_campaign(store)
    experiments = [new_experiment(store, campaign, index) for index in range(4)]
    answers = together([start(RESERVE, shared_url, campaign.id, one.id) for one in experiments])
    assert [column.count("True") for column in zip(*answers, strict=True)] == [1] * 25
    for number in range(25):
        owner = store.identity(campaign.id, "L0", f"key{number}")
        assert owner is not None
        assert answers[int(owner.experiment_id[-1])][number] == "True"
    store.close()


def test_one_of_many_threads_gets_each_key(shared_url: str) -> None:
    store = open_store(shared_url)
    campaign = new_campaign(store)
    experiments = [new_experiment(store, campaign, index) for index in range(6)]
    granted: list[bool] = []
    barrier = threading.Barrier(len(experiments))

    def ask(experiment_id: str) -> None:
        barrier.wait()
        granted.append(store.reserve(campaign.id, "L0", "key", experiment_id).granted)

    threads = [threading.Thread(target=ask, args=(one.id,)) for one in experiments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(granted) == [False] * 5 + [True]
    store.close()


def test_processes_that_open_a_new_store_at_once_make_one(shared_url: str) -> None:
    assert together([start(CREATE, shared_url) for _ in range(3)]) == [["0"]] * 3


def test_threads_share_a_store_in_memory() -> None:
    store = open_store("sqlite://")
    campaign = new_campaign(store)
    threads = [threading.Thread(target=completed, args=(store, campaign, index)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.counts(campaign.id).completed == 8
    store.close()


def test_killed_writer_loses_nothing_it_had_committed(shared_url: str) -> None:
    store = open_store(shared_url)
    campaign = new_campaign(store)
    for round_ in range(3):
        experiment = new_experiment(store, campaign, round_)
        process = start(WRITE, shared_url, campaign.id, experiment.id)
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(5 + 7 * round_)]
        time.sleep(0.003 * round_)  # the kill falls into different parts of a write
        os.kill(process.pid, signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().split("\n") if line]
        process.stdout.close()
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        reopened = open_store(shared_url, create=False)
        attempts = reopened.attempts(experiment.id)
        numbers = [event.payload["number"] for event in reopened.events(campaign.id, experiment_id=experiment.id)]
        assert numbers[: len(said)] == said
        assert len(numbers) - len(said) in (0, 1)  # one may be committed and not yet said
        assert len(attempts) - len(numbers) in (0, 1)
        for attempt in attempts:
            assert attempt.program_sha256 is not None
            assert reopened.program(attempt.program_sha256).source.startswith(f"x = {attempt.number}\n")
        reopened.close()
        new_experiment(store, campaign, 100 + round_)  # the dead process left no lock behind
    store.close()
    if shared_url.startswith("sqlite"):
        engine = create_engine(shared_url)
        with engine.connect() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
        engine.dispose()


def test_writers_take_turns_so_that_no_read_and_write_overtakes_another(shared_url: str) -> None:
    store = open_store(shared_url)
    campaign = store.create_campaign(
        "busy", config={}, config_hash="", objective={}, objective_hash="", seed=0, arms=["starters"]
    )
    notices = [f"notice {number}" for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: store.set_campaign_state(campaign.id, "running", announcement=n), notices))
    assert sorted(store.campaign(campaign.id).announcements) == sorted(notices)
    store.close()
