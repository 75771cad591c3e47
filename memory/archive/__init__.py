"""Archives: a campaign as one file, and back into another store, nothing lost (the format: docs/export.md).

`writing` exports and `reading` imports; `membership` says which rows belong to a campaign, `encoding` what a row looks
like, `container` and `manifest` what the file looks like; `inserting` puts rows into a store, for `reading` and for
lineages that others published (`listing`, memory/asi_arch.py).
"""
