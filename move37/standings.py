"""The lessons that an experiment sees, each as founded as it can know: `evidence.standing`, kept in step.

A prompt asks for the lessons of everything visible, and between two prompts an experiment or two have been added to
that. So each lesson and each row of evidence is read once, when the later of the two experiments that it is about
becomes visible: by then it is stored, since whoever gives evidence does so before it is finished, about its own lesson
or about one that it sees. What was worked out stays, and what the latest experiments changed is taken back for a reader
who does not see them.

Not covered: what is visible (`loop.Visibility`), the rules (`evidence`).
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

from memory.records import Evidence, Experiment, Lesson
from memory.store import Store
from move37.evidence import standing


class Standings:
    """Of one campaign with what it inherits: what its experiments see are the beginnings of one sequence that grows."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._places: dict[str, int] = {}  # of experiments in the sequence
        self._indices: dict[str, int] = {}
        self._stored: list[Lesson] = []
        self._standing: list[Lesson] = []  # the same lessons for who sees every experiment of the sequence
        self._ends = [0]  # how many lessons the first experiments have, by their number
        self._rows: dict[str, list[Evidence]] = {}  # by lesson
        self._at: dict[str, int] = {}  # places of lessons
        self._retires: dict[str, list[int]] = {}  # places of lessons that an experiment is stored as the refuter of
        self._changed: list[tuple[int, int]] = []  # place of an experiment, and of a lesson that it changes; ascending

    def of(self, visible: Sequence[Experiment]) -> list[Lesson] | None:
        """The lessons of `visible`, in their order; None where one of these may still change, or where these are no
        beginning of the sequence: then they have to be worked out from the store."""
        fresh = visible[len(self._places) :]
        if not all(e.finished for e in fresh):
            return None
        if fresh:
            if len(fresh) < len(visible) and self._places.get(visible[-len(fresh) - 1].id) != len(self._places) - 1:
                return None
            self._learn(fresh)
        count = len(visible)
        if visible and self._places.get(visible[-1].id) != count - 1:
            return None
        found = self._standing[: self._ends[count]]
        for _, lesson in self._changed[bisect_left(self._changed, (count, -1)) :]:
            if lesson < len(found):
                found[lesson] = self._worked_out(lesson, count)
        return found

    def evidence(self, lessons: Iterable[Lesson]) -> list[Evidence]:
        """What is known about some lessons, by whichever experiment of the sequence."""
        return [row for lesson in lessons for row in self._rows.get(lesson.id, ())]

    def _learn(self, fresh: Sequence[Experiment]) -> None:
        names = [one.id for one in fresh]
        lessons: dict[str, list[Lesson]] = {}
        for lesson in self._store.lessons_of(names):
            lessons.setdefault(lesson.experiment_id, []).append(lesson)
        for one in fresh:
            self._places[one.id] = len(self._places)
            self._indices[one.id] = one.index
            for lesson in lessons.get(one.id, ()):
                self._at[lesson.id] = len(self._stored)
                if lesson.retired_by is not None:
                    self._retires.setdefault(lesson.retired_by, []).append(len(self._stored))
                self._stored.append(lesson)
                self._standing.append(lesson)
            self._ends.append(len(self._stored))
        touched = set(range(self._ends[-len(fresh) - 1], len(self._stored)))
        for row in self._store.evidence_with(names):
            if row.lesson_id in self._at and row.experiment_id in self._places:
                self._rows.setdefault(row.lesson_id, []).append(row)
                self._note(row.experiment_id, self._at[row.lesson_id])
                touched.add(self._at[row.lesson_id])
        for refuter in self._retires.keys() & self._places.keys():
            for lesson_at in self._retires.pop(refuter):
                self._note(refuter, lesson_at)
                touched.add(lesson_at)
        for lesson_at in touched:
            self._standing[lesson_at] = self._worked_out(lesson_at, len(self._places))

    def _note(self, experiment_id: str, lesson: int) -> None:
        insort(self._changed, (self._places[experiment_id], lesson))

    def _worked_out(self, lesson: int, count: int) -> Lesson:
        """A lesson for who sees so many experiments of the sequence."""
        stored = self._stored[lesson]
        rows = self._rows.get(stored.id, [])
        named = {stored.experiment_id, stored.retired_by, *(row.experiment_id for row in rows)}
        seen = {one: self._indices[one] for one in named if one is not None and self._places.get(one, count) < count}
        [found] = standing([stored], rows, seen)
        return found
