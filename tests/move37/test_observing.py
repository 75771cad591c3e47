"""What is read off a parent before published findings are chosen for it."""

from agents.contexts import Brief, TaskView
from memory.store import open_store
from memory.testing import completed, new_campaign, trial
from move37.observing import observed


def test_a_score_is_the_share_of_the_way_from_chance_already() -> None:
    store = open_store("sqlite://")
    parent = completed(store, new_campaign(store), 0)
    done = trial(store, parent, task="recall")
    store.finish_trial(done.id, state="completed", score=0.5)
    brief = Brief("sequence", "micro", (TaskView("recall", "Recall", 0.125, ""),), "", 32, 2, ())
    (task,) = observed(store, brief, parent, []).tasks
    assert task.share() == 0.5
    store.close()
