"""The worker: `python -m evaluator`. One job per process, then it ends. Inside the sandbox only.

Everything slow and safe happens before the `hello` frame (imports, one optimiser step), so that a pool can keep workers
warm. Then it answers the phases of one job; whatever a program does wrong becomes a `failed` frame.
"""

import math
import os
import platform
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from evaluator import execution, tiers
from evaluator.channel import Channel, HostGoneError
from evaluator.errors import EvaluatorError, WireError
from evaluator.objective import SCORER_VERSION
from evaluator.phases import MESSAGE_CAP, PROTOCOL_VERSION
from evaluator.program import Builder, CandidateError, Kind, describe, load
from evaluator.skeleton import LanguageModel, Sizes, build_model
from evaluator.tasks import registry, streams
from evaluator.text import printable, quoted
from evaluator.tiers import Tier
from evaluator.trainer import Training, predict, train
from evaluator.warmup import one_step
from evaluator.wire import FrameKind, arrays

_ENDED, _FAILED, _ABANDONED = 0, 1, 2


def main() -> None:
    """Serve one job over stdin and stdout, and end the process."""
    channel = Channel.over_standard_streams()
    torch.set_num_threads(1)
    one_step()
    channel.send_control(hello())
    os._exit(serve(channel))


def hello() -> dict[str, Any]:
    return {
        "type": "hello",
        "protocol": PROTOCOL_VERSION,
        "scorer": SCORER_VERSION,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
        "tasks": [name for track in registry.tracks() for name in registry.names(track)],
    }


def serve(channel: Channel) -> int:
    """Answer one job; the exit status. `os._exit` follows: no exit handler of a program gets to run."""
    phase = "train"
    try:
        job = channel.receive_control()
        _require_protocol(job)
        source = channel.receive(FrameKind.PROGRAM).decode("utf-8")
        if job["kind"] != "trial":
            phase = job["kind"]
            channel.send_control({"type": "done", "phase": phase, **_examined(source, job, channel)})
            return _ENDED
        trial = _Trial(source, job, channel)
        trial.train()
        for phase, answer in trial.answers():  # noqa: B007  a failure names the phase it happened in
            answer()
    except HostGoneError:
        return _ABANDONED
    except EvaluatorError as error:  # a job we cannot read: no program is to blame, so no failed frame
        print(f"evaluator: {error}", file=sys.stderr, flush=True)
        return _ABANDONED
    except BaseException as error:  # noqa: BLE001  around candidate code, which may raise anything, SystemExit included
        failure = describe(error)
        channel.send_control(
            {
                "type": "failed",
                "phase": phase,
                "reason": failure.reason,
                "message": printable(failure.message)[:MESSAGE_CAP],
                "line": failure.line,
                "traceback": failure.trace,
            }
        )
        return _FAILED
    return _ENDED


def _require_protocol(job: Mapping[str, Any]) -> None:
    if job.get("protocol") != PROTOCOL_VERSION:
        raise WireError(f"the host speaks protocol {quoted(job.get('protocol'))}, this worker {PROTOCOL_VERSION}")


def _examined(source: str, job: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The answer to a job that needs no training. Imported here: a trial should not wait for torch's compiler."""
    if job["kind"] == "gates":
        from evaluator.gates.ladder import run_gates

        found = run_gates(source, job["track"], job["tier"], job.get("max_exponent"), lengths=job["lengths"])
        if job.get("identity") and all(verdict["passed"] for verdict in found["verdicts"]):
            # The host has to know what ended a program that does not survive what follows: not the gates.
            channel.send_control({"type": "progress", "phase": "gates", "step": 1, "steps": 2, "loss": None})
            found |= _identities(source, job, job["identity"])
        return found
    if job["kind"] == "profile":
        from evaluator.profiling import run_profile

        return run_profile(source, job["track"], job["tier"], job.get("task"))
    if job["kind"] == "identity":
        return _identities(source, job, job["levels"])
    raise WireError(f"there is no job of kind {quoted(job['kind'])}")


def _identities(source: str, job: Mapping[str, Any], levels: Sequence[str]) -> dict[str, Any]:
    from evaluator.tracing.levels import run_identities

    return run_identities(source, job["track"], job["tier"], levels)


@dataclass(frozen=True)
class _Run:
    """One training run at one learning rate: what it left, or why it came to nothing."""

    rate: float
    sizes: Sizes
    model: LanguageModel
    training: Training | None
    error: CandidateError | None


def chosen(sweep: Sequence[_Run]) -> _Run:
    """The run with the lowest loss over its last tenth. Synthetic data are fresh at every step, so that loss is a
    held-out one there (within a text, windows recur); nothing that is scored takes part in the choice.

    Raises:
        CandidateError: no run was of use; the first one's.
    """
    useful = [run for run in sweep if run.training is not None]
    if not useful:
        first = sweep[0].error
        assert first is not None
        raise first
    return min(useful, key=lambda run: run.training.late_loss if run.training else math.inf)


class _Trial:
    """One program on one task: train, predict (twice, on inputs that look alike), audit."""

    def __init__(self, source: str, job: Mapping[str, Any], channel: Channel) -> None:
        self._source = source
        self._channel = channel
        self._task_name: str = job["task"]
        tier: Tier = tiers.get(job["track"], job["tier"]).for_task(self._task_name)
        self._tier = tier
        self._rates: list[float] = [float(rate) for rate in job["learning_rates"]] or [tier.recipe.learning_rate]
        self._task = self._tier.task(self._task_name)
        self._streams = {role: tuple(words) for role, words in job["streams"].items()}
        self._training: Training | None = None
        self._runs_done = self._reports = 0
        self._where = execution.choose(self._tier.recipe)

    def train(self) -> None:
        if self._task.corpus_name is not None:
            table = self._receive_arrays()["corpus"]
        else:
            table = self._task.table(streams.generator(self._streams["table"]))
        sweep = []
        for rate in self._rates:
            sweep.append(self._train_at(rate, table))
            self._runs_done += 1
        best = chosen(sweep)
        if self._task.head == "token":
            from evaluator.gates.trained import probe

            probe(best.model.cpu(), self._tier, length=max(*self._tier.lengths, self._task.length))
        training, sizes = best.training, best.sizes
        assert training is not None  # `chosen` takes none without
        self._training = training
        self._channel.send_control(
            {
                "type": "done",
                "phase": "train",
                "parameters": sizes.total,
                "mixer_parameters": sizes.program,
                "mlp_hidden": min(sizes.mlp_hidden, default=0),
                "learning_rate": best.rate,
                "runs": len(sweep),
                "train_loss": training.loss,
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "execution": training.execution,
            }
        )

    def _train_at(self, rate: float, table: np.ndarray) -> "_Run":
        """One run of the sweep. What is at fault at this rate only is kept: another rate may do."""
        tier = replace(self._tier, recipe=replace(self._tier.recipe, learning_rate=rate))
        model, sizes = self._fresh_model()
        stream = self._streams["train"]
        try:
            training = train(model, tier, self._task_name, stream, table, self._progress, on=self._where)
        except CandidateError as error:
            if error.reason not in ("diverged", "stalled"):
                raise
            return _Run(rate, sizes, model, None, error)
        return _Run(rate, sizes, model, training, None)

    def answers(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """The phases after training, in order. An auto-encoder answers after the whole input: nothing to audit."""
        if self._task.head == "autoencoder":
            return (("predict", self.predict),)
        return (("blind", self.predict), ("predict", self.predict), ("audit", self.audit))

    def predict(self) -> None:
        asked = self._receive_arrays()
        model, _ = self._fresh_model()
        shape = (*asked["tokens"].shape[:1], asked["columns"].size)
        columns = torch.from_numpy(asked["columns"].copy())
        logits = [self._logits(model, index, asked["tokens"], shape, columns) for index in range(len(self._snapshots))]
        self._channel.send(arrays({"logits": np.stack(logits)}))

    def audit(self) -> None:
        # A model built anew: what the one above may have remembered of the whole sequences is not there.
        model, _ = self._fresh_model()
        answers = {}
        for name, tokens in self._receive_arrays().items():
            last = torch.tensor([tokens.shape[1] - 1])
            logits = self._logits(model, -1, tokens, (tokens.shape[0], 1), last)
            answers[name.replace("prefix", "logits")] = np.ascontiguousarray(logits[:, 0])
        self._channel.send(arrays(answers))

    @property
    def _snapshots(self) -> tuple[dict[str, torch.Tensor], ...]:
        assert self._training is not None
        return self._training.snapshots

    def _fresh_model(self) -> tuple[LanguageModel, Sizes]:
        builder: Builder
        kind: Kind
        builder, kind = load(self._source)
        seed = int(streams.generator(self._streams["initialisation"]).integers(1 << 62))
        decoded = self._task.length if self._task.head == "autoencoder" else 0
        model, sizes = build_model(builder, kind, self._tier, self._task.vocabulary, seed, decoded=decoded)
        return model.to(self._where.device), sizes

    def _logits(
        self, model: LanguageModel, snapshot: int, tokens: np.ndarray, shape: tuple[int, ...], columns: torch.Tensor
    ) -> np.ndarray:
        model.load_state_dict(self._snapshots[snapshot])
        logits = predict(model, torch.from_numpy(tokens.copy()), columns)
        expected = (*shape, self._task.vocabulary)
        if tuple(logits.shape) != expected:
            raise CandidateError("wrong_shape", f"the logits have shape {tuple(logits.shape)}, expected {expected}")
        return logits.numpy()

    def _receive_arrays(self) -> dict[str, np.ndarray]:
        from safetensors.numpy import load as load_arrays

        return dict(load_arrays(self._channel.receive(FrameKind.ARRAYS)))

    def _progress(self, step: int, steps: int, loss: float) -> None:
        """All runs of a sweep share the messages that one phase may send: every n-th of n runs is passed on."""
        runs = len(self._rates)
        self._reports += 1
        if self._reports % runs:
            return
        done = self._runs_done * steps + step
        message = {"type": "progress", "phase": "train", "step": done, "steps": runs * steps, "loss": loss}
        self._channel.send_control(message)
