"""The trusted scorer: its numbers against slow ones, and its refusal to be fooled by ties, leaks and odd values."""

import numpy as np
import pytest

from evaluator import scoring
from evaluator.errors import WireError
from evaluator.tasks import registry
from evaluator.tiers import FRACTIONS, get
from evaluator.trial import TrialRequest, _material, score_trial, trial_phases

REQUEST = TrialRequest("sequence", "micro", "recall", seed=3)
TIMES = [1.0, 1.0, 1.0, 1.0]
CLAIMS = {
    "parameters": 6400,
    "mixer_parameters": 100,
    "mlp_hidden": 40,
    "peak_memory_bytes": 1,
    "learning_rate": 0.01,
    "runs": 1,
    "execution": {"device": "no accelerator"},
}


def replies_of(final: np.ndarray, request: TrialRequest = REQUEST) -> list[object]:
    """Honest replies of a model whose logits are `final` at every checkpoint."""
    material = _material(request)
    audit = {
        f"logits_{index}": final[rows, int(np.searchsorted(material.columns, position))]
        for index, (rows, position) in enumerate(material.audited)
    }
    everywhere = np.stack([final] * len(FRACTIONS))
    return [CLAIMS, {"logits": everywhere.copy()}, {"logits": everywhere}, audit]


def random_logits(request: TrialRequest = REQUEST) -> np.ndarray:
    task = get(request.track, request.tier).task(request.task)
    count = get(request.track, request.tier).evaluation_sequences
    return np.random.default_rng(0).normal(size=(count, task.length, task.vocabulary)).astype(np.float32)


def test_accuracy_and_loss_agree_with_a_loop() -> None:
    task = registry.get("recall")
    batch = task.batch(np.random.default_rng(0), 6, np.zeros(0, dtype=np.int64))
    logits = np.random.default_rng(1).normal(size=(6, task.length, task.vocabulary)).astype(np.float32)
    hits, losses = [], []
    for row in range(6):
        for position in range(task.length):
            if batch.scored[row, position]:
                values = logits[row, position].astype(np.float64)
                target = batch.targets[row, position]
                hits.append(values.argmax() == target)
                losses.append(np.log(np.exp(values).sum()) - values[target])
    scores = scoring.score(logits, batch)
    assert scores.accuracy == pytest.approx(np.mean(hits))
    assert scores.loss == pytest.approx(np.mean(losses))


def test_a_constant_output_scores_nothing() -> None:
    task = registry.get("recall")
    batch = task.batch(np.random.default_rng(0), 6, np.zeros(0, dtype=np.int64))
    assert scoring.score(np.zeros((6, task.length, task.vocabulary), np.float32), batch).accuracy == 0.0


def test_huge_logits_do_not_overflow() -> None:
    values = scoring.log_softmax(np.array([[1e30, 0.0, -1e30]], dtype=np.float32))
    assert values[0, 0] == 0.0
    assert np.isfinite(values[0]).all()


def test_a_perfect_model_scores_one_and_a_random_one_about_zero() -> None:
    batch = _material(REQUEST).batch
    known = batch.scored[..., None] * np.eye(16, dtype=np.float32)[batch.targets] * 10
    perfect = score_trial(REQUEST, replies_of(known.astype(np.float32)), TIMES)
    assert (perfect.status, perfect.score) == ("ok", 1.0)
    assert [point["fraction"] for point in perfect.curve] == list(FRACTIONS)
    assert {type(value) for value in perfect.metrics.values()} == {float}  # NumPy's numbers do not fit into JSON
    chance = score_trial(REQUEST, replies_of(random_logits()), [2.0, 1.0, 1.0, 1.0])
    assert chance.score == pytest.approx(0.0, abs=0.1)
    assert chance.metrics["train_tokens_per_s"] == 40 * 16 * 48 / 2.0


@pytest.mark.parametrize("where", ["logits", "audit"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_are_a_status_and_never_a_number(where: str, value: float) -> None:
    replies = replies_of(random_logits())
    if where == "logits":
        replies[2]["logits"][1, 2, 3, 4] = value  # type: ignore[index]
    else:
        replies[3]["logits_1"][0, 0] = value  # type: ignore[index]
    result = score_trial(REQUEST, replies, TIMES)
    assert (result.status, result.reason, result.score) == ("invalid", "non_finite", None)


def test_other_predictions_from_prefixes_are_refused() -> None:
    replies = replies_of(random_logits())
    replies[3] = {name: value + np.float32(0.5) * (value > 0) for name, value in replies[3].items()}  # type: ignore[attr-defined]
    result = score_trial(REQUEST, replies, TIMES)
    assert (result.status, result.reason, result.score) == ("invalid", "prefix_inconsistent", None)


def knowing(task_logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The logits, but right at every scored position of `rows`."""
    batch = _material(REQUEST).batch
    known = np.eye(task_logits.shape[-1], dtype=np.float32)[batch.targets] * 1e-4
    return np.where((batch.scored & rows)[..., None], known, task_logits)


@pytest.mark.parametrize("checkpoints", [slice(0, 4), slice(0, 3)], ids=["always", "all but the last checkpoint"])
def test_reading_ahead_is_refused_however_small_its_logits_and_at_every_checkpoint(checkpoints: slice) -> None:
    """Right wherever the next token is given, so wrong at the cuts, where another token follows."""
    everyone = np.ones((_material(REQUEST).cuts.size, 1), dtype=bool)
    replies = replies_of(random_logits() * np.float32(1e-6))
    replies[2]["logits"][checkpoints] = knowing(random_logits() * np.float32(1e-6), everyone)  # type: ignore[index]
    result = score_trial(REQUEST, replies, TIMES)
    assert (result.status, result.reason, result.score) == ("invalid", "future_dependent", None)


def test_a_likelihood_raised_by_the_future_is_refused_though_no_prediction_changes() -> None:
    """The cheat of a text task: lift the true next token to just below the first choice, where it is seen."""
    request = TrialRequest("sequence", "micro", "byte_lm", seed=0)
    material = _material(request)
    base = np.random.default_rng(0).normal(size=(*material.asked.tokens.shape, 256)).astype(np.float32)
    lifted = base.copy()
    best = base.max(axis=-1)
    rows, columns = np.indices(best.shape)
    lifted[rows, columns, material.asked.targets] = np.maximum(
        base[rows, columns, material.asked.targets], best - np.float32(1e-3)
    )
    replies = replies_of(base, request)
    replies[2] = {"logits": np.stack([lifted] * len(FRACTIONS))}
    replies[3] = replies_of(lifted, request)[3]
    result = score_trial(request, replies, TIMES)
    assert result.metrics["blind_flipped"] <= scoring.FLIPPED_FRACTION
    assert (result.status, result.reason, result.score) == ("invalid", "future_dependent", None)


def test_likelihoods_honest_at_the_watched_positions_only_are_refused() -> None:
    request = TrialRequest("sequence", "micro", "byte_lm", seed=0)
    material = _material(request)
    base = np.random.default_rng(0).normal(size=(*material.asked.tokens.shape, 256)).astype(np.float32)
    lifted = base.copy()
    for row, cut in enumerate(material.cut_columns):
        for column in range(material.columns.size):
            if column != cut:
                label = material.asked.targets[row, column]
                lifted[row, column, label] = base[row, column].max() - np.float32(1e-3)
    replies = replies_of(base, request)
    replies[2] = {"logits": np.stack([lifted] * len(FRACTIONS))}
    result = score_trial(request, replies, TIMES)
    assert result.metrics["blind_gap"] == 0.0
    assert (result.status, result.reason) == ("invalid", "future_dependent")


def test_answering_honestly_where_the_audit_looks_does_not_help() -> None:
    """Consistent at the remembered cuts, clairvoyant after and before them: too good elsewhere."""
    material = _material(REQUEST)
    away = np.arange(material.batch.tokens.shape[1]) != material.cuts[:, None]
    replies = replies_of(random_logits())
    replies[2]["logits"][:] = knowing(random_logits(), away)  # type: ignore[index]
    result = score_trial(REQUEST, replies, TIMES)
    assert result.metrics["blind_flipped"] == 0.0
    assert (result.status, result.reason, result.score) == ("invalid", "future_dependent", None)


def test_blind_inputs_differ_after_the_cut_only_and_cuts_are_scored() -> None:
    material = _material(REQUEST)
    after = np.arange(material.batch.tokens.shape[1]) > material.cuts[:, None]
    assert (material.blind == material.batch.tokens)[~after].all()
    assert (material.blind != material.batch.tokens)[after].mean() > 0.5
    assert material.batch.scored[np.arange(material.cuts.size), material.cuts].all()


def test_float_noise_between_prefix_and_whole_is_accepted() -> None:
    replies = replies_of(random_logits())
    replies[3] = {name: value * np.float32(1 + 1e-5) for name, value in replies[3].items()}  # type: ignore[attr-defined]
    assert score_trial(REQUEST, replies, TIMES).status == "ok"


def test_predicting_random_keys_is_refused() -> None:
    batch = _material(REQUEST).batch
    clairvoyant = (np.eye(16, dtype=np.float32)[batch.targets] * 10).astype(np.float32)
    result = score_trial(REQUEST, replies_of(clairvoyant), TIMES)
    assert (result.status, result.reason, result.score) == ("invalid", "predicts_chance", None)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        CLAIMS | {"parameters": "many"},
        CLAIMS | {"parameters": True},
        CLAIMS | {"execution": "fast"},
        CLAIMS | {"execution": {"device": 1}},
        CLAIMS | {"execution": {str(index): "" for index in range(99)}},
    ],
)
def test_claims_that_are_no_numbers_break_the_wire(claims: dict[str, object]) -> None:
    with pytest.raises(WireError):
        score_trial(REQUEST, [claims, *replies_of(random_logits())[1:]], TIMES)


def test_what_the_container_says_of_its_execution_is_bounded_and_harmless() -> None:
    said = CLAIMS | {"execution": {"device\x1b": "\x1b[2J" + "x" * 5000}}
    claims = score_trial(REQUEST, [said, *replies_of(random_logits())[1:]], TIMES).claims
    ((name, text),) = claims.items()
    assert "\x1b" not in name + text
    assert len(text) <= 200


def test_text_is_scored_in_bits_per_byte() -> None:
    """A model that knows nothing but the alphabet costs log2 V bits a token, and its worth is what is left of eight."""
    request = TrialRequest("sequence", "micro", "byte_lm", seed=0)
    material = _material(request)
    uniform = np.zeros((*material.asked.tokens.shape, material.task.vocabulary), np.float32)
    result = score_trial(request, replies_of(uniform, request), TIMES)
    bits = np.log2(material.task.vocabulary) / material.task.bytes_per_token
    assert result.metrics["bits_per_byte"] == pytest.approx(bits)
    assert result.score == pytest.approx(1 - bits / 8)
    assert "normalised_accuracy" not in result.metrics


def test_only_the_columns_that_are_scored_come_back() -> None:
    request = TrialRequest("sequence", "micro", "byte_lm", seed=0)
    material = _material(request)
    assert material.columns.size == material.task.scored_columns < material.task.length
    assert not material.batch.scored[:, np.setdiff1d(np.arange(material.task.length), material.columns)].any()
    assert np.isin(material.cuts, material.columns).all()
    (logits,) = trial_phases("", request)[2].reply
    assert logits.shape == (4, *material.asked.tokens.shape, material.task.vocabulary)


def test_an_auto_encoder_is_asked_once_and_not_audited() -> None:
    request = TrialRequest("sequence", "micro", "compression", seed=0)
    assert [phase.name for phase in trial_phases("", request)] == ["train", "predict"]
    material = _material(request)
    known = np.eye(material.task.vocabulary, dtype=np.float32)[material.batch.targets]
    result = score_trial(request, [CLAIMS, {"logits": np.stack([known] * 4)}], TIMES[:2])
    assert (result.status, result.score) == ("ok", pytest.approx(1.0))


def test_too_few_replies_break_the_wire() -> None:
    with pytest.raises(WireError):
        score_trial(REQUEST, [CLAIMS], [1.0])


def test_labels_and_seed_never_enter_the_sandbox() -> None:
    request = TrialRequest("sequence", "micro", "recall", seed=123456789)
    phases = trial_phases("x = 1", request)
    assert [phase.name for phase in phases] == ["train", "blind", "predict", "audit"]
    job = phases[0].send[0].payload
    assert b"123456789" not in job
    assert b"evaluation" not in job
    targets = _material(request).batch.targets
    for phase in phases:
        for frame in phase.send:
            assert targets.tobytes() not in frame.payload


def test_selection_and_claim_of_one_seed_share_nothing() -> None:
    claim = TrialRequest("sequence", "micro", "recall", seed=3, data="claim")
    for phase, other in zip(trial_phases("", REQUEST), trial_phases("", claim), strict=True):
        assert phase.send[0].payload != other.send[0].payload
    assert trial_phases("", REQUEST) == trial_phases("", REQUEST)
