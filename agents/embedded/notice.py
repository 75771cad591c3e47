"""What the embedded model is called, and what must be said of it wherever it answers."""

EMBEDDED_MODEL = "move37-grammar"
EMBEDDED_NOTICE = (
    "The embedded model is a seeded grammar that composes known mixers; it is a baseline searcher and "
    "not a language model."
)
