"""The program of a TorchScript archive: a list of calls of known operators, each on what came before.

That is all that a traced and frozen network is: one class without attributes, one method, no branch and no loop.
Tokens are taken so strictly that torch's parser can't read them otherwise.
"""

import re
from importlib.resources import files

OPERATORS = frozenset(
    line
    for line in (files("hct_lightning.deploy.checked") / "operators.txt").read_text().splitlines()
    if not line.startswith("#")
)
_HEAD = re.compile(
    r"class (\w+)\(Module\):\n"
    r"  __parameters__ = \[\]\n"
    r"  __buffers__ = \[\]\n"
    r"  def forward\(self: ([\w.]+),\n"
    r"    (\w+): Tensor\) -> Tensor:\n",
    re.ASCII,
)
_LINE = re.compile(r"    (?:return |((?:\w+, )*\w+),? = )(.+)", re.ASCII)
_TOKEN = re.compile(
    r"""(?P<word>[A-Za-z_]\w*(?:\.\w+)*)
    | (?P<number>-?\d+(?:\.\d*)?(?:e[+-]?\d+)?(?![\w.])|-inf\b)
    | (?P<text>"[\w ,>.-]*")
    | (?P<sign>[()\[\],=])
    | (?P<space>[ ])""",
    re.ASCII | re.VERBOSE,
)
_CONSTANT = re.compile(r"CONSTANTS\.c\d{1,9}", re.ASCII)
_VALUES = frozenset(("None", "True", "False", "inf", "nan"))
_RESERVED = frozenset(("torch", "ops", "CONSTANTS", "self", "__torch__", *_VALUES, *OPERATORS))
# What may stand after what: nothing that is computed is called, or indexed, or has attributes.
_FOLLOWS = {
    "operator": "(",
    "value": ")],",
    "key": "=",
    "=": "value operator [",
    "(": "value key operator ( [ ) ]",
    "[": "value key operator ( [ ) ]",
    ",": "value key operator ( [ ) ]",
    ")": ")],",
    "]": ")],",
}
# torch takes a call in a call for each bracket, and of several operators in a row; and lists the longer the slower.
_NESTED, _OPERATORS, _TOKENS = 50, 4000, 2000  # brackets, operators of a program, tokens of a line
# torch reads keys behind their end where there are more values. Where all three are told to fit, it says what does not.
_ATTENTION = "torch.scaled_dot_product_attention"
_OF_VALUES = re.compile(rf"\b{re.escape(_ATTENTION)}\((\w+), (\w+), (\w+)(?:, (\w+|CONSTANTS\.c\d+))?\)", re.ASCII)


def checked(source: str, module: str) -> tuple[str, str]:
    """The qualified name of the program's class, and the program as it may run.

    Args:
        source: of the program.
        module: where it lies, such as `__torch__.m`.

    Raises:
        ValueError: naming what stands in it that is not known.
    """
    head = _HEAD.match(source)
    if not head or head[2] != f"{module}.{head[1]}":
        raise ValueError("its program is no network that was traced and frozen")
    known = {_target(head[3])}
    for line in source[head.end() :].removesuffix("\n").split("\n"):
        parts = _LINE.fullmatch(line)
        if not parts:
            raise ValueError(f"its program has a line that is no call: {line.strip()!a:.100}")
        _check_expression(parts[2], known)
        known.update(map(_target, parts[1].split(", ") if parts[1] else ()))
    if source.count("(") > _OPERATORS:
        raise ValueError(f"its program has more than {_OPERATORS} operators")
    fitted, count = _OF_VALUES.subn(_fitted, source)
    if count != source.count(_ATTENTION):
        raise ValueError(f"its program names {_ATTENTION} of other values than known networks do")
    return head[2], fitted


def _fitted(attention: re.Match[str]) -> str:
    """The call with parts that are told the others' sizes; what has them already stays as it is."""
    q, k, v, mask = attention.groups()
    start = f"[torch.size({q}, 0), torch.size({q}, 1), "
    bias = f", torch.expand({mask}, {start}torch.size({q}, 2), torch.size({k}, 2)])" if mask else ""
    return (
        f"{_ATTENTION}({q}, torch.expand({k}, {start}-1, -1]), torch.expand({v}, {start}torch.size({k}, 2), -1]){bias})"
    )


def _target(name: str) -> str:
    if name in _RESERVED:
        raise ValueError(f"its program gives {name} another meaning")
    return name


def _check_expression(text: str, known: set[str]) -> None:
    at, depth, before, tokens = 0, 0, "=", 0
    while at < len(text):
        tokens += 1
        if tokens > _TOKENS:
            raise ValueError(f"its program has a line of more than {_TOKENS} words")
        token = _TOKEN.match(text, at)
        if not token:
            raise ValueError(f"its program has {text[at:]!a:.100}, which no network needs")
        at, word = token.end(), token[0]
        if token["space"]:
            continue
        kind = _kind(token, text[at : at + 1], known)
        depth += (word in "([") - (word in ")]")
        if kind not in _FOLLOWS[before] or not 0 <= depth <= _NESTED:
            raise ValueError(f"its program has {text!a:.100}, which is no call")
        before = kind
    if before not in ("value", ")", "]") or depth:
        raise ValueError(f"its program has {text!a:.100}, which is no call")


def _kind(token: re.Match[str], following: str, known: set[str]) -> str:
    """One of `_FOLLOWS`."""
    word = token[0]
    if token["sign"]:
        return word
    if token["word"] and following in ("(", "="):
        if f"{word}{following}".removesuffix("(") in OPERATORS:
            return "operator" if following == "(" else "key"
    elif not token["word"] or word in known or word in _VALUES or _CONSTANT.fullmatch(word):
        return "value"
    raise ValueError(f"its program names {word:.100}, which no known network needs")
