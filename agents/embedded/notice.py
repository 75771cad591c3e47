"""What the embedded models are called, and what must be said of each wherever it answers."""

from collections.abc import Mapping

EMBEDDED_MODEL = "move37-grammar"
RANDOM_MODEL = "move37-random"
EMBEDDED_NOTICE = (
    "The embedded model is a seeded grammar that composes known mixers; it is a baseline searcher and "
    "not a language model."
)
RANDOM_NOTICE = (
    "The random control draws designs from the embedded grammar, blind to every measurement; it is what a search has "
    "to beat, and not a language model."
)
NOTICES: Mapping[str, str] = {EMBEDDED_MODEL: EMBEDDED_NOTICE, RANDOM_MODEL: RANDOM_NOTICE}
# What the memory calls the arm of a campaign that such a model proposes in.
ARMS: Mapping[str, str] = {EMBEDDED_MODEL: "grammar", RANDOM_MODEL: "random"}
