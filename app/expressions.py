"""JMESPath (https://jmespath.org) within bounds: expressions come from staff, the documents they read from anybody.

An expression is refused when it is long, large or deep, or calls a function that is not in the list; its evaluation
ends when it has used up its steps. A step is one node visited or, where the library handles a value as a whole, one
node of that value; so neither a projection over a large list nor a value that was doubled again and again gets far.
Functions that compute are left out: they would take amounts through binary floats.
"""

import warnings
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import orjson
from jmespath import functions
from jmespath.exceptions import JMESPathError
from jmespath.parser import Parser
from jmespath.visitor import Options, TreeInterpreter

MOST_CHARACTERS = 500
MOST_NODES = 100
MOST_DEPTH = 30
MOST_STEPS = 20_000

FUNCTIONS = (
    *("contains", "ends_with", "join", "keys", "length", "map", "max_by", "merge", "min_by", "not_null", "reverse"),
    *("sort", "sort_by", "starts_with", "to_array", "to_string", "type", "values"),
)
# So many characters of a text weigh as much as one node.
_CHARACTERS_A_STEP = 64
# What the library raises for a document that does not fit an expression, such as a comparison of a text with a number.
_EVALUATION_ERRORS = (
    JMESPathError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)


class ExpressionError(ValueError):
    """An expression that is refused, or that cannot be evaluated for a document; the message says why."""


def _reason(error: Exception) -> str:
    # It quotes the expression, which may hold half a surrogate pair, and nobody could write that down.
    text = " ".join(str(error).split())[:200].encode(errors="replace").decode()
    return text or type(error).__name__


class Budget:
    """The steps that are left; shared by all expressions that read one document."""

    def __init__(self, steps: int = MOST_STEPS) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Take steps. Raises ExpressionError when there are not so many left."""
        self.left -= steps
        if self.left < 0:
            raise ExpressionError("it takes too many steps for this payload")

    def weigh(self, value: object) -> None:
        """Take as many steps as a value has nodes, one that occurs in several places counted in each."""
        stack = [value]
        while stack:
            item = stack.pop()
            self.spend(1)
            match item:
                case str():
                    self.spend(len(item) // _CHARACTERS_A_STEP)
                case list():
                    stack.extend(item)
                case dict():
                    stack.extend(item.values())


class Expression:
    """A parsed expression."""

    __slots__ = ("_tree", "text")

    def __init__(self, text: str) -> None:
        """Parse it. Raises ExpressionError."""
        if len(text) > MOST_CHARACTERS:
            raise ExpressionError(f"it is longer than {MOST_CHARACTERS} characters")
        try:
            with warnings.catch_warnings():
                # Of literals in a syntax that is on its way out.
                warnings.simplefilter("error")
                self._tree: Any = Parser().parse(text).parsed
        except (*_EVALUATION_ERRORS, Warning) as error:
            raise ExpressionError(_reason(error)) from None
        _check(self._tree)
        self.text = text

    def search(self, document: object, budget: Budget) -> Any:  # noqa: ANN401 - any JSON value
        """Evaluate it; None where the document has nothing there. Raises ExpressionError."""
        try:
            found = _Interpreter(budget).visit(self._tree, document)
        except ExpressionError:
            raise
        except _EVALUATION_ERRORS as error:
            raise ExpressionError(_reason(error)) from None
        budget.weigh(found)
        return found


def _check(tree: Any) -> None:  # noqa: ANN401 - the library's nodes are dicts
    for number, (node, depth) in enumerate(_walk(tree), start=1):
        if number > MOST_NODES or depth > MOST_DEPTH:
            raise ExpressionError(f"it has more than {MOST_NODES} parts, or is nested deeper than {MOST_DEPTH}")
        if node["type"] == "function_expression" and node["value"] not in FUNCTIONS:
            raise ExpressionError(f"there is no function {node['value']}; choose of {', '.join(FUNCTIONS)}")


def _walk(tree: Any) -> Iterator[tuple[Any, int]]:  # noqa: ANN401 - see _check
    stack = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        yield node, depth
        # A slice has numbers for children.
        stack.extend((child, depth + 1) for child in node["children"] if isinstance(child, dict))


class _Functions(functions.Functions):
    """The library's functions, whose arguments are weighed before they run."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget

    def call_function(self, function_name: str, resolved_args: Any) -> Any:  # noqa: ANN401 - the library's signature
        self._budget.weigh(resolved_args)
        if function_name == "join" and len(resolved_args) == 2 and isinstance(resolved_args[1], list):
            # The one function whose result may be larger than its arguments together.
            self._budget.spend(len(str(resolved_args[0])) * len(resolved_args[1]) // _CHARACTERS_A_STEP)
        return super().call_function(function_name, resolved_args)

    @functions.signature({"types": []})
    def _func_to_string(self, arg: object) -> str:
        return arg if isinstance(arg, str) else orjson.dumps(arg, default=_as_written).decode()


def _as_written(value: object) -> orjson.Fragment:
    """Write a decimal as it stood in the payload; orjson knows none."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(f"a {type(value).__name__} has no text")


def _with_children(node: Any, values: list[Any]) -> Any:  # noqa: ANN401 - see _check
    """Return a node whose children have been evaluated already."""
    return {**node, "children": [{"type": "literal", "value": value, "children": []} for value in values]}


class _Interpreter(TreeInterpreter):
    def __init__(self, budget: Budget) -> None:
        super().__init__(Options(custom_functions=_Functions(budget)))
        self._budget = budget

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the library's signature
        self._budget.spend(1)
        return super().visit(node, *args, **kwargs)

    def visit_comparator(self, node: Any, value: Any) -> Any:  # noqa: ANN401 - see visit
        sides = [self.visit(child, value) for child in node["children"]]
        self._budget.weigh(sides)
        return super().visit_comparator(_with_children(node, sides), value)

    def visit_flatten(self, node: Any, value: Any) -> Any:  # noqa: ANN401 - see visit
        base = self.visit(node["children"][0], value)
        if isinstance(base, list):
            self._budget.spend(sum(len(item) if isinstance(item, list) else 1 for item in base))
        return super().visit_flatten(_with_children(node, [base]), value)

    def visit_slice(self, node: Any, value: Any) -> Any:  # noqa: ANN401 - see visit
        if isinstance(value, list):
            self._budget.spend(len(value))
        return super().visit_slice(node, value)
