"""The LangGraph graph of one experiment: a thin durable driver around `move37.steps`.

One thread per experiment, state of identifiers only, `durability="sync"`. The store is the truth and every step looks
there for its own finished work first, so a lost or outdated checkpoint costs nothing but the walk through finished
steps. Renaming a node would make old threads resume to nothing without an error (measured on LangGraph 1.2), so the
version below is part of the thread's name: bump it with any change of nodes or edges.

    select -> research -> code -> gate -> trial -> analyse -> record
                 ^          ^       |
                 |          +-repair+
                 +--duplicate-------+
"""

import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict

# Before the import: nothing of a user's prompts may leave through tracing, and state is plain data.
os.environ["LANGSMITH_TRACING"] = "false"
os.environ["LANGCHAIN_TRACING_V2"] = "false"
os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from move37 import steps
from move37.errors import CampaignPaused
from move37.loop import Loop, Route

GRAPH_VERSION = 1
_RECURSION_LIMIT = 200


class State(TypedDict):
    """What LangGraph keeps: an identifier and where to go."""

    experiment_id: str
    route: str


Step = Callable[[Loop, str], Awaitable[Route]]

_NODES: dict[str, Step] = {
    "select": steps.select,
    "research": steps.research,
    "code": steps.code,
    "gate": steps.gate,
    "trial": steps.trial,
    "analyse": steps.analyse,
    "record": steps.record,
}


class ExperimentGraph:
    """Runs experiments through the compiled graph."""

    def __init__(self, loop: Loop, checkpointer: BaseCheckpointSaver[Any]) -> None:
        builder = StateGraph(State)
        names = list(_NODES)
        for name, step in _NODES.items():
            builder.add_node(name, _Node(loop, step))
            builder.add_conditional_edges(name, _next, [*names, END])
        builder.add_conditional_edges(START, _next, names)
        self._graph = builder.compile(checkpointer=checkpointer)
        self._checkpointer = checkpointer
        self._entry = loop.entry

    async def run(self, experiment_id: str) -> None:
        """Takes the experiment to its end, from wherever its thread stands.

        Raises:
            CampaignPaused: the checkpoints cannot be written (a full disk); the store has lost nothing.
        """
        thread = f"{experiment_id}/graph-{GRAPH_VERSION}"
        config: RunnableConfig = {"configurable": {"thread_id": thread}, "recursion_limit": _RECURSION_LIMIT}
        try:
            snapshot = await self._graph.aget_state(config)
            start = None if snapshot.next else State(experiment_id=experiment_id, route=self._entry(experiment_id))
            await self._graph.ainvoke(start, config, durability="sync")
            await self._checkpointer.adelete_thread(thread)
        except sqlite3.Error as error:  # the store's own errors are typed: this one is the checkpointer's
            raise CampaignPaused(f"the checkpoints of {experiment_id} cannot be written: {error}") from error


class _Node:
    """A step as LangGraph wants it: state in, changed part of the state out."""

    def __init__(self, loop: Loop, step: Step) -> None:
        self._loop = loop
        self._step = step

    async def __call__(self, state: State) -> dict[str, str]:
        return {"route": await self._step(self._loop, state["experiment_id"])}


def _next(state: State) -> str:
    return END if state["route"] == "end" else state["route"]


@asynccontextmanager
async def checkpoints(path: Path | None) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """A checkpointer in a file, or in memory (replay)."""
    if path is None:
        yield InMemorySaver()
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        await _probe(path)
    except (OSError, sqlite3.OperationalError) as error:
        raise CampaignPaused(f"no checkpoints can be written to {path}: {error}") from error
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        yield saver


async def _probe(path: Path) -> None:
    """Makes the tables; a damaged file is thrown away, since the store alone is the truth."""
    try:
        async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
            await saver.setup()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        discard(path)
        async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
            await saver.setup()


def discard(path: Path) -> None:
    """Removes a checkpoint file with its companions."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
