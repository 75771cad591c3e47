"""L2: the operation trace of the built model, as a hash. Inside the sandbox only.

Each layer is built at the tier's width, initialised as the skeleton does, and run on tensors without values, in
training and in evaluation mode, at the shortest and the longest sequence of the tier's tasks. The hash covers what the
outputs are computed from, down to inputs, constants and parameters:
- names, files, modules and the order of independent statements leave no trace; neither does what reaches no output;
- a parameter is known by where it is used, its shape, whether it is trained, and the graph of its initialisation, in
  which every random draw is one of its own: shared weights differ from equal ones, `zeros` from `ones`;
- the number of the program's parameters, used or not: the skeleton's MLPs are as wide as they leave room for.

No key where a trace would not tell the whole: control flow that depends on values, gradients that the program defines
or changes itself (`autograd.Function`, hooks), generators it seeds. L3 runs those.
Not covered: lengths and batches between those traced, which a program could single out; programs that ask torch whether
gradients are on (they are, in both modes). Another release of torch may give other keys, never a wrong match.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from evaluator.gates.specimen import blamed_on, check_output
from evaluator.program import Kind, build, load, seed_generators
from evaluator.skeleton import LanguageModel, initialise, parameter_count
from evaluator.tiers import Tier
from evaluator.tracing.graph import Graph, Untraceable
from evaluator.tracing.recorder import Recorder

PREFIX = "o1-"  # a change of the algorithm changes the prefix: keys of different algorithms never meet
_SEED = 1_836_311_903  # no program seeds with it by chance


@dataclass(frozen=True)
class Built:
    """A program's layers as a trial would start with them, and the nodes of their parameters."""

    kind: Kind
    layers: tuple[nn.Module, ...]
    model: LanguageModel
    parameters: dict[str, int]
    count: int


def trace_key(source: str, tier: Tier) -> str:
    """The program's key at L2 for one tier. Runs the program's code.

    Raises:
        Untraceable: it has none, and why.
        CandidateError: the program cannot be built or run.
    """
    recorder = Recorder()
    graph, roots, header = traced(source, tier, recorder)
    return PREFIX + graph.digest(roots, header)


def traced(source: str, tier: Tier, recorder: Recorder) -> tuple[Graph, list[int], str]:
    """The graph, its roots (one output for each mode, length and layer), and what they are."""
    built = built_under(recorder, source, tier)
    _require_plain_gradients(built.model)
    inputs = {
        (index, batch, length): recorder.input((batch, length, tier.d_model), f"layer {index}")
        for batch, length in shapes(tier)
        for index in range(len(built.layers))
    }
    trained, asked = _outputs(recorder, built, inputs, training=True)
    evaluated = _outputs(recorder, built, inputs, training=False)[0] if asked else trained
    return recorder.graph, [*trained, *evaluated], f"{built.kind} {built.count} {len(built.layers)}"


def _outputs(
    recorder: Recorder, built: Built, inputs: Mapping[tuple[int, int, int], Tensor], *, training: bool
) -> tuple[list[int], bool]:
    """The output of every layer at every shape, and whether the mode could have made a difference."""
    nodes = []
    with _mode_watched(built.model) as watched:
        for (index, batch, length), x in inputs.items():
            layer = built.layers[index].train(training)
            watched.clear()
            with seen_by(recorder, f"tracing layer {index} at B={batch}, L={length}"):
                y = check_output(x, layer(x.view_as(x)))
            watched.settle()
            nodes.append(recorder.node(y))
            _require_known_backward(y)
    return nodes, watched.asked


class _Watched:
    """Whether any module was asked for its mode while a layer ran."""

    def __init__(self, asked: bool) -> None:
        self.asked = asked
        self.reads = 0

    def clear(self) -> None:
        self.reads = 0

    def settle(self) -> None:
        self.asked = self.asked or self.reads > 0


@contextmanager
def _mode_watched(model: nn.Module) -> Iterator[_Watched]:
    """Sees who reads `training`: a layer that nobody asks for its mode does the same in both, and is traced once.

    A module with a `train`, an `eval` or a `training` of its own counts as one that asked.
    """
    kinds = {type(module) for module in model.modules()}
    own = any(k.train is not nn.Module.train or k.eval is not nn.Module.eval or hasattr(k, "training") for k in kinds)
    watched = _Watched(own)

    def read(module: nn.Module) -> bool:
        watched.reads += 1
        return bool(module.__dict__["training"])

    def write(module: nn.Module, value: bool) -> None:
        module.__dict__["training"] = value

    nn.Module.training = property(read, write)  # type: ignore[assignment]
    try:
        yield watched
    finally:
        del nn.Module.training


def shapes(tier: Tier) -> tuple[tuple[int, int], ...]:
    """(B, L) of the traces."""
    lengths = [plan.task.length for plan in tier.plans.values()]
    return (3, min(lengths)), (2, max(lengths))


def built_under(recorder: Recorder, source: str, tier: Tier) -> Built:
    """Build every layer under a recorder, and initialise them as the skeleton does.

    Raises:
        Untraceable, CandidateError: as `trace_key`.
    """
    with seen_by(recorder, "building its layers"):
        builder, kind = load(source)
        recorder.seed = _SEED
        seed_generators(_SEED)
        layers = [build(builder, tier.d_model, index, tier.n_layers) for index in range(tier.n_layers)]
        count = parameter_count(nn.ModuleList(layers))
        model = LanguageModel(1, tier.d_model, layers).float()
        initialise(model, tier.n_layers)
    return Built(kind, tuple(layers), model, recorder.parameters(model.layers), count)


class seen_by:  # noqa: N801  reads as the `with` statement it is for
    """Runs a block under a recorder, blames the program for what goes wrong in it, and raises what the recorder could
    not record even where the program caught it."""

    def __init__(self, recorder: Recorder, doing: str) -> None:
        self._recorder = recorder
        self._blame = blamed_on("forward_failed", doing)

    def __enter__(self) -> None:
        self._blame.__enter__()
        self._recorder.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._recorder.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        if self._recorder.failure is not None:
            self._blame.__exit__(None, None, None)
            raise self._recorder.failure
        self._blame.__exit__(kind, error, trace)  # type: ignore[arg-type]


def _require_plain_gradients(model: nn.Module) -> None:
    for module in model.modules():
        if module._backward_hooks or module._backward_pre_hooks:
            raise Untraceable("a hook changes its gradients")
    for parameter in model.parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise Untraceable("a hook changes its gradients")


def _require_known_backward(y: Tensor) -> None:
    pending, seen = [y.grad_fn], set()
    while pending:
        step = pending.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if isinstance(step, BackwardCFunction):
            raise Untraceable("it defines gradients of its own (autograd.Function)")
        pending.extend(before for before, _ in step.next_functions)
