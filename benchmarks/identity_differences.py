# ruff: noqa: E501 - a pair on one line is easier to compare
"""The differences that `benchmarks.identity_pairs` sets into programs: expressions and bodies of a function.

Expressions and bodies see a, b, c and what the preamble defines (names such as `nota`, that appear when blanks go).
A line of a body that begins with `|` continues a string and is not indented.
"""

Differences = dict[str, dict[str, tuple[str, str]]]

EXPRESSIONS: dict[str, list[tuple[str, str]]] = {
    "joined words": [
        ("not a", "nota"), ("a in b", "ainb"), ("a or b", "aorb"), ("a and b", "aandb"), ("a is b", "aisb"),
        ("a not in b", "anotinb"), ("a if b else c", "aifbelsec"), ("(a, not b)", "(a, notb)"),
    ],
    "split operators": [
        ("a <= b", "a < = b"), ("a ** b", "a * * b"), ("a // b", "a / / b"), ("a == b", "a = = b"),
        ("a != b", "a ! = b"), ("a >> b", "a > > b"), ("a << b", "a < < b"), ("(a := b)", "(a : = b)"),
        ("10", "1 0"), ("1.5", "1 .5"), ("0x1F", "0x1 F"), ("1e5", "1 e5"), ("first(*[a])", "first(* *[a])"),
    ],
    "strings": [
        ("'a b'", "'ab'"), ("'a  b'", "'a b'"), ("' a'", "'a'"), ("'a '", "'a'"),
        ("'a\tb'", "'a b'"), ("'# a'", "'#a'"), ("'a # b'", "'a #b'"), ("r'\\n'", "'\\n'"), ("b'a'", "'a'"),
        ("'a b' 'c'", "'a' 'b c'"), ("'a b' 'c'", "'a b', 'c'"), ("'not a'", "'nota'"), ("'A'", "'a'"),
        ("'\\x41'", "'\\x42'"), ("'é'", "'e\u0301'"), ("'''a\n|b'''", "'''a\n| b'''"), ("'''a\n|\n|b'''", "'''a\n|b'''"),
        ("'a\\\n|b'", "'a\\\n| b'"), ('"""a \n|b"""', '"""a\n|b"""'), ("'%d %s' % (1, 2)", "'%d%s' % (1, 2)"),
        ("'a' * 3", "'a ' * 3"), ("'    '", "'  '"), ("'\\ta'", "'    a'"), ("'(a )'", "'(a)'"),
        ("'''# a\n|'''", "'''#a\n|'''"), ("'\"'", '"\'"'), ("'\\\\'", "'\\\\\\\\'"),
    ],
    "f-strings": [
        ("f'{a} {b}'", "f'{a}{b}'"), ("f'{a:>5}'", "f'{a: >6}'"), ("f'{a=}'", "f'{a = }'"), ("f'{a=}'", "f'{a}'"),
        ("f'{a!r}x'", "f'{str(a)!r}x'"), ("f'{a}'", "'{a}'"), ("f'{{a}}'", "f'{a}'"), ("f'{a:{b}}'", "f'{b:{a}}'"),
        ("f'{a} # {b}'", "f'{a} #{b}'"), ("f'{a}' 'b c'", "f'{a}' 'bc'"), ("f'{a - b}'", "f'{b - a}'"),
        ("f'{not a}'", "f'{nota}'"), ("f'{ {a: 1}}' if c else 0", "f'{{a: 1}}' if c else 0"),
    ],
    "numbers": [
        ("1", "1.0"), ("1", "True"), ("0.0", "-0.0"), ("0", "False"), ("1e3", "1000"), ("0x10", "10"), ("0o10", "10"),
        ("0b11", "11"), ("1j", "1"), ("1e-3", "1e-4"), ("1e16", "1e16 + 2"), ("9007199254740993", "9007199254740993.0"),
        ("0.1 + 0.2", "0.3"), ("1_0", "1_00"), (".5", "5."), ("1.5", "15"), ("1e5", "1e-5"), ("2", "3"),
    ],
    "operators": [
        ("a + b", "a - b"), ("a * b", "a ** b"), ("a / b", "a // b"), ("a % b", "a * b"), ("a < b", "a <= b"),
        ("a == b", "a != b"), ("a and b", "a or b"), ("a is b", "a is not b"), ("-a", "~a"), ("+a", "-a"),
        ("a & b", "a | b"), ("a ^ b", "a & b"), ("1 << a", "1 >> a"), ("a in [b]", "a not in [b]"), ("a > b", "a < b"),
        ("not not a", "not a"), ("- -a", "-a"),
    ],
    "brackets": [
        ("(a)", "(a,)"), ("[a]", "[[a]]"), ("(a, b)", "[a, b]"), ("{1: a}", "{1, str(a)}"), ("a - (b - c)", "a - b - c"),
        ("(-2) ** 2", "-2 ** 2"), ("(not a) == b", "not a == b"), ("(a < b) < c", "a < b < c"),
        ("(a + b) * c", "a + b * c"), ("[a][0:]", "[a][:0]"), ("[a, b, c][::2]", "[a, b, c][:2]"),
        ("(a if b else c) + c", "a if b else c + c"), ("list(x for x in [a])", "[[x] for x in [a]]"),
        ("first((a, b))", "first(a, b)"), ("(lambda: a)() or c", "(lambda: a or c)() and b"),
    ],
    "swapped": [
        ("a - b", "b - a"), ("pair(a, b)", "pair(b, a)"), ("pair(x=a, y=b)", "pair(y=a, x=b)"), ("pair(a)", "pair(y=a)"),
        ("a if b else c", "b if a else c"), ("[a, b, c][1:2]", "[a, b, c][2:1]"), ("{'x': a, 'y': b}", "{'y': b, 'x': a}"),
        ("(lambda x, y: x - y)(a, b)", "(lambda x, y: y - x)(a, b)"),
        ("(lambda x, y: x - y)(a, b)", "(lambda y, x: x - y)(a, b)"),
        ("[x - y for x in [1, 2] for y in [5, 7]]", "[x - y for y in [5, 7] for x in [1, 2]]"),
        ("[(x, y) for x, y in [(a, b)]]", "[(y, x) for x, y in [(a, b)]]"),
        ("[[x for x in [a, y]] for y in [b]]", "[[y for x in [a, y]] for y in [b]]"),
        ("sorted([a, b], key=lambda x: x)", "sorted([a, b], key=lambda x: -x)"),
        ("(lambda x=a: x)(b)", "(lambda x=a: a)(b)"), ("[a for a in [b]]", "[a for b in [b]]"),
        ("{x: y for x, y in [(1, 2)]}", "{y: x for x, y in [(1, 2)]}"),
    ],
}  # fmt: skip

BODIES: Differences = {
    "indentation": {
        "return inside the loop": (
            "t = 0\nfor i in range(3):\n    t += i\nreturn t",
            "t = 0\nfor i in range(3):\n    t += i\n    return t",
        ),
        "statement after if": ("t = 0\nif c:\n    t = 1\n    t += 5\nreturn t", "t = 0\nif c:\n    t = 1\nt += 5\nreturn t"),
        "else of for or of if": (
            "t = 0\nfor i in range(4):\n    if i == 2:\n        t += 1\n    else:\n        t += 10\nreturn t",
            "t = 0\nfor i in range(4):\n    if i == 2:\n        t += 1\nelse:\n    t += 10\nreturn t",
        ),
        "inner or outer loop": (
            "t = 0\nfor i in range(3):\n    for j in range(2):\n        t += 1\n        t += 5\nreturn t",
            "t = 0\nfor i in range(3):\n    for j in range(2):\n        t += 1\n    t += 5\nreturn t",
        ),
        "two levels at once": (
            "t = 0\nfor i in range(3):\n    if i:\n        t += 1\n        t += 7\nreturn t",
            "t = 0\nfor i in range(3):\n    if i:\n        t += 1\nt += 7\nreturn t",
        ),
        "break": (
            "t = 0\nfor i in range(5):\n    t += i\n    if i == 3:\n        t += 100\n        break\nreturn t",
            "t = 0\nfor i in range(5):\n    t += i\n    if i == 3:\n        t += 100\n    break\nreturn t",
        ),
        "continue": (
            "t = 0\nfor i in range(5):\n    if i == 1:\n        t += 2\n        continue\n    t += 1\nreturn t",
            "t = 0\nfor i in range(5):\n    if i == 1:\n        t += 2\n    continue\n    t += 1\nreturn t",
        ),
        "append": (
            "out = []\nfor i in range(3):\n    x = i\n    out.append(x)\nreturn out",
            "out = []\nfor i in range(3):\n    x = i\nout.append(x)\nreturn out",
        ),
        "finally": (
            "t = []\ntry:\n    t.append(1)\n    a / 0\nfinally:\n    t.append(2)\n    return t",
            "t = []\ntry:\n    t.append(1)\n    a / 0\nfinally:\n    t.append(2)\nreturn t",
        ),
        "inner function": (
            "def inner(x):\n    y = x\n    return y\nreturn str(inner(a))",
            "def inner(x):\n    y = x\nreturn y\nreturn str(inner(a))",
        ),
        "while": (
            "i = 0\nt = 0\nwhile i < 3:\n    i += 1\n    t += 2\nreturn t",
            "i = 0\nt = 0\nwhile i < 3:\n    i += 1\nt += 2\nreturn t",
        ),
        "else of the outer if": (
            "if a:\n    if c:\n        return 1\n    else:\n        return 2\nreturn 3",
            "if a:\n    if c:\n        return 1\nelse:\n    return 2\nreturn 3",
        ),
        "with": (
            "import contextlib\nt = 0\nwith contextlib.suppress(ZeroDivisionError):\n    t = 1 / 0\n    t = 5\nreturn t",
            "import contextlib\nt = 0\nwith contextlib.suppress(ZeroDivisionError):\n    t = 1 / 0\nt = 5\nreturn t",
        ),
        "except": (
            "t = 0\ntry:\n    t = 1 / 0\nexcept ZeroDivisionError:\n    t = 1\n    t += 1\nreturn t",
            "t = 0\ntry:\n    t = 1\nexcept ZeroDivisionError:\n    t = 1\nt += 1 / 0\nreturn t",
        ),
        "unindented line": ("t = 1\nif a:\n    t = 2\nreturn t", "t = 1\nif a:\nt = 2\nreturn t"),
        "dedent to nowhere": ("if a:\n    t = 1\n    t = 2\nreturn 0", "if a:\n    t = 1\n  t = 2\nreturn 0"),
        "unexpected indent": ("t = 1\nt = 2\nreturn t", "t = 1\n  t = 2\nreturn t"),
        "tabs that Python refuses": (
            "if a:\n            t = 1\n            t = 2\nreturn t",
            "if a:\n            t = 1\n    \tt = 2\nreturn t",
        ),
    },
    "lines": {
        "minus on a new line": ("x = a\n-b\nreturn x", "x = a - b\nreturn x"),
        "call on a new line": ("x = str\n(a)\nreturn x is str", "x = str(a)\nreturn x is str"),
        "index on a new line": ("x = [a, b]\n[0]\nreturn x", "x = [a, b][0]\nreturn x"),
        "return on its own": ("return\na", "return a"),
        "plus on a new line": ("x = c\n+b\nreturn x", "x = c + b\nreturn x"),
        "string on a new line": ("x = 'a'\n'b'\nreturn x", "x = 'a' 'b'\nreturn x"),
        "continued line": ("x = a\\\n- b\nreturn x", "x = a\n- b\nreturn x"),
        "semicolon": ("t = 0\nif c: t = 1; t += 1\nreturn t", "t = 0\nif c: t = 1;\nt += 1\nreturn t"),
    },
    "comments": {
        "comment takes the next line": ("x = a #\nx = b\nreturn x", "x = a # x = b\nreturn x"),
        "comment takes the return": ("x = a\n# note\nreturn x", "x = a\n# note return x"),
        "comment takes an operand": ("x = (a # one\n- b)\nreturn x", "x = (a # one - b\n)\nreturn x"),
        "comment takes an argument": ("return first([a, #\nb])", "return first([a, # b\n])"),
        "comment sign in a string": ("x = 'a' #'\nreturn x", "x = 'a #'\nreturn x"),
        "comment that ends in a backslash": ("x = a # \\\nx = b\nreturn x", "x = a # \\ x = b\nreturn x"),
        "commented statement": ("t = 1\nt += 1\nreturn t", "t = 1\n#t += 1\nreturn t"),
        "comment in a long string": ("x = '''\n|# a b\n|'''\nreturn x", "x = '''\n|# ab\n|'''\nreturn x"),
    },
    "order": {
        "statements": ("x = a\nx = b\nreturn x", "x = b\nx = a\nreturn x"),
        "update and use": ("x = [1]\ny = list(x)\nx.append(2)\nreturn y", "x = [1]\nx.append(2)\ny = list(x)\nreturn y"),
        "elif": (
            "if a:\n    return 1\nelif b:\n    return 2\nreturn 3",
            "if b:\n    return 2\nelif a:\n    return 1\nreturn 3",
        ),
        "except clauses": (
            "try:\n    return a / 0\nexcept TypeError:\n    return 1\nexcept Exception:\n    return 2",
            "try:\n    return a / 0\nexcept Exception:\n    return 2\nexcept TypeError:\n    return 1",
        ),
        "unpacked": ("x, y = a, b\nreturn (x, y)", "y, x = a, b\nreturn (x, y)"),
        "locals": ("x = a\ny = b\nreturn (x, y)", "x = a\ny = b\nreturn (y, x)"),
        "renamed and swapped": ("u = a\nv = b\nreturn [u, v]", "x = a\ny = b\nreturn [y, x]"),
        "loop variables": (
            "return [i * 10 + j for i in range(2) for j in range(3)]",
            "return [j * 10 + i for i in range(2) for j in range(3)]",
        ),
        "inner function's variables": (
            "def inner(x, y):\n    return (x, y)\nreturn inner(a, b)",
            "def inner(x, y):\n    return (y, x)\nreturn inner(a, b)",
        ),
        "captured variable": (
            "x = a\ny = b\ndef inner():\n    return x\nreturn [inner(), y]",
            "x = a\ny = b\ndef inner():\n    return y\nreturn [inner(), y]",
        ),
        "shadowed in the comprehension": ("x = a\ny = [x for x in [b]]\nreturn x", "x = a\ny = [z for z in [b]]\nreturn y"),
        "shadowed by the parameter": (
            "x = a\ndef inner(x):\n    return x\nreturn [inner(b)]",
            "x = a\ndef inner(y):\n    return x\nreturn [inner(b)]",
        ),
        "shadowed by an assignment": (
            "x = a\ndef inner():\n    x = b\n    return x\ninner()\nreturn [x]",
            "x = a\ndef inner():\n    nonlocal x\n    x = b\n    return x\ninner()\nreturn [x]",
        ),
        "bare annotation makes it local": (
            "x = a\ndef inner():\n    x: int\n    return x\nreturn inner()",
            "x = a\ndef inner():\n    return x\nreturn inner()",
        ),
        "bare annotation in brackets does not": (
            "x = a\ndef inner():\n    (x): int\n    return [x]\nreturn inner()",
            "x = a\ndef inner():\n    x: int\n    return [x]\nreturn inner()",
        ),
        "walrus leaves the comprehension": (
            "x = a\n[x := y for y in [1]]\nreturn x",
            "x = a\n[x for x in [1]]\nreturn x",
        ),
        "late binding": (
            "fs = [lambda: i for i in range(3)]\nreturn [f() for f in fs]",
            "fs = [lambda i=i: i for i in range(3)]\nreturn [f() for f in fs]",
        ),
        "deleted": ("x = a\ndel x\nreturn 'x' in {}", "x = a\ndel y\nreturn 'x' in {}"),
        "name of the exception": (
            "x = a\ntry:\n    1 / 0\nexcept ZeroDivisionError as x:\n    pass\nreturn x",
            "x = a\ntry:\n    1 / 0\nexcept ZeroDivisionError as y:\n    pass\nreturn x",
        ),
        "sees its own names": ("x = a\nreturn sorted(locals())", "y = a\nreturn sorted(locals())"),
        "evaluates a name": ("x = a\nreturn eval('x')", "y = a\nreturn eval('x')"),
        "keyword of an inner function": (
            "def inner(x, y):\n    return (x, y)\nreturn inner(x=a, y=b)",
            "def inner(y, x):\n    return (x, y)\nreturn inner(x=a, y=b)[::-1]",
        ),
        "keywords in a mapping": (
            "def inner(x=0, y=0):\n    return (x, y)\nreturn inner(**{'x': a})",
            "def inner(y=0, x=0):\n    return (y, x)\nreturn inner(**{'x': a})",
        ),
    },
    "statements": {
        "return or yield": ("return a", "yield a"),
        "and-assignment": ("t = [a]\nt += [b]\nreturn t", "t = [a]\nt = [b]\nreturn t"),
        "augmented operator": ("t = 2\nt *= 3\nreturn t", "t = 2\nt **= 3\nreturn t"),
        "unary or augmented": ("t = 2\nt =- 3\nreturn t", "t = 2\nt -= 3\nreturn t"),
        "break or continue": (
            "t = 0\nfor i in range(4):\n    if i == 1:\n        break\n    t += i\nreturn t",
            "t = 0\nfor i in range(4):\n    if i == 1:\n        continue\n    t += i\nreturn t",
        ),
        "pass or continue": (
            "t = 0\nfor i in range(4):\n    if i == 1:\n        pass\n    t += i\nreturn t",
            "t = 0\nfor i in range(4):\n    if i == 1:\n        continue\n    t += i\nreturn t",
        ),
        "kind of exception": (
            "try:\n    return a / 0\nexcept ZeroDivisionError:\n    return 9",
            "try:\n    return a / 0\nexcept TypeError:\n    return 9",
        ),
        "assertion": ("assert a\nreturn c", "asserta\nreturn c"),
        "assert a tuple": ("assert a, 'x'\nreturn c", "assert (a, 'x')\nreturn c"),
        "raise": ("if a == 3:\n    raise ValueError\nreturn c", "if a == 3:\n    raise KeyError\nreturn c"),
        "del": ("x = [a, b]\ndel x[0]\nreturn x", "x = [a, b]\ndel x[1]\nreturn x"),
        "one target or two": ("x = y = [a]\ny.append(1)\nreturn x", "x = [a]\ny = [a]\ny.append(1)\nreturn x"),
        "while else": (
            "i = 0\nwhile i < 2:\n    i += 1\nelse:\n    i = 9\nreturn i",
            "i = 0\nwhile i < 2:\n    i += 1\n    if i == 2:\n        break\nelse:\n    i = 9\nreturn i",
        ),
        "joined return": ("if c:\n    return a\nreturn c", "if c:\n    returna\nreturn c"),
        "print": ("print(a)\nreturn c", "print(b)\nreturn c"),
        "match": (
            "match a:\n    case 3:\n        return 1\n    case _:\n        return 2",
            "match a:\n    case 7:\n        return 1\n    case _:\n        return 2",
        ),
        "match captures": (
            "match (a, b):\n    case (x, y):\n        return [x, y]",
            "match (a, b):\n    case (y, x):\n        return [x, y]",
        ),
        "match same value": (
            "match (a, b):\n    case (x, [*y]):\n        return [x, y]\nreturn 0",
            "match (a, b):\n    case ([*y], x):\n        return [x, y]\nreturn 0",
        ),
    },
}  # fmt: skip
