# ruff: noqa: E501 - a pair on one line is easier to compare
"""Whole programs that differ in one thing: defaults, scopes, imports, annotations, docstrings, classes.

Each defines `probe(a, b, c)`, which shows the difference; `benchmarks.identity_pairs` runs it.
"""

from benchmarks.identity_differences import Differences

PROGRAMS: Differences = {
    "open strings": {
        "three quotes that do not end": (
            'x = """a"\ndef probe(a, b, c):\n    return x\n',
            'x = "" "a"\ndef probe(a, b, c):\n    return x\n',
        ),
        "blank line in a string": (
            'x = """a\n\nb"""\ndef probe(a, b, c):\n    return x\n',
            'x = """a\nb"""\ndef probe(a, b, c):\n    return x\n',
        ),
        "blank line with blanks in a string": (
            'x = """a\n\nb"""\ndef probe(a, b, c):\n    return x\n',
            'x = """a\n \nb"""\ndef probe(a, b, c):\n    return x\n',
        ),
        "code within a string": (
            'x = """\n\ny = 1\n\n"""\ndef probe(a, b, c):\n    return x\n',
            'x = """"""\n\ny = 1\n\n""""""\ndef probe(a, b, c):\n    return x\n',
        ),
        "continued into a blank line": (
            "def probe(a, b, c):\n    x = a\\\n\n    return [x]\n",
            "def probe(a, b, c):\n    x = a\\\n    return [x]\n",
        ),
        "statement behind a blank line": (
            "def probe(a, b, c):\n    for i in range(2):\n        b = i\n\n        return b\n",
            "def probe(a, b, c):\n    for i in range(2):\n        b = i\n\n    return b\n",
        ),
        "indented behind a blank line": (
            "def probe(a, b, c):\n    a = 1\n\n    return a\n",
            "def probe(a, b, c):\n    a = 1\n\n        return a\n",
        ),
    },
    "defaults": {
        "value": ("def probe(a, b, c, d=1):\n    return d\n", "def probe(a, b, c, d=2):\n    return d\n"),
        "type": ("def probe(a, b, c, d=1):\n    return d\n", "def probe(a, b, c, d=1.0):\n    return d\n"),
        "truth": ("def probe(a, b, c, d=1):\n    return d\n", "def probe(a, b, c, d=True):\n    return d\n"),
        "which": ("def probe(a, b, c=1, d=2):\n    return d\n", "def probe(a, b, c=2, d=1):\n    return d\n"),
        "shared": (
            "def add(x, into=[]):\n    into.append(x)\n    return list(into)\ndef probe(a, b, c):\n    return add(a)\n",
            "def add(x, into=None):\n    into = []\n    into.append(x)\n    return list(into)\n"
            "def probe(a, b, c):\n    return add(a)\n",
        ),
        "keyword only": (
            "def f(x, y=1):\n    return y\ndef probe(a, b, c):\n    return f(a, b)\n",
            "def f(x, *, y=1):\n    return y\ndef probe(a, b, c):\n    return f(a, b)\n",
        ),
        "star": (
            "def f(x, *y):\n    return y\ndef probe(a, b, c):\n    return f(a, b)\n",
            "def f(x, y):\n    return y\ndef probe(a, b, c):\n    return f(a, b)\n",
        ),
    },
    "scopes": {
        "global": (
            "x = 1\ndef set_x():\n    global x\n    x = 2\ndef probe(a, b, c):\n    set_x()\n    return x\n",
            "x = 1\ndef set_x():\n    x = 2\ndef probe(a, b, c):\n    set_x()\n    return x\n",
        ),
        "local of the same name": (
            "x = 1\ndef probe(a, b, c):\n    y = a\n    return x\n",
            "x = 1\ndef probe(a, b, c):\n    x = a\n    return x\n",
        ),
        "comprehension of the class": (
            "x = 1\nclass A:\n    x = 2\n    y = [x for _ in range(1)]\ndef probe(a, b, c):\n    return A.y\n",
            "x = 1\nclass A:\n    x = 2\n    y = [x]\ndef probe(a, b, c):\n    return A.y\n",
        ),
        "class variable is no closure": (
            "def probe(a, b, c):\n    x = a\n    class A:\n        x = b\n        def f(self):\n            return [x]\n"
            "    return A().f()\n",
            "def probe(a, b, c):\n    x = a\n    class A:\n        y = b\n        def f(self):\n            return [self.y]\n"
            "    return A().f()\n",
        ),
        "class body reads the global": (
            "x = 1\ndef probe(a, b, c):\n    x = a\n    class A:\n        x = x\n    return A.x\n",
            "x = 1\ndef probe(a, b, c):\n    y = a\n    class A:\n        x = y\n    return A.x\n",
        ),
        "nonlocal": (
            "def probe(a, b, c):\n    n = 0\n    def up():\n        nonlocal n\n        n = 1\n    up()\n    return n\n",
            "def probe(a, b, c):\n    n = 0\n    def up():\n        global n\n        n = 1\n    up()\n    return n\n",
        ),
        "attribute": (
            "class A:\n    pass\ndef probe(a, b, c):\n    o = A()\n    o.x = a\n    return sorted(o.__dict__)\n",
            "class A:\n    pass\ndef probe(a, b, c):\n    o = A()\n    o.y = a\n    return sorted(o.__dict__)\n",
        ),
        "method": (
            "class A:\n    def f(self):\n        return 1\ndef probe(a, b, c):\n    return getattr(A(), 'f')()\n",
            "class A:\n    def g(self):\n        return 1\ndef probe(a, b, c):\n    return getattr(A(), 'f')()\n",
        ),
        "class name": (
            "class A:\n    pass\ndef probe(a, b, c):\n    return type(A()).__name__\n",
            "class B:\n    pass\ndef probe(a, b, c):\n    return type(B()).__name__\n",
        ),
        "name of an inner function": (
            "def probe(a, b, c):\n    def f():\n        pass\n    return f.__name__\n",
            "def probe(a, b, c):\n    def g():\n        pass\n    return g.__name__\n",
        ),
        "parameter of a builder": (
            "def build_it(x, y):\n    return (x, y)\ndef probe(a, b, c):\n    return build_it(**{'x': a, 'y': b})\n",
            "def build_it(y, x):\n    return (y, x)\ndef probe(a, b, c):\n    return build_it(**{'x': a, 'y': b})\n",
        ),
        "keyword through partial": (
            "from functools import partial\ndef f(x=0, y=0):\n    return (x, y)\n"
            "def probe(a, b, c):\n    return partial(f, x=a)()\n",
            "from functools import partial\ndef f(y=0, x=0):\n    return (y, x)\n"
            "def probe(a, b, c):\n    return partial(f, x=a)()\n",
        ),
        "keyword in a text": (
            "def f(x=0, y=0):\n    return (x, y)\ndef call(g, k, v):\n    return g(**{k: v})\n"
            "def probe(a, b, c):\n    return call(f, 'x', a)\n",
            "def f(y=0, x=0):\n    return (y, x)\ndef call(g, k, v):\n    return g(**{k: v})\n"
            "def probe(a, b, c):\n    return call(f, 'x', a)\n",
        ),
        "keyword of a subclass": (
            "class A:\n    def __init_subclass__(cls, u=0, v=0):\n        cls.w = (u, v)\nclass B(A, u=5):\n    pass\n"
            "def probe(a, b, c):\n    return B.w\n",
            "class A:\n    def __init_subclass__(cls, v=0, u=0):\n        cls.w = (v, u)\nclass B(A, u=5):\n    pass\n"
            "def probe(a, b, c):\n    return B.w\n",
        ),
        "mangled by hand": (
            "_A__x = 7\nclass A:\n    def f(self):\n        _A__x = 1\n        return __x\n"
            "def probe(a, b, c):\n    return A().f()\n",
            "_A__x = 7\nclass A:\n    def f(self):\n        y = 1\n        return __x\n"
            "def probe(a, b, c):\n    return A().f()\n",
        ),
        "mangled": (
            "class A:\n    def f(self):\n        self.__x = 1\n        return sorted(self.__dict__)\n"
            "def probe(a, b, c):\n    return A().f()\n",
            "class A:\n    def f(self):\n        self._x = 1\n        return sorted(self.__dict__)\n"
            "def probe(a, b, c):\n    return A().f()\n",
        ),
    },
    "imports": {
        "what an alias means": (
            "from math import floor as f\ndef probe(a, b, c):\n    return f(2.5)\n",
            "from math import ceil as f\ndef probe(a, b, c):\n    return f(2.5)\n",
        ),
        "the last one counts": (
            "from math import sqrt\nfrom cmath import sqrt\ndef probe(a, b, c):\n    return sqrt(4)\n",
            "from cmath import sqrt\nfrom math import sqrt\ndef probe(a, b, c):\n    return sqrt(4)\n",
        ),
        "package or module": (
            "import collections.abc as m\ndef probe(a, b, c):\n    return m.__name__\n",
            "import collections as m\ndef probe(a, b, c):\n    return m.__name__\n",
        ),
        "dotted": (
            "import collections.abc\ndef probe(a, b, c):\n    return collections.__name__\n",
            "import collections.abc as collections\ndef probe(a, b, c):\n    return collections.__name__\n",
        ),
        "joined": (
            "import math\ndef probe(a, b, c):\n    return math.pi\n",
            "importmath = 1\ndef probe(a, b, c):\n    return math.pi\n",
        ),
        "swapped": (
            "from math import floor as f, ceil as g\ndef probe(a, b, c):\n    return f(2.5)\n",
            "from math import floor as g, ceil as f\ndef probe(a, b, c):\n    return f(2.5)\n",
        ),
        "past an assignment": (
            "import math\nmath = 5\ndef probe(a, b, c):\n    return math\n",
            "math = 5\nimport math\ndef probe(a, b, c):\n    return math.pi\n",
        ),
        "local": (
            "def probe(a, b, c):\n    import math as m\n    return m.__name__\n",
            "def probe(a, b, c):\n    import cmath as m\n    return m.__name__\n",
        ),
        "star": (
            "from math import *\nfrom cmath import *\ndef probe(a, b, c):\n    return sqrt(4)\n",
            "from cmath import *\nfrom math import *\ndef probe(a, b, c):\n    return sqrt(4)\n",
        ),
    },
    "annotations": {
        "order of a dataclass's fields": (
            "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n    y: int\n"
            "def probe(a, b, c):\n    return repr(A(a, b))\n",
            "from dataclasses import dataclass\n@dataclass\nclass A:\n    y: int\n    x: int\n"
            "def probe(a, b, c):\n    return repr(A(a, b))\n",
        ),
        "field or class variable": (
            "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n"
            "def probe(a, b, c):\n    return repr(A(5))\n",
            "from dataclasses import dataclass\n@dataclass\nclass A:\n    x = 1\n"
            "def probe(a, b, c):\n    return repr(A(5))\n",
        ),
        "class variable of a dataclass": (
            "from dataclasses import dataclass\nfrom typing import ClassVar\n@dataclass\nclass A:\n    x: ClassVar[int] = 1\n"
            "def probe(a, b, c):\n    return repr(A())\n",
            "from dataclasses import dataclass\nfrom typing import ClassVar\n@dataclass\nclass A:\n    x: int = 1\n"
            "def probe(a, b, c):\n    return repr(A())\n",
        ),
        "named tuple": (
            "from typing import NamedTuple\nclass A(NamedTuple):\n    x: int\n    y: int\n"
            "def probe(a, b, c):\n    return repr(A(a, b))\n",
            "from typing import NamedTuple\nclass A(NamedTuple):\n    y: int\n    x: int\n"
            "def probe(a, b, c):\n    return repr(A(a, b))\n",
        ),
        "number of fields": (
            "from typing import NamedTuple\nclass A(NamedTuple):\n    x: int\n    y: int = 0\n"
            "def probe(a, b, c):\n    return repr(A(a))\n",
            "from typing import NamedTuple\nclass A(NamedTuple):\n    x: int\n    y = 0\n"
            "def probe(a, b, c):\n    return repr(A(a))\n",
        ),
        "read by the program": (
            "def f(x: int):\n    return x\ndef probe(a, b, c):\n    return str(f.__annotations__)\n",
            "def f(x: float):\n    return x\ndef probe(a, b, c):\n    return str(f.__annotations__)\n",
        ),
        "dispatch on types": (
            "from functools import singledispatch\n@singledispatch\ndef f(x):\n    return 0\n@f.register\n"
            "def g(x: int):\n    return 1\ndef probe(a, b, c):\n    return f(a)\n",
            "from functools import singledispatch\n@singledispatch\ndef f(x):\n    return 0\n@f.register\n"
            "def g(x: list):\n    return 1\ndef probe(a, b, c):\n    return f(a)\n",
        ),
        "type that was not imported": (
            "def probe(a: Optional, b, c):\n    return a\n",
            "def probe(a, b, c):\n    return a\n",
        ),
        "type that is imported too late": (
            "def probe(a: Optional, b, c):\n    return a\nfrom typing import Optional\n",
            "def probe(a, b, c):\n    return a\nfrom typing import Optional\n",
        ),
        "type that does not exist": (
            "import typing\ndef probe(a: typing.Optionel[int], b, c):\n    return a\n",
            "import typing\ndef probe(a, b, c):\n    return a\n",
        ),
        "wrong number of arguments": (
            "from typing import Optional\ndef probe(a: Optional[int, str], b, c):\n    return a\n",
            "from typing import Optional\ndef probe(a, b, c):\n    return a\n",
        ),
        "text in a union": (
            "def probe(a: 'int' | None, b, c):\n    return a\n",
            "def probe(a: int | None, b, c):\n    return a\n",
        ),
        "annotation with an effect": (
            "seen = []\nx: seen.append(1) = 0\ndef probe(a, b, c):\n    return seen\n",
            "seen = []\nx = 0\ndef probe(a, b, c):\n    return seen\n",
        ),
        "annotation of a parameter with an effect": (
            "seen = []\ndef f(x: seen.append(1)):\n    return x\ndef probe(a, b, c):\n    return seen\n",
            "seen = []\ndef f(x):\n    return x\ndef probe(a, b, c):\n    return seen\n",
        ),
        "postponed": (
            "from __future__ import annotations\ndef probe(a: Missing, b, c):\n    return a\n",
            "def probe(a: Missing, b, c):\n    return a\n",
        ),
    },
    "docstrings": {
        "read by the program": (
            "def f():\n    'one'\ndef probe(a, b, c):\n    return f.__doc__\n",
            "def f():\n    'two'\ndef probe(a, b, c):\n    return f.__doc__\n",
        ),
        "read through a text": (
            "def f():\n    'one'\ndef probe(a, b, c):\n    return getattr(f, '__doc__')\n",
            "def f():\n    'two'\ndef probe(a, b, c):\n    return getattr(f, '__doc__')\n",
        ),
        "of the module": (
            "'one'\ndef probe(a, b, c):\n    return __doc__\n",
            "'two'\ndef probe(a, b, c):\n    return __doc__\n",
        ),
        "a value and no docstring": (
            "def f():\n    return 'one'\ndef probe(a, b, c):\n    return f()\n",
            "def f():\n    'one'\ndef probe(a, b, c):\n    return f()\n",
        ),
    },
    "classes": {
        "static or class method": (
            "class A:\n    @staticmethod\n    def f(x=0):\n        return x\ndef probe(a, b, c):\n    return A.f() == 0\n",
            "class A:\n    @classmethod\n    def f(x=0):\n        return x\ndef probe(a, b, c):\n    return A.f() == 0\n",
        ),
        "property": (
            "class A:\n    @property\n    def f(self):\n        return 1\ndef probe(a, b, c):\n    return A().f == 1\n",
            "class A:\n    def f(self):\n        return 1\ndef probe(a, b, c):\n    return A().f == 1\n",
        ),
        "order of bases": (
            "class A:\n    x = 1\nclass B:\n    x = 2\nclass C(A, B):\n    pass\ndef probe(a, b, c):\n    return C.x\n",
            "class A:\n    x = 1\nclass B:\n    x = 2\nclass C(B, A):\n    pass\ndef probe(a, b, c):\n    return C.x\n",
        ),
        "order of methods": (
            "class A:\n    def f(self):\n        return 1\n    def f(self):\n        return 2\n"
            "def probe(a, b, c):\n    return A().f()\n",
            "class A:\n    def f(self):\n        return 2\n    def f(self):\n        return 1\n"
            "def probe(a, b, c):\n    return A().f()\n",
        ),
        "order of decorators": (
            "def u(f):\n    return lambda *x: (1, f(*x))\ndef v(f):\n    return lambda *x: (2, f(*x))\n"
            "@u\n@v\ndef probe(a, b, c):\n    return a\n",
            "def u(f):\n    return lambda *x: (1, f(*x))\ndef v(f):\n    return lambda *x: (2, f(*x))\n"
            "@v\n@u\ndef probe(a, b, c):\n    return a\n",
        ),
        "super": (
            "class A:\n    def f(self):\n        return 1\nclass B(A):\n    def f(self):\n        return super().f()\n"
            "def probe(a, b, c):\n    return B().f()\n",
            "class A:\n    def f(self):\n        return 1\nclass B(A):\n    def f(self):\n        return 2\n"
            "def probe(a, b, c):\n    return B().f()\n",
        ),
        "shared layer or two": (
            "class L:\n    pass\ndef probe(a, b, c):\n    x = L()\n    y = x\n    return x is y\n",
            "class L:\n    pass\ndef probe(a, b, c):\n    x = L()\n    y = L()\n    return x is y\n",
        ),
        "number of layers": (
            "class L:\n    pass\ndef probe(a, b, c):\n    return len([L() for _ in range(2)])\n",
            "class L:\n    pass\ndef probe(a, b, c):\n    return len([L() for _ in range(3)])\n",
        ),
    },
}  # fmt: skip
