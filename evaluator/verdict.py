"""A gate's verdict: which gate, a reason code, a sentence for people and models, and the line it concerns."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from evaluator.errors import WireError
from evaluator.text import quoted

OK = "ok"


@dataclass(frozen=True)
class Verdict:
    """What one gate said of one program. `reason` is a code (`"ok"` when passed); `message` is a full sentence."""

    gate: str
    passed: bool
    reason: str
    message: str
    line: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"detail": dict(self.detail)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Verdict":
        """The verdict in `data`.

        Raises:
            WireError: a field is missing, unknown or of the wrong type, or `passed` and `reason` contradict each other.
        """
        expected = {"gate", "passed", "reason", "message", "line", "detail"}
        if set(data) != expected:
            raise WireError(f"a verdict has the fields {quoted(sorted(data))}, expected {sorted(expected)}")
        gate, passed, reason, message = data["gate"], data["passed"], data["reason"], data["message"]
        line, detail = data["line"], data["detail"]
        texts = all(isinstance(value, str) for value in (gate, reason, message))
        line_fits = line is None or (type(line) is int)
        if not (texts and isinstance(passed, bool) and line_fits and isinstance(detail, dict)):
            raise WireError("a verdict has a field of the wrong type")
        if passed != (reason == OK):
            raise WireError(f"a verdict says passed={passed} with reason {quoted(reason)}")
        return cls(gate, passed, reason, message, line, detail)


def passed(gate: str, message: str = "", **detail: Any) -> Verdict:
    return Verdict(gate, passed=True, reason=OK, message=message, detail=detail)


def failed(gate: str, reason: str, message: str, *, line: int | None = None, **detail: Any) -> Verdict:
    return Verdict(gate, passed=False, reason=reason, message=message, line=line, detail=detail)
