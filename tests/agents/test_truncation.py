"""Prompts that a server cut are told from its own count, and nothing else is taken for one.

The counts below are those of real tokenizers (cl100k, o200k, Llama 3, Qwen 3, DeepSeek) for these very texts, repeated
`TIMES` times; the smallest of the five is given.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.contexts import Message
from agents.truncation import FACTOR, MARGIN_TOKENS, TruncationWatch, least_tokens, prompt_least_tokens, tokens_read
from memory.tokens import estimate

ROOT = Path(__file__).resolve().parents[2]
COUNTED = {
    "Chinese": (
        "神经网络的结构决定了它能够表达的函数，注意力机制使模型能够在序列中任意两个位置之间传递信息，但其计算量随长度的平方增长。",
        1800,
    ),
    "Japanese": ("言語の理解や推論、問題解決などの知的行動を人間に代わってコンピュータに行わせる技術。", 1680),
    "Korean": ("인공지능은 인간의 학습능력, 추론능력, 지각능력을 인공적으로 구현하려는 컴퓨터 과학의 분야이다.", 2040),
    "Russian": ("Искусственный интеллект — свойство систем выполнять творческие функции человека.", 841),
    "Thai": ("ปัญญาประดิษฐ์ หมายถึงความฉลาดเทียมที่สร้างขึ้นให้กับสิ่งที่ไม่มีชีวิต", 1440),
    "Hindi": ("कृत्रिम बुद्धिमत्ता मशीनों द्वारा प्रदर्शित बुद्धि है।", 1020),
    "prose": ("A mixer maps a sequence of vectors to another one, and must not look ahead of its position.", 1141),
    "code": ("    def forward(self, x):\n        return self.out(torch.einsum('bld,de->ble', x, self.w))\n", 1620),
    "table": ("| task | score |\n|---|---|\n| recall | 0.523 |\n| mqar | 0.714 |\n", 1500),
    "rule": ("-" * 200 + "\n" + "=" * 200 + "\n", 480),
}
TIMES = 60


@pytest.mark.parametrize("kind", COUNTED)
def test_no_false_alarm_on_text_that_was_read_whole(kind: str) -> None:
    text, count = COUNTED[kind]
    least = least_tokens(text * TIMES)
    assert TruncationWatch().suspicion(least, count) == ""
    assert count > 0.85 * least  # not by a hair's breadth


@pytest.mark.parametrize("kind", [kind for kind in COUNTED if COUNTED[kind][1] > 1000])
def test_a_prompt_of_which_half_was_read_is_an_alarm(kind: str) -> None:
    """As a tokenizer that counts no more than `least_tokens` would have counted the half."""
    least = least_tokens(COUNTED[kind][0] * TIMES * 2)
    assert "read" in TruncationWatch().suspicion(least, least // 2)


def test_programs_and_documents_of_this_repository_are_no_alarm_at_a_tokenizer_s_lowest_ratio() -> None:
    """0.83 tokens per piece was the lowest of 150 files of Python."""
    for path in [*ROOT.glob("evaluator/references/*.py"), *ROOT.glob("docs/*.md")]:
        least = least_tokens(path.read_text(encoding="utf-8"))
        assert TruncationWatch().suspicion(least, int(0.83 * least)) == "", path


def test_short_prompts_are_left_alone() -> None:
    """The margin: what a server may count differently."""
    assert TruncationWatch().suspicion(MARGIN_TOKENS, 1) == ""
    assert TruncationWatch().suspicion(1000, int(FACTOR * 1000)) == ""
    assert TruncationWatch().suspicion(1000, int(FACTOR * 1000) - 1) != ""


def test_a_prompt_cut_by_less_is_told_from_the_third_with_one_count() -> None:
    """Ollama's window of 4,096 and prompts of 4,600 to 5,500."""
    watch = TruncationWatch()
    assert watch.suspicion(900, 950) == ""
    assert [bool(watch.suspicion(least, 4096)) for least in (4600, 5500, 4700, 5200)] == [False, False, True, True]


def test_one_count_for_prompts_of_one_size_is_a_coincidence_or_a_repetition() -> None:
    watch = TruncationWatch()
    assert not any(watch.suspicion(least, 4000) for least in (4000, 4000, 4100, 4050, 3900))


def test_one_count_is_no_window_where_the_model_has_read_more() -> None:
    watch = TruncationWatch()
    assert watch.suspicion(9000, 9500) == ""
    assert not any(watch.suspicion(least, 4096) for least in (4100, 4900, 4300, 4800))


def test_cached_tokens_count_wherever_a_server_puts_them() -> None:
    assert tokens_read({"prompt_tokens": 100}) == 100
    assert tokens_read({"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 900}}) == 1000
    assert tokens_read({"prompt_tokens": 100, "cache_read_input_tokens": 800, "cache_creation_input_tokens": 5}) == 905
    assert tokens_read({"prompt_tokens": 0, "prompt_tokens_details": None}) == 0
    assert tokens_read({"prompt_tokens": True}) == 0


def test_the_whole_prompt_is_counted_and_not_above_the_estimate_by_much() -> None:
    messages = [Message("system", "one two three"), Message("user", "four five")]
    assert prompt_least_tokens(messages) == 5
    for path in ROOT.glob("evaluator/references/*.py"):
        text = path.read_text(encoding="utf-8")
        assert least_tokens(text) <= 1.05 * estimate(text)
