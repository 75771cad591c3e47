"""A language model of web text, 20 M parameters: tier full only. Needs the extra `full`, a network, an accelerator.

The size is a proposal: a tied vocabulary of 8,192, width 384, 9 layers of 12 d² make 19 M; 400 M tokens are 20 for each
parameter (the compute-optimal ratio; source: Hoffmann et al. 2022, arXiv 2203.15556), in two passes over 200 M. Up to
four passes are about as good as new text (source: Muennighoff et al. 2023, arXiv 2305.16264). A small vocabulary,
because one of 50,000 would be half of such a model. Never run at this size; the path is tested on small local data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from evaluator.tasks import corpora
from evaluator.tasks.task import Batch, Plan, Size, Split, Task

if TYPE_CHECKING:
    from evaluator.tasks.hub_text import HubCorpus


@dataclass(frozen=True)
class TokenLanguageModel(Task):
    """Tokens of a byte-lossless tokenizer, so that bits per byte can be compared whatever the vocabulary."""

    name: ClassVar[str] = "token_lm"
    title: ClassVar[str] = "Language model of web text"
    description: ClassVar[str] = (
        "The next token of web text, everywhere. Measured in bits per byte on documents that were not trained on."
    )
    measure: ClassVar[Literal["accuracy", "bits_per_byte"]] = "bits_per_byte"
    corpus_name: ClassVar[str | None] = "a Hugging Face data set"
    earliest_cut: ClassVar[float] = 0.25
    order: ClassVar[int] = 9
    axes: ClassVar[Mapping[str, str]] = {
        "vocabulary": "tokens of the tokenizer: 257 to 65536",
        "length": "from 3",
        "dataset": "a data set of the hub with a column 'text', or a folder with one",
        "config": "its configuration on the hub",
        "tokenizer": "bpe (trained on the training split), a name on the hub, or a tokenizer.json",
        "megabytes": "text to read: 1 to 1000",
    }

    vocabulary: int = 8192
    length: int = 2048
    dataset: str = "HuggingFaceFW/fineweb-edu"
    config: str = "sample-10BT"
    tokenizer: str = "bpe"
    megabytes: int = 800

    def check(self) -> None:
        self.require("vocabulary", self.vocabulary > 256, self.axes["vocabulary"])
        self.require("megabytes", 1 <= self.megabytes <= 1000, self.axes["megabytes"])

    @property
    def chance(self) -> float:
        return 0.0

    @property
    def bytes_per_token(self) -> float:
        return self._corpus().bytes_per_token

    def corpus(self, split: Split) -> np.ndarray[Any, Any]:
        return self._corpus().tokens[split]

    def batch(self, rng: np.random.Generator, size: int, table: np.ndarray[Any, Any]) -> Batch:
        return corpora.window_batch(rng, size, self.length, table, task=self.name)

    def parameters(self) -> dict[str, Size]:
        return self.sizes() | {"corpus": self._corpus().digest}

    def _corpus(self) -> "HubCorpus":
        from evaluator.tasks import hub_text

        return hub_text.hub_corpus(self.dataset, self.config, self.tokenizer, self.vocabulary, self.megabytes)

    @classmethod
    def plans(cls) -> Mapping[str, Plan]:
        steps = 400_000_000 // (cls.length * 128)
        return {"full": Plan(cls(), steps=steps, batch=128, d_model=384, n_layers=9, evaluation_sequences=256)}
