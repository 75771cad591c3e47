"""Reference architecture programs of the sequence track: data for `evaluator.catalogue`, one program per file.

Each is self-contained, as the contract of a program asks, and is never imported by our own code: it is read as text.
A class or function that several files need is repeated in them, word for word.
"""
