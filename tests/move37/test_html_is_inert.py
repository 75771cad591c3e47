"""Text that a model or a program wrote stays text in the lineage page."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from move37.report.html import _embedded, _template

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>&\u2028"


@given(st.text())
def test_embedded_data_cannot_leave_their_block_and_come_back_whole(text: str) -> None:
    written = str(_embedded({"program": text + HOSTILE}))
    assert not set("<>&") & set(written)
    assert json.loads(written) == {"program": text + HOSTILE}


def test_names_and_notices_are_escaped() -> None:
    page = _template().render(
        campaign=HOSTILE,
        objective_hash="0" * 64,
        notices=[HOSTILE],
        stopped_because=HOSTILE,
        best=HOSTILE,
        completed=1,
        total=1,
        data=_embedded({"best": None, "nodes": []}),
    )
    assert "<img" not in page
    assert len(re.findall("<script", page)) == 2
