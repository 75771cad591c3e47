"""What the gateway makes of an endpoint that goes wrong: 500 calls over every fault of `benchmarks.faulty_endpoint`.

Checks that each call ends exactly once, with a reply of its own or a typed error; that none ends later than a second
after its deadline; that what a retry cannot change is asked once; that tokens add up to the server's own count.
Deadlines are short (8 s against hangs of 60) so that it takes minutes. The server is a process of its own. Prints a
Markdown table; `--output` writes it.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from agents.contexts import Message
from agents.errors import AgentError, DeadlineExceeded, ModelRefused, ModelUnavailable
from agents.gateway import ChatModel, Completion
from agents.opening import open_model
from agents.replies import Hypothesis
from agents.wire import Usage
from benchmarks.faulty_endpoint import FAULTS, FaultyEndpoint

DEADLINE_S = 8.0
GRACE_S = 1.0
KEY = "sk-benchmark-0123456789abcdefghij"
PROSE = "A mixer maps a sequence of vectors to another one, and must not look ahead.\n" * 150
WARM_UP = "warm up"
ASKED_ONCE = {"quota", "quota-in-a-200", "auth", "context-length", "unknown-model", "silent-truncation"}


@dataclass
class Called:
    """One call and how it ended."""

    name: str
    fault: str
    ended: Completion | AgentError
    took_s: float

    @property
    def outcome(self) -> str:
        """A word for the table."""
        if isinstance(self.ended, Completion):
            return "completed"
        kinds = {ModelRefused: "refused", ModelUnavailable: "unavailable", DeadlineExceeded: "deadline"}
        return kinds[type(self.ended)]

    @property
    def reported(self) -> Usage:
        """Tokens that the client knows were used. What it only estimates, the server never told."""
        usage = self.ended.usage
        return Usage(0, 0) if usage is None or usage.estimated else usage


async def measured(calls: int, concurrency: int, url: str) -> list[Called]:
    """All calls, `concurrency` of them at a time, the faults in turn."""
    models = {name: open_model(model=name, base_url=url, api_key=KEY) for name in FAULTS}
    await models["none"].complete([Message("user", WARM_UP)], deadline_s=60)  # imports take seconds
    slots = asyncio.Semaphore(concurrency)
    names = list(FAULTS)
    numbered = [(f"call {number}", names[number % len(names)]) for number in range(calls)]
    done = await asyncio.gather(*(_call(models[name], call, name, slots) for call, name in numbered))
    for model in models.values():
        await model.close()
    return list(done)


async def with_endpoint(calls: int, concurrency: int, seed: int) -> tuple[list[Called], FaultyEndpoint]:
    """Measured against an endpoint in a process of its own; with the endpoint's books."""
    command = [sys.executable, "-m", "benchmarks.faulty_endpoint", str(seed), KEY]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 26)
    assert process.stdin is not None
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    done = await measured(calls, concurrency, url)
    process.stdin.close()
    endpoint = FaultyEndpoint(seed)
    endpoint.balanced((await process.stdout.readline()).decode())
    endpoint.served = [one for one in endpoint.served if one.call != WARM_UP]
    await process.wait()
    return done, endpoint


async def _call(model: ChatModel, call: str, name: str, slots: asyncio.Semaphore) -> Called:
    messages = [Message("system", PROSE), Message("user", f"{call}\nPropose one change.")]
    async with slots:
        started = time.monotonic()
        ended: Completion | AgentError
        try:
            ended = await model.complete(messages, schema=Hypothesis, seed=1, deadline_s=DEADLINE_S)
        except AgentError as error:
            ended = error
        return Called(call, name, ended, time.monotonic() - started)


def complaints(done: list[Called], endpoint: FaultyEndpoint) -> list[str]:
    """What is not as it should be."""
    found = []
    replies = Counter(one.ended.raw["id"] for one in done if isinstance(one.ended, Completion))
    for one in done:
        requests = endpoint.of_call(one.name)
        if isinstance(one.ended, Completion):
            ours = one.ended.raw["id"] in {request.id for request in requests}
            if not ours or replies[one.ended.raw["id"]] != 1:
                found.append(f"{one.name} ({one.fault}) got another call's reply")
        if one.took_s > DEADLINE_S + GRACE_S:
            found.append(f"{one.name} ({one.fault}) took {one.took_s:.1f} s")
        if one.fault in ASKED_ONCE and len(requests) != 1:
            found.append(f"{one.name} ({one.fault}) was asked {len(requests)} times")
        billed = sum((Usage(*request.billed) for request in requests), Usage(0, 0))
        on_the_wire = one.outcome == "deadline" and one.fault not in {"drip-feed", "hang"}  # a reply that was too late
        if one.reported != billed and not (on_the_wire and one.reported.total < billed.total):
            found.append(f"{one.name} ({one.fault}) counts {one.reported}, the server {billed}")
        if isinstance(one.ended, AgentError) and KEY in str(one.ended):
            found.append(f"{one.name} ({one.fault}) shows the key")
    return found


def table(done: list[Called], endpoint: FaultyEndpoint, took_s: float, found: list[str]) -> str:
    """The Markdown page."""
    outcomes = ("completed", "refused", "unavailable", "deadline")
    lines = [
        "# What the gateway makes of faults",
        "",
        f"{len(done)} calls, at most {endpoint.most_in_flight} at the server at once, a deadline of {DEADLINE_S:g} s "
        f"each, hangs of {endpoint.hang_s:g} s; {took_s:.0f} s in all. `python -m benchmarks.gateway_faults`",
        "",
        f"| fault | calls | {' | '.join(outcomes)} | requests per call | slowest s | tokens counted | tokens billed |",
        f"|---|---{'|---' * len(outcomes)}|---|---|---|---|",
    ]
    for name in FAULTS:
        mine = [one for one in done if one.fault == name]
        ended = Counter(one.outcome for one in mine)
        asked = [len(endpoint.of_call(one.name)) for one in mine]
        span = f"{min(asked)}" if min(asked) == max(asked) else f"{min(asked)} to {max(asked)}"
        billed = sum(sum(r.billed) for r in endpoint.served if r.fault == name)
        lines.append(
            f"| {name} | {len(mine)} | {' | '.join(str(ended[o] or '') for o in outcomes)} | {span} | "
            f"{max(one.took_s for one in mine):.2f} | {sum(one.reported.total for one in mine):,} | {billed:,} |"
        )
    counted = (sum(one.reported.prompt_tokens for one in done), sum(one.reported.completion_tokens for one in done))
    lines += [
        "",
        f"In all {counted[0]:,} prompt and {counted[1]:,} completion tokens were counted, and "
        f"{endpoint.billed[0]:,} and {endpoint.billed[1]:,} billed. Each of {len(done)} calls ended once. "
        f"Complaints: {len(found)}.",
        "",
        "`requests per call` of 0: the endpoint asked for an hour's pause; later calls are told so without asking it.",
        "`no-usage`: the server reports none, the client estimates and marks it; neither is in the sums.",
    ]
    return "\n".join([*lines, *(f"* {complaint}" for complaint in found)]) + "\n"


def main() -> None:
    """Measures and prints; exit code 1 with complaints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--concurrency", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    done, endpoint = asyncio.run(with_endpoint(options.calls, options.concurrency, options.seed))
    found = complaints(done, endpoint)
    page = table(done, endpoint, time.monotonic() - started, found)
    sys.stdout.write(page)
    if options.output:
        options.output.write_text(page, encoding="utf-8")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
